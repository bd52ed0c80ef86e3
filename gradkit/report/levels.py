"""What an axis of a sweep showed, in order of its values, and how sure that is: the arithmetic under the findings.

Configurations flow in; out flow ``Levels``, a row per value and a column per replicate, with differences between rows and their
standard errors. Replicates (seeds, folds) give the noise where there are several. Where there is one per value, its neighbors
take their place: noise is what is left of a value when the mean of its two neighbors is taken off.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gradkit.report import noises

MOST_LEVELS = 64  # more values than these are taken together in runs of neighbors
ASSUMED_NOISE = 0.05  # of the level, where one replicate and few values leave it unknown
MOST_LENT = 100.0  # times the variance in the middle, that a level lends to its neighbors
ROUNDING = 1e-6  # of the level


class Configurations(NamedTuple):
    """A row per configuration (c), a column per replicate (r); more is better, NaN where nothing is known.

    Attributes:
        ends: The metric at the end, [c, r].
        gains: By how much it is better than at the start, [c, r].
        end_error, gain_error: Standard errors for the data they were measured on, which all replicates may share, [c].
        scale: The size of the numbers compared, [c].
        is_diverged: Whether a member diverged, [c].
        is_failed: Whether a member did, or ended without a metric that is finite, [c].
        is_sound: Whether all members ended as planned, with a finite metric, [c].
    """

    ends: np.ndarray
    gains: np.ndarray
    end_error: np.ndarray
    gain_error: np.ndarray
    scale: np.ndarray
    is_diverged: np.ndarray
    is_failed: np.ndarray
    is_sound: np.ndarray


class Levels(NamedTuple):
    """The values of an axis in order (k); each stands for its best configuration. More is better.

    Attributes:
        first, last: The lowest and highest value of the level; equal unless values were taken together, [k].
        ends, gains: [k, r]; NaN where all configurations failed.
        is_diverged: Whether all of them diverged, [k].
        end_noise, gain_noise: Standard errors of a row with one replicate, [k].
        gain_error: Of the gain for the data it was measured on, which all replicates may share, [k].
        luck: Standard errors for the luck of batches, where replicates share theirs but values see others; else 0, [k].
        dof: Degrees of freedom of the noise of a row with one replicate, [k].
        is_ordered: Whether neighbors are alike.
        is_scattered: Whether neighbors differ in other axes as well, as in a random sample.
    """

    first: np.ndarray
    last: np.ndarray
    ends: np.ndarray
    gains: np.ndarray
    end_noise: np.ndarray
    gain_noise: np.ndarray
    gain_error: np.ndarray
    luck: np.ndarray
    dof: np.ndarray
    is_diverged: np.ndarray
    is_ordered: bool
    is_scattered: bool = False

    @property
    def is_noise_known(self) -> bool:
        """Whether the noise was measured, by replicates or by neighbors."""
        return self.ends.shape[1] > 1 or bool(np.isfinite(self.dof).any())

    @property
    def is_known(self) -> np.ndarray:
        """Whether a configuration of the level ended as planned."""
        return np.isfinite(self.ends).any(axis=1)


class Measured(NamedTuple):
    """Means with their standard errors and the degrees of freedom of these, [k] each."""

    mean: np.ndarray
    error: np.ndarray
    dof: np.ndarray

    def is_above(self, bound: np.ndarray | float, chance: float) -> np.ndarray:
        """Whether the mean lies above a bound, which it would by chance with this probability at most."""
        return self.mean - bound > noises.critical(chance, self.dof) * self.error


def of_axis(values: np.ndarray, given: Configurations, *, is_ordered: bool, is_lucky: bool = False) -> Levels:
    """The levels of an axis.

    Args:
        values: Of each configuration, [c]; NaN where it does not read the axis.
        given: The configurations.
        is_ordered: Whether neighbors are alike, so that they tell the noise of each other.
        is_lucky: Whether values see batches of their own, which replicates share.
    """
    chosen = _best_of_each(values, given)
    is_sound, scale = given.is_sound[chosen], given.scale[chosen]
    assumed = np.hypot(ASSUMED_NOISE * scale, given.end_error[chosen])
    of_ends = np.abs(np.nan_to_num(noises.mean(given.ends[chosen])))
    luck = np.hypot(ASSUMED_NOISE * of_ends, given.end_error[chosen]) * (is_lucky and given.ends.shape[1] > 1)
    levels = Levels(
        first=values[chosen],
        last=values[chosen],
        ends=np.where(is_sound[:, None], given.ends[chosen], np.nan),
        gains=np.where(is_sound[:, None], given.gains[chosen], np.nan),
        end_noise=assumed,
        gain_noise=assumed,
        gain_error=np.hypot(given.gain_error[chosen], ROUNDING * scale),
        luck=luck,
        dof=np.full(len(chosen), np.inf),
        is_diverged=~is_sound & given.is_diverged[chosen],
        is_ordered=is_ordered,
    )
    return _with_noise_of_neighbors(levels)


def each(given: Configurations) -> Levels:
    """Every configuration as a level of its own, without an order."""
    return of_axis(np.arange(len(given.scale), dtype=float), given, is_ordered=False)


def averaged(given: Configurations) -> Configurations:
    """Each configuration with one replicate, the mean of its own."""
    return given._replace(ends=noises.mean(given.ends)[:, None], gains=noises.mean(given.gains)[:, None])


def best(levels: Levels) -> int:
    """The level that ends best."""
    return int(np.nanargmax(noises.mean(levels.ends)))


def condensed(levels: Levels) -> Levels:
    """No more levels than a trend needs: where values are many, runs of neighbors are taken together."""
    if len(levels.first) <= MOST_LEVELS:
        return levels
    few = merged(levels, -(-len(levels.first) // MOST_LEVELS))
    between = _with_noise_of_neighbors(few)
    return few._replace(
        end_noise=np.fmax(few.end_noise, between.end_noise), gain_noise=np.fmax(few.gain_noise, between.gain_noise)
    )


def noise_of_members(given: Configurations) -> np.ndarray:
    """By how much a member of each configuration may move by noise alone, [c]."""
    alone = each(given)
    found = gains(alone)
    of_one = found.error * np.sqrt(np.isfinite(alone.gains).sum(axis=1))
    told = alone.is_known  # of the others some member failed
    noise, dof = np.hypot(ASSUMED_NOISE * given.scale, given.gain_error), np.full(len(given.scale), np.inf)
    noise[alone.first[told].astype(int)] = of_one[told]
    dof[alone.first[told].astype(int)] = found.dof[told]
    return noises.critical(0.01, dof) * noise


def _best_of_each(values: np.ndarray, given: Configurations) -> np.ndarray:
    """The best sound configuration of each value; a failed one where none is; those values left out of which none is known."""
    rank = np.where(given.is_sound, -noises.mean(given.ends), np.inf)
    candidates = np.flatnonzero(np.isfinite(values) & (given.is_sound | given.is_failed))
    order = candidates[np.lexsort((given.is_diverged[candidates], rank[candidates], values[candidates]))]
    is_first = np.append(True, values[order][1:] != values[order][:-1])[: len(order)]
    unknown = np.unique(values[~given.is_sound & ~given.is_failed])
    chosen = order[is_first]
    return chosen[given.is_sound[chosen] | ~np.isin(values[chosen], unknown)]


def merged(levels: Levels, size: int, *, from_the_end: bool = False) -> Levels:
    """Runs of ``size`` neighbors as one level each, by their medians; a run of which half or more diverged has diverged."""
    if size == 1:
        return levels
    count = len(levels.first)
    starts = np.arange(count % size if from_the_end else 0, count, size)
    starts = np.unique(np.append(0, starts)) if from_the_end else starts
    runs = [slice(start, stop) for start, stop in zip(starts, [*starts[1:], count])]

    def of_one(noise, run):
        """The error of one of several, by the errors of those known."""
        known = noise[run][levels.is_known[run]]
        return np.sqrt((known**2).mean()) if len(known) else 0.0

    def of_median(noise, run):
        number = max(levels.is_known[run].sum(), 1)
        return of_one(noise, run) * np.sqrt((np.pi / 2 if number > 2 else 1) / number)

    return levels._replace(
        first=np.array([levels.first[run][0] for run in runs]),
        last=np.array([levels.last[run][-1] for run in runs]),
        ends=np.array([noises.median(levels.ends[run]) for run in runs]),
        gains=np.array([noises.median(levels.gains[run]) for run in runs]),
        end_noise=np.array([of_median(levels.end_noise, run) for run in runs]),
        gain_noise=np.array([of_one(levels.gain_noise, run) for run in runs]),  # all may share the luck of one seed
        gain_error=np.array([np.median(levels.gain_error[run]) for run in runs]),  # that of one that exploded is vast
        luck=np.array([np.median(levels.luck[run]) for run in runs]),
        dof=np.array([levels.dof[run].sum() for run in runs]),
        is_diverged=np.array([levels.is_diverged[run].all() for run in runs]),
    )


def mended(levels: Levels) -> Levels:
    """Each level no worse than both its neighbors, where it has so few replicates that a single bad one decides."""
    if not levels.is_ordered or levels.ends.shape[1] > 2 or len(levels.first) < 5:
        return levels
    ends, gains = noises.mended(levels.ends), noises.mended(levels.gains)
    beside = np.pad(np.where(levels.is_known, levels.gain_error, 0.0), 1)
    beside = np.maximum(beside[:-2], beside[2:])  # what stands for a bad level is as sure as its neighbors
    is_bad = (gains > levels.gains).any(axis=1)
    return levels._replace(ends=ends, gains=gains, gain_error=np.where(is_bad, beside, levels.gain_error))


def gains(levels: Levels) -> Measured:
    """By how much each level beats doing nothing."""
    own, dof = _training_noise(levels)
    found = _measured(levels.gains, own, dof, levels, least=_typical(own, dof), assumed=levels.gain_noise)
    return found._replace(error=np.hypot(found.error, levels.gain_error))


def lead(levels: Levels, level: int) -> Measured:
    """By how much a level is better than each: replicates are compared in pairs, as they share starts and data."""
    differences = _compared(levels.ends[level] - levels.ends, starts=levels.ends[level] - levels.gains[level])
    own, dof = noises.variance(differences)
    own[level], dof[level] = np.nan, 0.0
    least = np.fmin(_typical(own, dof), 2 * _typical(*_training_noise(levels)))
    assumed = np.hypot(levels.end_noise, levels.end_noise[level])
    found = _measured(differences, own, dof, levels, least=least, assumed=assumed)
    rounding = ROUNDING * np.nanmax(np.abs(levels.ends), axis=1, initial=0.0, where=np.isfinite(levels.ends))
    luck = np.hypot(levels.luck, levels.luck[level])
    return found._replace(error=np.sqrt(found.error**2 + rounding**2 + luck**2))


def _compared(differences: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The differences, or, where these vary less, in units of where each replicate started."""
    size = np.abs(starts)
    if not (size > 0).all():
        return differences
    in_units = differences * (size.mean() / size)
    varies_less = noises.variance(in_units)[0] < noises.variance(differences)[0]
    return np.where(varies_less[:, None], in_units, differences)


