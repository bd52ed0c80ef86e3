"""The tally of what a transformation leaves out, as :func:`guard` and :func:`accumulate` carry it in their states."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradkit.trees import finite_leaves, is_inexact, is_key

NO_LOSS_YET = 2.0**64  # worse than any, and still finite when added up


class Skips(NamedTuple):
    """What was left out so far.

    Attributes:
        total: Gradients left out, an int32 scalar.
        in_a_row: How many of these came last, without a good one after them, an int32 scalar.
        loss: The last finite loss, as far as ``value`` was told; ``2**64`` before the first.
    """

    total: jax.Array
    in_a_row: jax.Array
    loss: jax.Array


def no_skips() -> Skips:
    """The tally at the start."""
    return Skips(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.asarray(NO_LOSS_YET, jnp.result_type(float)))


def count_skip(skips: Skips, is_good: jax.Array, value: Any) -> Skips:
    """The tally after one more gradient, good or left out, with its loss, if known."""
    total = skips.total + jnp.where(is_good, 0, 1)
    in_a_row = jnp.where(is_good, 0, skips.in_a_row + 1)
    loss = skips.loss if value is None else jnp.where(jnp.isfinite(value), value, skips.loss).astype(skips.loss.dtype)
    return Skips(total, in_a_row, loss)


def all_finite(*trees: Any) -> jax.Array:
    """Whether all numbers in all trees are finite; ``None`` has none."""
    return jnp.all(finite_leaves(trees))


def stays_finite(old: Any, new: Any) -> jax.Array:
    """Whether what was finite in a state still is; some begin at infinity (the lowest loss so far)."""

    def stays(old, new):
        return jnp.all(jnp.isfinite(new) | ~jnp.isfinite(old)) if is_inexact(new) else True

    return jax.tree.reduce(jnp.logical_and, jax.tree.map(stays, old, new), jnp.asarray(True))


def are_equal(tree: Any, other: Any) -> jax.Array:
    """Whether two trees of arrays hold the same numbers; NaN is the same as NaN."""
    same = jax.tree.map(lambda a, b: jnp.all((a == b) | (a != a) & (b != b)), tree, other)
    return jax.tree.reduce(jnp.logical_and, same, jnp.asarray(True))


def select(condition: jax.Array, chosen: Any, other: Any) -> Any:
    """The one tree or the other, in the dtypes of the first."""

    def of_leaf(a, b):
        return jnp.where(condition, a, b) if is_key(a) else jnp.where(condition, a, b).astype(jnp.result_type(a))

    return jax.tree.map(of_leaf, chosen, other)
