"""The planner: programs flow in, a settled plan flows out, measured where that pays.

Which width is best differs by a factor of three from program to program, so widths are timed: a first guess from the size of the
state and the cache, the loop without vmap, then what lies around the best so far. The rates are kept in a file, by the program,
the device and the versions, so that the next sweep of the kind is planned at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from gradkit import checks, settings, trees
from gradkit.engine import chunk as chunks
from gradkit.engine import group, ledger, memory, rates
from gradkit.engine import plan as plans
from gradkit.engine.halving import Halving, num_kept, rung_steps
from gradkit.engine.plan import Plan, ProgramPlan
from gradkit.engine.rates import Sample
from gradkit.engine.runs import Run

BUDGET_SECONDS = 2.0  # that planning may take, or
BUDGET_SHARE = 0.02  # of the predicted run, whichever is more
WORTHWHILE_SECONDS = 4.0  # a shorter run is not worth timing other widths than the first guess
PROBE_SECONDS = 0.06  # of one timing
PROBES = 3
LOOP_IS_NEAR = 8  # a best width up to which the loop without vmap is always timed


def plan(
    runs: Sequence[Run], names: Sequence[str], request: Plan, halving: Halving | None, num_configurations: int, *, is_asked: bool
) -> Plan:
    """Settle how the members of all programs are laid out.

    Args:
        runs: One per program.
        names: What tells them apart, in words.
        request: What the user fixed; a settled plan is only checked.
        halving, num_configurations: For the widths after each rung.
        is_asked: Whether the user waits for a plan: then even a short run is measured.
    """
    started = time.perf_counter()
    settled = plans.settle(request)
    prints = [rates.fingerprint(run, settled) for run in runs]
    if request.programs:
        return _checked(settled, prints, runs, halving)
    programs = []
    for run, name, fingerprint in zip(runs, names, prints):
        own = _in_a_loop(settled) if run.outline.is_loop_only else settled
        stages, samples = _stages(run, halving, num_configurations), rates.load(fingerprint)
        if own.width is None and _can_choose(run, own):
            samples = _measured(run, own, samples, stages, is_asked=is_asked)
            rates.save(fingerprint, samples)
        programs.append(_program(run, name, fingerprint, own, samples, stages))
    widths = {program.widths[0] for program in programs}
    return settled._replace(
        width=widths.pop() if len(widths) == 1 else None, programs=tuple(programs),
        planning_seconds=time.perf_counter() - started if is_asked else 0.0,
    )  # fmt: skip


def _in_a_loop(settled: Plan) -> Plan:
    """The plan of members that decompose matrices on a CPU: side by side they may wait for each other for ever."""
    remedy = "Decompositions side by side may wait for each other for ever: leave the width out."
    rule = "be 1 for steps that decompose matrices (cholesky, solve, svd...) on a CPU"
    checks.require(settled.width in (None, 1), "plan.width", rule, settled.width, remedy)
    return settled._replace(width=1)


class Stage(NamedTuple):
    """A stretch of a run in which the same members are at work: from the start, from a rung.

    Attributes:
        num_members: At most so many.
        member_steps: They make in all.
    """

    num_members: int
    member_steps: int


def _stages(run: Run, halving: Halving | None, num_configurations: int) -> list[Stage]:
    num_members, goals = len(run.members.positions), run.members.goals
    if halving is None:
        return [Stage(num_members, int(goals.sum()))]
    ends = rung_steps(halving, run.num_steps)
    kept = [num_kept(num_configurations, halving.eta, rung) / num_configurations for rung in range(len(ends))]
    numbers = [num_members, *(max(1, round(num_members * share)) for share in kept)]
    lengths = np.diff([0, *ends, run.num_steps]).tolist()
    return [Stage(number, number * length) for number, length in zip(numbers, lengths)]


def _checked(given: Plan, prints: Sequence[str], runs: Sequence[Run], halving: Halving | None) -> Plan:
    """A plan that was made before, if it was made for this."""
    rungs = len(rung_steps(halving, runs[0].num_steps)) if halving else 0
    made_for = [(program.fingerprint, program.num_members, len(program.widths) - 1) for program in given.programs]
    wanted = [(fingerprint, len(run.members.positions), rungs) for fingerprint, run in zip(prints, runs)]
    described = "; ".join(f"{number} members of program {name[:8]}, {rungs} rungs" for name, number, rungs in made_for)
    checks.require(made_for == wanted, "plan", "be made for these programs, members, rungs, device and versions",
                   checks.Described(f"one for {described}"),
                   "Call gk.plan with the arguments of this sweep, or give gk.Plan(width=...) alone.")  # fmt: skip
    is_own = given.width is None or {program.widths[0] for program in given.programs} == {given.width}
    checks.require(is_own, "plan.width", "be that of its programs", given.width, "Give gk.Plan(width=...) alone.")
    return given


def _can_choose(run: Run, settled: Plan) -> bool:
    is_stream_read_once = run.source.is_lockstep and not run.source.is_replayable
    return plans.most(settled, len(run.members.positions)) > 1 and not is_stream_read_once


class Probe(NamedTuple):
    """Chunks of one width on the device, ready to be timed; what compiling took, and the part of the segment in it."""

    run: Run
    chunk: chunks.Chunk
    tickets: object
    compile_seconds: float
    segment_seconds: float
    num_bytes: int | None


def _measured(
    run: Run, settled: Plan, samples: dict[int, Sample], stages: Sequence[Stage], *, is_asked: bool
) -> dict[int, Sample]:
    """Time the first guess and, where it pays, its neighbors. The clock starts after the guess, which is compiled anyway.

    What was measured before is taken up; only who asks for a plan adds to it, so that equal sweeps keep their layout.
    """
    num_members, total = stages[0].num_members, sum(stage.member_steps for stage in stages)
    most, guess = plans.most(settled, num_members), _guess(run, settled)
    fits = lambda width: memory.fits(run, settled, width, samples)  # noqa: E731
    if samples and max(samples) >= guess and (not is_asked or _untried(samples, most, fits) is None):
        return samples
    probe, glance = _glanced(run, settled, guess)
    if not is_asked and total / glance.rate < WORTHWHILE_SECONDS:
        return samples
    first = _time(probe, settled)
    samples = samples | {probe.run.program.width: first}
    started, budget = time.perf_counter(), max(BUDGET_SECONDS, BUDGET_SHARE * total / first.rate)
    cost = probe.segment_seconds + 2 * PROBES * PROBE_SECONDS
    while (width := _untried(samples, most, fits)) and time.perf_counter() - started + cost < budget:
        try:
            samples = samples | {width: _time(_probe(run, settled, width, probe.chunk), settled)}
        except RuntimeError as error:
            if not memory.is_exhausted(error):
                raise
            break
        cost = samples[width].compile_seconds + 2 * PROBES * PROBE_SECONDS
    return samples


def _guess(run: Run, settled: Plan) -> int:
    num_members = len(run.members.positions)
    return plans.guess(settled, num_members, trees.num_bytes(run.outline.state), run.outline.largest)


def _untried(samples: dict[int, Sample], most: int, fits: Callable[[int], bool]) -> int | None:
    """The next width to time: the loop where it is near, then one and two octaves around the best so far."""
    best = max(samples, key=lambda width: samples[width].rate)
    near = [1] if best <= LOOP_IS_NEAR else []
    wanted = [*near, min(2 * best, most), best // 2, min(4 * best, most), best // 4]
    return next((width for width in wanted if width >= 1 and width not in samples and fits(width)), None)


def _glanced(run: Run, settled: Plan, width: int) -> tuple[Probe, Sample]:
    """A probe of a width and a short timing; where memory runs out, of half of it."""
    try:
        probe = _probe(run, settled, width, None)
        return probe, _time(probe, settled, seconds=0, repeats=1)
    except RuntimeError as error:
        if width == 1 or not memory.is_exhausted(error):
            raise
    return _glanced(run, settled, width // 2)


def _probe(run: Run, settled: Plan, width: int, like: chunks.Chunk | None) -> Probe:
    """Chunks of a width, with a first state of their own, or copies of the lanes of another chunk's."""
    scratch = ledger.blank(len(run.members.positions), 1)
    here = group.at_width(run, settled, width)._replace(ledger=scratch, validation=None)
    members = np.arange(here.num_lanes) % len(run.members.positions)
    chunk, started = chunks.make(here, members, np.zeros(here.num_lanes, bool)), time.perf_counter()
    if like is None:
        chunks.begin(chunk)
    else:
        chunk.lanes = here.members.lanes(members, here.place)
        chunk.state, chunk.growths = _copies(like, here.num_lanes)
    begun = time.perf_counter()
    compiled = chunks.compile_segment(chunk)
    compile_seconds, segment_seconds = time.perf_counter() - started, time.perf_counter() - begun
    tickets = here.no_tickets() if here.source.is_lockstep else here.all_tickets(chunk.seeds)
    return Probe(here, chunk, tickets, compile_seconds, segment_seconds, memory.num_bytes(compiled))


