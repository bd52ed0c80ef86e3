"""Where features are cut, against a slow search, and what a sample of the examples keeps of it."""

import jax
import numpy as np
import pytest

from gradkit import boosting
from gradkit.boosting import binning


def slow_cuts(values, weights, bins):
    """The upper edge of each bin: halfway from the first value that reaches its share of all weight to the next one."""
    kinds = sorted(set(values))
    if len(kinds) <= bins - 1:
        ends = kinds[:-1]
    else:
        reached = [sum(weight for value, weight in zip(values, weights) if value <= kind) for kind in kinds]
        first = [
            next(kind for kind, sum_ in zip(kinds, reached) if sum_ * (bins - 1) >= part * reached[-1])
            for part in range(1, bins - 1)
        ]
        ends = sorted({min(kind, kinds[-2]) for kind in first})
    return [(end + kinds[kinds.index(end) + 1]) / 2 for end in ends]


@pytest.mark.parametrize("seed", range(40))
def test_bins_hold_equal_shares_of_the_weight(seed):
    rng = np.random.default_rng(seed)
    n, bins = int(rng.integers(1, 120)), int(rng.integers(3, 20))
    values = [rng.normal(size=n), rng.integers(0, 30, n), np.round(rng.exponential(size=n), 1)][seed % 3].astype(float)
    weights = rng.integers(1, 5, n) if seed % 2 else np.ones(n)
    binned = boosting.bin(values[:, None], bins=bins, weights=weights if seed % 2 else None)
    np.testing.assert_allclose(binned.cuts.edges[0], slow_cuts(values.tolist(), weights.tolist(), bins), rtol=1e-12)
    np.testing.assert_array_equal(np.asarray(binned.codes)[:, 0], np.searchsorted(binned.cuts.edges[0], values))


def test_nothing_but_missing_values_leaves_nothing_to_cut():
    binned = boosting.bin(np.full((3, 1), np.nan), bins=4)
    assert binned.cuts.edges[0].tolist() == [] and np.asarray(binned.codes)[:, 0].tolist() == [3, 3, 3]


@pytest.mark.parametrize("weighted", [False, True])
def test_many_examples_are_cut_by_one_of_each_part_of_them(monkeypatch, weighted):
    monkeypatch.setattr(binning, "SAMPLED_ROWS", 100)
    values = np.arange(1037.0)[:, None]  # in order: an unlucky sample would leave a stretch of them out
    weights = (np.arange(1037) % 2 == 0).astype(float) if weighted else None
    edges = boosting.bin(values, bins=11, weights=weights).cuts.edges[0]
    assert len(edges) == 9 and np.abs(edges - 1037 * np.arange(1, 10) / 10).max() < 25
    assert np.array_equal(binning._sample(100), np.arange(100)) and (np.diff(binning._sample(1037)) > 0).all()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="bins are copied to other devices")
def test_bins_are_not_copied():
    codes = binning._aligned((1000, 7))
    assert jax.device_put(codes).unsafe_buffer_pointer() == codes.ctypes.data


def test_a_boolean_for_each_column_is_a_mask():
    features = np.arange(12.0).reshape(4, 3)
    for mask in ([True, False, True], np.array([True, False, True])):
        assert boosting.bin(features, categorical=mask).categorical == (0, 2)
    with pytest.raises(ValueError, match=r"`categorical` must have a boolean for each of 3 columns, got \[True\]"):
        boosting.bin(features, categorical=[True])
    with pytest.raises(ValueError, match="`categorical` must name columns from 0 to 2"):
        boosting.bin(features, categorical=["no", 1])


def test_columns_of_a_table_are_known_by_their_names():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(np.arange(12.0).reshape(4, 3), columns=list("abc"))
    binned = boosting.bin(table)
    rule = r"`features` must have the columns that were binned, in their order: a, b, c, got "
    for other, found in ((table[["c", "a", "b"]], "c, a, b"), (table[["a", "b"]], "a, b"), (table.assign(d=0), "a, b, c, d")):
        with pytest.raises(ValueError, match=rule + found + r"\. Pass `features\[list\(binned.cuts.names\)\]`"):
            binned.like(other)
    mended = table[["c", "a", "b"]][list(binned.cuts.names)]
    for same in (mended, table.to_numpy()):  # what has no names is taken in its order
        np.testing.assert_array_equal(binned.like(same).codes, binned.codes)
    np.testing.assert_array_equal(boosting.bin(table.to_numpy()).like(table).codes, binned.codes)


TIMES = np.array([["2020-01-01"], ["NaT"]], "datetime64[s]")


@pytest.mark.parametrize(("features", "found"), [
    (TIMES, "times"),
    (TIMES - TIMES[0], "times"),
    (np.array([[TIMES[0, 0]], [1.0]], object), "times"),
    (np.array([[1 + 1j], [2]]), "complex numbers"),
    (np.array([[np.complex64(1j)], [2]], object), "complex numbers"),
], ids=["times", "durations", "objects", "complex", "complex objects"])  # fmt: skip
def test_what_only_looks_like_numbers_is_refused(features, found):
    with pytest.raises(TypeError, match=f"`features` must hold real numbers, got {found}"):
        boosting.bin(features)
    with pytest.raises(TypeError, match=f"`features` must hold real numbers, got {found}"):
        boosting.bin(np.ones((2, 1))).like(features)


def test_times_since_a_start_are_numbers_and_missing_ones_are_missing():
    binned = boosting.bin((TIMES - TIMES[0]) / np.timedelta64(1, "s"))
    assert np.asarray(binned.codes).ravel().tolist() == [0, 255]
