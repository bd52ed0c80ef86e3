"""Which axes a member reads, and which members are therefore equal.

The programs of a sweep flow in; out flow the hyper-parameters of each member without those that its
program does not read, and the member whose run it shares.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from gradkit.engine.programs import Static
from gradkit.engine.runs import Run

ENGINE_AXES = ("steps", "batch_size")  # read by the engine, whether or not make reads them too


class Readings(NamedTuple):
    """What the members of a sweep read.

    Attributes:
        hyper: Of each member, without the axes that are blank for it.
        run_by: The member whose run each shares: itself, or the first of those that are equal.
        unread: The axes that are blank for members that were given a value.
    """

    hyper: tuple[dict[str, Any], ...]
    run_by: tuple[int, ...]
    unread: tuple[str, ...]

    @property
    def own(self) -> frozenset[int]:
        """The members that run."""
        return frozenset(self.run_by)

    def note(self) -> list[str]:
        """What a reader of the table must know."""
        shared, number = len(self.run_by) - len(self.own), len(self.run_by)
        told = []
        if self.unread:
            told.append(f"{', '.join(self.unread)}: blank for members whose program does not read it")
        if shared:
            told.append(f"{shared} of the {number} members equal others in all they read, and share their run")
        return ["; ".join(told)] if told else []


def names_read(run: Run, static: Collection[str]) -> frozenset[str]:
    """The axes that the members of a program read.

    A traced one must reach what they are or tell, a static one is read where ``make`` asks for it.
    """
    names = {*run.outline.uses, *run.outline.reads.intersection(static), *ENGINE_AXES}
    is_seeded = run.outline.is_keyed or run.source.is_ordered
    return frozenset(names | {"seed"} if is_seeded else names)


def read(members: Sequence[dict[str, Any]], names: Sequence[Collection[str]]) -> Readings:
    """Leave out what members do not read, and find those that are equal then, or were written twice.

    Args:
        members: The hyper-parameters of each.
        names: What each reads.

    >>> members = [{"kind": kind, "momentum": momentum} for kind in ("sgd", "adam") for momentum in (0.5, 0.9)]
    >>> found = read(members, [("kind", "momentum")] * 2 + [("kind",)] * 2)
    >>> found.hyper[3], found.run_by, found.unread
    ({'kind': 'adam'}, (0, 1, 2, 2), ('momentum',))
    """
    hyper = tuple({name: value for name, value in member.items() if name in own} for member, own in zip(members, names))
    equal: dict[Static, list[int]] = {}
    for position, own in enumerate(hyper):
        equal.setdefault(Static(own), []).append(position)
    run_by = list(range(len(members)))
    for positions in equal.values():
        for position in positions:
            run_by[position] = positions[0]
    unread = (name for member, own in zip(members, hyper) for name in member if name not in own)
    return Readings(hyper, tuple(run_by), tuple(dict.fromkeys(unread)))
