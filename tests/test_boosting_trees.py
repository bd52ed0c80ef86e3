"""Trees against an oracle that grows them one cut at a time, and against XGBoost."""

import functools
import os
import shutil
import subprocess
import sys

import boosting_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradkit.boosting import growing, histograms, native, splits
from gradkit.boosting.growing import Shape, Slopes
from gradkit.boosting.splits import Penalties

N, D, BINS = 160, 4, 9
SETTINGS = {
    "plain": ({}, {}),
    "l1": ({}, {"l1": 1.5}),
    "no_l2": ({}, {"l2": 0.0}),
    "gamma": ({}, {"gamma": 8.0}),
    "min_child_weight": ({}, {"min_child_weight": 20.0}),
    "min_child_samples": ({}, {"min_child_samples": 25}),
    "max_delta_step": ({}, {"max_delta_step": 0.2}),
    "no_missing": ({"has_missing": False}, {}),
    "categorical": ({"categorical": (1, 3)}, {}),
    "monotone": ({"monotone": (1, -1, 0, 0)}, {}),
    "monotone_clipped": ({"monotone": (1, -1, 0, 1)}, {"l1": 0.5, "max_delta_step": 0.3}),
    "oblivious": ({"is_oblivious": True}, {}),
    "deep": ({"depth": 5}, {"l2": 0.1, "min_child_samples": 6}),  # of fewer examples some splits are equally good
    "stump": ({"depth": 1}, {}),
}
GROWERS = [growing.grow, *([native.grow] if native.is_there() else [])]


def form(name):
    settings, limits = SETTINGS[name]
    return Shape(**{"depth": 3, "num_bins": BINS} | settings), Penalties(**limits)


BY_ALL = [(grow, name) for grow in GROWERS for name in SETTINGS if grow is growing.grow or native.knows(form(name)[0])]


def problem(seed=0, k=1, has_missing=True):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, BINS - 1, (N, D)).astype(np.uint8)
    if has_missing:
        codes[rng.random((N, D)) < 0.15] = BINS - 1
    signal = np.sin(codes[:, :1] * 1.3) + 0.6 * (codes[:, 1:2] % 3) + 0.3 * codes[:, 2:3] * (codes[:, 3:] > 3)
    gradient = signal - signal.mean() + rng.normal(size=(N, k))
    return codes, gradient.astype(np.float32), rng.uniform(0.5, 1.5, (N, k)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("grow", "shape"))
def compiled(grow, codes, gradient, curvature, shape, penalties, *, allowed=None):
    return grow(codes, Slopes(gradient, curvature, jnp.ones(len(codes))), shape, penalties, allowed=allowed)


def check(grown, root, shape):
    """Every example in the oracle's leaf, every split with the oracle's gain, every leaf within the oracle's bounds."""
    expected = oracle.leaves(root, shape.depth)
    leaf = np.full(N, -1)
    for number, node in expected.items():
        leaf[node.rows] = number
    np.testing.assert_array_equal(np.asarray(grown.leaf), leaf)
    gains, queue = np.zeros(2**shape.depth - 1), [(0, root)]
    while queue:
        index, node = queue.pop()
        if node.children:
            gains[index] = node.gain
            queue += [(2 * index + 1 + side, child) for side, child in enumerate(node.children)]
    np.testing.assert_allclose(np.asarray(grown.tree.gain), gains, rtol=2e-4, atol=2e-4)
    if grown.bounds is not None:
        for number, node in expected.items():
            np.testing.assert_allclose([grown.bounds.low[number], grown.bounds.high[number]], [node.low, node.high], rtol=1e-4)


@pytest.mark.few(6)
@pytest.mark.parametrize(("grow", "name"), BY_ALL)
@pytest.mark.parametrize("seed", range(3))
def test_a_tree_is_the_oracles(grow, name, seed):
    shape, penalties = form(name)
    codes, gradient, curvature = problem(seed, has_missing=shape.has_missing)
    root = oracle.grow(codes, gradient.astype(float), curvature.astype(float), shape, penalties)
    assert root.children or name == "gamma"
    check(compiled(grow, codes, gradient, curvature, shape, penalties), root, shape)


@pytest.mark.few(1)
@pytest.mark.parametrize("k", [2, 3, 11])
@pytest.mark.parametrize("grow", GROWERS)
def test_a_tree_of_several_outputs_is_the_oracles(grow, k):
    shape, penalties = Shape(depth=3, num_bins=BINS), Penalties(l1=0.1)
    codes, gradient, curvature = problem(5, k)
    root = oracle.grow(codes, gradient.astype(float), curvature.astype(float), shape, penalties)
    check(compiled(grow, codes, gradient, curvature, shape, penalties), root, shape)


