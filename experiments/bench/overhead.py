"""What does gradkit cost beside a bare scan of the same step, and how long until it gives its first result?"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import gradkit as gk
from experiments import stories
from gradkit import checks
from gradkit.data.orders import shuffled_epochs

ROOT = pathlib.Path(__file__).absolute().parents[2]
NUM_EXAMPLES, BATCH_SIZE = 2048, 64
MOST_OVERHEAD, MOST_IMPORT = 0.03, 1.2  # a share of the bare scan; a ratio
FEW_STEPS = 100  # so few that most of a call is its fixed cost
SWEEP, WATCHED, FIT = "gk.sweep", "gk.sweep, watched", "gk.fit"
IMPORTS = {"jax, optax, flax": "import jax, optax, flax", "gradkit": "import gradkit"}

SCRIPT = """
import collections, json
import jax
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split("/")[-1]]))
import numpy as np
import gradkit as gk

inputs, targets = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32), np.arange(512) % 10
model = gk.models.mlp((64, 128, 10))
loss = gk.objective(gk.losses.softmax, model.apply)
make = lambda h: gk.descent(loss, model.init, gk.optimizers.adam(h.learning_rate))
space = gk.grid(learning_rate=gk.geomspace(1e-4, 1e-1, 8), seed=range(2))
data = inputs, targets
sweep = gk.sweep(make, data, space, steps=100, batch_size=64, validation=data, plan=gk.Plan(width=4), progress=False)
sweep.table(), str(sweep), sweep.params(0)
requests, hits = counts["compile_requests_use_cache"], counts["cache_hits"]
print(json.dumps({"programs": requests, "compiled anew": requests - hits}))
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time gradkit's engine (checks, history, progress) against a bare jitted scan, importing it, and its first result.

    The engine runs a multi-layer perceptron (64 inputs, 128 ReLUs, 10 classes, batch 64, Adam) with
    the width and the threads of the bare scan, for two numbers of steps: the difference is what
    steps cost. The fixed cost of a call is what one of 100 steps takes beyond its steps. All have
    compiled before. The first result is that of a script of twelve lines, in fresh processes: with
    an empty and with a warm folder of compiled programs. Everything is interleaved. Writes three
    tables.

    Examples:
      python -m experiments.bench.overhead
      python -m experiments.bench.overhead --width 1 --threads 1 --steps 4000
    """

    steps: int = 8000
    """Updates of the short runs; the long ones make four times as many."""
    repeats: int = 7
    """Rounds of all runs."""
    width: int = 4
    """Members in one chunk."""
    threads: int = 2
    """Chunks in flight."""
    imports: int = 7
    """Fresh processes for each import."""
    starts: int = 3
    """Folders of compiled programs; the script starts twice with each."""
    output: str = "results/bench_overhead"
    """Where the tables are written."""


class Runner(NamedTuple):
    """Something that makes steps: its name, the bare scan it is compared with, and ``steps -> anything``."""

    name: str
    bare: str
    run: Callable[[int], Any]


class Watched(io.StringIO):
    """A terminal that somebody watches."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def make_data() -> tuple[jax.Array, jax.Array]:
    """Random inputs and classes: a step is the same work whatever they are."""
    inputs = np.random.default_rng(0).normal(size=(NUM_EXAMPLES, 64)).astype(np.float32)
    return jnp.asarray(inputs), jnp.arange(NUM_EXAMPLES) % 10


def make_descent(h) -> gk.Descent:
    """The descent of one member."""
    model = gk.models.mlp((64, 128, 10))
    return gk.descent(gk.objective(gk.losses.softmax, model.apply), model.init, gk.optimizers.adam(h.learning_rate))


