"""Trees grown by several devices: equal to those of one. A process of its own has the devices, for jax settles their number."""

import functools
import os
import pathlib
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import same_bits

import gradkit as gk
from gradkit.boosting import bin, descent, growing, sharding
from gradkit.boosting.growing import Shape, Slopes
from gradkit.boosting.splits import Penalties

N, D, BINS = 301, 5, 9  # neither two nor three devices share them evenly
FORMS = {  # settings of the tree, outputs
    "monotone": ({"monotone": (1, -1, 0, 0, 1)}, 1),
    "oblivious": ({"is_oblivious": True, "categorical": (0, 1, 4), "has_missing": False}, 3),
}


def problem(k, has_missing=True):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, BINS - 1, (N, D)).astype(np.uint8)
    if has_missing:
        codes[rng.random((N, D)) < 0.1] = BINS - 1
    signal = np.sin(codes[:, :1] * 1.3) + 0.5 * (codes[:, 1:2] % 3) + 0.3 * codes[:, 3:4] * (codes[:, 4:] > 3)
    parts = signal - signal.mean() + rng.normal(size=(N, k)), rng.uniform(0.5, 1.5, (N, k)), rng.uniform(0.5, 2, N)
    return jnp.asarray(codes), Slopes(*(jnp.asarray(part, jnp.float32) for part in parts))


def on(num_devices):
    """As if there were only so many devices."""
    devices = jax.local_devices()[:num_devices]
    return mock.patch.object(jax, "local_devices", lambda: devices)


@functools.cache
def grower(by, num_devices, shape):
    grow = lambda codes, slopes, allowed: sharding.grow(codes, slopes, shape, Penalties(), allowed=allowed, by=by)  # noqa: E731
    return jax.jit(grow)


def grown(by, num_devices, shape, codes, slopes, allowed=None):
    with on(num_devices):
        return jax.device_get(grower(by, num_devices, shape)(codes, slopes, allowed))


def shape_of(form, **others):
    return Shape(**{"depth": 2, "num_bins": BINS} | form | others)


def check_forms(by):
    """Of trees; where sums are rounded."""
    allowed = jnp.array([[0, 1, 1, 0, 0], [1, 0, 0, 1, 1]], bool)
    for name, (form, k) in FORMS.items():
        shape = shape_of(form)
        codes, slopes = problem(k, shape.has_missing)
        one, three = (grown(by, number, shape, codes, slopes, allowed) for number in (1, 3))
        assert one.tree.is_split.sum() > 1 and len(set(one.tree.feature.tolist())) > 1, name
        assert same_bits(one, three), name


def check_numbers_of_devices(by):
    """Examples in any order, some of no weight; of columns that are copies of each other the lowest, whoever holds it."""
    codes, slopes = problem(1)
    codes, slopes = codes[:, jnp.array([2, 0, 0, 1, 0])], slopes._replace(weights=slopes.weights * (jnp.arange(N) % 3 > 0))
    shape = shape_of({"depth": 3}, is_exact=True)
    one, two, three = (grown(by, number, shape, codes, slopes) for number in (1, 2, 3))
    assert same_bits(one, two) and same_bits(one, three)
    assert 1 in one.tree.feature and not set(one.tree.feature.tolist()) & {2, 4}
    order = np.random.default_rng(1).permutation(N)
    other = grown(by, 3, shape, codes[order], jax.tree.map(lambda leaf: leaf[order], slopes))
    assert same_bits(one.tree, other.tree) and same_bits(one.leaf[order], other.leaf)


def check_fits(by):
    rng = np.random.default_rng(2)
    features = rng.normal(size=(N, D)).astype(np.float32)
    targets = (features[:, 0] * features[:, 1] + rng.normal(size=N)).astype(np.float32)
    data = bin(features, bins=BINS), targets

    def make(hyper):
        loss = lambda score, target: (score - target) ** 2  # noqa: E731 - another one each time: nothing traced is kept
        return descent(loss, learning_rate=0.3, depth=2, subsample=0.8, colsample_bylevel=0.7, deterministic=True, shard=by)

    def fit(num_devices):
        with on(num_devices):
            return gk.fit(make(None), data, steps=4, progress=False)

    one, three = fit(1), fit(3)
    assert same_bits(one.params, three.params) and same_bits(one.history, three.history)
    assert one.history["loss"][-1] < one.history["loss"][0]
    sweep = functools.partial(gk.sweep, make, data, gk.grid(seed=[0]), steps=4, progress=False)
    with pytest.raises(ValueError, match="`shard` must be None where the devices share other work, got axes"):
        sweep(plan=gk.Plan(width=1, spans=True))
    if by == "rows":
        alone = sweep(plan=gk.Plan(width=1, threads=1, devices=jax.local_devices()[:1]))
        assert alone.table().final_loss[0] < one.history["loss"][0]


def check_all(by):
    """In a process that has three devices."""
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert len(jax.local_devices()) == 3
    check_numbers_of_devices(by)
    check_fits(by)
    if by == "features":
        check_forms(by)
    print("equal")


@pytest.mark.long
@pytest.mark.parametrize("by", sharding.WAYS)
def test_several_devices_grow_the_tree_of_one_to_the_bit(by):
    path = os.pathsep.join([str(pathlib.Path(gk.__file__).parents[1]), str(pathlib.Path(__file__).parent)])
    settings = {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    code = f"import test_boosting_shards as shards; shards.check_all({by!r})"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.few(1)
@pytest.mark.parametrize("by", sharding.WAYS)
def test_one_device_shares_with_nobody(by):
    codes, slopes = problem(1)
    alone = jax.jit(lambda codes, slopes: growing.grow(codes, slopes, shape_of({}), Penalties()))(codes, slopes)
    assert same_bits(alone, grown(by, 1, shape_of({}), codes, slopes))


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match="`shard` must be one of rows, features, got 'columns'"):
        descent(gk.losses.squared, learning_rate=0.1, shard="columns")
