"""Who runs the sweep: a case flows in, functions that run it and take the time flow out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradkit as gk
from experiments.bench import cases, scans, tuning
from experiments.bench.cases import Case
from experiments.bench.scans import COMPARED, Outcome
from experiments.bench.tuning import Layout, Search

GRADKIT, PLAIN, MAP, LOOP, TUNED = "gradkit", "jit(vmap(scan))", "lax.map", "lane loop", "hand-tuned best"
TORCH, TORCH_FUNC = "torch sequential", "torch.func vmap"
SMALL_GEMM, LARGE_GEMM = 2048, 8192  # for CPUs and for accelerators


class Contender(NamedTuple):
    """One way to train the members of a case.

    Attributes:
        name: Who.
        setting: What was chosen for this case.
        members, steps: The work of one run.
        run: Does it, and takes the time.
        tuning_seconds: What choosing took: gradkit's plan, the expert's grid.
        compile_seconds: What compiling took; ``None`` if it is the first run's time beyond that of the others.
    """

    name: str
    setting: str
    members: int
    steps: int
    run: Callable[[], Outcome]
    tuning_seconds: float = 0.0
    compile_seconds: float | None = None


def gradkit(case: Case, rate: float, seconds: float, width: int | None = None) -> Contender:
    """``gk.sweep`` under its own plan, or at a given width. Its time is all that the call takes, but for compilation."""
    space = gk.grid(learning_rate=case.rates.tolist())
    steps = tuning.steps_for(rate, case.members, seconds)

    def make(h):
        return cases.descent(case, h.learning_rate)

    started = time.perf_counter()
    plan = make_plan(make, case, space, steps) if width is None else gk.Plan(width=width)
    tuning_seconds = time.perf_counter() - started

    def run():
        sweep = gk.sweep(make, case.data, space, steps=steps, batch_size=case.batch_size, plan=plan, progress=False)
        return Outcome(sweep.seconds, np.stack([fit.history["loss"][:COMPARED] for fit in sweep], axis=1))

    name = GRADKIT if width is None else f"{GRADKIT}, width {width}"
    return Contender(name, describe(plan), case.members, steps, run, tuning_seconds if width is None else 0.0)


def make_plan(make, case: Case, space: gk.Space, steps: int):
    """gradkit's plan; before there is a planner, ``None``, which is its first guess."""
    planner = getattr(gk, "plan", None)
    return planner(make, case.data, space, steps=steps, batch_size=case.batch_size) if callable(planner) else None


def describe(plan) -> str:
    """The layout of a plan in the words of the tuned ones."""
    programs = getattr(plan, "programs", ())
    fields = {
        "width": programs[0].widths[0] if programs else getattr(plan, "width", None),
        "threads": getattr(plan, "threads", None),
    }
    return ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None) or "first guess"


def plain(name: str, case: Case, rate: float, seconds: float) -> Contender:
    """One of the scans that people write, over as many steps as last so long."""
    steps = tuning.steps_for(rate, case.members, seconds)
    train = {PLAIN: scans.plain_vmap, MAP: scans.lane_map, LOOP: scans.lane_loop}[name](case)
    order = jnp.asarray(case.order()[:steps])

    def run():
        started = time.perf_counter()
        _, losses = train(case.rates, case.data, order)
        return Outcome(time.perf_counter() - started, losses[:COMPARED])

    return Contender(name, "", case.members, steps, run)


def tuned(case: Case, search: Search, bench, seconds: float) -> Contender:
    """The fastest layout of the grid."""
    best = search.probes[search.best]
    steps = tuning.steps_for(best["rate"], case.members, seconds)
    run = lambda: bench.run(search.best.width, search.best.threads, steps)  # noqa: E731
    return Contender(TUNED, str(search.best), case.members, steps, run, search.seconds, best["compile_seconds"])


def on_jax(case: Case, benches: dict, seconds: float, widths: tuple[int, ...]) -> list[Contender]:
    """gradkit and all that people write in jax; on an accelerator only the plain version besides gradkit."""
    alone, whole = Layout(1, 1, 1), Layout(case.members, 1, 1)
    if jax.default_backend() != "cpu":
        rate = tuning.search(benches, case.members, [whole], seconds / 3).probes[whole]["rate"]
        return [
            *(gradkit(case, rate, seconds, width) for width in (None, *widths)),
            plain(PLAIN, case, rate, seconds),
        ]
    grid = [layout for devices in benches for layout in tuning.layouts(case.members, devices, (1, 2) if devices == 1 else (2,))]
    search = tuning.search(benches, case.members, grid, seconds / 3)
    rates = {layout: probe["rate"] for layout, probe in search.probes.items()}
    return [
        *(gradkit(case, rates[search.best], seconds, width) for width in (None, *widths)),
        plain(PLAIN, case, rates[whole], seconds),
        plain(MAP, case, rates[alone], seconds),
        plain(LOOP, case, rates[alone], seconds),
        tuned(case, search, benches[search.best.devices], seconds),
    ]


def gemm() -> Callable[[], float]:
    """A function that measures how many float32 operations per second one large matrix product makes."""
    size = SMALL_GEMM if jax.default_backend() == "cpu" else LARGE_GEMM
    factors = jax.random.normal(jax.random.key(0), (2, size, size))
    multiply = jax.jit(lambda factors: factors[0] @ factors[1])
    multiply(factors).block_until_ready()

    def measure():
        started = time.perf_counter()
        multiply(factors).block_until_ready()
        return 2 * size**3 / (time.perf_counter() - started)

    return lambda: float(np.median([measure() for _ in range(3)]))
