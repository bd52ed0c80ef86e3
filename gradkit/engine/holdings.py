"""What a result keeps of its data: the arrays as they were given, by reference, so that nothing of it lies on the device.

A run flows in when it has ended; for a replay it flows out again, its data put on the device anew if they are still the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gradkit import checks, trees
from gradkit.contracts import Source
from gradkit.data import check_arrays
from gradkit.engine import programs
from gradkit.engine.dependencies import checksum, identity
from gradkit.engine.outline import identity_now
from gradkit.engine.runs import Run, shared_tickets

CHANGED = "arrays that were changed in place since"


class Given(NamedTuple):
    """Arrays as they were given, and what tells whether they were changed in place since."""

    arrays: Any
    digest: tuple


class Seal(NamedTuple):
    """What tells in another process whether a program and its data, made anew there, are what they were.

    Attributes:
        program: The digest of what was traced.
        data, validation: Those of the arrays as they were given; of data that are no arrays, that of how they begin.
    """

    program: str
    data: tuple
    validation: tuple


class Holding(NamedTuple):
    """A run without its arrays, and how they come back.

    Attributes:
        run: What members share.
        data: The data; ``None`` if they are no arrays, and stay with the run.
        source: ``data -> Source``.
        validation: The validation batch, or ``None``.
        seal: Of all that.
    """

    run: Run
    data: Given | None
    source: Callable[[Any], Source]
    validation: Given | None
    seal: Seal


def given(arrays: Any) -> Given:
    """Arrays as they are now. Those of jax cannot change; of the others a checksum is taken, about 1 second for a gigabyte."""
    return Given(arrays, _digest(arrays))


def _digest(arrays: Any) -> tuple:
    """Of each array; ``None`` for those of jax."""
    host = [None if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in jax.tree.leaves(arrays)]
    return tuple(None if leaf is None else checksum(leaf) for leaf in host)


def let_go(run: Run, data: Given | None, source: Callable[[Any], Source], validation: Given | None) -> Holding:
    """The run without what lies on the device."""
    begins = _beginning(run) if data is None else data.digest
    seal = Seal(run.outline.identity, begins, () if validation is None else validation.digest)
    run = run._replace(validation=None)
    if data is not None:
        bare = run.source._replace(resident=None, start=None, tickets=None, example=None)
        run = run._replace(source=bare, shared_tickets=None)
    return Holding(run, data, source, validation, seal)


def _beginning(run: Run) -> tuple:
    """How data begin that are no arrays: a stream with its first batch, batches that are drawn with the program that draws."""
    source, program = run.source, run.program
    if source.is_lockstep:
        return _digest(source.example())

    def draws() -> str:
        ticket = jax.tree.map(lambda leaf: leaf[0], source.tickets(None, 0, 1))
        with programs.tracing(program.kept, program.is_ordered) as traced:
            return identity([jax.make_jaxpr(traced.batch)(source.resident, ticket)])

    return (programs.recall(program).kept.once("draws", draws),)


def check_seal(holding: Holding, then: Seal, *, is_same_jax: bool):
    """Refuse a program or data that are not what they were; another jax writes the same program in other words.

    Raises:
        ValueError: If something was edited since, or the data were changed in place.
    """
    now, is_stream = holding.seal, holding.run.source.is_lockstep
    is_drawn = holding.data is None and not is_stream
    is_same = now.program == then.program and (not is_drawn or now.data == then.data)
    _require_same(is_same or not is_same_jax)
    if not is_drawn:
        _check_same("data", now.data, then.data, "a stream that begins with another batch" if is_stream else CHANGED)
    _check_same("validation", now.validation, then.validation)


def take_up(holding: Holding) -> Run:
    """The run with its arrays on the device again.

    Raises:
        ValueError: If the arrays were changed in place since.
    """
    run = holding.run
    if holding.validation is not None:
        run = run._replace(validation=check_arrays("validation", trees.at_home(_unchanged("validation", holding.validation))))
    if holding.data is None:
        return run
    source = holding.source(_unchanged("data", holding.data))
    return run._replace(source=source, shared_tickets=shared_tickets(source, run.capacity))


def check_traced(run: Run):
    """Refuse a run whose program, traced anew, is not what it was."""
    _require_same(identity_now(run.program, run.outline) == run.outline.identity)


def _require_same(is_same: bool):
    given = checks.Described("functions that are traced to another program by now")
    remedy = "Undo the edit, or sweep again. What is drawn from no key while it is traced is another number each time."
    checks.require(is_same, "sweep", "be run again by the functions that it ran", given, remedy)


def _unchanged(argument: str, then: Given) -> Any:
    _check_same(argument, _digest(then.arrays), then.digest)
    return then.arrays


def _check_same(argument: str, now: tuple, then: tuple, given: str = CHANGED):
    """What was or is an array of jax did not change."""
    is_same = len(now) == len(then) and all(a is None or b is None or a == b for a, b in zip(now, then))
    remedy = "Hand a copy to the sweep, or restore them."
    checks.require(is_same, argument, "be what the sweep ran on", checks.Described(given), remedy)
