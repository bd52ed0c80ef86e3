"""Hyper-parameters as a reader knows them: values flow in, numbers as they are and names of all others flow out."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradkit.engine.programs import Static


def told(members: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The hyper-parameters of all members of a sweep: what differs is told apart.

    >>> told([{"activation": max, "rate": 0.1}, {"activation": min, "rate": 0.2}])
    [{'activation': 'max', 'rate': 0.1}, {'activation': 'min', 'rate': 0.2}]
    """
    columns = {name: [member[name] for member in members if name in member] for name in axes(members)}
    known = {name: labels(values) for name, values in columns.items() if not all(map(is_number, values))}

    def label(name, value):
        return known[name].get(as_known(value), value) if name in known else value

    return [{name: label(name, value) for name, value in member.items()} for member in members]


def axes(members: Sequence[dict[str, Any]]) -> list[str]:
    """The names of all hyper-parameters that a member has."""
    return list(dict.fromkeys(name for member in members for name in member))


def labels(values: Sequence[Any]) -> dict[Static, Any]:
    """The values of an axis, in order of appearance, and how a reader knows each; without those that are blank.

    Values of another type are others, though Python may call them equal; those of one name are numbered.

    >>> list(labels([False, 0.0, max, False]).values())
    [False, 0.0, 'max']
    """
    found = {as_known(value): readable(value) for value in values if not is_blank(value)}
    alike = collections.Counter(map(str, found.values()))
    number = collections.Counter()
    for each, label in found.items():
        if alike[str(label)] > 1:
            found[each] = f"{label} {number[str(label)]}"
            number[str(label)] += 1
    return found


def readable(value: Any) -> Any:
    """A hyper-parameter as a cell of the table."""
    return value if isinstance(value, (int, float, str, bool, type(None))) else getattr(value, "__name__", repr(value))


def as_known(value: Any) -> Static:
    """What tells a value from others."""
    return Static({"value": value})


def is_number(value: Any) -> bool:
    """Whether a value is a number, of Python or numpy."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def is_blank(value: Any) -> bool:
    """Whether a value stands for one that a member does not read."""
    return isinstance(value, float) and math.isnan(value)
