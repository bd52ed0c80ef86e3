"""Is gradkit's sweep as fast as what an expert writes, and how far ahead is it of what people write?"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Literal

import jax
import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from experiments import stories
from experiments.bench import cases, contenders, verdicts
from experiments.bench.cases import Case
from experiments.bench.contenders import GRADKIT, Contender
from experiments.bench.host_devices import HostDevices
from experiments.bench.tuning import Workbench
from gradkit import checks

TABLE_WIDTH = 132


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train the same members in every way, in turns, and compare the times: medians of the rounds, and ratios within them.

    The contenders: gk.sweep under its plan (its whole time, but for compilation); jit(vmap(scan)) over all members; lax.map over
    them; a loop over one compiled scan; the best of a grid over widths, threads and host devices; PyTorch, one network after the
    other with fused Adam; torch.func's vmap over stacked parameters. All start from the same parameters and see the same batches.
    On an accelerator: gk.sweep, jit(vmap(scan)) and PyTorch in sequence. Nothing else should run on the machine meanwhile; a case
    takes about four minutes, of which almost one goes into the grid.

    Examples:
      python -m experiments.bench.sweep
      python -m experiments.bench.sweep --cases mnist cnn --seconds 2 --repeats 3
      python -m experiments.bench.sweep --cases mnist --members 1024 --widths 64 256 1024
    """

    cases: tuple[Literal["tiny", "small", "mnist", "cnn", "resnet", "transformer"], ...] = verdicts.EVERY
    """tiny, small and mnist: perceptrons of 8-16-16-10, 64-128-128-10 and 784-128-128-10; cnn: two convolutions on 28x28; resnet:
    six residual hidden layers of 64 with batch norm; transformer: two blocks of width 64 on 64 tokens."""
    seconds: float = 6.0
    """How long a timed run lasts, about; members make at most 2,048 steps."""
    repeats: int = 3
    """Rounds; each contender runs once in each."""
    members: int | None = None
    """Learning rates per case, instead of 1024 (tiny), 64 (small, mnist, resnet) and 16 (cnn, transformer)."""
    optimizer: Literal["optax", "gradkit"] = "gradkit"
    """Whose Adam all ways in jax use: gradkit's divides once a coordinate."""
    widths: tuple[int, ...] = ()
    """Members per chunk at which gradkit runs besides, to see how well its plan chooses."""
    host_devices: int = 2
    """The larger number of host devices that the hand-tuned best may use, in a process of its own; 1 leaves that out."""
    output: str = "results/bench_sweep"
    """Where the tables and the figure are written."""


def check(settings: Settings):
    """Refuse numbers that leave nothing to measure."""
    checks.require(len(settings.cases) > 0, "cases", "name at least one case", settings.cases, "Leave it out to run all.")
    checks.require(settings.seconds > 0, "seconds", "be positive", settings.seconds, "Below 1 the times are mostly noise.")
    checks.whole_number("repeats", settings.repeats, at_least=1, remedy="The medians are over the rounds.")
    if settings.members is not None:
        checks.whole_number("members", settings.members, at_least=2, remedy="One member is no sweep.")
    checks.whole_number("host-devices", settings.host_devices, at_least=1, remedy="1 tries no others.")
    for width in settings.widths:
        checks.whole_number("widths", width, at_least=1, remedy="They count members side by side.")


