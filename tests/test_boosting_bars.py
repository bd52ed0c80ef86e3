"""Bars of other libraries' own suites, at their settings: how well boosted trees must predict real and made data.

Data, trees and bars are those of LightGBM's ``test_engine.py``, scikit-learn's ``test_gradient_boosting.py`` and YDF's tests.
Their trees grow leaf by leaf to 31 leaves at any depth; ours are complete, of 6 levels if nothing else is said.
"""

import functools

import jax
import numpy as np
import pytest
from sklearn import datasets
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.model_selection import cross_val_predict, train_test_split
from threadpoolctl import threadpool_limits

import gradkit as gk

DEFAULTS = {"l2_regularization": 0.0, "min_child_weight": 1e-3, "min_samples_leaf": 20}  # LightGBM's and scikit-learn's
Classifier = functools.partial(gk.sklearn.GradientBoostingClassifier, **DEFAULTS)
Regressor = functools.partial(gk.sklearn.GradientBoostingRegressor, **DEFAULTS)


pytestmark = pytest.mark.long
NARROW = pytest.mark.xfail(
    strict=True, reason="196, as scikit-learn's; LightGBM's 192.8 hangs on its bins of at least 3 examples: 240 without"
)
LEAFWISE = pytest.mark.xfail(strict=True, reason="needs trees deeper than 10 levels; of equal form scikit-learn's miss it too")


def split(X, y):
    """A tenth held out, as LightGBM's tests do it."""
    return train_test_split(X, y, test_size=0.1, random_state=42)


def log_loss(shares, classes):
    """Of probabilities (n, k)."""
    return -np.log(shares[np.arange(len(classes)), classes]).mean()


def test_classes_of_real_data_are_predicted():
    X, X_test, y, y_test = split(*datasets.load_breast_cancer(return_X_y=True))
    assert log_loss(Classifier(max_iter=50).fit(X, y).predict_proba(X_test), y_test) < 0.14
    stopped = Classifier(max_iter=50, early_stopping=True, n_iter_no_change=5, random_state=0).fit(X, y)
    assert log_loss(stopped.predict_proba(X_test), y_test) < 0.12

    X, X_test, y, y_test = split(*datasets.load_digits(return_X_y=True))
    shares = Classifier(max_iter=50).fit(X, y).predict_proba(X_test)
    assert log_loss(shares, y_test) < 0.16
    assert (shares.argmax(1) != y_test).mean() < 0.05


def test_iris_is_told_apart():
    X, y = datasets.load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    predicted = cross_val_predict(Classifier(min_samples_leaf=5), X[order], y[order], cv=10)
    assert abs((predicted == y[order]).mean() - 0.9533) < 0.03


@pytest.fixture(scope="module")
def synth():
    """LightGBM's made regression: 100 examples, 4 features of which 2 matter, targets at least 0; split."""
    X, y = make_regression(n_samples=100, n_features=4, n_informative=2, random_state=42)
    return split(X, np.abs(y))


@pytest.mark.parametrize(
    ("loss", "bar"),
    [
        ("squared_error", 343),
        ("absolute_error", 343),
        ("huber", 430),
        pytest.param("poisson", 193, marks=NARROW),
        ("quantile", 1311),
    ],
)
def test_made_numbers_are_predicted_by_any_loss(synth, loss, bar):
    X, X_test, y, y_test = synth
    model = Regressor(loss, max_iter=50, quantile=0.9).fit(X, y)
    assert np.mean((model.predict(X_test) - y_test) ** 2) < bar


def boost_on(binned, targets, loss, first, then, num_outputs=None):
    """The trees of one model, and those of a second that goes on from its scores; both models."""
    booster = gk.boosting.descent(
        loss, learning_rate=0.1, l2=0.0, min_child_weight=1e-3, min_child_samples=20, num_outputs=num_outputs
    )
    before = gk.fit(booster, (binned, targets), steps=first, progress=False).params
    examples = gk.boosting.Examples(binned, targets, offset=gk.boosting.predict(before, binned))
    return before, gk.fit(booster, examples, steps=then, progress=False).params


def test_a_model_that_goes_on_from_another_predicts_as_well(synth):
    X, X_test, y, y_test = synth
    binned = gk.boosting.bin(X)
    models = boost_on(binned, y.astype(np.float32), gk.losses.squared, 20, 30)
    assert np.abs(sum(gk.boosting.predict(model, binned.like(X_test)) for model in models) - y_test).mean() < 13.6

    X, X_test, y, y_test = split(*datasets.load_iris(return_X_y=True))
    binned = gk.boosting.bin(X)
    models = boost_on(binned, y.astype(np.int32), gk.losses.softmax, 20, 30, num_outputs=3)
    scores = sum(gk.boosting.predict(model, binned.like(X_test)) for model in models)
    assert log_loss(np.asarray(jax.nn.softmax(scores)), y_test) < 0.1