@pytest.mark.parametrize("grow", GROWERS)
def test_a_level_uses_only_the_features_it_may(grow):
    shape, penalties = Shape(depth=3, num_bins=BINS), Penalties()
    codes, gradient, curvature = problem(1)
    allowed = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1]], bool)
    root = oracle.grow(codes, gradient.astype(float), curvature.astype(float), shape, penalties, allowed)
    grown = compiled(grow, codes, gradient, curvature, shape, penalties, allowed=jnp.asarray(allowed))
    check(grown, root, shape)
    assert grown.tree.feature[0] == 2


@pytest.mark.parametrize("grow", GROWERS)
def test_fixed_point_sums_do_not_depend_on_the_order_of_examples(grow):
    shape, penalties = Shape(depth=4, num_bins=BINS, is_exact=True), Penalties()
    codes, gradient, curvature = problem(2)
    order = np.random.default_rng(0).permutation(N)
    one = compiled(grow, codes, gradient, curvature, shape, penalties)
    other = compiled(grow, codes[order], gradient[order], curvature[order], shape, penalties)
    jax.tree.map(np.testing.assert_array_equal, one.tree, other.tree)
    np.testing.assert_array_equal(np.asarray(one.leaf)[order], other.leaf)


def test_fixed_point_sums_cannot_overflow():
    channels = jnp.full((100_000, 1), 3e30)
    whole, unit = histograms.fixed_point(channels, 100_000)
    assert int(np.asarray(whole, np.int64).sum()) < 2**31
    np.testing.assert_allclose(np.asarray(whole, float).sum() * float(unit[0]), 3e35, rtol=1e-4)


@pytest.mark.skipif(not native.is_there(), reason="no compiler, no kernel")
def test_the_kernels_units_fit_slopes_of_any_size():
    shape, penalties = Shape(depth=3, num_bins=BINS), Penalties(l2=0.0, min_child_weight=0.0)
    codes, gradient, curvature = problem(4)
    plain, tiny, huge, none = (
        compiled(native.grow, codes, np.float32(scale) * gradient, curvature, shape, penalties).tree
        for scale in (1.0, 1e-25, 1e30, 1e-38)
    )
    for other in (tiny, huge):
        np.testing.assert_array_equal(plain.feature, other.feature)
        np.testing.assert_array_equal(plain.cut, other.cut)
    assert np.isfinite(none.cover).all()


def test_an_example_that_outweighs_all_others_leaves_them_their_splits():
    shape, penalties = Shape(depth=2, num_bins=BINS), Penalties(l2=0.0)
    codes = np.stack([np.arange(N) == 0, np.arange(N) % 2], 1).astype(np.uint8)
    gradient = np.where(codes[:, 1:] == 1, 1.0, -1.0).astype(np.float32)
    gradient[0] = 1e6
    for grow in GROWERS:
        tree = compiled(grow, codes, gradient, np.ones((N, 1), np.float32), shape, penalties).tree
        assert tree.feature[0] == 0 and tree.feature[1] == 1 and tree.is_split[1], grow


@pytest.mark.parametrize("backend", [histograms.scatter, histograms.multiply])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_every_backend_adds_up_as_a_loop(backend, dtype):
    rng = np.random.default_rng(0)
    codes, nodes = rng.integers(0, BINS, (D, 700)).astype(np.uint8), rng.integers(0, 5, 700).astype(np.int32)
    channels = rng.integers(-9, 9, (700, 3)).astype(dtype)
    expected = np.zeros((5, D, 3, BINS))
    for row in range(700):
        for feature in range(D):
            expected[nodes[row], feature, :, codes[feature, row]] += channels[row]
    found = jax.jit(lambda: backend(*map(jnp.asarray, (codes, nodes, channels)), num_nodes=5, num_bins=BINS))()
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_the_histogram_under_vmap_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    codes, nodes = jnp.asarray(rng.integers(0, BINS, (D, 64)), jnp.uint8), jnp.asarray(rng.integers(0, 2, (3, 64)))
    channels = jnp.asarray(rng.normal(size=(3, 64, 2)), jnp.float32)
    of = lambda nodes, channels: histograms.histogram(codes, nodes, channels, num_nodes=2, num_bins=BINS)  # noqa: E731
    together = jax.jit(jax.vmap(of))(nodes, channels)
    for member in range(3):
        np.testing.assert_array_equal(np.asarray(together[member]), of(nodes[member], channels[member]))


