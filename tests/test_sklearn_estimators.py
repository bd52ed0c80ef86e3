"""The estimators of gk.sklearn: scikit-learn's own checks, and what its users do."""

import pickle

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._test_common.instance_generator import PER_ESTIMATOR_XFAIL_CHECKS
from sklearn.utils.estimator_checks import parametrize_with_checks

import gradkit as gk
from gradkit.interop import regressions

SMALL = {"max_iter": 5, "max_depth": 3}
ESTIMATORS = [gk.sklearn.GradientBoostingClassifier(**SMALL), gk.sklearn.GradientBoostingRegressor(**SMALL)]


def known_to_fail(estimator):
    """The checks that scikit-learn's own histogram boosting fails: repeated examples are equal to weights up to rounding only."""
    is_classifier = isinstance(estimator, gk.sklearn.GradientBoostingClassifier)
    return PER_ESTIMATOR_XFAIL_CHECKS.get(HistGradientBoostingClassifier, {}) if is_classifier else {}


@pytest.mark.long
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=known_to_fail)
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.long
def test_probabilities_of_real_classes_are_good():
    for data, limit in ((datasets.load_breast_cancer(return_X_y=True), 0.14), (datasets.load_digits(return_X_y=True), 0.16)):
        X, X_test, y, y_test = train_test_split(*data, test_size=0.1, random_state=42)
        model = gk.sklearn.GradientBoostingClassifier(max_iter=50, max_depth=5).fit(X, y)
        shares = model.predict_proba(X_test)
        np.testing.assert_allclose(shares.sum(1), 1)
        assert -np.log(shares[np.arange(len(y_test)), y_test]).mean() < limit


def test_early_stopping_keeps_the_best_trees():
    X, y = datasets.load_diabetes(return_X_y=True)
    model = gk.sklearn.GradientBoostingRegressor(max_iter=200, early_stopping=True, n_iter_no_change=5, random_state=0).fit(X, y)
    assert model.n_iter_ < 100
    assert model.validation_score_[: model.n_iter_ + 5].argmin() + 1 == model.n_iter_
    assert len(list(model.staged_predict(X[:3]))) == model.n_iter_
    np.testing.assert_allclose(list(model.staged_predict(X[:3]))[-1], model.predict(X[:3]), rtol=1e-5)


@pytest.mark.long
def test_a_model_survives_pickling_cloning_pipelines_and_searches():
    X, y = datasets.load_iris(return_X_y=True)
    model = gk.sklearn.GradientBoostingClassifier(**SMALL).fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))
    assert clone(model).get_params() == model.get_params()
    search = GridSearchCV(make_pipeline(StandardScaler(), model), {"gradientboostingclassifier__learning_rate": [0.1, 0.5]}, cv=2)
    assert search.fit(X, y).best_score_ > 0.9


@pytest.mark.long
def test_a_loss_of_ones_own_and_every_named_one_fit():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    y = np.exp(X[:, 0] / 2) + 0.1 * rng.random(400)
    for loss in ("squared_error", "absolute_error", "huber", "quantile", "poisson", lambda s, t: (s - t) ** 4):
        model = gk.sklearn.GradientBoostingRegressor(loss, max_iter=60, max_depth=3).fit(X, y)
        assert model.score(X, y) > 0.8, loss


@pytest.mark.long
def test_a_missing_value_tells_and_a_category_has_no_order():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 2))
    X[rng.random(300) < 0.4, 0] = np.nan
    y = np.isnan(X[:, 0]).astype(int)
    assert gk.sklearn.GradientBoostingClassifier(max_iter=3).fit(X, y).score(X, y) == 1
    X = rng.integers(0, 40, (600, 1)).astype(float)
    y = (X[:, 0] * 7 % 5 < 2).astype(int)
    scores = [
        gk.sklearn.GradientBoostingClassifier(max_iter=2, max_depth=1, categorical_features=columns, learning_rate=1.0)
        .fit(X, y)
        .score(X, y)
        for columns in (None, [0])
    ]
    assert scores[1] == 1 > scores[0]