def make_bare(data, order: np.ndarray, width: int, threads: int, rate: float | None = None) -> Callable[[int], list]:
    """What an expert writes: a jitted scan of the step for every chunk, chunks in threads. Nothing is checked.

    Args:
        data: Inputs and targets, on the device.
        order: The examples of each step, ``[t, batch_size]``.
        width: Members in one chunk.
        threads: Chunks, each in a thread.
        rate: The learning rate, where it is a constant of a single member; by default members have traced ones.

    Returns:
        ``steps -> [(states, losses), ...]``: what each chunk ended with, and its losses, time first.
    """

    def init(rate, key):
        return make_descent(SimpleNamespace(learning_rate=rate)).init(key, data, None)

    def step(rate, state, batch):
        return make_descent(SimpleNamespace(learning_rate=rate)).step(state, batch)

    if rate is not None:
        init, step, rates = functools.partial(init, rate), functools.partial(step, rate), ()
        first, advance, keys = init, step, jax.random.key(0)
    else:
        first, advance = jax.vmap(init), jax.vmap(step, (0, 0, None))
        rates, keys = (jnp.full(width, 1e-3),), jax.random.split(jax.random.key(0), width)

    @jax.jit
    def scan(rates, keys, data, order):
        def body(state, rows):
            state, info, _ = advance(*rates, state, jax.tree.map(lambda leaf: leaf[rows], data))
            return state, info.loss

        return jax.lax.scan(body, first(*rates, keys), order)

    order = jnp.asarray(order)

    def run(steps):
        with ThreadPoolExecutor(threads) as pool:
            chunk = lambda: jax.block_until_ready(scan(rates, keys, data, order[:steps]))  # noqa: E731
            return [task.result() for task in [pool.submit(chunk) for _ in range(threads)]]

    return run


def runners(settings: Settings) -> list[Runner]:
    """The bare scans and what is compared with them."""
    data = make_data()
    most_steps = max(FEW_STEPS, 4 * settings.steps)
    order = shuffled_epochs(NUM_EXAMPLES, batch_size=BATCH_SIZE, key=0)(None, 0, most_steps)
    space = gk.grid(learning_rate=gk.geomspace(5e-4, 2e-3, settings.width * settings.threads))
    plan = gk.Plan(width=settings.width, threads=settings.threads)
    lone = make_descent(SimpleNamespace(learning_rate=1e-3))

    def sweep(steps, progress=False):
        gk.sweep(make_descent, data, space, steps=steps, batch_size=BATCH_SIZE, plan=plan, progress=progress)

    def watched(steps):
        with redirect_stderr(Watched()):
            sweep(steps, progress=True)

    def fit(steps):
        gk.fit(lone, data, steps=steps, batch_size=BATCH_SIZE, progress=False)

    chunks, single = "bare scan of chunks", "bare scan of one"
    return [
        Runner(chunks, chunks, make_bare(data, order, settings.width, settings.threads)),
        Runner(SWEEP, chunks, sweep),
        Runner(WATCHED, chunks, watched),
        Runner(single, single, make_bare(data, order, 1, 1, rate=1e-3)),
        Runner(FIT, single, fit),
    ]


def seconds_of(fn: Callable, *args) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    fn(*args)
    return time.perf_counter() - started


def time_engine(settings: Settings) -> pd.DataFrame:
    """A row per runner: seconds of the short and the long run, the fixed cost of a call, the cost of a step, and overheads.

    Long minus short is what steps cost; ``overhead`` compares it with the bare scan, as the median over the rounds, and
    ``low`` and ``high`` are their quartiles. The fixed cost is read from calls of few steps: it is so small a part of the
    short run that the noise of the steps there would hide it. All runs are made once before, so that nothing compiles.
    """
    contestants, lengths = runners(settings), (settings.steps, 4 * settings.steps)
    for runner in contestants:
        for steps in (FEW_STEPS, *lengths):
            runner.run(steps)
    rounds = [
        {(r.name, steps): seconds_of(r.run, steps) for r in contestants for steps in (FEW_STEPS, *lengths)}
        for _ in range(settings.repeats)
    ]
    times = pd.DataFrame(rounds)
    slopes = {r.name: (times[r.name, lengths[1]] - times[r.name, lengths[0]]) / (3 * settings.steps) for r in contestants}
    rows = []
    for runner in contestants:
        overhead = slopes[runner.name] / slopes[runner.bare] - 1
        few, short, long = (times[runner.name, steps].median() for steps in (FEW_STEPS, *lengths))
        step = (long - short) / (3 * settings.steps)
        rows.append(
            {
                "runner": runner.name,
                "seconds_few": few,
                "seconds_short": short,
                "seconds_long": long,
                "fixed_ms": 1e3 * (few - FEW_STEPS * step),
                "step_us": 1e6 * step,
                "overhead": overhead.median(),
                "low": overhead.quantile(0.25),
                "high": overhead.quantile(0.75),
            }
        )
    return pd.DataFrame(rows)


