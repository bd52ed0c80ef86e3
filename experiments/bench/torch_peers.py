"""PyTorch on the same cases: one network after the other with fused Adam, and all at once by ``torch.func``."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.bench import torch_networks
from experiments.bench.cases import MOST_STEPS, Case
from experiments.bench.contenders import LARGE_GEMM, SMALL_GEMM, TORCH, TORCH_FUNC, Contender
from experiments.bench.scans import Outcome

B1, B2, EPS = 0.9, 0.999, 1e-8


def on_torch(case: Case, seconds: float) -> list[Contender]:
    """Both ways on the CPU, with as many threads as are best; one network after the other on an accelerator."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = tuple(torch.tensor(np.asarray(part), device=device) for part in case.data)
    data = tuple(part.long() if part.dtype == torch.int32 else part for part in data)
    order = torch.tensor(case.order(), dtype=torch.int64, device=device)
    sequential = _contender(TORCH, 1, sequential_step(case, data, order), seconds, device)
    if device != "cpu":
        return [sequential]
    return [sequential, _contender(TORCH_FUNC, case.members, stacked_step(case, data, order), seconds, device)]


def mean_loss(scores, targets):
    """Cross-entropy over examples, and over tokens where there are any."""
    return functional.cross_entropy(scores.flatten(0, -2), targets.flatten())


def sequential_step(case: Case, data, order) -> Callable[[int], None]:
    """The step of one network in a Python loop; the rate of the middle member stands for all."""
    network = torch_networks.build(case).to(data[0].device)
    optimizer = torch.optim.Adam(network.parameters(), lr=float(case.rates[case.members // 2]), fused=True)
    inputs, targets = data

    def step(index):
        rows = order[index]
        optimizer.zero_grad(set_to_none=True)
        mean_loss(network(inputs[rows]), targets[rows]).backward()
        optimizer.step()

    return step


def stacked_step(case: Case, data, order) -> Callable[[int], None]:
    """The step of all members at once: ``vmap`` over stacked parameters, and Adam written on the stacks."""
    network = torch_networks.build(case)
    params, buffers = ({name: _stack(leaf, case.members) for name, leaf in leaves} for leaves in
                       (network.named_parameters(), network.named_buffers()))  # fmt: skip
    skeleton = copy.deepcopy(network).to("meta")
    mu, nu = ({name: torch.zeros_like(leaf) for name, leaf in params.items()} for _ in range(2))
    rates = torch.tensor(case.rates)
    inputs, targets = data

    def loss_of(params, buffers, inputs, targets):
        return mean_loss(functional_call(skeleton, (params, buffers), (inputs,)), targets)

    differentiate = vmap(grad_and_value(loss_of), in_dims=(0, 0, None, None), randomness="error")

    def step(index):
        rows = order[index]
        with sdpa_kernel(SDPBackend.MATH):  # the others have no batching rule
            grads, _ = differentiate(params, buffers, inputs[rows], targets[rows])
        adam(params, grads, mu, nu, rates, index + 1)

    return step


def _stack(leaf, members: int):
    return leaf.detach().expand(members, *leaf.shape).clone()


def adam(params, grads, mu, nu, rates, count: int):
    """Adam in place on stacked parameters, each member with its own rate; ``count`` is that of the step, from one."""
    for name, param in params.items():
        mu[name].lerp_(grads[name], 1 - B1)
        nu[name].mul_(B2).addcmul_(grads[name], grads[name], value=1 - B2)
        root = (nu[name] / (1 - B2**count)).sqrt_().add_(EPS)
        scales = (rates / (1 - B1**count)).view(-1, *[1] * (param.ndim - 1))
        param.sub_(scales * (mu[name] / root))


def _contender(name: str, members: int, step: Callable[[int], None], seconds: float, device: str) -> Contender:
    """Find the best number of threads and the steps that last so long."""
    started = time.perf_counter()
    rates = {threads: _rate(step, threads, seconds / 6, device) for threads in sorted({1, os.cpu_count() or 1})}
    threads = max(rates, key=rates.get)
    steps = max(int(seconds * rates[threads]), 1)
    tuning_seconds = time.perf_counter() - started
    run = lambda: Outcome(_timed(step, threads, steps, device))  # noqa: E731
    setting = f"threads {threads}" if device == "cpu" else device
    return Contender(name, setting, members, steps, run, tuning_seconds, 0.0)


def _rate(step, threads: int, seconds: float, device: str) -> float:
    """Steps per second, found in about so long."""
    steps, elapsed = 1, _timed(step, threads, 2, device)  # the first steps allocate
    elapsed = _timed(step, threads, steps, device)
    while elapsed < seconds / 2:
        steps = int(steps * min(max(0.8 * seconds / elapsed, 2), 16))
        elapsed = _timed(step, threads, steps, device)
    return steps / elapsed


def _timed(step, threads: int, steps: int, device: str) -> float:
    torch.set_num_threads(threads)
    started = time.perf_counter()
    for index in range(steps):
        step(index % MOST_STEPS)
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def num_parameters(case: Case) -> int:
    """Numbers that the network of a case learns."""
    return sum(leaf.numel() for leaf in torch_networks.build(case).parameters())


def gemm() -> Callable[[], float]:
    """Like ``contenders.gemm``, by PyTorch on all cores."""
    size = LARGE_GEMM if torch.cuda.is_available() else SMALL_GEMM
    factors = torch.randn(2, size, size, device="cuda" if torch.cuda.is_available() else "cpu")

    def measure():
        torch.set_num_threads(os.cpu_count() or 1)
        started = time.perf_counter()
        factors[0] @ factors[1]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return 2 * size**3 / (time.perf_counter() - started)

    measure()
    return lambda: float(np.median([measure() for _ in range(3)]))
