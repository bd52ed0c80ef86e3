"""Boosting as scikit-learn's users ask for it: estimators whose matrices flow in, binned, and whose predictions flow out.

Reached as ``gk.sklearn``, and imported only then; needs scikit-learn 1.6.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gradkit import boosting, losses
from gradkit.boosting import Binned, Ensemble, Examples
from gradkit.checks import require
from gradkit.contracts import Status
from gradkit.data.arrays import check_plain
from gradkit.fits import fit
from gradkit.interop import arguments, regressions


class _GradientBoosting(BaseEstimator):
    """What classifier and regressor share; see them for the parameters."""

    def __init__(
        self, loss="log_loss", *, learning_rate=0.1, max_iter=100, max_depth=6, l1_regularization=0.0, l2_regularization=None,
        gamma=0.0, min_child_weight=None, min_samples_leaf=1, max_delta_step=np.inf, subsample=1.0, max_features=1.0,
        max_bins=256, categorical_features=None, monotonic_cst=None, early_stopping=False, validation_fraction=0.1,
        n_iter_no_change=10, curvature=None, warm_start=False, random_state=None,
    ):  # fmt: skip
        self.loss = loss
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.max_depth = max_depth
        self.l1_regularization = l1_regularization
        self.l2_regularization = l2_regularization
        self.gamma = gamma
        self.min_child_weight = min_child_weight
        self.min_samples_leaf = min_samples_leaf
        self.max_delta_step = max_delta_step
        self.subsample = subsample
        self.max_features = max_features
        self.max_bins = max_bins
        self.categorical_features = categorical_features
        self.monotonic_cst = monotonic_cst
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.curvature = curvature
        self.warm_start = warm_start
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _boost(
        self, X: np.ndarray, targets: np.ndarray, sample_weight: Any, loss: Callable, num_outputs: int | None,
        categorical: tuple[int, ...], shift: float = 0.0,
    ):  # fmt: skip
        """Bin, grow, and keep what predictions need; the targets are those of the user less the shift."""
        arguments.check(self, X.shape[1])
        before = self._before()
        if before is None:
            self._seed = self._drawn_seed()
        random = check_random_state(self._seed)
        key = int(random.randint(2**31 - 1))
        weights = None
        if sample_weight is not None:
            check_plain("sample_weight", sample_weight)
            weights = _check_sample_weight(sample_weight, X, dtype=np.float32, ensure_non_negative=True)
            require(weights.sum() > 0, "sample_weight", "have a positive sum", sample_weight, "Leave it out.")
        fold = self._held_out(targets, random) if self.early_stopping else None
        seen = weights if fold is None else (fold == 0) * (1 if weights is None else weights)
        if before is None:
            binned = boosting.bin(X, bins=self.max_bins, categorical=categorical, weights=seen)
        else:
            binned = self._binned.like(X)
        num_before = 0 if before is None else self.n_iter_
        require(self.max_iter > num_before, "max_iter", "be above the trees there are, with warm_start", self.max_iter,
                f"There are {num_before}; it counts those of all calls.")  # fmt: skip
        booster = boosting.descent(
            loss, learning_rate=self.learning_rate, depth=self.max_depth, num_outputs=num_outputs, l1=self.l1_regularization,
            l2=self.l2_regularization, gamma=self.gamma, min_child_weight=self.min_child_weight,
            min_child_samples=self.min_samples_leaf, max_delta_step=self.max_delta_step, subsample=self.subsample,
            colsample_bylevel=self.max_features, monotone=self.monotonic_cst, curvature=self.curvature,
            fold=None if fold is None else 1, patience=None if fold is None else self.n_iter_no_change,
            start=before and before._replace(intercept=np.float32(before.intercept - shift)),
        )  # fmt: skip
        examples = Examples(binned, targets, weights, fold=fold)
        made = fit(booster, examples, steps=self.max_iter - num_before, key=key, progress=False)
        if made.status is Status.DIVERGED:
            asked = {"num_outputs": num_outputs, "curvature": self.curvature}
            raise ValueError(boosting.describe_failure(loss, examples, made.state.scores, **asked))
        self._binned = Binned(np.zeros((0, X.shape[1]), np.uint8), binned.num_bins, binned.categorical, False, binned.cuts)
        if (remark := boosting.describe_growth(made.params)) and np.ptp(targets if weights is None else targets[weights > 0]):
            remark = remark.replace("`min_child_samples`", "`min_samples_leaf`")
            warnings.warn(f"The model is a constant: {remark}.", stacklevel=3)
        grown: Ensemble = jax.tree.map(np.asarray, made.params)
        self.ensemble_ = grown._replace(intercept=grown.intercept + np.float64(shift)) if shift else grown
        scores = {"loss": "train_score_"} | ({} if fold is None else {"held_out_loss": "validation_score_"})
        num_grown = int(made.state.count) - num_before  # the steps after them rested
        for name, attribute in scores.items():
            earlier = getattr(self, attribute, np.full(num_before, np.nan))[:num_before]
            setattr(self, attribute, np.concatenate([earlier, made.history[name][:num_grown]]))
        self.n_iter_ = int((self.ensemble_.coefficient > 0).sum())
        return self

    def _before(self) -> Ensemble | None:
        """The model to go on from."""
        return self.ensemble_ if self.warm_start and hasattr(self, "ensemble_") else None

    def _drawn_seed(self) -> int:
        """The seed of a model and of all calls that go on from it, which hold the same examples out."""
        if isinstance(self.random_state, numbers.Integral):
            return self.random_state
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _held_out(self, targets: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """Which examples are held out for early stopping: 1, the others 0."""
        stratify = targets if isinstance(self, ClassifierMixin) else None
        _, held = train_test_split(
            np.arange(len(targets)), test_size=self.validation_fraction, random_state=random, stratify=stratify
        )
        fold = np.zeros(len(targets), np.int32)
        fold[held] = 1
        return fold

    def _scores(self, X: Any, predict: Callable = boosting.predict) -> np.ndarray:
        check_is_fitted(self)
        check_plain("X", X)
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite=False, reset=False)
        trees = self.ensemble_._replace(intercept=np.zeros_like(self.ensemble_.intercept, np.float32))
        # the sum of the trees is of single precision; where the targets lie far from zero, the intercept is of double
        return np.asarray(predict(trees, self._binned.like(X)), float) + self.ensemble_.intercept

    @property
    def feature_importances_(self) -> np.ndarray:
        """Each feature's share of the gain of all splits."""
        check_is_fitted(self)
        gain = np.asarray(boosting.importances(self.ensemble_, self.n_features_in_).gain, float)
        return gain / max(gain.sum(), np.finfo(float).tiny)


