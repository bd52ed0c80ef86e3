"""The table of PyTorch's and Keras's schedules, each with the installed library's values over 61 steps."""

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from recipes import log_uniform

from gradkit import as_keras, as_torch

os.environ.setdefault("KERAS_BACKEND", "jax")
STEPS = np.arange(61)


class Row(NamedTuple):
    """A schedule: its name in ``room``, arguments that are traced and that are not, and the same made by the library."""

    room: Any
    name: str
    numbers: dict[str, Any]
    truth: Callable[..., np.ndarray]
    static: dict[str, Any] = {}  # noqa: RUF012

    def __str__(self):
        return " ".join([self.name, *(f"{name}={value}" for name, value in self.static.items() if name != "make")])


def torch_run(make, lr, momentum=False):
    """The rates that torch's scheduler gives, or the momenta."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=lr, momentum=0.9)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the order of calls and closed forms, at each construction
        scheduler = make(torch.optim.lr_scheduler, optimizer)
        for step in STEPS:
            found.append(optimizer.param_groups[0]["momentum" if momentum else "lr"])
            optimizer.step()
            if step < STEPS[-1]:
                scheduler.step()
    return np.array(found)


def by_torch(name, momentum=False):
    """The truth of a scheduler that takes its arguments as ours does."""

    def truth(lr=0.3, **arguments):
        return torch_run(lambda module, optimizer: getattr(module, name)(optimizer, **arguments), lr, momentum)

    return truth


def one_cycle_in_torch(momentum):
    def truth(**arguments):
        arguments = {"max_lr": 0.3, "total_steps": 61, **arguments}
        return by_torch("OneCycleLR", momentum)(**arguments)

    return truth


def cyclic_in_torch(momentum):
    return lambda **arguments: by_torch("CyclicLR", momentum)(**{"base_lr": 0.01, "max_lr": 0.3, **arguments})


def of_a_function(name):
    """A scheduler of a function of the step, ours and torch's."""

    def ours(lr, gamma):
        return getattr(as_torch, name)(lambda step: gamma + 1.0 / (1 + step), lr=lr)

    def truth(lr, gamma):
        kind = {"lambda_lr": "LambdaLR", "multiplicative_lr": "MultiplicativeLR"}[name]
        return torch_run(lambda module, optimizer: getattr(module, kind)(optimizer, lambda step: gamma + 1 / (1 + step)), lr)

    return ours, truth


def sequence_in_torch(lr, total_iters, gamma, first, second, T_max):
    def make(module, optimizer):
        parts = [
            module.LinearLR(optimizer, 0.25, 1.0, total_iters), module.ExponentialLR(optimizer, gamma),
            module.CosineAnnealingLR(optimizer, T_max),
        ]  # fmt: skip
        return module.SequentialLR(optimizer, parts, [first, second])

    return torch_run(make, lr)


def sequence(lr, total_iters, gamma, first, second, T_max):
    parts = [
        as_torch.linear_lr(0.25, 1.0, total_iters, lr=lr), as_torch.exponential_lr(gamma, lr=lr),
        as_torch.cosine_annealing_lr(T_max, lr=lr),
    ]  # fmt: skip
    return as_torch.sequential_lr(parts, [first, second])


def chain_of(*kinds):
    """A chain of schedulers by their names, ours and torch's."""

    def ours(lr, gamma, total_iters, T_max, eta_min):
        make = {
            "linear": lambda: as_torch.linear_lr(0.25, 1.0, total_iters, lr=lr),
            "exponential": lambda: as_torch.exponential_lr(gamma, lr=lr),
            "cosine": lambda: as_torch.cosine_annealing_lr(T_max, eta_min, lr=lr),
            "lambda": lambda: as_torch.lambda_lr(lambda step: 1.0 / (1 + step), lr=lr),
        }
        return as_torch.chained_scheduler([make[kind]() for kind in kinds])

    def truth(lr, gamma, total_iters, T_max, eta_min):
        def make(module, optimizer):
            parts = {
                "linear": lambda: module.LinearLR(optimizer, 0.25, 1.0, total_iters),
                "exponential": lambda: module.ExponentialLR(optimizer, gamma),
                "cosine": lambda: module.CosineAnnealingLR(optimizer, T_max, eta_min),
                "lambda": lambda: module.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
            }
            return module.ChainedScheduler([parts[kind]() for kind in kinds])

        return torch_run(make, lr)

    return ours, truth


