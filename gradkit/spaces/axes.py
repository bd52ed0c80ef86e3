"""One axis of a space: a name and the values it takes.

In flow the values a person wrote, out flows a checked :class:`Axis`; its numbers are plain ints or plain floats, all of
one kind.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from gradkit.checks import Described, refuse, require, shorten, whole_number
from gradkit.trees import is_key

_INT32_MAX = 2**31 - 1
_COUNTS = ("batch_size", "steps")


@dataclasses.dataclass(frozen=True)
class Static:
    """Values that reach ``make`` as Python objects; made by :func:`static`."""

    values: tuple


class Blank(enum.Enum):
    """Stands where a member does not have an axis."""

    BLANK = "blank"

    def __repr__(self) -> str:
        return self.value


BLANK = Blank.BLANK


class Axis(NamedTuple):
    """A name with its values: the choices while a space is built, the value of each member inside a space."""

    name: str
    values: tuple
    is_static: bool

    @property
    def given(self) -> tuple:
        """The values of those members that have one."""
        return tuple(value for value in self.values if value is not BLANK)


def static(values: Any) -> Static:
    """Mark the values of an axis to reach ``make`` as Python objects; the sweep then compiles one program per value.

    Use it for what changes shapes or structure (widths, depths, tuples), not for plain numbers: new ones need no
    compilation.

    >>> static([(64,), (64, 64)])
    Static(values=((64,), (64, 64)))
    """
    return Static(_entries("static", values))


def geomspace(low: Real, high: Real, n: Any) -> tuple[float, ...]:
    """Return ``n`` floats from ``low`` to ``high``, both included, each the same multiple of the one before.

    >>> geomspace(1, 8, 4)
    (1.0, 2.0, 4.0, 8.0)
    """
    check_ends(low, high)
    check_positive(low)
    return tuple(np.geomspace(low, high, _check_num_points(n)).tolist())


def linspace(low: Real, high: Real, n: Any) -> tuple[float, ...]:
    """Return ``n`` floats from ``low`` to ``high``, both included, at equal distances.

    >>> linspace(0, 1, 5)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    check_ends(low, high)
    return tuple(np.linspace(low, high, _check_num_points(n)).tolist())


def check_axis(name: str, values: Any) -> Axis:
    """Check the values of one axis and say whether it is static."""
    entries = _entries(name, values)
    require(len(entries) > 0, name, "have at least one value", values, "Give it values, or leave the axis out.")
    if name in _COUNTS:
        counts = tuple(_count(name, i, entry) for i, entry in enumerate(entries))
        return Axis(name, counts, is_static=name == "batch_size" or isinstance(values, Static))
    if isinstance(values, Static):
        require(name != "seed", name, "hold whole numbers that are traced", values, "Leave out gk.static: seed=range(4).")
        return Axis(name, entries, is_static=True)
    entries = tuple(map(_plain, entries))
    if name == "seed":
        return Axis(name, tuple(_seed(i, entry) for i, entry in enumerate(entries)), is_static=False)
    if all(map(_is_static, entries)):
        return Axis(name, entries, is_static=True)
    return Axis(name, one_kind([_number(name, i, entry) for i, entry in enumerate(entries)]), is_static=False)


def one_kind(numbers: Sequence[Any]) -> tuple:
    """The numbers as they are if all are ints, else all as floats; blanks stay blank."""
    given = [number for number in numbers if number is not BLANK]
    if all(isinstance(number, int) for number in given):
        return tuple(numbers)
    return tuple(number if number is BLANK else float(number) for number in numbers)


def describe(axis: Axis) -> str:
    """An axis in words: ``learning_rate (32 values, 1e-05 to 10, log-spaced)``."""
    if axis.is_static:
        labels = ", ".join(dict.fromkeys(getattr(value, "__name__", None) or repr(value) for value in axis.given))
        return f"{axis.name} (static: {shorten(Described(labels))})"
    low, high, num = min(axis.given), max(axis.given), len(set(axis.given))
    if num == 1:
        return f"{axis.name} (1 value, {low:g})"
    return f"{axis.name} ({num} values, {low:g} to {high:g}{', log-spaced' * _is_log_spaced(axis.given)})"


def check_ends(low: Real, high: Real):
    """Refuse an interval that is not finite or has nothing inside."""
    is_right = bool(math.isfinite(low) and math.isfinite(high) and low < high)
    require(is_right, "low, high", "be finite and ascending", (low, high), "Write the smaller end first.")


def check_positive(low: Real):
    """Refuse an interval without logarithms."""
    require(bool(low > 0), "low", "be positive", low, "A logarithmic scale has no zero; use linspace or uniform.")


def _check_num_points(n: Any) -> int:
    return whole_number("n", n, at_least=2, remedy="Both ends are included; write a single value as [value].")


def _entries(name: str, values: Any) -> tuple:
    """The values of an axis one by one; a lone value is refused."""
    if isinstance(values, Static):
        return values.values
    if getattr(values, "ndim", None) == 1 and not is_key(values):
        return tuple(values.tolist())
    if isinstance(values, (list, tuple, range)):
        return tuple(values)
    if hasattr(values, "draw"):
        refuse(name, "be a list of values", values, "Draw it: gk.sample(n, name=distribution).", error=TypeError)
    remedy = f"Write [{shorten(values, 30)}] or leave it a constant in make."
    refuse(name, "be a list, tuple, range or one-dimensional array of values", values, remedy, error=TypeError)


def _plain(entry: Any) -> Any:
    """A lone number of numpy or jax as a Python one; everything else as it is."""
    return entry.item() if getattr(entry, "ndim", None) == 0 and not is_key(entry) else entry


def _is_static(entry: Any) -> bool:
    return entry is None or isinstance(entry, (str, bool)) or callable(entry)


def _number(name: str, index: int, entry: Any) -> Any:
    """An int or a float as it is, or an error that names its place."""
    place = f"{name}[{index}]"
    is_number = isinstance(entry, (int, float)) and not isinstance(entry, bool)
    remedy = "Use numbers only, or gk.static([...]): values reach make as they are, one program each."
    require(is_number, place, "be a number to be traced", entry, remedy, error=TypeError)
    if isinstance(entry, float):
        require(math.isfinite(entry), place, "be finite", entry, "Leave the value out.")
    else:
        require(abs(entry) <= _INT32_MAX, place, "fit a 32-bit integer", entry, "Write it as a float, or gk.static([...]).")
    return entry


def _seed(index: int, entry: Any) -> int:
    place = f"seed[{index}]"
    seed = whole_number(place, entry, at_least=0, remedy="Seeds are whole numbers: seed=range(4).")
    require(seed <= _INT32_MAX, place, "fit a 32-bit integer", seed, "Smaller seeds are as random: seed=range(4).")
    return seed


def _count(name: str, index: int, entry: Any) -> int | None:
    if name == "batch_size" and entry is None:
        return None
    return whole_number(f"{name}[{index}]", entry, at_least=1, remedy="Only batch_size may be None: all examples at once.")


def _is_log_spaced(values: tuple) -> bool:
    if len(values) < 3 or min(values) <= 0:
        return False
    ratios = np.diff(np.log(values))
    return bool(ratios[0] != 0 and np.allclose(ratios, ratios[0], rtol=1e-6, atol=0))