def start(code: str, **variables: str) -> tuple[float, str]:
    """Run Python code in a fresh process; return its wall time and what it printed."""
    unset = {"GRADKIT_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], env={**kept, "PYTHONPATH": path, **variables}, stdout=subprocess.PIPE,
                          text=True, check=True)  # fmt: skip
    return time.perf_counter() - started, done.stdout


def time_imports(settings: Settings) -> pd.DataFrame:
    """A row per round: seconds of a process that imports gradkit, and of one that imports what it stands on."""
    for code in IMPORTS.values():
        start(code)  # so that all files have been read once, and their bytecode written
    return pd.DataFrame([{name: start(code)[0] for name, code in IMPORTS.items()} for _ in range(settings.imports)])


def time_first_results(settings: Settings) -> pd.DataFrame:
    """A row per process: the folder of compiled programs it found, seconds to its end, programs, and how many compiled anew."""
    rows = []
    for _ in range(settings.starts):
        with scratch_folder() as folder:
            for kind in ("empty", "warm"):
                seconds, words = start(SCRIPT, GRADKIT_CACHE_DIR=folder)
                rows.append({"folder": kind, "seconds": seconds, **json.loads(words)})
    return pd.DataFrame(rows)


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder for the time of a block."""
    with tempfile.TemporaryDirectory(prefix="gradkit_bench_") as folder:
        yield folder


def judge(engine: pd.DataFrame, imports: pd.DataFrame, results: pd.DataFrame) -> list[stories.Claim]:
    """What the figures say."""
    rows = engine[engine.runner.isin([SWEEP, WATCHED, FIT])]
    costs = "; ".join(f"{r.runner}: {r.overhead:+.1%} ({r.low:+.1%} to {r.high:+.1%})" for r in rows.itertuples())
    fixed = "; ".join(f"{r.runner}: {r.fixed_ms:.0f} ms a call" for r in rows.itertuples())
    ratio = (imports["gradkit"] / imports["jax, optax, flax"]).median()
    medians = ", ".join(f"{name}: {seconds:.2f} s" for name, seconds in imports.median().items())
    empty, warm = (results[results.folder == kind] for kind in ("empty", "warm"))
    anew = int(warm["compiled anew"].max())
    return [
        stories.Claim(f"steps cost less than {MOST_OVERHEAD:.0%} more than in a bare scan", f"{costs}. Besides, {fixed}",
                      bool((rows.overhead < MOST_OVERHEAD).all())),
        stories.Claim(f"importing gradkit takes at most {MOST_IMPORT} times as long as what it stands on",
                      f"{ratio:.2f} times ({medians})", bool(ratio <= MOST_IMPORT)),
        stories.Claim("the second run of a script compiles nothing anew",
                      f"{anew} of {warm.programs.max()} programs; first result after {warm.seconds.median():.1f} s, with "
                      f"an empty folder {empty.seconds.median():.1f} s", anew == 0),
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        for name in ("steps", "repeats", "width", "threads", "imports", "starts"):
            checks.whole_number(name, getattr(settings, name), at_least=1, remedy=f"See --help for what {name} counts.")
        output = stories.make_output(settings.output)
        tables = {"engine": time_engine(settings)}
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    tables |= {"imports": time_imports(settings), "first_results": time_first_results(settings)}
    paths = [path for name, table in tables.items() for path in stories.write_table(table, output / name)]
    held = stories.tell(__doc__, judge(*tables.values()))
    print("written: " + ", ".join(map(str, paths)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