def _training_noise(levels: Levels) -> tuple[np.ndarray, np.ndarray]:
    """The variance between replicates but for their starts, and its degrees of freedom.

    Starts that differ spread the gains of what trained, and the ends of what did not: the lesser of the two is noise.
    """
    of_gains, dof = noises.variance(levels.gains)
    of_ends, _ = noises.variance(levels.ends)
    return np.fmin(of_gains, of_ends), dof


def _typical(own: np.ndarray, dof: np.ndarray) -> float:
    """The variance of the level in the middle; NaN where there is none."""
    is_told = dof > 0
    return np.median(own[is_told]) / noises.median_of_squares(np.median(dof[is_told])) if is_told.any() else np.nan


def _measured(
    rows: np.ndarray, own: np.ndarray, dof: np.ndarray, levels: Levels, *, least: float, assumed: np.ndarray
) -> Measured:
    """Mean, error and degrees of freedom of each row: by its variance, or those about it where its own may be small by luck."""
    number = np.isfinite(rows).sum(axis=1)
    total = _about(dof, is_ordered=levels.is_ordered)
    # one level that exploded without a value that is not finite must not be the noise of its neighbors
    lent = np.fmin(own, MOST_LENT * _typical(own, dof))
    sums = _about(np.nan_to_num(lent) * dof, is_ordered=levels.is_ordered)
    near = np.divide(sums, total, out=np.full(len(rows), np.nan), where=total > 0)
    most = np.where(own > 0, own * noises.most_beside(total, dof), np.inf)  # equal numbers, as of counts, tell no noise
    variance = np.fmax(own, np.fmin(np.fmax(near, least), most))
    is_told = np.isfinite(variance)
    error = np.where(is_told, np.sqrt(variance / np.maximum(number, 1)), assumed)
    return Measured(noises.mean(rows), error, np.where(is_told, dof.sum(), levels.dof))