class GradientBoostingRegressor(RegressorMixin, _GradientBoosting):
    """Boosted trees for a number, by any loss.

    Args:
        loss: ``"squared_error"``, ``"absolute_error"``, ``"huber"``, ``"quantile"``, ``"poisson"``, or a pure function
            ``(score, target) -> scalar``; see ``gk.losses``.
        learning_rate: The share of each tree.
        max_iter: Trees.
        max_depth: Levels of splits of every tree.
        l1_regularization, l2_regularization, gamma, min_child_weight, min_samples_leaf, max_delta_step: What holds trees back;
            see :func:`gradkit.boosting.descent`, which says what is taken for ``None``.
        subsample: The share of the examples that a tree is grown on.
        max_features: The share of the features that each level of a tree may use.
        max_bins: Bins per feature, from 3 to 256; missing values have one of them.
        categorical_features: Columns whose values have no order: positions, names of a table's columns, a boolean for each, or
            ``"from_dtype"`` for those of a table that pandas calls a category.
        monotonic_cst: Per feature 1, -1 or 0: where the prediction must not fall, must not rise, or may do both.
        early_stopping: Whether to hold examples out and to stop when their loss falls no more.
        validation_fraction: The share that is held out.
        n_iter_no_change: Trees without a lower held-out loss after which to stop.
        curvature: A policy of ``boosting.curvatures``; by default what suits the loss.
        warm_start: Whether a further ``fit`` goes on up to ``max_iter`` trees in all, with the same examples held out.
        random_state: Of the samples that are drawn and of what is held out.
        quantile: The level, for ``loss="quantile"``.
        inverse_link: ``scores -> predictions``, for a loss of your own.

    Attributes:
        ensemble_: The model; where targets lie far from zero, its intercept is of double precision.
        n_iter_: Trees that count.
        train_score_, validation_score_: The loss before and the held-out loss after each tree grown, those after the best too.
        feature_importances_: Shares of the gain.

    >>> X, y = np.arange(40.0)[:, None], np.arange(40.0) // 10
    >>> model = GradientBoostingRegressor(max_iter=30, learning_rate=0.5, max_depth=2).fit(X, y)
    >>> model.predict([[3.0], [25.0]]).round(2).tolist()
    [0.0, 2.0]
    """

    def __init__(
        self, loss="squared_error", *, learning_rate=0.1, max_iter=100, max_depth=6, l1_regularization=0.0,
        l2_regularization=None, gamma=0.0, min_child_weight=None, min_samples_leaf=1, max_delta_step=np.inf, subsample=1.0,
        max_features=1.0, max_bins=256, categorical_features=None, monotonic_cst=None, early_stopping=False,
        validation_fraction=0.1, n_iter_no_change=10,
        curvature=None, warm_start=False, random_state=None, quantile=0.5, inverse_link=None,
    ):  # fmt: skip
        super().__init__(
            loss, learning_rate=learning_rate, max_iter=max_iter, max_depth=max_depth, l1_regularization=l1_regularization,
            l2_regularization=l2_regularization, gamma=gamma, min_child_weight=min_child_weight,
            min_samples_leaf=min_samples_leaf, max_delta_step=max_delta_step, subsample=subsample, max_features=max_features,
            max_bins=max_bins, categorical_features=categorical_features, monotonic_cst=monotonic_cst,
            early_stopping=early_stopping, validation_fraction=validation_fraction, n_iter_no_change=n_iter_no_change,
            curvature=curvature, warm_start=warm_start, random_state=random_state,
        )  # fmt: skip
        self.quantile = quantile
        self.inverse_link = inverse_link

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> GradientBoostingRegressor:
        """Grow the trees on examples X (n, d) and targets y (n,)."""
        check_plain("X", X)
        check_plain("y", y)
        given = X
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False, y_numeric=True)
        loss, _ = self._loss()
        require(self.loss != "poisson" or (y >= 0).all(), "y", 'be at least 0 for loss="poisson"', y, "Counts and rates are.")
        targets, shift = regressions.targets_for(self.loss, np.asarray(y, float), sample_weight)
        return self._boost(X, targets, sample_weight, loss, None, arguments.categorical(self, given), shift)

    def _loss(self) -> tuple[Callable, Callable | None]:
        if callable(self.loss):
            return self.loss, self.inverse_link
        return regressions.named(self.loss, self.quantile)

    def predict(self, X: Any) -> np.ndarray:
        """Predictions (n,), after the inverse link."""
        return self._linked(self._scores(X))

    def staged_predict(self, X: Any) -> Iterator[np.ndarray]:
        """Predictions after each tree."""
        yield from map(self._linked, self._scores(X, boosting.staged_predict)[: self.n_iter_])

    def _linked(self, scores: np.ndarray) -> np.ndarray:
        _, link = self._loss()
        return scores if link is None else np.asarray(link(scores))


