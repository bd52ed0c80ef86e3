"""What one axis of a sweep showed: its levels flow in, a ``Range`` or a ``Ranking`` flows out.

A value *works* if it beats doing nothing by more than the noise, and comes close to the best. Values *tie* with the best if they
are not worse by more than the noise of the difference, given how many are compared. An *edge* is told only if what lies there
is better than all else by more than the noise: then the metric still improves where the axis ends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gradkit.report import levels as trends
from gradkit.report.levels import Levels

CHANCE = 0.01  # how often noise alone may make a finding
TIE_CHANCE = 0.05  # how often noise alone may set a value apart from the best
WORKS_FROM = 0.95  # share of the best gain from which a value counts as working
BARELY_MOVED_UP_TO = 0.1  # share of the best gain, in either direction
RELEVANT = 0.01  # what lies at an edge is better by this share of the metric or of the gain, whichever is less
MOST_COMPARED = 1000  # configurations, beyond which neighbors are too much alike to count as chances of their own
RUNS = 8  # so many runs of neighbors are compared for an edge, where values are many


class Range(NamedTuple):
    """What an axis with an order showed; each value stands for the best configuration that has it.

    Attributes:
        name: The axis.
        first, last: Where it ends.
        best: The value of the best configuration; ``None`` if none ended as planned.
        low, high: The ends of the unbroken range about the best in which values work; ``None`` if nothing works.
        tie_low, tie_high: The ends of the range within it in which no value is worse than the best by more than the noise;
            ``None`` if the best stands alone.
        diverged: Values of which all configurations diverged.
        not_finite: Values of which all failed, but not all of them diverged: they ended without a metric that is finite.
        barely_moved: Values that gained no more than ``BARELY_MOVED_UP_TO`` of the best gain, and did not worsen.
        worsened: Values that lost more than that, and more than the noise.
        edge: ``"lower"`` or ``"upper"`` if the metric still improves where the axis ends, and it could go on: an axis from 0
            up (a momentum, a penalty) has nothing below.
        is_inside: Whether both ends of the axis are worse than the best by more than the noise.
    """

    name: str
    first: float
    last: float
    best: float | None
    low: float | None
    high: float | None
    tie_low: float | None
    tie_high: float | None
    diverged: tuple[float, ...]
    not_finite: tuple[float, ...]
    barely_moved: tuple[float, ...]
    worsened: tuple[float, ...]
    edge: str | None
    is_inside: bool


class Ranking(NamedTuple):
    """What an axis without an order showed; each value stands for the best configuration that has it.

    Attributes:
        name: The axis.
        values: The codes of its values, best first.
        ends: The metric of each.
        is_tie: Whether each is no worse than the first by more than the noise.
        diverged: The codes of values of which all configurations diverged.
        not_finite: Those of values of which all failed, as in a ``Range``.
    """

    name: str
    values: tuple[float, ...]
    ends: tuple[float, ...]
    is_tie: tuple[bool, ...]
    diverged: tuple[float, ...]
    not_finite: tuple[float, ...]


def gained(levels: Levels, number: int) -> np.ndarray:
    """Whether each level beats doing nothing, where each stands for the best of several of so many configurations."""
    return trends.gains(levels).is_above(0.0, CHANCE / min(number, MOST_COMPARED))


def range_of(name: str, levels: Levels, number: int, best_gain: float) -> Range:
    """What the levels of an axis showed.

    Args:
        name: Of the axis.
        levels: With an order.
        number: Configurations of the sweep, of which the best is a lucky one.
        best_gain: Of the best of them; 0 if that is no more than the noise, NaN if it is unknown.
    """
    known = levels.is_known
    diverged, not_finite, barely_moved, worsened = _lists(levels, number, best_gain)
    trend = trends.condensed(levels)
    edge, works, is_inside = None, np.zeros(len(trend.first), bool), False
    ties = works
    if best_gain > 0 and trend.is_known.any():
        sides = ("upper",) if trend.first[0] == 0 else ("lower", "upper")
        edge = next((side for side in sides if _is_edge(trend, side)), None)
        works, ties, is_inside = _standing(trends.mended(trend), number)
    low, high = _ends(trend, works)
    tie_low, tie_high = _ends(trend, ties) if edge is None else (None, None)
    return Range(
        name=name,
        first=float(levels.first[0]),
        last=float(levels.last[-1]),
        best=float(levels.first[trends.best(levels)]) if known.any() else None,
        low=low,
        high=high,
        tie_low=tie_low,
        tie_high=tie_high,
        diverged=diverged,
        not_finite=not_finite,
        barely_moved=barely_moved,
        worsened=worsened,
        edge=edge,
        is_inside=is_inside and edge is None,
    )


def _lists(levels: Levels, number: int, best_gain: float) -> list[tuple[float, ...]]:
    """The values that diverged, those without a finite metric, those that barely moved, and those that ended worse."""
    gains, known = trends.gains(levels), levels.is_known
    is_not_finite = ~known & ~levels.is_diverged
    is_worse = gains._replace(mean=-gains.mean).is_above(0.0, CHANCE / number)
    if best_gain <= 0:  # without progress to compare with, the noise alone is the measure
        is_still = np.isfinite(gains.mean) & ~is_worse
    else:
        bound = BARELY_MOVED_UP_TO * best_gain
        is_worse &= gains.mean < -bound
        is_still = (gains.mean <= bound) & ~is_worse
    masks = (levels.is_diverged, is_not_finite, known & is_still, known & is_worse)
    listed = [tuple(levels.first[mask].tolist()) for mask in masks]
    return [() if levels.is_scattered and _is_interspersed(values, levels) else values for values in listed]


def _is_interspersed(values: tuple[float, ...], levels: Levels) -> bool:
    """Whether other values lie among these: then another axis is the cause."""
    is_within = (levels.first >= min(values, default=np.inf)) & (levels.first <= max(values, default=-np.inf))
    return bool(is_within.sum() > len(values))


def _standing(trend: Levels, number: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Which levels about the best work, which of them tie with it, and whether it lies inside."""
    nothing = np.zeros(len(trend.first), bool)
    best, does_gain = trends.best(trend), gained(trend, number)
    if not does_gain[best]:
        return nothing, nothing, False
    lead = trends.lead(trend, best)
    slack = (1 - WORKS_FROM) * trends.gains(trend).mean[best]
    is_close = lead.mean <= slack + np.minimum(lead.error, slack)
    works = _about(best, does_gain & is_close)
    is_behind = lead.is_above(0.0, TIE_CHANCE / max(len(nothing) - 1, 1)) | ~trend.is_known
    if trend.is_scattered and not (is_behind & trend.is_known).any():
        return nothing, nothing, False  # no trend: others of the axes decide
    ties = _about(best, works & ~is_behind)
    return works, ties if ties.sum() > 1 else nothing, bool(is_behind[0] and is_behind[-1])