def test_the_kernel_is_there_where_a_compiler_is():
    assert (native.is_there()) == any(map(shutil.which, native.COMPILERS))


@pytest.mark.long
def test_examples_of_no_weight_find_their_leaf_but_count_for_nothing():
    shape, penalties = Shape(depth=3, num_bins=BINS), Penalties()
    codes, gradient, curvature = problem(3)
    weights = np.random.default_rng(0).integers(0, 2, N).astype(np.float32)
    kept = weights > 0
    for grow in GROWERS:
        compiled = jax.jit(lambda *args: grow(args[0], Slopes(*args[1:]), shape, penalties))  # noqa: B023
        whole, part = (
            compiled(codes, gradient, curvature, weights),
            compiled(codes[kept], gradient[kept], curvature[kept], weights[kept]),
        )
        np.testing.assert_array_equal(whole.tree.feature, part.tree.feature)
        np.testing.assert_array_equal(np.asarray(whole.leaf)[kept], part.leaf)
        assert len(set(np.asarray(whole.leaf)[~kept].tolist())) > 3


@pytest.mark.long
@pytest.mark.parametrize("grow", GROWERS)
def test_a_single_weight_counts_all_examples_alike(grow):
    shape, penalties = Shape(depth=3, num_bins=BINS, is_exact=True), Penalties(min_child_samples=3)
    codes, *slopes = map(jnp.asarray, problem(4))
    grown = jax.jit(lambda weights: grow(codes, Slopes(*slopes, weights), shape, penalties))
    jax.tree.map(np.testing.assert_array_equal, grown(jnp.ones(1)), grown(jnp.ones(N)))


@pytest.mark.skipif(not native.is_there(), reason="no compiler, no kernel")
def test_the_kernels_under_vmap_are_those_of_a_loop():
    codes, gradient, curvature = (np.stack(each) for each in zip(*(problem(seed) for seed in range(3))))
    shape, l2 = Shape(depth=3, num_bins=BINS), jnp.array([0.1, 9.0])

    def of(codes, gradient, curvature, l2):
        grown = native.grow(codes, Slopes(gradient, curvature, jnp.ones(1)), shape, Penalties(l2=l2))
        sums = native.sum_leaves(grown.leaf, jnp.ones(1), [gradient, curvature], 8)
        return grown.leaf, grown.tree.gain, *sums, native.move(gradient, sums[0], grown.leaf)

    inner = jax.vmap(of, (None, None, None, 0))
    together = jax.jit(jax.vmap(inner, (0, None, 0, None)))(codes, gradient[0], curvature, l2)  # some of each axis is shared
    for i in range(3):
        for j in range(2):
            alone = jax.jit(of)(codes[i], gradient[0], curvature[i], l2[j])
            jax.tree.map(lambda all_, one: np.testing.assert_array_equal(all_[i, j], one), together, alone)  # noqa: B023


SCRIPT = """
import hashlib, jax, numpy as np
from gradkit.boosting import growing, native
from gradkit.boosting.growing import Shape, Slopes
from gradkit.boosting.splits import Penalties
rng = np.random.default_rng(0)
codes, n = rng.integers(0, 32, (40_000, 17)).astype(np.uint8), 40_000
assert native.is_there()
slopes = Slopes(*(part.astype(np.float32) for part in (rng.normal(size=(n, 1)), rng.uniform(0.5, 1, (n, 1)), np.ones(n))))
grown = jax.jit(lambda: native.grow(codes, slopes, Shape(6, 32), Penalties()))()
print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(grown))).hexdigest())
"""


@pytest.mark.skipif(not native.is_there(), reason="no compiler, no kernel")
def test_no_bit_of_a_tree_depends_on_the_number_of_threads():
    told = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env={**os.environ, "NPROC": threads}, capture_output=True, text=True, check=True
        ).stdout
        for threads in ("1", "2", "5")
    }
    assert len(told) == 1


def test_the_gain_has_no_factor_one_half():
    sums = splits.Sums(jnp.array([3.0]), jnp.array([2.0]), jnp.array(5.0))
    penalties = Penalties(l2=1.0)
    assert float(splits.score(sums, splits.weight(sums, penalties), penalties)) == pytest.approx(3.0)