def _about(values: np.ndarray, *, is_ordered: bool) -> np.ndarray:
    """The sum over each level and its two neighbors; over all where levels have no order."""
    return np.convolve(values, np.ones(3))[1:-1] if is_ordered else np.full(len(values), values.sum())


def _with_noise_of_neighbors(levels: Levels) -> Levels:
    """The noise of each level from what neighbors leave of each other, near it; what bends counts as noise."""
    if levels.ends.shape[1] > 1 or not levels.is_ordered:
        return levels
    known = np.flatnonzero(levels.is_known)
    gains = levels.gains[known, 0]
    told = known[np.isfinite(gains) & ~noises.are_lost(gains)] if np.isfinite(gains).any() else known
    if len(told) < noises.FEWEST_FOR_NOISE:
        return levels
    end_noise, gain_noise, dof = levels.end_noise.copy(), levels.gain_noise.copy(), levels.dof.copy()
    of_ends, of_gains = noises.of_trend(levels.ends[told]), noises.of_trend(levels.gains[told])
    end_noise[known], gain_noise[known] = np.median(of_ends), np.median(np.minimum(of_gains, of_ends))
    end_noise[told], gain_noise[told] = of_ends, np.minimum(of_gains, of_ends)
    dof[known] = 0.5 * (len(told) - 1)  # neighbors share values
    return levels._replace(end_noise=end_noise, gain_noise=gain_noise, dof=dof)