def _is_edge(trend: Levels, side: str) -> bool:
    """Whether what lies at the end of an axis gained, and is better than all else by more than the noise.

    It must beat each of the others; that it does so against several by chance is rarer than against one.
    """
    is_upper = side == "upper"
    if not trend.is_known[-1 if is_upper else 0]:
        return False
    runs = trends.merged(trend, max(1, len(trend.first) // RUNS), from_the_end=is_upper)
    end = len(runs.first) - 1 if is_upper else 0
    others = runs.is_known & (np.arange(len(runs.first)) != end)
    if not runs.is_known[end] or not others.any() or not gained(runs, 1)[end]:
        return False
    size = min(abs(np.nanmean(runs.ends[end])), trends.gains(runs).mean[end])
    is_ahead = trends.lead(runs, end).is_above(RELEVANT * size, CHANCE * min(others.sum(), 2))
    return bool(is_ahead[others].all())


def _about(best: int, holds: np.ndarray) -> np.ndarray:
    """The unbroken run about the best in which something holds."""
    breaks, place = np.flatnonzero(~holds), np.arange(len(holds))
    low = max(breaks[breaks < best], default=-1)
    high = min(breaks[breaks > best], default=len(holds))
    return (place > low) & (place < high) & holds


def _ends(trend: Levels, mask: np.ndarray) -> tuple[float | None, float | None]:
    return (float(trend.first[mask][0]), float(trend.last[mask][-1])) if mask.any() else (None, None)


def ranking_of(name: str, levels: Levels, *, is_max: bool) -> Ranking:
    """What the levels of an axis without an order showed."""
    known = levels.is_known
    diverged = tuple(levels.first[levels.is_diverged].tolist())
    not_finite = tuple(levels.first[~known & ~levels.is_diverged].tolist())
    if not known.any():
        return Ranking(name, (), (), (), diverged, not_finite)
    lead = trends.lead(levels, trends.best(levels))
    order = np.argsort(lead.mean)[: known.sum()]  # what is unknown comes last
    is_behind = lead.is_above(0.0, TIE_CHANCE / max(len(order) - 1, 1))
    ends = np.nanmean(levels.ends[order], axis=1) * (1 if is_max else -1)
    return Ranking(
        name=name,
        values=tuple(levels.first[order].tolist()),
        ends=tuple(ends.tolist()),
        is_tie=tuple((~is_behind[order]).tolist()),
        diverged=diverged,
        not_finite=not_finite,
    )
