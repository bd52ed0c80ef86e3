"""What is done with a model of trees once it is grown: go on from it, keep it, ask what it goes by and why it failed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradkit as gk
from gradkit.boosting import Examples, bin, descent, describe_failure, importances, load, permutation_importances, predict, save

N = 400
DRAWN = np.random.default_rng(3)
FEATURES = np.stack([DRAWN.normal(size=N), DRAWN.integers(0, 5, N), DRAWN.normal(size=N)], 1).astype(np.float32)
FEATURES[::9, 0] = np.nan
TARGETS = (np.nan_to_num(FEATURES[:, 0]) + (FEATURES[:, 1] == 2) + 0.1 * DRAWN.normal(size=N)).astype(np.float32)
BINNED = bin(FEATURES, bins=32, categorical=(1,))
FORM = {"learning_rate": lambda count: 0.5 / (1 + count), "depth": 3, "subsample": 0.7, "colsample_bytree": 0.7}


def grown(steps, **arguments):
    booster = descent(gk.losses.squared, **FORM | arguments)
    return gk.fit(booster, (BINNED, TARGETS), steps=steps, progress=False).params


@functools.cache
def whole():
    """Eight trees, which several tests look at."""
    return grown(8)


def same(first, second):
    for a, b in zip(first.trees + first[1:], second.trees + second[1:]):
        np.testing.assert_array_equal(a, b)


@pytest.mark.long
def test_a_model_that_goes_on_is_the_one_that_was_never_stopped():
    same(grown(4, start=grown(4)), whole())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": "model"}, r"`start` must be an Ensemble"),
        ({"depth": 4}, r"`start` must have trees of depth 4, got 3"),
        ({"nesterov": True}, r"`start` must come without `nesterov`"),
        ({"num_outputs": 2}, r"`start` must have 2 outputs, got scores of shape \(\)"),
    ],
)
def test_a_model_that_cannot_be_gone_on_from_is_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        descent(gk.losses.squared, **FORM | {"start": whole()} | arguments)


def test_a_model_survives_its_file(tmp_path):
    save(tmp_path / "model.safetensors", whole(), BINNED)
    model, binned = load(tmp_path / "model.safetensors")
    same(model, whole())
    unseen = np.array([[np.nan, 7, 0], [0.3, 2, 1]])
    np.testing.assert_array_equal(predict(model, binned.like(unseen)), predict(whole(), BINNED.like(unseen)))
    save(tmp_path / "model.safetensors", model, binned)  # in place of the first
    same(load(tmp_path / "model.safetensors")[0], whole())
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError):
        load(path)
    for content in (b"", b"not a model at all", b"\x08\0\0\0\0\0\0\0{}      "):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"`path` must be a file of format gradkit.boosting/1"):
            load(path)
    with pytest.raises(ValueError, match=r"`binned` must know its cuts"):
        save(path, whole(), gk.boosting.Binned(BINNED.codes, 32, (1,), True))


def test_the_loss_rises_when_what_tells_is_shuffled():
    rise = permutation_importances(whole(), gk.losses.squared, (BINNED, TARGETS), repeats=3)
    assert rise.shape == (3, 3) and (rise[:2] > 0.02).all()
    assert (rise[0] > rise[1]).all() and (jnp.abs(rise[2]) < 0.02).all()
    alone = permutation_importances(whole(), gk.losses.squared, (BINNED, TARGETS, np.arange(N) == 5), repeats=1)
    assert not np.allclose(alone[:, 0], rise[:, 0])
    with pytest.raises(ValueError, match=r"`repeats` must be .*at least 1"):
        permutation_importances(whole(), gk.losses.squared, (BINNED, TARGETS), repeats=0)


def test_shuffling_sees_offsets_of_any_fitting_shape_and_no_example_without_weight():
    rise = functools.partial(permutation_importances, whole(), gk.losses.squared, repeats=1)
    offset = DRAWN.normal(size=N).astype(np.float32)
    plain = rise(Examples(BINNED, TARGETS, offset=offset))
    np.testing.assert_array_equal(rise(Examples(BINNED, TARGETS, offset=offset[:, None])), plain)
    np.testing.assert_allclose(rise((BINNED, TARGETS - offset)), plain, atol=1e-5)
    weights = (np.arange(N) % 7 > 0).astype(np.float32)
    lost = np.where(weights > 0, TARGETS, np.nan)
    np.testing.assert_array_equal(rise((BINNED, lost, weights)), rise((BINNED, TARGETS, weights)))


def test_importances_of_fewer_features_than_are_split_on_are_refused():
    assert importances(whole(), 5).gain.shape == (5,) and (importances(whole(), 3).gain > 0).all()
    with pytest.raises(ValueError, match="`num_features` must be at least 3, as the model splits on feature 2, got 2"):
        importances(whole(), 2)
    assert jax.jit(lambda model: importances(model, 3).splits)(whole()).sum() > 0


def root(score, target):
    return jnp.sqrt(score - target)


@pytest.mark.long
def test_the_example_that_broke_a_model_is_named():
    targets = np.full(N, -4.0, np.float32)
    targets[17] = 5.0
    for weights in (None, np.ones(N, np.float32)):
        data = (BINNED, targets) if weights is None else (BINNED, targets, weights)
        made = gk.fit(descent(root, learning_rate=0.1, depth=2), data, steps=3, progress=False)
        assert made.status.name == "DIVERGED"
        told = describe_failure(root, data, np.zeros(N, np.float32))
        assert told == "The loss of example 17 is not finite: value nan, gradient nan, curvature nan at score 0.0, target 5.0."
    weights = (np.arange(N) != 17).astype(np.float32)
    assert "finite at all examples" in describe_failure(root, (BINNED, targets, weights), np.zeros(N, np.float32))
