"""Noise of rows of numbers: from replicates, or where there is one of each, from what neighbors leave of each other."""

from __future__ import annotations

import numpy as np

FEWEST_FOR_NOISE = 8  # values with one replicate each, below which neighbors do not tell the noise
OF_NOISE = (1.0, 0.675)  # root mean square and median of what neighbors leave of normal noise of size 1
OF_MENDED_NOISE = (0.563, 0.315)  # likewise, once bad values are mended
FAR = 10.0  # times the noise, beyond which a loss is no bad luck


def critical(chance: float, dof: np.ndarray) -> np.ndarray:
    """How many standard errors noise alone passes with this probability, on one side."""
    from scipy.special import stdtrit

    return stdtrit(np.maximum(dof, 1.0), 1 - chance)


def most_beside(others_dof: np.ndarray, dof: np.ndarray) -> np.ndarray:
    """By which factor a variance of others passes one's own by chance in one of a hundred, where both estimate the same."""
    from scipy.special import fdtri

    return fdtri(np.maximum(others_dof, 1.0), np.maximum(dof, 1.0), 0.99)


def near(values: np.ndarray, of_noise: tuple[float, float]) -> np.ndarray:
    """The noise of each value, by five about it or by all, whichever is larger.

    ``of_noise`` is what neighbors leave of noise of size 1: ``OF_NOISE`` or ``OF_MENDED_NOISE``.
    """
    rest = left_over(values)
    squares, is_told = np.zeros(len(values)), np.zeros(len(values))
    squares[1:-1], is_told[1:-1] = rest**2, 1.0
    local = np.sqrt(np.convolve(squares, np.ones(5), "same") / np.convolve(is_told, np.ones(5), "same"))
    return np.maximum(local / of_noise[0], np.median(rest) / of_noise[1])


def of_trend(rows: np.ndarray) -> np.ndarray:
    """The noise of each row about its trend, with and without bad members, whichever is less: one must not hide the others.

    Of few values most may lie on a slope: there the third that bends least tells the noise of all.
    """
    raw, better = rows[:, 0], _with_ends_mended(mended(rows))[:, 0]
    if len(raw) >= 2 * FEWEST_FOR_NOISE:
        return np.minimum(near(raw, of_noise=OF_NOISE), near(better, of_noise=OF_MENDED_NOISE))
    flattest = [np.quantile(left_over(values), 0.3) / share for values, share in ((raw, 0.387), (better, 0.165))]
    return np.full(len(raw), min(flattest))


def are_lost(gains: np.ndarray) -> np.ndarray:
    """Which rows exploded, with values that are finite: they lost more than the best gained, and far more than the noise.

    Such a loss may be larger than all else by any factor, so that it would pass for the noise of its neighbors.
    """
    top = np.nanmax(gains, initial=-np.inf)
    if not top > 0:
        return np.zeros(len(gains), bool)
    rest = left_over(gains[gains >= -top])  # however many exploded
    typical = np.median(rest) / OF_NOISE[1] if len(rest) else 0.0
    return gains < -max(top, FAR * typical)


def left_over(values: np.ndarray) -> np.ndarray:
    """What is left of each value if the mean of its two neighbors is taken off, as large as the noise of one.

    References:
        Gasser, Sroka and Jennen-Steinmetz, Residual variance and residual pattern in nonlinear regression, 1986,
        https://doi.org/10.1093/biomet/73.3.625
    """
    return np.abs(values[1:-1] - (values[:-2] + values[2:]) / 2) / np.sqrt(1.5)


def mended(rows: np.ndarray) -> np.ndarray:
    """Each row no less than the lower of its neighbors: what one bad member spoiled."""
    middle = median(np.stack([rows[:-2], rows[1:-1], rows[2:]]))
    return np.concatenate([rows[:1], np.fmax(rows[1:-1], middle), rows[-1:]])


def _with_ends_mended(rows: np.ndarray) -> np.ndarray:
    """The first and the last no less than the lower of the two beside it: where an axis ends in a drop, that is no noise."""
    first, last = np.minimum(rows[1], rows[2]), np.minimum(rows[-2], rows[-3])
    return np.concatenate([np.fmax(rows[:1], first[None]), rows[1:-1], np.fmax(rows[-1:], last[None])])


def median_of_squares(dof: float) -> float:
    """The median of an estimated variance beside the true one, for normal noise."""
    return (1 - 2 / (9 * dof)) ** 3


def mean(rows: np.ndarray) -> np.ndarray:
    """The mean of what is finite in each row, NaN where nothing is."""
    is_known = np.isfinite(rows)
    number = is_known.sum(axis=1)
    total = np.where(is_known, rows, 0.0).sum(axis=1)
    return np.divide(total, number, out=np.full(len(rows), np.nan), where=number > 0)


def variance(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variance of what is finite in each row and its degrees of freedom; NaN and 0 where there are not two."""
    number = np.isfinite(rows).sum(axis=1)
    squares = (np.where(np.isfinite(rows), rows - mean(rows)[:, None], 0.0) ** 2).sum(axis=1)
    own = np.divide(squares, number - 1, out=np.full(len(rows), np.nan), where=number > 1)
    return own, np.maximum(number - 1, 0).astype(float)


def median(rows: np.ndarray) -> np.ndarray:
    """The median along the first axis of what is known; NaN where half or more is not."""
    number = np.isfinite(rows).sum(axis=0)
    ordered = np.sort(rows, axis=0)  # NaN comes last
    low, high = np.maximum(number - 1, 0) // 2, np.maximum(number, 1) // 2
    middle = [np.take_along_axis(ordered, place[None], axis=0)[0] for place in (low, np.minimum(high, len(rows) - 1))]
    return np.where(2 * number > len(rows), (middle[0] + middle[1]) / 2, np.nan)
