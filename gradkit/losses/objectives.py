"""The objective: a one-example loss and a model flow in, a function of parameters and a batch flows out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gradkit.checks import Described, require
from gradkit.contracts import Batch, Loss, Params, Rule
from gradkit.losses import calls
from gradkit.losses.targets import rule_of
from gradkit.trees import is_inexact, leaf_names
from gradkit.weights import Weighted, wide


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss over a batch: ``(params, batch) -> scalar``; see :func:`objective`. Equal fields make equal objectives."""

    loss: Loss
    apply: Callable[[Params, Any], Any]
    penalty: Callable[[Params], Any] | None = None

    def __call__(self, params: Params, batch: Batch) -> Float[Array, ""]:
        """The mean loss of the batch, plus the penalty."""
        calls.tell(self, params, batch)
        inputs, targets, weights = _unpacked(batch)
        num_examples = _num_examples(targets)
        if weights is None:
            mean = jnp.mean(self._losses(params, inputs, targets, num_examples))
        else:
            mean = self._weighted(params, batch, _checked_weights(weights, num_examples))
        return mean if self.penalty is None else mean + _scalar(self.penalty(params))

    @property
    def in_evaluation(self) -> Objective:
        """The same without the penalty, which steers the training and is not what a model is judged by."""
        return dataclasses.replace(self, penalty=None)

    def rule(self, params: Params, batch: Batch) -> Rule | None:
        """What the targets of a batch must be; parameters and batch may be shapes."""
        scores = jax.tree.leaves(jax.eval_shape(self.apply, params, _unpacked(batch)[0]))
        return rule_of(self.loss, scores[0].shape[1:]) if len(scores) == 1 else None

    def _weighted(self, params, batch, weights) -> Float[Array, ""]:
        inputs, targets, _ = batch
        is_any = (weights != 0).any()
        examples = _replace_unweighted((inputs, targets), weights)
        losses = self._losses(_unless_unweighted(params, is_any), *examples, len(weights))
        if isinstance(batch, Weighted):
            return jnp.where(is_any, jnp.mean(weights / batch.mean_weight * losses), 0)
        total = weights.sum()
        return jnp.where(total == 0, 0, jnp.sum(weights * losses) / jnp.where(total == 0, 1, total))

    def _losses(self, params, inputs, targets, num_examples: int) -> Float[Array, " n"]:
        scores = self.apply(params, inputs)
        for name, leaf in zip(leaf_names(scores), jax.tree.leaves(scores)):
            require(jnp.shape(leaf)[:1] == (num_examples,), "apply",
                    f"return one score per target, {num_examples} along the first axis",
                    Described(f"shape {jnp.shape(leaf)}" + (f" in `{name}`" if name else "")),
                    "Scores and targets lead with the same examples.")  # fmt: skip
        losses = jax.vmap(self.loss)(scores, targets)
        require(jnp.shape(losses) == (num_examples,), "loss", "return a scalar for one example",
                Described(f"shape {jnp.shape(losses)[1:]}"), "Take the mean over outputs inside the loss.")  # fmt: skip
        return losses.astype(_at_least_float32(losses.dtype))


def objective(loss: Loss, apply: Callable, *, penalty: Callable | None = None) -> Objective:
    """Lift a one-example loss to batches: the mean over examples, weighted if the batch has weights, plus a penalty.

        sum(w * loss(apply(params, inputs), targets)) / (n * mean_weight) + penalty(params)

    Called by itself, it takes the batch for the data: ``mean_weight`` is that of the batch, ``sum(w) / n``. In a descent it is
    that of the data, found once by ``Descent.init``, so that batches of every size minimize the same function, in the same
    balance with the penalty. Of a stream or of drawn batches it is that of the first batch (1 if all its weights are zero): a
    constant, and so without bias; give weights with a mean of 1 where a penalty has to be in exact balance. A function that
    wraps an objective hands on ``batch`` as it is (``jax.tree.map`` may change its arrays): rebuilt from its parts it is taken
    for data again.

    An example of weight zero contributes nothing, whatever it holds: not even NaN reaches the value or the gradient. A batch in
    which every weight is zero has the mean 0, and the gradient 0. The value is float32 or wider: a mean in bfloat16 would keep
    three digits. A model is evaluated without the penalty, so that members of a sweep that differ in it are judged alike.

    Args:
        loss: ``(score, target) -> scalar`` for one example, from ``gk.losses`` or your own.
        apply: ``(params, inputs) -> scores``, both with the examples along the first axis.
        penalty: ``params -> scalar``, for instance a multiple of the squared norm. It is not weighted.

    Returns:
        An ``Objective``: ``(params, batch) -> scalar``, where ``batch`` is ``(inputs, targets)`` or ``(inputs, targets,
        weights)`` with ``weights`` of shape ``(n,)``. It hashes by its fields, so that ``jax.jit`` recognizes an equal one.

    Raises:
        TypeError: If a batch is not such a tuple.
        ValueError: If scores, targets and weights differ in their number of examples, or a loss is not a scalar.

    >>> import jax.numpy as jnp
    >>> line = objective(lambda score, target: (score - target) ** 2, lambda params, x: params * x)
    >>> x, y = jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])
    >>> float(line(1.0, (x, y))), float(line(1.0, (x, y, jnp.array([1.0, 3.0]))))
    (2.0, 3.0)
    """
    return Objective(loss, apply, penalty)


def _unpacked(batch):
    is_batch = isinstance(batch, tuple) and len(batch) in (2, 3)
    got = f"a {type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (tuple, list, dict)) else "")
    require(is_batch, "batch", "be a tuple (inputs, targets) or (inputs, targets, weights)", Described(got),
            "Put the arrays in a tuple in this order.", error=TypeError)  # fmt: skip
    return (*batch, None)[:3]


def _num_examples(targets) -> int:
    counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(targets)}
    require(len(counts) == 1 and counts != {()}, "targets", "lead with one axis of examples in every leaf",
            [jnp.shape(leaf) for leaf in jax.tree.leaves(targets)], "Stack the examples along the first axis.")  # fmt: skip
    return counts.pop()[0]


def _checked_weights(weights, num_examples):
    require(jnp.shape(weights) == (num_examples,), "weights", f"have one number per example, shape ({num_examples},)",
            jnp.shape(weights), "Weigh examples, not outputs.")  # fmt: skip
    return wide(weights)


def _replace_unweighted(examples, weights):
    """Put a weighted example (zeros, if there is none) in the place of those of weight zero, so that 0 * NaN never arises."""
    is_used = weights != 0

    def replace(leaf):
        leaf = jnp.asarray(leaf)
        stand_in = jnp.where(is_used.any(), leaf[is_used.argmax()], jnp.zeros((), leaf.dtype))
        return jnp.where(is_used.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, stand_in[None])

    return jax.tree.map(replace, examples)


def _unless_unweighted(params, is_any):
    """Parameters without a derivative where no example has a weight: the stand-ins there may have one that is NaN."""

    def cut(leaf):
        return jnp.where(is_any, leaf, jax.lax.stop_gradient(leaf)) if is_inexact(leaf) else leaf

    return jax.tree.map(cut, params)


def _at_least_float32(dtype):
    return jnp.promote_types(dtype, jnp.float32)


def _scalar(penalty):
    require(jnp.shape(penalty) == (), "penalty", "return a scalar", Described(f"shape {jnp.shape(penalty)}"),
            "Sum over the parameters.")  # fmt: skip
    return penalty
