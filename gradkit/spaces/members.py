"""Members of a sweep: every combination of the axes, or their values side by side.

In flow checked axes, out flows a :class:`Space`, which knows all its members and which of them can share a program.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

from gradkit.checks import Described, refuse, require
from gradkit.spaces.axes import BLANK, Axis, check_axis, describe, one_kind


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Space:
    """An ordered, unchanging list of members; made by :func:`grid`, :func:`zipped` and :func:`sample`.

    ``a * b`` pairs every member of ``a`` with every member of ``b``, those of ``b`` varying fastest; ``a + b`` lists
    the members of ``a`` and then those of ``b``. An axis that only one of them has is blank for the others.

    >>> space = grid(learning_rate=[0.1, 0.01], optimizer=["sgd", "adam"])
    >>> space
    Space of 4 members: learning_rate (2 values, 0.01 to 0.1) x optimizer (static: 'sgd', 'adam')
    >>> space[1]
    {'learning_rate': 0.1, 'optimizer': 'adam'}
    >>> space.traced, space.static
    (('learning_rate',), ('optimizer',))

    Attributes:
        table: For each axis, its value in every member.
        text: The axes in words.
    """

    table: tuple[Axis, ...]
    text: str

    @property
    def axes(self) -> tuple[str, ...]:
        """The names, in the order given."""
        return tuple(axis.name for axis in self.table)

    @property
    def traced(self) -> tuple[str, ...]:
        """The names whose values are numbers and share a compiled program."""
        return tuple(axis.name for axis in self.table if not axis.is_static)

    @property
    def static(self) -> tuple[str, ...]:
        """The names whose values reach ``make`` as Python objects and split the sweep into programs."""
        return tuple(axis.name for axis in self.table if axis.is_static)

    @functools.cached_property
    def members(self) -> tuple[dict[str, Any], ...]:
        """Name to value, for each member in order; without the axes that are blank for it."""
        rows = zip(*(axis.values for axis in self.table))
        return tuple(_present(zip(self.axes, row)) for row in rows)

    def columns(self) -> dict[str, list]:
        """Name to the values of all members in order, ``BLANK`` for those that do not have the axis."""
        return {axis.name: list(axis.values) for axis in self.table}

    def groups(self) -> tuple[tuple[tuple[tuple[str, Any], ...], tuple[int, ...]], ...]:
        """The members that can share a program, in order of first appearance.

        They have the same axes, and equal values of the static ones. Two static values are the same if they are one object,
        or of one type and equal.

        Returns:
            For each group the ``(name, value)`` pairs of its static axes, and the indices of its members.
        """
        groups: list[tuple[tuple, list[int]]] = []
        for index, member in enumerate(self.members):
            has = tuple(name in member for name in self.traced)
            values = (*(member.get(name, BLANK) for name in self.static), has)
            indices = next((found for known, found in groups if all(map(_is_same, known, values))), None)
            if indices is None:
                indices = []
                groups.append((values, indices))
            indices.append(index)
        return tuple((tuple(_present(zip(self.static, values)).items()), tuple(indices)) for values, indices in groups)

    def __len__(self) -> int:
        return len(self.table[0].values)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.members)

    def __getitem__(self, index):
        return self.members[index]

    def __mul__(self, other):
        _check_space(other)
        twice = [name for name in self.axes if name in other.axes]
        require(not twice, "space", "name each axis once", twice, "Rename the axis, or join the spaces with `+`.")
        slow = (axis._replace(values=tuple(v for v in axis.values for _ in range(len(other)))) for axis in self.table)
        fast = (axis._replace(values=axis.values * len(self)) for axis in other.table)
        return Space((*slow, *fast), f"{self.text} x {other.text}")

    def __add__(self, other):
        _check_space(other)
        ours, theirs = ({axis.name: axis for axis in space.table} for space in (self, other))
        table = (
            _joined(ours.get(name) or _blank(theirs[name], self), theirs.get(name) or _blank(ours[name], other))
            for name in dict.fromkeys((*self.axes, *other.axes))
        )
        return Space(tuple(table), f"[{self.text} + {other.text}]")

    def __repr__(self) -> str:
        return f"Space of {len(self)} member{'s' * (len(self) != 1)}: {self.text}"


def grid(**axes: Any) -> Space:
    """List every combination of the values; the last axis varies fastest.

    Args:
        **axes: For each name a list, tuple, range or one-dimensional array. Numbers are traced: ints stay ints, a mix
            becomes floats. Strings, callables, bools and None are static, and so is what :func:`static` marks.
            ``batch_size`` is always static; ``seed`` and ``steps`` hold whole numbers.

    Raises:
        ValueError: An axis or the space is empty, or a number is not finite or does not fit int32.
        TypeError: An axis is a lone value, or holds something that is neither a number nor marked as static.

    >>> [list(member.values()) for member in grid(width=[8, 16], seed=range(2))]
    [[8, 0], [8, 1], [16, 0], [16, 1]]
    """
    spaces = [Space((column,), describe(column)) for column in _checked(axes)]
    return functools.reduce(Space.__mul__, spaces)


def zipped(**axes: Any) -> Space:
    """List the first values of all axes together, then the second ones, and so on; all must have one length.

    The values are written as in :func:`grid`.

    >>> zipped(learning_rate=[0.1, 0.2], momentum=[0.9, 0.5])[1]
    {'learning_rate': 0.2, 'momentum': 0.5}
    """
    columns = _checked(axes)
    lengths = {axis.name: len(axis.values) for axis in columns}
    remedy = "Shorten the longer axes, or take all combinations with gk.grid."
    require(len(set(lengths.values())) == 1, "zipped", "have axes of one length", lengths, remedy)
    return Space(columns, f"zipped [{', '.join(map(describe, columns))}]")


def _checked(axes: dict[str, Any]) -> tuple[Axis, ...]:
    require(len(axes) > 0, "space", "have at least one axis", axes, "Name one, such as seed=range(4).")
    return tuple(check_axis(name, values) for name, values in axes.items())


def _check_space(other: Any):
    remedy = "Write gk.grid(name=[...])."
    require(isinstance(other, Space), "space", "be combined with a space", other, remedy, error=TypeError)


def _present(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if value is not BLANK}


def _blank(like: Axis, space: Space) -> Axis:
    """An axis that no member of a space has."""
    return like._replace(values=(BLANK,) * len(space))


def _joined(first: Axis, second: Axis) -> Axis:
    """The values of both, still of one kind."""
    if first.is_static != second.is_static:
        both = Described(f"{describe(first)} + {describe(second)}")
        remedy = "Mark it with gk.static([...]) on both sides, or on neither."
        refuse("space", "be joined from axes that are both traced or both static", both, remedy)
    values = first.values + second.values
    return first._replace(values=values if first.is_static else one_kind(values))


def _is_same(a: Any, b: Any) -> bool:
    if a is b or type(a) is not type(b):
        return a is b
    try:
        return bool(a == b) and repr(a) == repr(b)  # (1,) is not (1.0,): programs would differ
    except Exception:  # Equality without one truth value, as for arrays: identity decides.
        return False
