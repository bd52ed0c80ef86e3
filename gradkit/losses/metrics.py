"""Figures of merit over a batch, for ``evaluate`` functions: scores and targets flow in, a scalar flows out."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from gradkit.checks import Described, require


def accuracy(scores: Float[Array | np.ndarray, ...], targets: Num[Array | np.ndarray, ...]) -> Float[Array, ""]:
    """The share of examples whose predicted class is the target; an example with a NaN score counts as wrong.

    Args:
        scores: Shape ``(n, k)`` with k > 1, where the largest score is the prediction; or one score per example, ``(n,)`` or
            ``(n, 1)``, where class 1 has a score above 0.
        targets: Beside ``(n, k)`` scores, shape ``(n,)``: classes 0 to k - 1. Beside one score per example, one target each,
            ``(n,)`` or ``(n, 1)``: class 1 is any target above 0, as in ``losses.hinge``.

    >>> import jax.numpy as jnp
    >>> float(accuracy(jnp.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([0, 0])))
    0.5
    >>> float(accuracy(jnp.array([-1.0, 2.0]), jnp.array([0, 1])))
    1.0
    """
    require(scores.ndim in (1, 2), "scores", "have shape (n,) or (n, k)", scores.shape, "Flatten the examples into one axis.")
    n, is_margin = len(scores), scores.shape[1:] in ((), (1,))
    fitting = [(n,), (n, 1)] if is_margin else [(n,)]
    require(targets.shape in fitting, "targets", f"have shape {' or '.join(map(str, fitting))}, as scores have {scores.shape}",
            targets.shape, "Give the class of each example; turn one-hot targets into classes by `argmax(-1)`.")  # fmt: skip
    if is_margin:
        scores, targets = scores.reshape(n), targets.reshape(n)
        is_right = ((scores > 0) == (targets > 0)) & ~jnp.isnan(scores)
    else:
        require(jnp.issubdtype(targets.dtype, jnp.integer), "targets", "be integer classes",
                Described(str(targets.dtype)), "Convert them by `astype(int)`.")  # fmt: skip
        is_right = (scores.argmax(-1) == targets) & ~jnp.isnan(scores).any(-1)
    return jnp.mean(is_right)


def r2(scores: Float[Array | np.ndarray, ...], targets: Num[Array | np.ndarray, ...]) -> Float[Array, ""]:
    """The share of the targets' variance that is explained: ``1 - sum((t - s)**2) / sum((t - mean(t))**2)``, mean over outputs.

    1 is perfect, 0 no better than the mean of the targets. It is not defined where all targets of an output are equal.

    >>> import jax.numpy as jnp
    >>> float(r2(jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 2.0, 3.0])))
    0.5
    """
    require(scores.shape == targets.shape, "scores", f"have the shape of the targets, {targets.shape}", scores.shape,
            "Reshape the one or the other; shapes are never broadcast.")  # fmt: skip
    wide = jnp.promote_types(jnp.result_type(scores, targets), jnp.float32)
    scores, targets = jnp.asarray(scores, wide), jnp.asarray(targets, wide)
    residual = jnp.sum((targets - scores) ** 2, axis=0)
    total = jnp.sum((targets - targets.mean(axis=0, keepdims=True)) ** 2, axis=0)
    return jnp.mean(1 - residual / total)