@pytest.mark.long
def test_a_warm_start_goes_on_from_the_trees_there_are():
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    settings = {**SMALL, "random_state": 0, "subsample": 0.8}
    whole = gk.sklearn.GradientBoostingClassifier(**settings).fit(X, y)
    model = gk.sklearn.GradientBoostingClassifier(**settings, warm_start=True).set_params(max_iter=2).fit(X, y)
    model.set_params(max_iter=5).fit(X, y)
    np.testing.assert_array_equal(model.decision_function(X), whole.decision_function(X))
    np.testing.assert_allclose(model.train_score_, whole.train_score_, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`max_iter` must be above the trees there are, with warm_start, got 5\. There are 5"):
        model.fit(X, y)
    with pytest.raises(ValueError, match="`y` must hold the classes of the model to go on from"):
        model.set_params(max_iter=9).fit(X, y + 1)


@pytest.mark.long
@pytest.mark.parametrize("random_state", [None, 3, np.random.RandomState(3)], ids=["none", "seed", "state"])
def test_a_warm_start_holds_the_same_examples_out(random_state):
    model = gk.sklearn.GradientBoostingRegressor(
        max_iter=1, max_depth=1, warm_start=True, early_stopping=True, random_state=random_state
    )
    held = []
    model._held_out = lambda targets, random: held.append(type(model)._held_out(model, targets, random)) or held[-1]
    for max_iter in (1, 2):
        model.set_params(max_iter=max_iter).fit(FAR, FAR[:, 0])
    np.testing.assert_array_equal(*held)
    model.set_params(warm_start=False).fit(FAR, FAR[:, 0])
    assert np.array_equal(held[1], held[2]) == (random_state == 3)


@pytest.mark.long
def test_scores_have_a_row_for_each_tree_that_was_grown():
    form = {"max_iter": 40, "max_depth": 3, "learning_rate": 1.0, "early_stopping": True, "n_iter_no_change": 2}
    noise = np.random.default_rng(1).normal(size=200)
    model = gk.sklearn.GradientBoostingRegressor(**form, warm_start=True, random_state=0).fit(FAR, noise)
    number = model.n_iter_
    assert number + 2 == len(model.train_score_) == len(model.validation_score_) < 40
    first = model.validation_score_[:number]
    model.set_params(learning_rate=0.01, max_iter=number + 3).fit(FAR, noise)
    assert model.n_iter_ <= len(model.validation_score_) <= number + 3
    np.testing.assert_array_equal(model.validation_score_[:number], first)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("max_iter", 0, "must be a whole number of at least 1, got 0"),
    ("max_depth", None, "must be a whole number of at least 1, got None"),
    ("max_depth", 11, "must be at most 10, got 11"),
    ("max_features", "sqrt", "must be a share above 0 and at most 1, got 'sqrt'"),
    ("max_features", 2, "must be a share above 0 and at most 1, got 2"),
    ("subsample", 0.0, "must be a share above 0 and at most 1, got 0.0"),
    ("min_samples_leaf", -1, "must be a number of at least 0, got -1"),
    ("l1_regularization", None, "must be a number of at least 0, got None"),
    ("l2_regularization", -1.0, "must be a number of at least 0, got -1.0"),
    ("learning_rate", np.float32(-1), "must be above 0 and finite"),
    ("max_bins", 300, "must be at most 256, got 300"),
    ("n_iter_no_change", 0, "must be a whole number of at least 1, got 0"),
    ("validation_fraction", 1.5, "must be a share above 0 and below 1, or a number of examples, got 1.5"),
    ("monotonic_cst", [0.9], "must hold 1, -1 or 0 for each of 1 features"),
    ("monotonic_cst", {"a": 1}, "must hold 1, -1 or 0 for each of 1 features"),
    ("quantile", 1.0, "must lie between 0 and 1, got 1.0"),
])  # fmt: skip
def test_parameters_are_refused_under_the_names_they_were_given(name, value, message):
    form = {"early_stopping": True, "loss": "quantile"} | {name: value}
    with pytest.raises((TypeError, ValueError), match=f"`{name}` {message}"):
        gk.sklearn.GradientBoostingRegressor(**form).fit(np.arange(9.0)[:, None], np.arange(9.0))


@pytest.mark.parametrize(
    ("asked", "is_table", "columns"),
    [
        (np.array([0]), False, (0,)),
        (np.array([0, 2]), False, (0, 2)),
        ([True, False, True], False, (0, 2)),
        (["c", "a"], True, (0, 2)),
        ("from_dtype", True, (1,)),
        pytest.param(np.array([False, True, False]), False, (1,), marks=pytest.mark.long),
        pytest.param(np.array(["b"]), True, (1,), marks=pytest.mark.long),
        pytest.param("from_dtype", False, (), marks=pytest.mark.long),
        pytest.param([], False, (), marks=pytest.mark.long),
    ],
)
def test_columns_without_order_are_asked_for_as_of_scikit_learns_own(asked, is_table, columns):
    X = np.random.default_rng(1).integers(0, 5, (60, 3)).astype(float)
    X = pd.DataFrame(X, columns=list("abc")).astype({"b": "category"}) if is_table else X
    model = gk.sklearn.GradientBoostingRegressor(max_iter=1, max_depth=1, categorical_features=asked)
    assert model.fit(X, np.arange(60.0))._binned.categorical == columns


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([True, False], r"`categorical_features` must have a boolean for each of 3 columns, got \[True, False\]"),
        (["a"], r"`categorical_features` must name columns from 0 to 2, got \['a'\]"),
        (["a", 0], r"`categorical_features` must name columns from 0 to 2, got \['a', 0\]"),
        ("a", "`categorical_features` must name columns from 0 to 2, got 'a'"),
        ([3], "`categorical_features` must name columns from 0 to 2"),
        (np.array([0.0]), "`categorical_features` must name columns from 0 to 2"),
    ],
)
def test_columns_that_are_not_there_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        gk.sklearn.GradientBoostingRegressor(categorical_features=asked).fit(np.eye(3), np.arange(3.0))


FAR = np.random.default_rng(0).normal(size=(200, 2))