class GradientBoostingClassifier(ClassifierMixin, _GradientBoosting):
    """Boosted trees for a class: one score for two classes, a vector in each leaf for more.

    Args:
        loss: ``"log_loss"``, or a pure function ``(score, class) -> scalar`` whose classes count from 0; it is given one score
            for two classes, else one per class, and its predictions are those of the logistic and the softmax.
        learning_rate: See :class:`GradientBoostingRegressor` for this and all others.

    Attributes:
        classes_: The classes.
        ensemble_, n_iter_, train_score_, validation_score_, feature_importances_: As of the regressor.

    >>> X, y = np.arange(40.0)[:, None], np.array(["low", "high"] * 20)
    >>> y[:20], y[20:] = "low", "high"
    >>> model = GradientBoostingClassifier(max_iter=10, max_depth=2).fit(X, y)
    >>> model.predict([[3.0], [30.0]]).tolist()
    ['low', 'high']
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> GradientBoostingClassifier:
        """Grow the trees on examples X (n, d) and classes y (n,)."""
        check_plain("X", X)
        check_plain("y", y)
        given = X
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        is_known = self._before() is None or np.array_equal(self.classes_, classes)
        require(is_known, "y", "hold the classes of the model to go on from", classes, "Fit a new one: warm_start=False.")
        self.classes_ = classes
        k = len(classes)
        if k < 2:
            raise ValueError(f"`y` must hold at least 2 classes, got 1 class: {self.classes_[0]!r}. A constant needs no model.")
        require(callable(self.loss) or self.loss == "log_loss", "loss", "be log_loss or a function (score, class) -> scalar",
                self.loss, "Write your own as a pure function.")  # fmt: skip
        loss = self.loss if callable(self.loss) else losses.logistic if k == 2 else losses.softmax
        targets = codes.astype(np.float32 if loss is losses.logistic else np.int32)
        return self._boost(X, targets, sample_weight, loss, None if k == 2 else k, arguments.categorical(self, given))

    def decision_function(self, X: Any) -> np.ndarray:
        """Raw scores: shape (n,) for two classes, else (n, k)."""
        return self._scores(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, shape (n, k)."""
        return _probabilities(self._scores(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each example, shape (n,)."""
        most = self.predict_proba(X).argmax(1)
        return self.classes_[most]

    def staged_predict_proba(self, X: Any) -> Iterator[np.ndarray]:
        """The probabilities after each tree."""
        yield from map(_probabilities, self._scores(X, boosting.staged_predict)[: self.n_iter_])


def _probabilities(scores: np.ndarray) -> np.ndarray:
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], 1)
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)
