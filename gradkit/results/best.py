"""The best of many: members and their scores flow in, the configuration that wins flows out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gradkit.engine.programs import Static


class Best(NamedTuple):
    """The best configuration of a sweep, over its seeds.

    Attributes:
        hyper: Its hyper-parameters, without the axis averaged over.
        metric: What was ranked.
        mean, std: Of the metric over the members; the spread of a single member is NaN.
        members: Its members that finished, best first.
    """

    hyper: dict[str, Any]
    metric: str
    mean: float
    std: float
    members: tuple[int, ...]

    @property
    def member(self) -> int:
        """The best single member of the configuration."""
        return self.members[0]


def configurations(members: Sequence[dict[str, Any]], over: str | None, run_by: Sequence[int]) -> list[tuple[int, ...]]:
    """The members that differ at most along one axis, for each combination of the others; of those that share a run, one."""
    groups: dict[Static, list[int]] = {}
    for member, hyper in enumerate(members):
        if run_by[member] != member:
            continue
        groups.setdefault(Static({name: value for name, value in hyper.items() if name != over}), []).append(member)
    return [tuple(each) for each in groups.values()]


def winners(values: np.ndarray, goal: str, configurations: Sequence[tuple[int, ...]], is_sound: np.ndarray) -> tuple[int, ...]:
    """The members of the best configuration that count, best first.

    One in which all members count is better than one in which only some do; then the mean decides. Of
    equals the first wins.

    Args:
        values: A number of each member, shape (m,).
        goal: ``"min"`` or ``"max"``.
        configurations: The members of each.
        is_sound: Which members count, shape (m,).
    """
    scores = values if goal == "min" else -values

    def rank(members):
        sound = [member for member in members if is_sound[member]]
        return len(sound) < len(members), np.mean(scores[sound]) if sound else np.inf

    chosen = min(configurations, key=rank)
    return tuple(sorted((i for i in chosen if is_sound[i]), key=lambda member: scores[member]))