def test_medians_of_many_features_are_fitted():
    X, y = make_regression(n_samples=500, random_state=0)
    assert Regressor("absolute_error").fit(X, y).score(X, y) > 0.9


def skewed(level):
    """Examples whose targets have exponential noise: features, targets, and their true quantiles."""
    rng = np.random.RandomState(42)
    X = np.concatenate((np.abs(rng.randn(10_000)[:, None]), -rng.randint(2, size=(10_000, 1))), axis=1)
    true = X @ [0.5, -2] + 1.23
    return X, rng.exponential(scale=-true / np.log(1 - level), size=10_000), true


@pytest.fixture(scope="module")
def boost_quantile():
    """The predictions of 25 trees for a level that is an axis of a sweep, so that all levels share a program."""

    def make(h):
        return gk.boosting.descent(
            functools.partial(gk.losses.quantile, level=h.level), learning_rate=0.1, depth=3, l2=0.0, min_child_samples=20
        )

    def boost(X, y, level):
        data = gk.boosting.bin(X), y.astype(np.float32)
        space, plan = gk.grid(level=[level]), gk.Plan(width=1)
        [fit] = gk.sweep(make, data, space, steps=25, plan=plan, progress=False)
        return np.asarray(gk.boosting.predict(fit.params, data[0]))

    return boost


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
def test_quantiles_of_skewed_noise_are_met(boost_quantile, level):
    X, y, true = skewed(level)
    predicted = boost_quantile(X, y, level)
    pinball = lambda at: np.maximum(level * (y - at), (level - 1) * (y - at)).mean()  # noqa: E731
    np.testing.assert_allclose((predicted > y).mean(), level, rtol=0.01)
    assert pinball(predicted) <= pinball(true)


def with_holes(make, share, **options):
    """A made problem of 1,000 examples and 2 features, a share of whose values is missing."""
    rng = np.random.RandomState(0)
    X, y = make(n_samples=1000, n_features=2, n_informative=2, random_state=rng, **options)
    return np.where(rng.binomial(1, share, size=X.shape).astype(bool), np.nan, X), y


CLASSES = functools.partial(with_holes, make_classification, n_redundant=0, n_repeated=0)
NUMBERS = functools.partial(with_holes, make_regression)
HOLES = [
    (Classifier, CLASSES, HistGradientBoostingClassifier, (0.97, 0.93, 0.79), (False, False, True)),
    (Regressor, NUMBERS, HistGradientBoostingRegressor, (0.89, 0.81, 0.52), (False, False, True)),
]
BARS = [
    pytest.param(kind, make, share, bar, marks=[LEAFWISE] * is_missed)
    for kind, make, _, bars, missed in HOLES
    for share, bar, is_missed in zip((0.1, 0.2, 0.5), bars, missed)
]


@pytest.mark.parametrize(("kind", "make", "share", "bar"), BARS)
def test_deep_trees_bear_missing_values(kind, make, share, bar):
    X, y = make(share)
    assert kind(max_depth=10).fit(X, y).score(X, y) > bar


@pytest.mark.parametrize(("kind", "make", "peer"), [row[:3] for row in HOLES])
def test_missing_values_are_borne_as_by_trees_of_equal_form(kind, make, peer):
    for share in (0.1, 0.2, 0.5):
        X, y = make(share)
        with threadpool_limits(1, "openmp"):  # threads that wait for each other starve beside other tests
            same = peer(max_depth=6, max_leaf_nodes=64, early_stopping=False).fit(X, y).score(X, y)
        assert kind().fit(X, y).score(X, y) == pytest.approx(same, abs=0.005)


def test_what_is_missing_tells_the_class():
    X = np.random.RandomState(0).normal(size=(100, 1))
    X[::2] = np.nan
    assert Classifier().fit(X, np.isnan(X[:, 0])).score(X, np.isnan(X[:, 0])) == 1


def test_infinite_features_are_ordinary_ones():
    X, y = np.array([[-np.inf], [0], [1], [np.inf]]), np.array([0, 0, 1, 1])
    model = gk.sklearn.GradientBoostingRegressor(l2_regularization=0.0, max_depth=2).fit(X, y)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-4)


def test_a_rate_of_a_hundred_divides_nothing_by_zero():
    for num_classes in (2, 3):
        X, y = make_classification(random_state=0, n_classes=num_classes, n_informative=3)
        model = Classifier(learning_rate=100.0, max_iter=10, max_depth=3).fit(X, y)
        assert np.isfinite(model.predict_proba(X)).all()
