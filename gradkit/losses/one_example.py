"""One-example losses: the only place where a loss is written.

In flows the raw ``score`` of one example and its ``target``; out flows a scalar of the dtype that came in, computed in float32 or
wider. Every loss has the gradient and the curvature one wants at its joints and at extreme scores, so that descent and boosting
share it. Parameters such as ``delta`` may be traced; fix one with ``functools.partial(huber, delta=0.5)``. Where ``score`` and
``target`` are arrays, one entry per output, their shapes are equal and the loss is the mean over outputs.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gradkit.checks import Described, require
from gradkit.losses.targets import classes, counts, probabilities, signs, with_targets


def squared(score: ArrayLike, target: ArrayLike) -> Float[Array, ""]:
    """Squared error ``(score - target)**2``, without a factor of 1/2. Prediction: the score, a mean.

    >>> float(squared(3.0, 1.0))
    4.0
    """
    score, target, dtype = _matched(score, target)
    return _mean((score - target) ** 2, dtype)


def absolute(score: ArrayLike, target: ArrayLike) -> Float[Array, ""]:
    """Absolute error ``|score - target|``; gradient 0 at its kink, curvature 0. Prediction: the score, a median.

    >>> float(absolute(3.0, 1.0))
    2.0
    """
    score, target, dtype = _matched(score, target)
    error = score - target
    return _mean(jnp.maximum(error, -error), dtype)  # jnp.abs has the gradient 1 at 0


def huber(score: ArrayLike, target: ArrayLike, *, delta: ArrayLike = 1.0) -> Float[Array, ""]:
    """Half the squared error up to ``delta``, linear beyond. Prediction: the score.

        r = |score - target|;  r**2 / 2 if r <= delta else delta * (r - delta / 2)

    Args:
        score: Raw model output.
        target: The truth, of the same shape.
        delta: Where the two pieces meet, above 0, in units of the target. The curvature is 1 up to and including ``delta``.

    References:
        Huber (1964), Robust estimation of a location parameter. https://doi.org/10.1214/aoms/1177703732

    >>> float(huber(3.0, 1.0)), float(huber(1.5, 1.0))
    (1.5, 0.125)
    """
    _require_value(delta, "delta", "be above 0", lambda value: value > 0)
    score, target, dtype = _matched(score, target)
    error = score - target
    return _mean(jnp.where(jnp.abs(error) <= delta, error**2 / 2, delta * (jnp.abs(error) - delta / 2)), dtype)


def log_cosh(score: ArrayLike, target: ArrayLike) -> Float[Array, ""]:
    """``log(cosh(score - target))``: a Huber loss without joints; gradient ``tanh``, curvature ``1 - tanh**2``.

    >>> round(float(log_cosh(3.0, 1.0)), 4)
    1.325
    """
    score, target, dtype = _matched(score, target)
    return _mean(_log_cosh(score - target), dtype)


def quantile(score: ArrayLike, target: ArrayLike, *, level: ArrayLike = 0.5) -> Float[Array, ""]:
    """Pinball loss, whose minimizer is the ``level`` quantile of the targets. Prediction: the score.

        r = target - score;  max(level * r, (level - 1) * r)

    Its curvature is 0. At its kink the gradient is the middle of the subgradients, ``1/2 - level``.

    Args:
        score: Raw model output.
        target: The truth, of the same shape.
        level: The quantile, between 0 and 1; 0.5 is half the absolute error.

    References:
        Koenker & Bassett (1978), Regression quantiles. https://doi.org/10.2307/1913643

    >>> float(quantile(1.0, 3.0, level=0.75)), float(quantile(3.0, 1.0, level=0.75))
    (1.5, 0.5)
    """
    _require_value(level, "level", "lie between 0 and 1", lambda value: 0 < value < 1)
    score, target, dtype = _matched(score, target)
    error = target - score
    return _mean(jnp.maximum(level * error, (level - 1) * error), dtype)


@with_targets(counts)
def poisson(score: ArrayLike, target: ArrayLike) -> Float[Array, ""]:
    """Poisson negative log-likelihood ``exp(score) - target * score``, without ``log(target!)``. Prediction: ``exp(score)``.

    ``target`` is a count or a rate, at least 0. A score whose exponential overflows has an infinite loss.

    >>> float(poisson(0.0, 3))
    1.0
    """
    score, target, dtype = _matched(score, target)
    return _mean(jnp.exp(score) - target * score, dtype)


def gaussian(score: ArrayLike, target: ArrayLike) -> Float[Array, ""]:
    """Negative log-likelihood of a normal distribution with its own mean and scale: a prediction and how sure it is.

        log_scale + ((target - mean) / exp(log_scale))**2 / 2 + log(2 pi) / 2

    Args:
        score: The mean, in units of the target, and the logarithm of the scale; shape ``(2,)``.
        target: A scalar.

    References:
        Nix & Weigend (1994), Estimating the mean and variance of the target. https://doi.org/10.1109/ICNN.1994.374138

    >>> import jax.numpy as jnp
    >>> round(float(gaussian(jnp.array([1.0, 0.0]), 2.0)), 4)
    1.4189
    """
    score, target = jnp.asarray(score), jnp.asarray(target)
    _require_floating(score)
    require(score.shape == (2,), "score", "hold a mean and the logarithm of a scale, shape (2,)", score.shape,
            "Let the model return scores of shape (n, 2).")  # fmt: skip
    require(target.ndim == 0, "target", "be a scalar", target.shape, "Sum the losses of several targets.")
    dtype = jnp.result_type(score, target)
    mean, log_scale = score.astype(_at_least_float32(dtype))
    error = (target.astype(mean.dtype) - mean) * jnp.exp(-log_scale)
    return (log_scale + error**2 / 2 + math.log(2 * math.pi) / 2).astype(dtype)


@with_targets(probabilities)
def logistic(score: ArrayLike, target: ArrayLike) -> Float[Array, ""]:
    """Cross-entropy of a binary target. Prediction: ``jax.nn.sigmoid(score)``, the probability of class 1.

        target * softplus(-score) + (1 - target) * softplus(score)

    Args:
        score: Log-odds of class 1.
        target: 0 or 1, or a probability between them, of the same shape.

    >>> round(float(logistic(0.0, 1)), 4)
    0.6931
    """
    score, target, dtype = _matched(score, target)
    is_positive = score >= 0  # by branches rather than abs and relu, whose derivatives at 0 are not those of the whole
    near = jnp.log1p(jnp.exp(-jnp.where(is_positive, score, -score)))
    return _mean(near + jnp.where(is_positive, (1 - target) * score, -target * score), dtype)


@with_targets(classes)
def softmax(score: ArrayLike, target: ArrayLike) -> Float[Array, ""]:
    """Cross-entropy of one class out of k: ``log(sum(exp(score))) - score[target]``. Prediction: ``jax.nn.softmax(score)``.

    Args:
        score: One score per class, shape ``(k,)``; unnormalized log-probabilities.
        target: The class, an integer from 0 to k - 1. Any other class has the loss NaN; to leave examples out, give them the
            weight 0 in the objective.

    >>> import jax.numpy as jnp
    >>> round(float(softmax(jnp.zeros(10), 7)), 4)
    2.3026
    """
    score, target = jnp.asarray(score), jnp.asarray(target)
    _require_floating(score)
    require(score.ndim == 1 and score.size > 1, "score", "have one entry per class, shape (k,) with k > 1", score.shape,
            "Let the model return scores of shape (n, k); for two classes and one score use `logistic`.")  # fmt: skip
    require(target.ndim == 0 and jnp.issubdtype(target.dtype, jnp.integer), "target", "be one integer class",
            Described(f"{target.dtype} of shape {target.shape}"),
            "Turn one-hot targets into classes by `targets.argmax(-1)`.")  # fmt: skip
    wide = score.astype(_at_least_float32(score.dtype))
    is_target = jnp.arange(score.size) == target  # a mask, because gathers become slow scatters in the gradient
    relative = wide - jax.lax.stop_gradient(wide.max())  # to the highest score, so that no exponential overflows
    chosen = jnp.where(is_target.any(), jnp.sum(jnp.where(is_target, relative, 0)), jnp.nan)
    return (jnp.log(jnp.sum(jnp.exp(relative))) - chosen).astype(score.dtype)


@with_targets(signs)
def hinge(score: ArrayLike, target: ArrayLike) -> Float[Array, ""]:
    """Margin loss of a binary target: ``max(0, 1 - score)`` for class 1, ``max(0, 1 + score)`` for the other.

    Class 1 is every target above 0, so that both 0/1 and -1/+1 are understood. Prediction: ``score > 0``. Its curvature is 0,
    and so is the gradient where the margin is met exactly.

    >>> float(hinge(0.25, 1)), float(hinge(0.25, 0)), float(hinge(0.25, -1))
    (0.75, 1.25, 1.25)
    """
    score, target, dtype = _matched(score, target)
    return _mean(jax.nn.relu(1 - jnp.where(target > 0, score, -score)), dtype)


@with_targets(probabilities)
def focal(score: ArrayLike, target: ArrayLike, *, gamma: ArrayLike = 2.0) -> Float[Array, ""]:
    """Logistic loss that fades for examples already classified well: ``(1 - p)**gamma * -log(p)``, p that of the true class.

    Args:
        score: Raw model output; ``jax.nn.sigmoid(score)`` ranks well but is no calibrated probability.
        target: 0 or 1, or a probability between them, which weighs the losses of both classes; of the same shape.
        gamma: How fast it fades, at least 0; 0 is the logistic loss.

    References:
        Lin et al. (2017), Focal loss for dense object detection. https://arxiv.org/abs/1708.02002

    >>> round(float(focal(0.0, 1)), 4)
    0.1733
    """
    _require_value(gamma, "gamma", "be at least 0", lambda value: value >= 0)
    score, target, dtype = _matched(score, target)

    def of_class(margin):  # 1 - p = sigmoid(-margin), and its power is taken in log space: no 0**0 in the gradient
        return jnp.exp(-gamma * jax.nn.softplus(margin)) * jax.nn.softplus(-margin)

    return _mean(target * of_class(score) + (1 - target) * of_class(-score), dtype)


@jax.custom_jvp
def _log_cosh(x):
    near, far = jnp.minimum(jnp.abs(x), 1), jnp.abs(x)
    return jnp.where(far < 1, jnp.log1p(2 * jnp.sinh(near / 2) ** 2), far + jnp.log1p(jnp.exp(-2 * far)) - jnp.log(2.0))


_log_cosh.defjvps(lambda tangent, value, x: jnp.tanh(x) * tangent)


def _matched(score, target):
    """Score and target in float32 or wider, and the dtype of the loss."""
    score, target = jnp.asarray(score), jnp.asarray(target)
    _require_floating(score)
    require(score.shape == target.shape, "score", f"have the shape of the target, {target.shape}", score.shape,
            "Shapes are never broadcast: reshape targets, or let the model drop its last axis by `scores[..., 0]`.")  # fmt: skip
    dtype = jnp.result_type(score, target)
    wide = _at_least_float32(dtype)
    return score.astype(wide), target.astype(wide), dtype


def _mean(losses, dtype):
    return jnp.mean(losses).astype(dtype)


def _at_least_float32(dtype):
    return jnp.promote_types(dtype, jnp.float32)


def _require_floating(score):
    require(jnp.issubdtype(score.dtype, jnp.floating), "score", "be floating", score.dtype,
            "A score is raw model output, before any decision; the target comes second.", error=TypeError)  # fmt: skip


def _require_value(value, argument, rule, is_valid):
    """Judge a Python number; a traced value cannot be judged."""
    if isinstance(value, (int, float)):
        require(is_valid(value), argument, rule, value, "See the formula in the docstring of the loss.")