@contextlib.contextmanager
def fresh_cache() -> Iterator[None]:
    """Keep what gradkit stores between runs out of the way: every run plans and compiles anew."""
    before = os.environ.get("GRADKIT_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADKIT_CACHE_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["GRADKIT_CACHE_DIR"]
            os.environ.update({} if before is None else {"GRADKIT_CACHE_DIR": before})


@contextlib.contextmanager
def several_devices(settings: Settings) -> Iterator[HostDevices | None]:
    """The process with several host devices, if one is asked for and of use."""
    if settings.host_devices < 2 or jax.default_backend() != "cpu":
        yield None
        return
    process = HostDevices(settings.host_devices)
    try:
        yield process
    finally:
        process.close()


def is_torch_here() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def enter(settings: Settings, case: Case, others: HostDevices | None) -> list[Contender]:
    """All contenders of a case, compiled where they can be, with the steps that last so long."""
    benches = {1: Workbench(case, jax.local_devices()[:1])}
    if others is not None:
        benches[settings.host_devices] = others.use(name=case.name, optimizer=settings.optimizer, members=settings.members)
    entered = contenders.on_jax(case, benches, settings.seconds, settings.widths)
    if is_torch_here():
        from experiments.bench import torch_peers

        entered += torch_peers.on_torch(case, settings.seconds)
    return entered


def measure_gemm() -> list:
    """The functions that measure the machine's speed: XLA's first, then those of other libraries."""
    measures = [contenders.gemm()]
    if is_torch_here():
        from experiments.bench import torch_peers

        measures.append(torch_peers.gemm())
    return measures


def largest_difference(outcomes: dict[str, contenders.Outcome]) -> float:
    """The largest relative difference of any contender's first losses from gradkit's."""
    own = outcomes[GRADKIT].losses
    losses = [outcome.losses for outcome in outcomes.values() if outcome.losses is not None]
    return max(float(np.max(np.abs(other[: len(own)] - own) / np.abs(own))) for other in losses)


def compete(settings: Settings, case: Case, entered: list[Contender]) -> tuple[pd.DataFrame, float]:
    """Run the rounds; returns a row per run, and the largest difference between losses.

    Each round begins with the next contender, so that none always runs after the same one.
    """
    first = {contender.name: contender.run() for contender in entered}
    difference, speeds, rows = largest_difference(first), measure_gemm(), []
    for turn in range(settings.repeats):
        gemms = [measure() / 1e9 for measure in speeds]
        for place in range(len(entered)):
            contender = entered[(turn + place) % len(entered)]
            seconds = contender.run().seconds
            rows.append({"case": case.name, "round": turn, "contender": contender.name, "setting": contender.setting,
                         "members": contender.members, "steps": contender.steps, "seconds": seconds, "gemm_gflops": max(gemms),
                         "xla_gemm_gflops": gemms[0],
                         "flops": case.flops, "tuning_seconds": contender.tuning_seconds})  # fmt: skip
    runs = pd.DataFrame(rows)
    usual = runs.groupby("contender").seconds.median()
    compiling = {
        contender.name: max(first[contender.name].seconds - usual[contender.name], 0.0)
        if contender.compile_seconds is None
        else contender.compile_seconds
        for contender in entered
    }
    return runs.assign(compile_seconds=runs.contender.map(compiling)), difference


def show(table: pd.DataFrame):
    """Print the table, a block per case."""
    shown = Table(title="gradkit's speed over each: median and range of the rounds", title_justify="left", title_style="bold",
                  box=box.SIMPLE)  # fmt: skip
    for name in ("case", "contender", "setting"):
        shown.add_column(name, no_wrap=True)
    for name in ("member-steps/s", "gradkit is", "from - to", "of GEMM", "compile", "tuning"):
        shown.add_column(name, justify="right", no_wrap=True)
    for case, rows in table.groupby("case", sort=False):
        for row in rows.itertuples():
            shown.add_row(
                case if row.contender == GRADKIT else "", row.contender, row.setting, f"{row.member_steps_per_second:,.0f}",
                f"{row.ratio:.3g}x", f"{row.lowest_ratio:.3g} - {row.highest_ratio:.3g}",
                "" if np.isnan(row.gemm_share) else f"{row.gemm_share:.0%}",
                f"{row.compile_seconds:.1f} s", f"{row.tuning_seconds:.1f} s",
            )  # fmt: skip
        shown.add_section()
    Console(width=max(Console().width, TABLE_WIDTH)).print(shown)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0 if every claim held."""
    settings = stories.settings(Settings, arguments)
    try:
        check(settings)
    except ValueError as error:
        sys.exit(f"error: {error}")
    output = stories.make_output(settings.output)
    if not is_torch_here():
        print("PyTorch is not installed: its two contenders are left out.")
    results = []
    with fresh_cache(), several_devices(settings) as others:
        for name in settings.cases:
            case = cases.build(name, settings.optimizer, settings.members)
            print(f"{name}: compiling and tuning, then {settings.repeats} rounds", flush=True)
            results.append(compete(settings, case, enter(settings, case, others)))
            jax.clear_caches()
    runs = pd.concat([runs for runs, _ in results], ignore_index=True)
    table = verdicts.tabulate(runs)
    paths = stories.write_table(table, output / "table") + stories.write_table(runs, output / "runs")
    paths.append(stories.write_figure(verdicts.draw(table), output / "bench_sweep.png"))
    show(table)
    device = jax.local_devices()[0]
    gemm, own = table.gemm_gflops.median(), table.xla_gemm_gflops.median()
    print(f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}; a large float32 matrix product: "
          f"{gemm:,.0f} GFLOP/s by the fastest library here, {own:,.0f} by XLA")  # fmt: skip
    differences = {runs.case.iloc[0]: difference for runs, difference in results}
    held = stories.tell(__doc__, verdicts.judge(table, differences, is_cpu=jax.default_backend() == "cpu"))
    print("written: " + ", ".join(map(str, paths)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