def _copies(like: chunks.Chunk, num_lanes: int):
    lanes = np.arange(num_lanes) % like.run.num_lanes
    take = lambda axis: lambda leaf: leaf.take(lanes, axis) if trees.is_key(leaf) else np.take(np.asarray(leaf), lanes, axis)  # noqa: E731
    return jax.device_put((jax.tree.map(take(0), like.state), jax.tree.map(take(1), like.growths)))


def _time(probe: Probe, settled: Plan, *, seconds: float | int = PROBE_SECONDS, repeats: int = PROBES) -> Sample:
    """Member-steps per second with all threads at work: the best of a few timings."""
    num_lanes, count = probe.run.num_lanes, settled.threads

    def steps(num_steps):
        jax.block_until_ready(chunks.launch(probe.chunk, probe.tickets, num_steps))

    with ThreadPoolExecutor(count) as pool:

        def together(num_steps):
            started = time.perf_counter()
            list(pool.map(settings.carried(steps), [num_steps] * count))
            return time.perf_counter() - started

        num_steps = 1
        together(num_steps)
        while (took := together(num_steps)) < seconds / 2 and num_steps < probe.run.capacity:
            num_steps = min(probe.run.capacity, num_steps * int(np.clip(seconds / took, 2, 16)))
        best = min(together(num_steps) for _ in range(repeats))
    return Sample(count * num_lanes * num_steps / best, probe.compile_seconds, probe.num_bytes)


