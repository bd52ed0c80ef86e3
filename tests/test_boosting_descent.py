"""Boosting as a descent: beside XGBoost, under the engine, and in its own right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import same_bits

import gradkit as gk
from gradkit.boosting import Examples, bin, descent, leaf_indices, predict

RNG = np.random.default_rng(0)
N = 600
FEATURES = RNG.normal(size=(N, 5)).astype(np.float32)
FEATURES[RNG.random(FEATURES.shape) < 0.05] = np.nan
SIGNAL = np.nan_to_num(FEATURES[:, 0] * FEATURES[:, 1]) + np.sin(2 * np.nan_to_num(FEATURES[:, 2]))
TARGETS = (SIGNAL + 0.1 * RNG.normal(size=N)).astype(np.float32)
CLASSES = (TARGETS > 0).astype(np.float32)
BINNED = bin(FEATURES, bins=32)
HALF = lambda score, target: (score - target) ** 2 / 2  # noqa: E731


def grow(booster, data, steps=10, **arguments):
    return gk.fit(booster, data, steps=steps, progress=False, **arguments)


def small(loss=gk.losses.squared, **arguments):
    return descent(loss, **{"learning_rate": 0.3, "depth": 3} | arguments)


SIGMOID = lambda score: 1 / (1 + np.exp(-score))  # noqa: E731
PEERS = {  # loss, targets, gradient and curvature written by hand, settings
    "squared": (HALF, TARGETS, lambda s, y: (s - y, 1 + 0 * s), {}),
    "logistic": (gk.losses.logistic, CLASSES, lambda s, y: (SIGMOID(s) - y, SIGMOID(s) * (1 - SIGMOID(s))), {}),
    "poisson": (
        gk.losses.poisson,
        np.round(np.exp(0.3 * TARGETS) + 1),
        lambda s, y: (np.exp(s) - y, np.exp(s)),
        {"l2": 1.0, "min_child_weight": 1.0},
    ),
    "held back": (HALF, TARGETS, lambda s, y: (s - y, 1 + 0 * s), {"l1": 2.0, "gamma": 1.0, "min_child_weight": 9.0}),
    "clipped": (HALF, TARGETS, lambda s, y: (s - y, 1 + 0 * s), {"max_delta_step": 0.4}),
    "monotone": (HALF, TARGETS, lambda s, y: (s - y, 1 + 0 * s), {"monotone": (0, 0, 1, 0, -1)}),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", PEERS)
def test_the_model_is_that_of_xgboost(name):
    xgboost = pytest.importorskip("xgboost", reason="the peer is not installed")
    loss, targets, by_hand, form = PEERS[name]
    weights = np.random.default_rng(1).uniform(0.5, 1.5, N).astype(np.float32)  # so that no two splits are equally good
    params = grow(small(loss, **form), (BINNED, targets, weights), 15).params
    codes = np.asarray(BINNED.codes, np.float32)
    codes[codes == 31] = np.nan  # xgboost bins them again, one bin for each
    matrix = xgboost.QuantileDMatrix(codes, targets, weight=weights, base_margin=np.full(N, params.intercept))
    names = {"l1": "alpha", "l2": "lambda", "monotone": "monotone_constraints"}
    own = {names.get(name, name): value for name, value in form.items()} | {"base_score": 0.0}

    def objective(scores, matrix):
        gradient, curvature = by_hand(scores.astype(float), targets)
        return weights * gradient, weights * curvature

    model = xgboost.train({"tree_method": "hist", "max_depth": 3, "eta": 0.3} | own, matrix, 15, obj=objective)
    np.testing.assert_allclose(predict(params, BINNED), model.predict(matrix, output_margin=True), atol=2e-5)


@pytest.mark.long
def test_scores_are_those_of_the_model_that_is_returned():
    for form in ({}, {"nesterov": True}, {"oblivious": True}, {"learning_rate": lambda count: 0.5 / (1.0 + count)}):
        fit = grow(small(**form), (BINNED, TARGETS))
        told = fit.state.scores if fit.state.model is None else fit.state.model
        np.testing.assert_allclose(predict(fit.params, BINNED), told[:, 0], atol=2e-5)
        assert fit.history["loss"][-1] < 0.7 * fit.history["loss"][0]


@pytest.mark.long
def test_nesterov_goes_down_faster():
    losses = {
        form: grow(small(learning_rate=0.05, nesterov=form), (BINNED, TARGETS), 30).history["loss"] for form in (False, True)
    }
    assert losses[True][-1] < 0.7 * losses[False][-1]
    assert losses[True][1] == losses[False][1], "the first step is the plain one"


def test_leaf_indices_find_the_values_that_are_added():
    fit = grow(small(), (BINNED, TARGETS), 4)
    leaf, trees = leaf_indices(fit.params, BINNED), fit.params.trees
    total = fit.params.intercept + sum(trees.value[t, leaf[:, t], 0] for t in range(4))
    np.testing.assert_allclose(total, predict(fit.params, BINNED), rtol=1e-5)


@pytest.mark.long
def test_a_weight_of_two_is_an_example_twice_and_of_zero_none():
    weights = np.random.default_rng(5).integers(0, 3, N)
    rows = np.repeat(np.arange(N), weights)
    booster = small(min_child_weight=0.0)
    weighted = grow(booster, (BINNED, TARGETS, weights.astype(np.float32)), 5)
    copied = bin(FEATURES[rows], bins=32)
    copied.codes = BINNED.codes[rows]
    repeated = grow(booster, (copied, TARGETS[rows]), 5)
    np.testing.assert_allclose(predict(weighted.params, BINNED), predict(repeated.params, BINNED), atol=1e-4)


def test_an_offset_is_where_the_scores_begin():
    offset = 3.0 * np.nan_to_num(FEATURES[:, 3]).astype(np.float32)
    fit = grow(small(), Examples(BINNED, TARGETS + offset, offset=offset), 20)
    plain = grow(small(), (BINNED, TARGETS), 20)
    np.testing.assert_allclose(predict(fit.params, BINNED), predict(plain.params, BINNED), atol=1e-3)


@pytest.mark.long
def test_several_outputs_share_a_tree():
    targets = np.where(SIGNAL > 0.7, 2, np.where(SIGNAL < -0.3, 0, 1))
    for form in ({}, {"curvature": "block"}):
        fit = grow(small(gk.losses.softmax, num_outputs=3, depth=4, **form), (BINNED, targets), 20)
        assert predict(fit.params, BINNED).shape == (N, 3)
        assert float(gk.losses.metrics.accuracy(predict(fit.params, BINNED), jnp.asarray(targets))) > 0.9


def test_a_held_out_fold_weighs_nothing_and_is_watched():
    fold = (np.arange(N) % 3).astype(np.int32)
    fit = grow(small(fold=1), Examples(BINNED, TARGETS, fold=fold), 8)
    without = grow(small(), Examples(BINNED, TARGETS, (fold != 1).astype(np.float32)), 8)
    assert same_bits(fit.params.trees, without.params.trees)
    own = predict(fit.params, BINNED)
    expected = np.mean((np.asarray(own) - TARGETS)[fold == 1] ** 2)
    np.testing.assert_allclose(fit.history["held_out_loss"][-1], expected, rtol=1e-5)


@pytest.mark.parametrize("patience", [None, 2])
def test_a_fold_without_examples_says_nothing_and_loses_no_tree(patience):
    data = Examples(BINNED, TARGETS, fold=np.arange(N) % 3 + 1)
    make = lambda h: small(fold=h.part, patience=patience)  # noqa: E731
    sweep = gk.sweep(make, data, gk.grid(part=[0, 1]), steps=4, over="part", plan=gk.Plan(width=1), progress=False)
    empty, other = sweep
    assert empty.status is other.status is gk.Status.FINISHED
    assert np.isnan(empty.history["held_out_loss"]).all() and np.isfinite(other.history["held_out_loss"]).all()
    assert np.asarray(empty.params.coefficient).sum() == 4
    assert f"held_out_loss {other.history['held_out_loss'][-1]:.4g}" in repr(sweep)


def test_an_axis_of_folds_holds_those_of_the_data():
    data = Examples(BINNED, TARGETS, fold=np.arange(N) % 3)
    make = lambda h: small(fold=h.fold)  # noqa: E731
    with pytest.raises(ValueError, match="`fold` must be one of the data's folds: 0, 1, 2, got 3"):
        gk.sweep(make, data, gk.grid(fold=range(5)), steps=4, over="fold", progress=False)
    with pytest.raises(ValueError, match="`fold` must leave examples to learn from"):
        gk.plan(make, Examples(BINNED, TARGETS, fold=np.ones(N, int)), gk.grid(fold=[1]), steps=4)


def test_the_mean_loss_of_nothing_is_nothing():
    booster = small()
    params = grow(booster, (BINNED, TARGETS), 1).params
    assert np.isnan(jax.jit(lambda weights: booster.loss(params, (BINNED, TARGETS, weights)))(np.zeros(N)))


def test_growing_stops_when_patience_ends_and_the_best_model_is_returned():
    fold, noise = (np.arange(N) % 2).astype(np.int32), np.random.default_rng(2).normal(size=N).astype(np.float32)
    fit = grow(small(fold=1, patience=4, learning_rate=0.5), Examples(BINNED, noise, fold=fold), 40)
    told = np.asarray(fit.history["held_out_loss"])
    best, count = int(fit.state.best_count), int(fit.state.count)
    assert count == best + 4 < 40
    assert np.asarray(fit.params.coefficient).sum() == best
    if best:
        assert told[:count].argmin() + 1 == best
    assert not np.asarray(fit.params.trees.is_split)[count:].any()


@pytest.mark.long
def test_a_sweep_of_rates_penalties_and_folds_is_the_lone_fits():
    fold = (np.arange(N) % 3).astype(np.int32)
    data = Examples(BINNED, TARGETS, fold=fold)
    make = lambda h: small(learning_rate=h.rate, l2=h.l2, fold=h.fold, subsample=h.share)  # noqa: E731
    space = gk.grid(rate=[0.1, 0.4], l2=[0.5, 8.0], fold=[0, 2], share=[0.8], seed=[3])
    sweep = gk.sweep(make, data, space, steps=6, plan=gk.Plan(width=1), progress=False)
    table = sweep.table()
    assert len(table) == 8
    assert table.groupby("rate").final_loss.mean().is_monotonic_decreasing
    for member in (0, 5):
        hyper = dict(zip(("rate", "l2", "fold"), (float(table[n][member]) for n in ("rate", "l2", "fold"))))
        key = gk.keys.member_key(jax.random.key(0), 3)
        alone = grow(small(learning_rate=hyper["rate"], l2=hyper["l2"], fold=int(hyper["fold"]), subsample=0.8), data, 6, key=key)
        np.testing.assert_allclose(predict(sweep.params(member), BINNED), predict(alone.params, BINNED), atol=1e-5)
    side_by_side = gk.sweep(make, data, space, steps=6, plan=gk.Plan(width=4), progress=False)
    for member in range(8):  # rounding may decide between two splits that are equally good
        apart = np.abs(np.asarray(predict(side_by_side.params(member), BINNED) - predict(sweep.params(member), BINNED)))
        assert np.mean(apart > 1e-4) < 0.05


def test_halving_ranks_by_the_mean_over_folds_of_what_is_held_out():
    make = lambda h: small(learning_rate=h.learning_rate, fold=h.fold)  # noqa: E731
    data = Examples(BINNED, TARGETS, fold=np.arange(N) % 2)
    space = gk.grid(learning_rate=[0.01, 0.1, 0.3], fold=[0, 1])
    halving = gk.Halving(eta=3, min_steps=6, metric="held_out_loss", over="fold")
    settings = {"steps": 12, "plan": gk.Plan(width=1), "progress": False}
    sweep = gk.sweep(make, data, space, halving=halving, **settings)
    whole = gk.sweep(make, data, space, **settings)
    scores = np.array([fit.history["held_out_loss"][5] for fit in whole]).reshape(3, 2).mean(1)
    best = int(scores.argmin())
    assert [member for member, fit in enumerate(sweep) if fit.status.name == "FINISHED"] == [2 * best, 2 * best + 1]
    assert sweep.rungs.best[0] == pytest.approx(scores.min())
    with pytest.raises(ValueError, match=r"`halving.over` must be an axis of the space, one of learning_rate, fold, got 'folds'"):
        gk.sweep(make, data, space, halving=gk.Halving(min_steps=6, over="folds"), **settings)


@pytest.mark.long
def test_a_descent_that_goes_on_grows_the_trees_of_one_that_was_never_stopped():
    booster = small(subsample=0.7, colsample_bytree=0.6, colsample_bylevel=0.7, nesterov=True)
    data = BINNED, TARGETS
    whole = grow(booster, data, 8)
    first = grow(booster, data, 5)
    rest = grow(booster._replace(init=lambda *_: first.state), data, 3)
    assert same_bits(whole.state._replace(key=None), rest.state._replace(key=None))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "form", [{}, {"oblivious": True}, {"deterministic": True}, {"monotone": (1, 0, 0, 0, 0), "subsample": 0.5}]
)
def test_models_are_of_single_precision_under_x64_too(x64, form):
    fit = grow(small(**form), (bin(FEATURES.astype(np.float64), bins=32), TARGETS.astype(np.float64)), 3)
    assert fit.state.scores.dtype == np.float32 and fit.params.trees.gain.dtype == np.float32
    assert fit.history["loss"][-1] < fit.history["loss"][0]


@pytest.mark.long
def test_sampling_draws_the_shares_that_were_asked_for():
    fit = grow(small(subsample=0.25, depth=1, min_child_weight=0.0), (BINNED, TARGETS), 40)
    cover = np.asarray(fit.params.trees.cover[:, 0]) / 2  # the curvature of the squared error is 2
    np.testing.assert_allclose(cover.mean(), N / 4, rtol=0.05)
    fit = grow(small(colsample_bytree=0.4), (BINNED, TARGETS), 12)
    used = [set(np.asarray(f)[np.asarray(s)].tolist()) for f, s in zip(fit.params.trees.feature, fit.params.trees.is_split)]
    assert max(map(len, used)) == 2 and len(set.union(*used)) == 5


def test_validation_is_the_loss_of_the_model():
    held = BINNED.like(FEATURES[:50])
    fit = grow(small(), (BINNED, TARGETS), 5, validation=(held, TARGETS[:50]))
    np.testing.assert_allclose(
        fit.metrics["validation_loss"], np.mean((np.asarray(predict(fit.params, held)) - TARGETS[:50]) ** 2), rtol=1e-5
    )


def test_a_quantile_has_its_share_below():
    level = functools.partial(gk.losses.quantile, level=0.8)
    fit = grow(small(level), (BINNED, TARGETS), 60)
    assert abs((np.asarray(predict(fit.params, BINNED)) >= TARGETS).mean() - 0.8) < 0.03


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "`depth` must be a whole number of at least 1, got 0"),
        ({"depth": 11}, "`depth` must be at most 10, got 11"),
        ({"learning_rate": -0.1}, "`learning_rate` must be above 0 and finite, got -0.1"),
        ({"subsample": 0.0}, "`subsample` must lie above 0 and be at most 1, got 0.0"),
        ({"l2": -1.0}, "`l2` must be at least 0, got -1.0"),
        ({"patience": 3}, "`patience` must come with `fold`, got 3"),
        ({"monotone": [2, 0]}, "`monotone` must hold 1, -1 and 0"),
        ({"monotone": [1], "num_outputs": 2}, "`monotone` must come with a single output"),
        ({"monotone": [0.9, -0.9]}, "`monotone` must hold 1, -1 and 0, got .0.9, -0.9."),
        ({"learning_rate": np.float32(-1)}, "`learning_rate` must be above 0 and finite, got np.float32.-1.0."),
        ({"learning_rate": jnp.float32(jnp.nan)}, "`learning_rate` must be above 0 and finite"),
        ({"colsample_bytree": np.float64(1.5)}, "`colsample_bytree` must lie above 0 and be at most 1"),
        ({"l2": np.float32(-1)}, "`l2` must be at least 0"),
        ({"min_child_samples": np.int64(-1)}, "`min_child_samples` must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


@pytest.mark.parametrize(("name", "value"), [("colsample_bylevel", "sqrt"), ("subsample", None), ("l2", "1"), ("gamma", None)])
def test_what_is_no_number_is_refused(name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be a number or a traced value, and .*, got {value!r}"):
        small(**{name: value})


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ((FEATURES.clip(0), TARGETS), {}, "`data.0.` must be finite"),
        ((np.nan_to_num(FEATURES), TARGETS), {}, "`data` must be a tuple .binned, targets."),
        ((BINNED, TARGETS), {"fold": 1}, "`data` must say the fold of each example"),
        ((BINNED, TARGETS), {"monotone": (1, 0)}, "`monotone` must have a sign for each of 5 features"),
        (
            Examples(BINNED, TARGETS, fold=np.arange(N) % 3 + 1),
            {"fold": 0},
            "`fold` must be one of the data's folds: 1, 2, 3, got 0",
        ),
        (Examples(BINNED, TARGETS, fold=np.ones(N, int)), {"fold": 1}, "`fold` must leave examples to learn from"),
    ],
)
def test_wrong_data_are_refused(data, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        grow(small(**arguments), data)


def test_a_tree_is_grown_on_all_examples():
    with pytest.raises(ValueError, match="`data` must be the 600 examples that the model began with, got 64"):
        grow(small(), (BINNED, TARGETS), batch_size=64)
