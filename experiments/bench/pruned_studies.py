"""Successive halving as it is done today: an Optuna trial per configuration, in each of them PyTorch networks trained one by one.

In flow data, batches, starting parameters and configurations; out flows what became of each trial. The networks start from the
parameters given and see the batches given, so that a trial is the run that gradkit makes of the same configuration.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from torch.nn import functional


class Task(NamedTuple):
    """What all trials share.

    Attributes:
        train, validation: ``(inputs [n, d], targets [n])``.
        batches: The rows of each step, ``[t, batch_size]``.
        starts: For each seed the parameters of ``gk.models.mlp``, on the host.
        rungs: The numbers of steps after which a trial may be pruned.
        eta: One trial in ``eta`` goes on.
        bounds: The range of each hyper-parameter, on a log scale: ``learning_rate`` and ``weight_decay``.
    """

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    batches: np.ndarray
    starts: Sequence[Any]
    rungs: tuple[int, ...]
    eta: int
    bounds: dict[str, tuple[float, float]]


class Trial(NamedTuple):
    """What became of a configuration: losses are means over its seeds, ``seconds`` run since the study began."""

    hyper: dict[str, float]
    steps: int
    loss: float
    accuracy: float
    seconds: float
    is_complete: bool


def run(task: Task, points: Sequence[dict[str, float]], *, workers: int) -> tuple[list[Trial], float]:
    """Try every point under Optuna's successive halving; return the trials in the order of the points, and the seconds it took.

    The pruner is asynchronous: it compares a trial with those that reached the rung before it, so the first trials go on whatever
    they are worth. Each worker is a thread with one core. The points are known beforehand; no time goes into a sampler.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=task.rungs[0], reduction_factor=task.eta)
    study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
    for point in points:
        study.enqueue_trial(point)
    tensors, finished = as_tensors(task), {}
    started = time.perf_counter()

    def objective(trial: optuna.Trial) -> float:
        hyper = {name: trial.suggest_float(name, *bounds, log=True) for name, bounds in task.bounds.items()}
        steps, loss, accuracy = train(tensors, hyper, trial)
        is_complete = steps == len(task.batches) and math.isfinite(loss)
        finished[trial.number] = Trial(hyper, steps, loss, accuracy, time.perf_counter() - started, is_complete)
        if not is_complete:
            raise optuna.TrialPruned
        return loss

    with one_thread_each():
        study.optimize(objective, n_trials=len(points), n_jobs=workers)
    return [finished[number] for number in range(len(points))], time.perf_counter() - started


@contextlib.contextmanager
def one_thread_each():
    """Operations of PyTorch on one core, as the workers already share out the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(task: Task, hyper: dict[str, float], trial: optuna.Trial) -> tuple[int, float, float]:
    """Train a network per seed until the end or until the trial is pruned: steps made, validation loss, accuracy."""
    networks = [build(start) for start in task.starts]
    optimizers = [_adamw(network, hyper) for network in networks]
    for begin, end in pairwise([0, *task.rungs, len(task.batches)]):
        for network, optimizer in zip(networks, optimizers):
            advance(network, optimizer, task.train, task.batches[begin:end])
        loss, accuracy = np.mean([evaluate(network, task.validation) for network in networks], axis=0).tolist()
        trial.report(loss, end)
        if end < len(task.batches) and trial.should_prune():
            break
    return end, loss, accuracy


def build(start: Any) -> torch.nn.Sequential:
    """A multi-layer perceptron with ReLUs that starts from the parameters of ``gk.models.mlp``."""
    layers = []
    for layer in [*start["hidden"], start["output"]]:
        linear = torch.nn.utils.skip_init(torch.nn.Linear, *layer["weight"].shape)
        linear.load_state_dict(
            {"weight": torch.tensor(np.asarray(layer["weight"]).T), "bias": torch.tensor(np.asarray(layer["bias"]))}
        )
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def advance(network, optimizer, data, batches):
    """Make a step for each row of batches."""
    inputs, targets = data
    for rows in batches:
        optimizer.zero_grad()
        functional.cross_entropy(network(inputs[rows]), targets[rows]).backward()
        optimizer.step()


@torch.no_grad()
def evaluate(network, data) -> tuple[float, float]:
    """Mean loss and accuracy."""
    inputs, targets = data
    scores = network(inputs)
    return functional.cross_entropy(scores, targets).item(), (scores.argmax(-1) == targets).double().mean().item()


def _adamw(network, hyper) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=hyper["learning_rate"], weight_decay=hyper["weight_decay"], fused=True)


def as_tensors(task: Task) -> Task:
    """The task with tensors for the data and the batches."""
    return task._replace(
        train=_tensors(task.train), validation=_tensors(task.validation), batches=torch.tensor(task.batches).long()
    )


def _tensors(data):
    inputs, targets = data
    return torch.tensor(inputs), torch.tensor(targets).long()