def _program(run, name, fingerprint, settled, samples, stages) -> ProgramPlan:
    """The layout of one program: the width that ends soonest, counted with padding and idle threads, for each stage."""
    num_members = stages[0].num_members
    width = settled.width or _soonest(run, settled, samples, num_members)
    width = min(width, -(-num_members // (len(settled.devices) if settled.spans else 1)))
    while settled.width is None and width > 1 and not memory.fits(run, settled, width, samples):
        width //= 2
    memory.check(run, settled, width, samples)
    widths = [width]
    for stage in stages[1:]:
        widths.append(_narrowed(settled, samples, widths[-1], stage.num_members))
    sample, seconds = samples.get(width), None
    if sample is not None:
        times = [
            _cost(settled, samples, each, stage.num_members) * stage.member_steps / stage.num_members
            for each, stage in zip(widths, stages)
        ]
        seconds = sum(times)
    return ProgramPlan(
        name, fingerprint, num_members, tuple(widths), -(-num_members // settled.lanes(width)),
        {each: found.rate for each, found in samples.items()}, memory.of_chunk(run, settled, width, samples),
        None if sample is None else sample.compile_seconds, seconds,
    )  # fmt: skip


def _soonest(run: Run, settled: Plan, samples: dict[int, Sample], num_members: int) -> int:
    if not samples:
        return _guess(run, settled)
    most = plans.most(settled, num_members)
    known = [width for width in samples if width <= most] or [min(samples)]
    return min(known, key=lambda width: (_cost(settled, samples, width, num_members), width))


def _cost(settled: Plan, samples: dict[int, Sample], width: int, num_members: int) -> float:
    """Seconds in which all members make a step: rounds of full threads, padding included."""
    lanes = settled.lanes(width) * settled.threads
    return -(-num_members // lanes) * lanes / samples[width].rate


def _narrowed(settled: Plan, samples: dict[int, Sample], width: int, num_members: int) -> int:
    """The width for the survivors of a rung: halved for as long as that ends sooner. Only widths that were measured count."""
    while width // 2 in samples and width in samples and (
        _cost(settled, samples, width // 2, num_members) < _cost(settled, samples, width, num_members)
    ):  # fmt: skip
        width //= 2
    return width
