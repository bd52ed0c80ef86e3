"""The statistical core: what members came to flows in as numbers, what the sweep showed flows out. No text, no tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gradkit.report import levels as trends
from gradkit.report import ranges
from gradkit.report.levels import Configurations, Levels
from gradkit.report.ranges import Range, Ranking

FEWEST_FOR_TREND = 16  # values of an axis of a random sample, below which nothing is said


class Members(NamedTuple):
    """What findings rest on, a number per member (m).

    Attributes:
        configuration: Which members differ in their replicate alone, counted from 0.
        replicate: The seed or the fold: members of one replicate are compared in pairs.
        end: The metric at the end; NaN where unknown.
        gain: By how much it is better than at the start, on the same data; NaN where unknown.
        end_error, gain_error: Standard errors of the two for the data they were measured on; 0 where all data were taken.
        is_diverged: Whether the member diverged.
        is_whole: Whether it made all its steps.
        is_max: Whether the metric is wanted large.
    """

    configuration: np.ndarray
    replicate: np.ndarray
    end: np.ndarray
    gain: np.ndarray
    end_error: np.ndarray
    gain_error: np.ndarray
    is_diverged: np.ndarray
    is_whole: np.ndarray
    is_max: bool = False


class Axis(NamedTuple):
    """A hyper-parameter.

    Attributes:
        name: Its name.
        values: Of each member (m); a code where they are no numbers, NaN where the member does not read it.
        is_range: Whether values have an order, so that neighbors are alike.
        is_lucky: Whether each value sees batches of its own, which the replicates share: these do not show the luck in them.
    """

    name: str
    values: np.ndarray
    is_range: bool = True
    is_lucky: bool = False


class Findings(NamedTuple):
    """All findings.

    Attributes:
        has_gained: Whether the best beats doing nothing by more than the noise; ``None`` if its gain is unknown.
        ranges: Of the axes with an order and more than one value, but for those of which no value is known to have ended.
        rankings: Of the others, likewise.
        barely_moved, worsened: Whether each member did, [m]; neither for those that diverged or are not whole.
        is_noise_assumed: Whether nothing measures the noise, so that a share of the metric stands in.
    """

    has_gained: bool | None
    ranges: tuple[Range, ...]
    rankings: tuple[Ranking, ...]
    barely_moved: np.ndarray
    worsened: np.ndarray
    is_noise_assumed: bool


def find(members: Members, axes: tuple[Axis, ...]) -> Findings:
    """Say what a sweep showed.

    Args:
        members: What each came to.
        axes: The hyper-parameters but for the replicate; those of one value are left out of every decision.
    """
    given = _configurations(members)
    first = np.unique(members.configuration, return_index=True)[1]
    axes = tuple(axis._replace(values=axis.values[first]) for axis in axes if len(_unique(axis.values)) > 1)
    told = {axis.name: _levels(axis, axes, given) for axis in axes if axis.is_range}
    ordered = {name: levels for name, levels in told.items() if levels is not None and len(levels.first)}
    unordered = [axis for axis in axes if not axis.is_range]
    words = {axis.name: trends.of_axis(axis.values, given, is_ordered=False, is_lucky=axis.is_lucky) for axis in unordered}
    ordered, words = ({name: levels for name, levels in each.items() if len(levels.first)} for each in (ordered, words))
    best_gain = _best_gain(given, ordered)
    still, worse = _of_members(members, given, best_gain)
    return Findings(
        has_gained=None if np.isnan(best_gain) else best_gain > 0,
        ranges=tuple(ranges.range_of(name, levels, len(first), best_gain) for name, levels in ordered.items()),
        rankings=tuple(ranges.ranking_of(name, levels, is_max=members.is_max) for name, levels in words.items()),
        barely_moved=still,
        worsened=worse,
        is_noise_assumed=given.ends.shape[1] == 1 and not any(levels.is_noise_known for levels in ordered.values()),
    )


def _configurations(members: Members) -> Configurations:
    """The members as a row per configuration and a column per replicate."""
    order = np.lexsort((members.replicate, members.configuration))
    rows, counts = np.unique(members.configuration, return_counts=True)
    row = np.repeat(np.arange(len(rows)), counts)
    column = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)

    def spread(values, blank):
        table = np.full((len(rows), counts.max()), blank)
        table[row, column] = values[order]
        return table

    # a metric that is finite on average, but no longer where the member ended, counts as lost
    is_taken = members.is_whole & ~members.is_diverged & np.isfinite(members.end) & (members.gain != -np.inf)
    sign = 1.0 if members.is_max else -1.0
    end = np.where(is_taken, members.end, np.nan)
    gain = np.where(is_taken & np.isfinite(members.gain), members.gain, np.nan)
    scale = np.fmax(np.abs(end - sign * gain), np.abs(end))
    return Configurations(
        ends=spread(sign * end, np.nan),
        gains=spread(gain, np.nan),
        end_error=spread(members.end_error, 0.0).max(axis=1),
        gain_error=spread(members.gain_error, 0.0).max(axis=1),
        scale=spread(np.nan_to_num(scale), 0.0).max(axis=1),
        is_diverged=spread(members.is_diverged, False).any(axis=1),
        is_failed=spread(members.is_diverged | members.is_whole & ~is_taken, False).any(axis=1),
        is_sound=spread(is_taken, True).all(axis=1),
    )


def _levels(axis: Axis, axes: tuple[Axis, ...], given: Configurations) -> Levels | None:
    """The levels of an axis. Of a random sample neighbors differ in all else as well, which counts as noise."""
    reads = np.isfinite(axis.values)
    num_values = len(_unique(axis.values))
    is_alone = all(len(_unique(other.values[reads])) < 2 for other in axes if other is not axis)
    is_scattered = num_values == reads.sum() and not is_alone
    if not is_scattered:
        return trends.of_axis(axis.values, given, is_ordered=True, is_lucky=axis.is_lucky)
    if num_values < FEWEST_FOR_TREND:
        return None
    return trends.of_axis(axis.values, trends.averaged(given), is_ordered=True)._replace(is_scattered=True)


def _best_gain(given: Configurations, ordered: dict[str, Levels]) -> float:
    """The gain of the best configuration; 0 if that is no more than the noise, NaN if it is unknown, as where each lost a member.

    Where there is one replicate, an axis of many values tells the noise, and so whether its best values gained.
    """
    alone, number = trends.each(given), len(given.ends)
    if not alone.is_known.any():
        return np.nan if np.isfinite(given.gains).any() else 0.0
    gain = trends.gains(alone).mean[trends.best(alone)]
    told = [levels for levels in ordered.values() if levels.is_noise_known and levels.ends.shape[1] == 1]
    judged = [trends.mended(trends.condensed(levels)) for levels in told if levels.is_known.any()] or [alone]
    has_gained = any(ranges.gained(levels, number)[trends.best(levels)] for levels in judged)
    return float(gain) if has_gained or np.isnan(gain) else 0.0


def _of_members(members: Members, given: Configurations, best_gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Which members barely moved, and which ended worse than they began."""
    noise = trends.noise_of_members(given)[members.configuration]
    bound = ranges.BARELY_MOVED_UP_TO * best_gain if best_gain > 0 else noise
    is_judged = members.is_whole & ~members.is_diverged
    worse = is_judged & (members.gain < -np.maximum(bound, noise))
    return is_judged & (members.gain <= bound) & ~worse, worse


def _unique(values: np.ndarray) -> np.ndarray:
    return np.unique(values[np.isfinite(values)])