def by_keras(name):
    """The truth of a schedule of Keras, whose cosine on jax rounds to float32 whatever comes in: here it does not."""

    def truth(**arguments):
        keras = pytest.importorskip("keras")
        before = keras.config.floatx(), keras.src.ops.cos, jax.config.jax_enable_x64
        jax.config.update("jax_enable_x64", True)
        keras.config.set_floatx("float64")
        keras.src.ops.cos = jnp.cos
        try:
            schedule = getattr(keras.optimizers.schedules, name)(**arguments)
            return np.asarray(jax.vmap(schedule)(jnp.asarray(STEPS, float)))
        finally:
            keras.config.set_floatx(before[0])
            keras.src.ops.cos = before[1]
            jax.config.update("jax_enable_x64", before[2])

    return truth


WHOLE, GAMMA, RATE = st.integers(2, 30), st.floats(0.5, 1.0), log_uniform(1e-4, 1.0)
RANGES = {
    "lr": RATE, "initial_learning_rate": RATE, "max_lr": st.floats(0.1, 1), "base_lr": st.floats(0, 0.1), "gamma": GAMMA,
    "decay_rate": GAMMA, "m_mul": GAMMA, "pct_start": st.floats(0.1, 0.45), "div_factor": st.floats(2, 50),
    "final_div_factor": log_uniform(2, 1e4), "eta_min": st.floats(0, 1e-4), "alpha": st.floats(0, 0.5),
    "factor": st.floats(0.1, 1),
    "start_factor": st.floats(0.1, 1), "end_factor": st.floats(0, 1), "power": st.floats(0.5, 3), "T_mult": st.integers(1, 3),
    "t_mul": st.sampled_from([1.0, 1.1, 1.25, 1.5, 2.0, 3.0]), "first_decay_steps": WHOLE.map(float) | st.floats(2, 30),
    "milestones": st.lists(st.integers(1, 60), min_size=3, max_size=3).map(sorted),
    "boundaries": st.just([9, 30.5]), "values": st.lists(RATE, min_size=3, max_size=3), "base_momentum": st.floats(0.5, 0.8),
    "max_momentum": st.floats(0.81, 0.99), "end_learning_rate": st.floats(0, 1e-4), "warmup_target": RATE,
    "first": st.integers(1, 15), "second": st.integers(20, 40), "total_steps": st.integers(61, 90),
}  # fmt: skip
ONE_CYCLE = {"max_lr": 0.3, "total_steps": 61, "pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4}
MOMENTA = {"total_steps": 61, "pct_start": 0.3, "base_momentum": 0.85, "max_momentum": 0.95}
CYCLE = {"base_lr": 0.01, "max_lr": 0.3, "step_size_up": 7, "step_size_down": 13, "gamma": 0.95}
WAVE = {"step_size_up": 7, "step_size_down": 13, "base_momentum": 0.8, "max_momentum": 0.9}
CHAIN = {"lr": 0.3, "gamma": 0.95, "total_iters": 8, "T_max": 20, "eta_min": 0.01}
KERAS_START = {"initial_learning_rate": 0.3, "decay_steps": 20}
ROWS = [
    Row(as_torch, "step_lr", {"lr": 0.3, "step_size": 20, "gamma": 0.1}, by_torch("StepLR")),
    Row(as_torch, "multi_step_lr", {"lr": 0.3, "milestones": [9, 31, 31], "gamma": 0.5}, by_torch("MultiStepLR")),
    Row(as_torch, "constant_lr", {"lr": 0.3, "factor": 0.4, "total_iters": 20}, by_torch("ConstantLR")),
    Row(as_torch, "linear_lr", {"lr": 0.3, "start_factor": 0.3, "end_factor": 0.9, "total_iters": 20}, by_torch("LinearLR")),
    Row(as_torch, "exponential_lr", {"lr": 0.3, "gamma": 0.9}, by_torch("ExponentialLR")),
    Row(as_torch, "polynomial_lr", {"lr": 0.3, "total_iters": 20, "power": 1.5}, by_torch("PolynomialLR")),
    Row(as_torch, "cosine_annealing_lr", {"lr": 0.3, "T_max": 10, "eta_min": 0.01}, by_torch("CosineAnnealingLR")),
    Row(
        as_torch,
        "cosine_annealing_warm_restarts",
        {"lr": 0.3, "T_0": 20, "eta_min": 0.01},
        by_torch("CosineAnnealingWarmRestarts"),
    ),
    Row(
        as_torch,
        "cosine_annealing_warm_restarts",
        {"lr": 0.3, "T_0": 5, "T_mult": 2, "eta_min": 0.01},
        by_torch("CosineAnnealingWarmRestarts"),
    ),
    *(
        Row(as_torch, "cyclic_lr", CYCLE, cyclic_in_torch(False), {"mode": mode})
        for mode in ("triangular", "triangular2", "exp_range")
    ),
    Row(as_torch, "cyclic_momentum", WAVE, cyclic_in_torch(True)),
    Row(as_torch, "one_cycle_lr", ONE_CYCLE, one_cycle_in_torch(False)),
    Row(as_torch, "one_cycle_lr", ONE_CYCLE, one_cycle_in_torch(False), {"three_phase": True}),
    Row(as_torch, "one_cycle_lr", ONE_CYCLE, one_cycle_in_torch(False), {"anneal_strategy": "linear"}),
    Row(as_torch, "one_cycle_momentum", MOMENTA, one_cycle_in_torch(True)),
    Row(as_torch, "one_cycle_momentum", MOMENTA, one_cycle_in_torch(True), {"three_phase": True}),
    *(
        Row(None, name, {"lr": 0.3, "gamma": 0.9}, of_a_function(name)[1], {"make": of_a_function(name)[0]})
        for name in ("lambda_lr", "multiplicative_lr")
    ),
    Row(
        None,
        "sequential_lr",
        {"lr": 0.3, "total_iters": 8, "gamma": 0.9, "first": 10, "second": 25, "T_max": 12},
        sequence_in_torch,
        {"make": sequence},
    ),
    *(
        Row(None, f"chained_scheduler of {' '.join(kinds)}", CHAIN, chain_of(*kinds)[1], {"make": chain_of(*kinds)[0]})
        for kinds in [("linear", "exponential"), ("linear", "cosine", "exponential"), ("lambda", "exponential")]
    ),
    Row(as_keras, "exponential_decay", {**KERAS_START, "decay_rate": 0.5}, by_keras("ExponentialDecay")),
    Row(as_keras, "exponential_decay", {**KERAS_START, "decay_rate": 0.5}, by_keras("ExponentialDecay"), {"staircase": True}),
    Row(
        as_keras,
        "piecewise_constant_decay",
        {"boundaries": [9, 30.5], "values": [0.3, 0.1, 0.2]},
        by_keras("PiecewiseConstantDecay"),
    ),
    Row(as_keras, "polynomial_decay", {**KERAS_START, "end_learning_rate": 0.01, "power": 1.5}, by_keras("PolynomialDecay")),
    Row(
        as_keras,
        "polynomial_decay",
        {**KERAS_START, "end_learning_rate": 0.01, "power": 1.5},
        by_keras("PolynomialDecay"),
        {"cycle": True},
    ),
    Row(as_keras, "inverse_time_decay", {**KERAS_START, "decay_rate": 0.5}, by_keras("InverseTimeDecay")),
    Row(as_keras, "inverse_time_decay", {**KERAS_START, "decay_rate": 0.5}, by_keras("InverseTimeDecay"), {"staircase": True}),
    Row(as_keras, "cosine_decay", {**KERAS_START, "alpha": 0.1}, by_keras("CosineDecay")),
    Row(
        as_keras, "cosine_decay", {**KERAS_START, "alpha": 0.1, "warmup_target": 0.5, "warmup_steps": 7}, by_keras("CosineDecay")
    ),
    Row(
        as_keras,
        "cosine_decay_restarts",
        {"initial_learning_rate": 0.3, "first_decay_steps": 8.0, "t_mul": 2.0, "m_mul": 0.8, "alpha": 0.1},
        by_keras("CosineDecayRestarts"),
    ),
    *(
        Row(
            as_keras,
            "cosine_decay_restarts",
            {"initial_learning_rate": 0.3, "first_decay_steps": steps, "t_mul": mult, "m_mul": 0.9, "alpha": 0.1},
            by_keras("CosineDecayRestarts"),
        )
        for steps, mult in [(5.0, 1.5), (7.3, 1.0), (4.6, 1.1)]
    ),
]
