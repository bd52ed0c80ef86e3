"""Members that share a program: from their hyper-parameters to a ``Run``, its chunks, and back from the ledger.

``prepare`` checks everything and compiles nothing; ``execute`` runs all members of all programs; ``replay`` runs one of them
again, in the chunk shapes and the lanes it had, with copies of itself for neighbors, and so to the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from threading import Event
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

from gradkit import checks
from gradkit.contracts import Descent, Hyper, Source, Status
from gradkit.data import check_arrays
from gradkit.data.faults import check_targets
from gradkit.engine import chunk as chunks
from gradkit.engine import ledger as ledgers
from gradkit.engine import moves, programs, rungs, runner, segment
from gradkit.engine import outline as outlines
from gradkit.engine import plan as plans
from gradkit.engine.chunk import Chunk
from gradkit.engine.halving import Configuration, Halving
from gradkit.engine.ledger import Ledger, Placement
from gradkit.engine.plan import Plan
from gradkit.engine.progress import Tally
from gradkit.engine.rungs import Rung
from gradkit.engine.runs import Members, Pace, Run, capacity, num_compared, shared_tickets
from gradkit.questions import VALIDATION_LOSS, Reported

COLUMNS = {
    "member", "status", "steps_made", "rung", "initial_loss", "final_loss", "best_loss", "bad_leaf", "validation_loss",
}  # fmt: skip
LOST_WEIGHTS = (
    "weights count relative to the mean of each batch, so what is minimized depends on batch_size: the loss puts together the "
    "batch that it gives to its objective. Hand on `batch` as it is, or change its arrays by jax.tree.map"
)
LANES_THOUGHT_OF = 256  # when the rows of a segment are counted; no width is known then
SPLITTING = ("steps", "batch_size")  # static axes that the engine reads itself: they change a program only if make reads them


class Fixed(NamedTuple):
    """A ``make`` that reads no hyper-parameter: a lone descent, whose constants stay Python constants."""

    descent: Descent

    def __call__(self, hyper: Hyper) -> Descent:
        """Return the descent."""
        return self.descent


class Settings(NamedTuple):
    """What all programs of a sweep share besides their members; see :func:`gradkit.sweep`."""

    key: jax.Array
    validation: Any = None
    evaluate: Any = None
    evaluate_every: int | None = None
    history_every: int = 1
    keeps_state: bool = False


def prepare(
    make, static: dict[str, Any], members: Sequence[dict[str, Any]], positions: Sequence[int], source: Source,
    goals: Sequence[int], given: Settings,
) -> Run:  # fmt: skip
    """Check the members of one program abstractly. Nothing compiles; the width is still that of a lone lane.

    Args:
        make: ``Hyper -> Descent``.
        static: Hyper-parameters that are Python objects, the same for all members.
        members: The traced hyper-parameters of each member; ``seed`` among them gives each seed a key of its own, otherwise a
            member's key is the root key.
        positions: Where each stands in the sweep.
        source: Where batches come from.
        goals: Steps each makes.
        given: What all programs share.
    """
    names = list(members[0])
    hyper = {name: _as_axis([member[name] for member in members]) for name in names}
    split = {name: static[name] for name in SPLITTING if name in static}
    own_static = {name: value for name, value in static.items() if name not in split}
    program = programs.program(make, own_static, split, source.batch, given.evaluate, is_ordered=source.is_ordered)
    lane = segment.Lanes({name: values[0] for name, values in hyper.items()}, _shape_of_key(given.key))
    outline = outlines.outline(program, lane, source.example(), source.start, given.validation)
    check_targets("data" if jax.tree.leaves(source.resident) else "batch", source.start, outline.rule)
    check_targets("validation", given.validation, outline.rule)
    needed = {name: value for name, value in split.items() if name in outline.reads}
    own = Members(np.asarray(positions), hyper, [member.get("seed") for member in members], np.asarray(goals), given.key)
    num_steps = int(max(goals))
    rows = capacity(outline, source, min(len(members), LANES_THOUGHT_OF), num_steps, given.evaluate_every)
    ledger = ledgers.blank(len(members), given.history_every, num_compared(source, num_steps, rows))
    if outline.is_weight_lost and (source.is_lockstep or jax.tree.leaves(source.tickets(None, 0, 1))):
        ledger.notes.append(LOST_WEIGHTS)
    return Run(
        program._replace(split=programs.Static(needed)), outline, source, given.validation, own, ledger, num_steps, rows,
        shared_tickets(source, rows), given.evaluate_every, Pace(), given.keeps_state,
    )  # fmt: skip


def lone_plan() -> Plan:
    """The plan of a single member: one lane without vmap, one chunk at home."""
    plan = plans.settle(Plan(width=1, threads=1, spans=False, devices=tuple(jax.local_devices()[:1])))
    return plan._replace(programs=(plans.ProgramPlan("all", "", 1, (1,), 1),))


def at_width(run: Run, plan: Plan, width: int) -> Run:
    """The run with so many lanes per device."""
    mesh = _mesh(plan)
    if mesh is not None and run.program.mesh != mesh:
        run = _placed(run, NamedSharding(mesh, PartitionSpec()))  # what is bound to one device cannot meet the others' lanes
    return run._replace(program=run.program._replace(width=width, mesh=mesh))


def execute(
    runs: Sequence[Run], plan: Plan, tally: Tally, is_interrupted: Event, halving: Halving | None = None,
    configurations: Sequence[Configuration] = (),
) -> list[Rung]:  # fmt: skip
    """Run all members of all programs into their ledgers, laid out by a settled plan; returns what happened at the rungs."""

    def runs_after(rung: int) -> list[list[Run]]:
        return [_takers(at_width(run, plan, own.widths[rung]), plan) for run, own in zip(runs, plan.programs)]

    for run in runs:
        ledgers.open_histories(run.ledger, run.outline.info, run.num_steps)
    groups = [_chunks(takers) for takers in runs_after(0)]
    return rungs.climb(
        groups, runs_after, halving, configurations, threads=plan.threads, tally=tally, is_interrupted=is_interrupted
    )


def _chunks(takers: Sequence[Run]) -> list[Chunk]:
    """All members in chunks; those that make about as many steps travel together."""
    members = np.argsort(takers[0].members.goals, kind="stable")
    layout = plans.lay_out(members, takers[0].num_lanes)
    is_padding = np.arange(layout.size).reshape(layout.shape) >= len(members)
    return [chunks.make(takers[turn % len(takers)], *each) for turn, each in enumerate(zip(layout, is_padding))]


def _takers(run: Run, plan: Plan) -> list[Run]:
    """Devices that share no chunk take them in turn, each with a copy of the data."""
    home = jax.local_devices()[0]
    devices = [None] if plan.spans else [device if device != home else None for device in plan.devices]
    needed = -(-len(run.members.positions) // run.num_lanes)
    return [run if device is None else _on_device(run, device) for device in devices[:needed]]


def _on_device(run: Run, device: jax.Device) -> Run:
    return _placed(run, device)._replace(device=device)


def _placed(run: Run, where: jax.Device | Sharding) -> Run:
    """The run with its arrays there."""
    resident, start, validation = jax.device_put((run.source.resident, run.source.start, run.validation), where)
    return run._replace(source=run.source._replace(resident=resident, start=start), validation=validation)


class Course(NamedTuple):
    """What a member did, as far as it has to be known to do it again.

    Attributes:
        path: Where it ran, from which step on.
        end: Its last step.
        measured: The steps after which it was evaluated.
        status, rung: How it ended where that was not of its own doing, or ``None`` and 0.
    """

    path: tuple[Placement, ...]
    end: int
    measured: frozenset[int] = frozenset()
    status: Status | None = None
    rung: int = 0


def course(run: Run, member: int) -> Course:
    """What a member did, from the ledger of its run."""
    told, status = run.ledger, Status(run.ledger.status[member])
    path = tuple(told.path[member]) or (Placement(0, run.program.width, 0),)
    measured = frozenset(step for step, _ in told.evaluations[member])
    if status in (Status.PRUNED, Status.CONVERGED, Status.STOPPED):
        return Course(path, int(told.steps[member]), measured, status, int(told.rung[member]))
    return Course(path, int(run.members.goals[member]), measured)


def lone_course(run: Run, member: int) -> Course:
    """What a member would do by itself: all its steps, in a single lane."""
    return Course((Placement(0, 1, 0),), int(run.members.goals[member]))


def replay(run: Run, plan: Plan, member: int, course: Course, is_interrupted: Event) -> Ledger:
    """Run one member again on its course, copies of it in the other lanes. Returns its ledger, with the state."""
    end, measured = course.end, course.measured
    [run, *_] = _takers(run, plan)
    alone = run._replace(
        members=_only(run.members, member, end),
        keeps_state=True,
        pace=Pace(),
        ledger=ledgers.blank(1, run.ledger.every, run.ledger.num_compared),
    )
    ledgers.open_histories(alone.ledger, run.outline.info, run.num_steps)
    watch = runner.watch(Tally(1, end), is_interrupted)
    path = {place.step: place for place in course.path}
    chunk = last_lane = None
    stops = sorted({*path, *(step for step in measured if step < end), end})
    for start, stop in itertools.pairwise(stops):
        if start in path:
            here, lane = at_width(alone, plan, path[start].width), path[start].lane
            is_copy = np.arange(here.num_lanes) != lane
            chunk = chunks.make(here, np.zeros(here.num_lanes, int), is_copy) if chunk is None else moves.move(
                here, [(chunk, last_lane)] * here.num_lanes, is_copy)  # fmt: skip
            last_lane = lane
        is_last = stop == end
        [[chunk]] = runner.drive([[chunk]], stop, threads=1, is_last=is_last, is_measured=stop in measured, watch=watch)
    if course.status is not None:
        alone.ledger.status[0], alone.ledger.rung[0] = course.status, course.rung
    return alone.ledger


def _only(members: Members, member: int, end: int) -> Members:
    hyper = {name: values[member : member + 1] for name, values in members.hyper.items()}
    return Members(members.positions[member : member + 1], hyper, [members.seeds[member]], np.array([end]), members.key)


def _as_axis(values: Sequence[Any]) -> np.ndarray:
    """The values of a traced axis: int32, or the default float type (float64 under x64)."""
    values = np.asarray(values)
    return values.astype(np.int32 if values.dtype.kind in "iu" else jnp.result_type(float))


def check_names(reported: Reported, axes: Sequence[str]):
    """Refuse names that would stand for two things in the results.

    Raises:
        ValueError: If two of the axes, the metrics and the columns of the table have one name, that of a metric's start included.
    """
    steps, evaluations = reported.step_columns, reported.evaluation_columns
    own = COLUMNS | {"step", "loss"}
    _refuse("space", COLUMNS.intersection(axes))
    _refuse("loss_fn", own.intersection(steps))
    _refuse("evaluate", own.intersection(evaluations) - {VALIDATION_LOSS})
    _refuse("loss_fn", _twice([*axes, *COLUMNS, *_with_starts(steps)]))
    _refuse("evaluate", _twice([*axes, *COLUMNS - {VALIDATION_LOSS}, *_with_starts(steps), *_with_starts(evaluations)]))


def _with_starts(columns: dict[str, str]) -> list[str]:
    """The columns of metrics, and those of their values before the first step."""
    return [*columns.values(), *(f"initial_{column}" for column in columns.values())]


def _twice(names: list[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def _refuse(argument: str, clashes: set[str]):
    given = checks.Described(", ".join(sorted(clashes)))
    checks.require(not clashes, argument, "bring only names that the results do not use themselves", given, "Rename it.")


def _shape_of_key(key: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), key.dtype)


def _mesh(plan: Plan):
    if not plan.spans:
        return None
    return jax.make_mesh((len(plan.devices),), ("members",), axis_types=(AxisType.Auto,), devices=plan.devices)


def check_evaluation(validation: Any, evaluate: Any, evaluate_every: int | None) -> Any:
    """Return the validation batch on the device, or refuse what does not go together."""
    if validation is None:
        remedy = "Pass validation=(inputs, targets), held out from training."
        given = "evaluate" if evaluate is not None else "evaluate_every"
        checks.require(evaluate is None and evaluate_every is None, given, "come with validation data",
                       checks.Described("none"), remedy)  # fmt: skip
        return None
    if evaluate_every is not None:
        checks.whole_number("evaluate_every", evaluate_every, at_least=1, remedy="It counts steps between evaluations.")
    checks.require(evaluate is None or callable(evaluate), "evaluate", "be a function (params, batch) -> {name: scalar}",
                   evaluate, "Leave it out for the validation loss alone.", error=TypeError)  # fmt: skip
    return check_arrays("validation", validation)