@pytest.mark.parametrize("loss", ["squared_error", *(pytest.param(n, marks=pytest.mark.long) for n in regressions.SHIFTED[1:])])
def test_targets_far_from_zero_are_learned_as_those_near_it(loss):
    """The offset is a multiple of the unit of float64 there, so that the targets are the same but for it."""
    near = np.round(FAR[:, 0] * 2**16) / 2**16
    form = {**SMALL, "warm_start": True, "early_stopping": True, "random_state": 0}
    first = gk.sklearn.GradientBoostingRegressor(loss, **form).fit(FAR, near)
    offset = 1e9
    model = gk.sklearn.GradientBoostingRegressor(loss, **form).fit(FAR, near + offset)
    np.testing.assert_allclose(model.predict(FAR) - offset, first.predict(FAR), atol=1e-5)
    np.testing.assert_allclose(list(model.staged_predict(FAR))[-1], model.predict(FAR), rtol=1e-15)
    np.testing.assert_allclose(model.validation_score_, first.validation_score_, rtol=1e-4)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(FAR), model.predict(FAR))
    assert float(model.ensemble_.intercept) == pytest.approx(offset + float(first.ensemble_.intercept), abs=1e-5)
    go_on = {"max_iter": 8}
    np.testing.assert_allclose(
        model.set_params(**go_on).fit(FAR, near + offset).predict(FAR) - offset,
        first.set_params(**go_on).fit(FAR, near).predict(FAR),
        atol=1e-5,
    )


def test_targets_that_single_precision_cannot_hold_apart_are_refused():
    y = np.abs(FAR[:, 0]) + 1e9
    for loss in ("poisson", gk.losses.squared):
        with pytest.raises(
            ValueError, match=r"`y` must differ by more than float32 rounds it off by, got .* Subtract their mean"
        ):
            gk.sklearn.GradientBoostingRegressor(loss, **SMALL).fit(FAR, y)
    targets, shift = regressions.plain(np.full(9, 1e9 + 0.3), None)
    assert shift == 0 and (targets == np.float32(1e9)).all()


def test_near_targets_are_left_as_they_are_and_what_weighs_nothing_has_no_say():
    for targets in (FAR[:, 0], np.abs(FAR[:, 0]), np.arange(9.0)):
        assert regressions.centered(targets, None)[1] == 0
    targets = np.array([1e9, 1e9 + 2, -1e12])
    assert regressions.centered(targets, [1, 1, 0])[1] == 1e9
    assert regressions.centered(np.full(3, 1e9 + 0.3), None) == (pytest.approx(0), 1e9 + 0.3)


@pytest.mark.long
def test_weights_too_small_for_the_penalties_say_that_nothing_grew():
    """A weight counts as so many examples, with a penalty too, as it does for scikit-learn: small ones are not scaled up."""
    model = gk.sklearn.GradientBoostingRegressor(**SMALL)
    with pytest.warns(
        UserWarning, match="constant: no tree has a split: `min_child_weight`, `min_samples_leaf`.* small ones sum up"
    ):
        model.fit(FAR, FAR[:, 0], sample_weight=np.full(200, 1 / 200))
    assert model.fit(FAR, FAR[:, 0]).score(FAR, FAR[:, 0]) > 0.5
    is_first = np.arange(200) == 0  # a constant is the right answer where all that counts is alike
    for y, weights in ((np.ones(200), None), (is_first.astype(float), 1.0 - is_first)):
        np.testing.assert_allclose(model.fit(FAR, y, weights).predict(FAR), y[1], atol=1e-6)


def test_the_example_at_which_a_loss_is_not_finite_is_named():
    y = np.full(9, -1.0)
    y[4] = 7.0
    model = gk.sklearn.GradientBoostingRegressor(lambda score, target: jnp.log(3 + score - target), **SMALL)
    with pytest.raises(ValueError, match=r"The loss of example 4 is not finite: value nan, gradient .* at score 0.0, target 7.0"):
        model.fit(np.arange(9.0)[:, None], y)


@pytest.mark.parametrize(
    ("model", "y", "weights", "message"),
    [
        (gk.sklearn.GradientBoostingRegressor("pinball"), np.ones(9), None, "`loss` must be one of squared_error"),
        (gk.sklearn.GradientBoostingRegressor("poisson"), -np.ones(9), None, "`y` must be at least 0"),
        (gk.sklearn.GradientBoostingRegressor(), np.r_[np.nan, np.ones(8)], None, "NaN"),
        (
            gk.sklearn.GradientBoostingRegressor(),
            np.ones(9),
            np.zeros(9),
            "Sample weights must contain|`sample_weight` must have a positive sum",
        ),
        (gk.sklearn.GradientBoostingClassifier(), np.ones(9), None, "at least 2 classes, got 1 class"),
        (gk.sklearn.GradientBoostingClassifier("hinge"), np.arange(9) % 2, None, "`loss` must be log_loss or a function"),
    ],
)
def test_what_cannot_be_fitted_is_refused(model, y, weights, message):
    with pytest.raises(ValueError, match=message):
        model.fit(np.arange(9.0)[:, None], y, weights)
