"""Gradients along a batch: one per example, or the whole in pieces that fit into memory."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from gradkit.checks import Described, require, whole_number
from gradkit.contracts import Batch, Params
from gradkit.gradients.values import value_and_grad
from gradkit.trees import is_inexact, leaf_names
from gradkit.weights import Weighted, is_mean_read, mean_weight, taken_from, wide


def per_example(loss_fn: Callable, *, chunk_size: int | None = None) -> Callable:
    """The gradient of each example by itself: for clipping per example, noise scales and the search for odd examples.

    ``loss_fn`` sees batches of one example, so that what its gradient holds besides the mean (a penalty) is in every row. In
    an objective with weights, each gradient counts by its weight over the mean weight of the batch: the mean of the rows is
    the gradient of the batch. Meaningless for a loss whose examples influence each other (batch norm in training mode).

    Args:
        loss_fn: ``(params, batch)`` to a scalar, the mean over the examples of the batch, or to ``(scalar, metrics)``.
        chunk_size: How many gradients are taken at once; static; the last chunk may be smaller. ``None``: all of them. The result
            holds n times the parameters in any case.

    Returns:
        ``(params, batch) -> grads``, each leaf with a leading axis of n examples. Every leaf of ``batch`` leads with that axis.

    >>> import jax.numpy as jnp
    >>> grads = per_example(lambda w, x: jnp.mean(w * x**2))
    >>> grads(1.0, jnp.array([1.0, 2.0, 3.0])).tolist()
    [1.0, 4.0, 9.0]
    """
    if chunk_size is not None:
        chunk_size = whole_number("chunk_size", chunk_size, at_least=1, remedy="Count examples, or pass None for all.")
    differentiate = value_and_grad(loss_fn)

    def grads(params: Params, batch: Batch) -> Params:
        _num_examples(batch)
        lone = jax.tree.map(lambda leaf: leaf[:1], batch)
        if is_mean_read(lambda batch: _scalar(loss_fn(params, batch)), lone):
            batch = taken_from(mean_weight(batch), batch)

        def grad_of_one(example):
            return differentiate(params, jax.tree.map(lambda leaf: leaf[None], example))[1]

        if chunk_size is None:
            return jax.vmap(grad_of_one)(batch)
        return jax.lax.map(grad_of_one, batch, batch_size=chunk_size)

    return grads


def accumulate(loss_fn: Callable, *, size: int) -> Callable:
    """Value and gradient of a whole batch, from micro-batches of ``size`` examples: the memory of a small batch suffices.

        sum_i share_i * loss_fn(params, batch_i),  share_i = weight of batch_i / weight of the batch

    The weight of a micro-batch is what its loss reports as the metric ``weight`` (examples, tokens); without that, the sum of
    ``weights`` if the batch is ``(inputs, targets, weights)``, else its number of examples: the mean of the means of unequal
    micro-batches would be wrong. One of weight zero contributes nothing, not even NaN. Sums are float32 or wider. The examples
    left over make a last, smaller micro-batch. Not for a loss whose examples influence each other.

    Args:
        loss_fn: ``(params, batch)`` to a scalar, the (weighted) mean over the examples of the batch, or to ``(scalar, metrics)``,
            whose metrics are means, too; but for ``weight``, which is a sum.
        size: Examples in a micro-batch; static.

    Returns:
        ``(params, batch) -> ((loss, metrics), grads)``, equal to :func:`value_and_grad` up to rounding and in the same dtypes;
        integer metrics become floating means.

    >>> import jax.numpy as jnp
    >>> (loss, metrics), grad = accumulate(lambda w, x: jnp.mean(w * x), size=2)(1.0, jnp.array([1.0, 3.0, 8.0]))
    >>> float(loss), float(grad)
    (4.0, 4.0)
    """
    size = whole_number("size", size, at_least=1, remedy="Count the examples of a micro-batch.")
    differentiate = value_and_grad(loss_fn)

    def value_and_accumulated_grad(params: Params, batch: Batch):
        blocks, rest = _split(batch, size)
        shares = _shares(batch, size)
        example = jax.eval_shape(differentiate, params, jax.tree.map(lambda leaf: leaf[:size], batch))

        (_, metrics), _ = example
        require(isinstance(metrics, dict), "loss_fn", "return a scalar or (scalar, metrics)", metrics,
                "A state cannot be averaged over micro-batches.", error=TypeError)  # fmt: skip

        def add(total, share_and_batch):
            share, micro_batch = share_and_batch
            share, result = _told_weight(share, differentiate(params, micro_batch))
            return jax.tree.map(functools.partial(_add, share), total, result), None

        total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _at_least_float32(leaf.dtype)), example)
        if blocks is not None:
            total, _ = jax.lax.scan(add, total, (shares[: len(shares) - (rest is not None)], blocks))
        if rest is not None:
            total, _ = add(total, (shares[-1], rest))
        total = _over_told_weight(total)
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype) if is_inexact(like) else leaf, total, example)

    return value_and_accumulated_grad


def _split(batch, size):
    """Full micro-batches stacked along a new first axis, and the rest; ``None`` for what there is not."""
    num_blocks, num_rest = divmod(_num_examples(batch), size)
    full = num_blocks * size
    blocks = jax.tree.map(lambda leaf: leaf[:full].reshape(num_blocks, size, *leaf.shape[1:]), batch)
    rest = jax.tree.map(lambda leaf: leaf[full:], batch)
    return blocks if num_blocks else None, rest if num_rest else None


def _shares(batch, size):
    """The share of each micro-batch in the weight of the batch; in the number of examples where no example has a weight."""
    num_examples = _num_examples(batch)
    weights = ones = jnp.ones(num_examples)
    if isinstance(batch, tuple) and len(batch) == 3 and not isinstance(batch, Weighted):
        require(jnp.shape(batch[2]) == (num_examples,), "batch[2]", f"be weights of shape ({num_examples},)",
                jnp.shape(batch[2]), "A batch of three is (inputs, targets, weights); put other arrays in a dict.")  # fmt: skip
        weights = wide(batch[2])

    def sums(values):
        return jnp.pad(values, (0, -num_examples % size)).reshape(-1, size).sum(axis=1)

    total = weights.sum()
    return jnp.where(total == 0, sums(ones) / num_examples, sums(weights) / jnp.where(total == 0, 1, total))


def _told_weight(share, result):
    """The weight that a loss reports for its micro-batch, in the place of its share, and a 1 for the weight to be summed."""
    (loss, metrics), grads = result
    if "weight" not in metrics:
        return share, result
    return jnp.asarray(metrics["weight"]), ((loss, {**metrics, "weight": 1.0}), grads)


def _over_told_weight(total):
    """Sums that told weights multiply, divided by the sum of these; zero if that is zero."""
    (_, metrics), _ = total
    if "weight" not in metrics:
        return total
    weight = metrics["weight"]
    (loss, metrics), grads = jax.tree.map(lambda leaf: leaf / jnp.where(weight == 0, 1, weight).astype(leaf.dtype), total)
    return (loss, {**metrics, "weight": weight}), grads


def _add(share, total, value):
    return total + jnp.where(share == 0, 0, share.astype(total.dtype) * value)


def _scalar(result):
    return result[0] if isinstance(result, tuple) else result


def _at_least_float32(dtype):
    return jnp.promote_types(dtype, jnp.float32)


def _num_examples(batch) -> int:
    """The length of the leading axis that all leaves share."""
    shapes = {name: jnp.shape(leaf) for name, leaf in zip(leaf_names(batch), jax.tree.leaves(batch))}
    lengths = {shape[:1] for shape in shapes.values()}
    require(len(lengths) == 1 and lengths.isdisjoint({(), (0,)}), "batch",
            "lead with the same examples in every leaf, at least one",
            Described(", ".join(f"{name}{shape}" for name, shape in shapes.items()) or "no arrays"),
            "Close over what is not an example.")  # fmt: skip
    return lengths.pop()[0]
