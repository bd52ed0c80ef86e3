"""Members that share a program: from their hyper-parameters to a ``Run``, its chunks, and back to records.

``prepare`` checks everything and compiles nothing; ``execute`` runs all members; ``replay`` runs one of them again, in the
chunk shape and the lane it had, with copies of itself for neighbors, and so to the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from threading import Event
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from gradkit import checks, keys, trees
from gradkit.contracts import Descent, Hyper, Source
from gradkit.data import check_arrays
from gradkit.engine import outline as outlines
from gradkit.engine import plan as plans
from gradkit.engine.chunk import Record
from gradkit.engine.outline import Outline
from gradkit.engine.plan import Plan
from gradkit.engine.progress import Tally
from gradkit.engine.runner import run_chunks
from gradkit.engine.runs import Run
from gradkit.engine.segment import Lanes, Program, Static

COLUMNS = {"member", "status", "steps_made", "initial_loss", "final_loss", "best_loss", "bad_leaf", "validation_loss"}


class Fixed(NamedTuple):
    """A ``make`` that reads no hyper-parameter: a lone descent, whose constants stay Python constants."""

    descent: Descent

    def __call__(self, hyper: Hyper) -> Descent:
        """Return the descent."""
        return self.descent


class Group(NamedTuple):
    """The members of one program.

    Attributes:
        run: What they share.
        plan: How they are laid out; nothing is left open.
        layout: The position of the member in each lane, shape (num_chunks, lanes).
        num_members: How many there are; later lanes are padding.
        hyper: Their traced hyper-parameters, ``{name: array (num_members,)}``.
        seeds: Their seeds, or ``None`` each.
        key: The root key.
    """

    run: Run
    plan: Plan
    layout: np.ndarray
    num_members: int
    hyper: dict[str, np.ndarray]
    seeds: Sequence[int | None]
    key: jax.Array


def prepare(
    make,
    static: dict[str, Any],
    members: Sequence[dict[str, Any]],
    source: Source,
    *,
    key: jax.Array,
    validation: Any,
    num_steps: int,
    evaluate=None,
    evaluate_every: int | None = None,
    plan: Plan | None = None,
    keeps_state: bool = False,
) -> Group:
    """Check a group of members abstractly and lay them out. Nothing compiles.

    Args:
        make: ``Hyper -> Descent``.
        static: Hyper-parameters that are Python objects, the same for all members.
        members: The traced hyper-parameters of each member; ``seed`` among them gives each seed a key of its own.
        source: Where batches come from.
        key: The root key; a member's key is this one, or with a seed ``member_key(key, seed)``.
        validation, num_steps, evaluate, evaluate_every, keeps_state: See :class:`~gradkit.engine.runs.Run`.
        plan: The layout; what it leaves open is settled here.
    """
    names = list(members[0])
    hyper = {name: _as_axis([member[name] for member in members]) for name in names}
    lone = Program(make, Static(static), source.batch, source.is_ordered, evaluate, width=1, mesh=None)
    lane = Lanes({name: values[0] for name, values in hyper.items()}, _shape_of_key(key))
    outline = outlines.outline(lone, lane, source.example(), source.start, validation)
    _check_names(outline, [*names, *static])
    plan = plans.settle(plan or Plan(), len(members), trees.num_bytes(outline.state))
    program = lone._replace(width=plan.width, mesh=_mesh(plan))
    shared = Run(program, outline, source, validation, num_steps, evaluate_every, keeps_state)
    layout = plans.lay_out(range(len(members)), plan.lanes)
    seeds = [member.get("seed") for member in members]
    return Group(shared, plan, layout, len(members), hyper, seeds, key)


def execute(group: Group, tally: Tally, is_interrupted: Event) -> list[Record]:
    """Run all members; one record per chunk. Devices that share no chunk take them in turn, each with a copy of the data."""
    home = jax.local_devices()[0]
    takers = [None] if group.plan.spans else [device if device != home else None for device in group.plan.devices]
    takers = takers[: len(group.layout)]
    runs = [group.run if device is None else _on_device(group.run, device) for device in takers]
    places = []
    for chunk in range(len(group.layout)):
        turn = chunk % len(takers)
        places.append((runs[turn], functools.partial(_place, group, chunk, takers[turn])))
    return run_chunks(places, group.plan.threads, tally, is_interrupted)


def _on_device(run: Run, device: jax.Device) -> Run:
    resident, start, validation = jax.device_put((run.source.resident, run.source.start, run.validation), device)
    return run._replace(source=run.source._replace(resident=resident, start=start), validation=validation)


def replay(group: Group, position: int, is_interrupted: Event) -> tuple[Record, int]:
    """Run one member again in its own lane, copies of it in the others. Returns the record, with the state, and the lane."""
    lane = position % group.layout.shape[1]
    alone = group._replace(run=group.run._replace(keeps_state=True), layout=np.full_like(group.layout[:1], position))
    return execute(alone, Tally(1, group.run.num_steps), is_interrupted)[0], lane


def _as_axis(values: Sequence[Any]) -> np.ndarray:
    """The values of a traced axis: int32, or the default float type (float64 under x64)."""
    values = np.asarray(values)
    return values.astype(np.int32 if values.dtype.kind in "iu" else jnp.result_type(float))


def _check_names(outline: Outline, axes: list[str]):
    """Refuse names that would stand for two things in the results."""
    taken = COLUMNS.union(["step", "loss"], axes)
    _refuse_taken("space", axes, COLUMNS)
    _refuse_taken("loss_fn", outline.info.metrics, taken)
    _refuse_taken("evaluate", outline.metrics.keys() - {"validation_loss"}, taken)


def _refuse_taken(argument: str, names, taken: set[str]):
    clashes = ", ".join(sorted(taken.intersection(names)))
    checks.require(not clashes, argument, "bring only names that the results do not use themselves", checks.Described(clashes),
                   "Rename it.")  # fmt: skip


def _place(group: Group, chunk: int, device: jax.Device | None) -> tuple:
    """The members, padding, seeds and lanes of a chunk."""
    members = group.layout[chunk]
    first_lane = chunk * len(members)
    is_padding = np.arange(first_lane, first_lane + len(members)) >= group.num_members
    seeds = [group.seeds[member] for member in members]
    hyper = {name: jnp.asarray(values[members]) for name, values in group.hyper.items()}
    lanes = Lanes(hyper, _keys(group.key, seeds))
    return members, is_padding, seeds, lanes if device is None else jax.device_put(lanes, device)


def _keys(key: jax.Array, seeds: Sequence[int | None]) -> jax.Array:
    """Each member's key: by its seed, never by its lane, so that no layout can change it."""
    if seeds[0] is None:
        return jnp.broadcast_to(key, (len(seeds),))
    return jax.vmap(keys.member_key, (None, 0))(key, jnp.asarray(seeds, jnp.uint32))


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
