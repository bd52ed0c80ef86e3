"""The values of leaves: where each example is and what it loses flow in, one weight per leaf flows out.

    minimize over c:   sum over the leaf's examples of w L(y, score + c)  +  l2/2 |c|**2  +  l1 |c|

A loss with curvature takes Newton steps, halved until the leaf loses by enough; a convex loss without is solved by bisection, to
the middle of its flat minimum, score by score.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradkit.boosting import bisection, matrices, native
from gradkit.boosting.curvatures import Derivatives, Local
from gradkit.boosting.growing import Bounds
from gradkit.boosting.splits import Penalties, Sums, weight

HALVINGS = 30
SWEEPS = 3  # over the scores of a leaf, where one alone does not settle another
SLACK = 1e-6  # of the leaf's loss: what rounding may add to it
SUFFICIENT = 0.1  # of what the slope promises: a step that gains less is too long, even if it gains
RIDGE = 1e-6  # of the diagonal of a leaf's matrix
PROBE = 2.0**-20  # of a value: how far to either side of it the slope is looked at; the least that moves the scores


class Rows(NamedTuple):
    """Examples in leaves.

    Attributes:
        scores: Shape (n, k).
        targets: Pytree that leads with examples.
        weights: Shape (n,); or (1,) if all count alike.
        leaf: int32 (n,).
        num_leaves: How many there are.
    """

    scores: jax.Array
    targets: Any
    weights: jax.Array
    leaf: jax.Array
    num_leaves: int

    def sums(self, *values: jax.Array) -> list[jax.Array]:
        """Weighted sums per leaf of what leads with examples."""
        flat = [each.reshape(len(each), -1) for each in values]
        if native.is_there() and all(each.dtype == jnp.float32 for each in flat):
            added = native.sum_leaves(self.leaf, self.weights, flat, self.num_leaves)
        else:
            added = [self._scattered(each) for each in flat]
        return [own.reshape(self.num_leaves, *each.shape[1:]) for own, each in zip(added, values)]

    def _scattered(self, flat: jax.Array) -> jax.Array:
        weighted = jnp.where(self.weights[:, None] > 0, self.weights[:, None] * flat, 0)
        return jnp.zeros((self.num_leaves, flat.shape[1]), flat.dtype).at[self.leaf].add(weighted, mode="promise_in_bounds")

    def moved(self, value: jax.Array) -> jax.Array:
        """The scores with the value of each leaf added, shape (n, k)."""
        return moved(self.scores, value, self.leaf)


def moved(scores: jax.Array, value: jax.Array, leaf: jax.Array) -> jax.Array:
    """The scores (n, k) with the value of each example's leaf added."""
    if native.is_there() and scores.dtype == value.dtype == jnp.float32:
        return native.move(scores, value, leaf)
    return scores + value.at[leaf].get(mode="promise_in_bounds", wrap_negative_indices=False)


def solve(
    rows: Rows,
    derivatives: Derivatives,
    penalties: Penalties,
    *,
    local: Local | None = None,
    bounds: Bounds | None = None,
    steps: int = 1,
) -> jax.Array:
    """The weights of all leaves, shape (leaves, k).

    Args:
        rows: The examples and where they are.
        derivatives: Of the loss.
        penalties: Those on weights.
        local: What the derivatives are at the examples' scores, where it is known.
        bounds: Between which values the weights must lie.
        steps: Newton steps.
    """
    if derivatives.has_curvature:
        local = derivatives.at(rows.scores, rows.targets) if local is None else local
        origin = jnp.zeros((rows.num_leaves, rows.scores.shape[1]), rows.scores.dtype)
        step = lambda _, value: newton_from(rows, derivatives, penalties, value)  # noqa: E731
        value = jax.lax.fori_loop(1, steps, step, _newton(rows, derivatives, penalties, origin, local))
    else:
        value = _bisect(rows, derivatives, penalties)
        value = jnp.clip(value, -penalties.max_delta_step, penalties.max_delta_step)
    return value if bounds is None else jnp.clip(value, bounds.low[:, None], bounds.high[:, None])


def newton_from(
    rows: Rows, derivatives: Derivatives, penalties: Penalties, origin: jax.Array, local: Local | None = None
) -> jax.Array:
    """One step from a value per leaf."""
    local = derivatives.at(rows.moved(origin), rows.targets) if local is None else local
    return _newton(rows, derivatives, penalties, origin, local)


def _newton(rows: Rows, derivatives: Derivatives, penalties: Penalties, origin: jax.Array, local: Local) -> jax.Array:
    """One step from a value per leaf, where the loss is known; halved until it lowers the leaf's loss by enough."""
    is_diagonal = local.matrix is None
    gradient, bending, before = rows.sums(local.gradient, local.curvature if is_diagonal else local.matrix, local.value)
    cost = _penalty(penalties, origin)
    before = before + cost
    target = (_diagonal_target if is_diagonal else _block_target)(penalties, origin, gradient, bending)
    limit = penalties.max_delta_step
    full = jnp.clip(target, -limit, limit) - origin
    promised = (gradient * full).sum(-1) + _penalty(penalties, origin + full) - cost

    def is_worse(share):
        moved = origin + share[:, None] * full
        [after] = rows.sums(derivatives.value(rows.moved(moved), rows.targets))
        enough = before + SUFFICIENT * share * promised + SLACK * jnp.abs(before)
        return ~(after + _penalty(penalties, moved) <= enough)

    def halve(carry):
        count, share, worse = carry
        share = jnp.where(worse, share / 2, share)
        return count + 1, share, is_worse(share)

    share = jnp.ones(rows.num_leaves, full.dtype)
    is_going = lambda carry: (carry[0] < HALVINGS) & carry[2].any()  # noqa: E731
    _, share, worse = jax.lax.while_loop(is_going, halve, (0, share, is_worse(share)))
    return origin + jnp.where(worse, 0, share)[:, None] * full


def _diagonal_target(penalties: Penalties, origin: jax.Array, gradient: jax.Array, curvature: jax.Array) -> jax.Array:
    """Where each weight's own quadratic is least: with ``G - H c0`` for the gradient at zero."""
    return weight(Sums(gradient - curvature * origin, curvature, None), penalties._replace(max_delta_step=jnp.inf))


def _block_target(penalties: Penalties, origin: jax.Array, gradient: jax.Array, matrix: jax.Array) -> jax.Array:
    """The same with the whole matrix; the gradient is shrunk by ``l1`` as for single weights."""
    pull = gradient - jnp.einsum("jkl,jl->jk", matrix, origin)
    pull = jnp.sign(pull) * jnp.maximum(jnp.abs(pull) - penalties.l1, 0)
    unit = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)[None]
    return -matrices.solve(matrix + penalties.l2 * unit, pull, ridge=RIDGE)


def _penalty(penalties: Penalties, value: jax.Array) -> jax.Array:
    """What the weights of each leaf cost."""
    return (penalties.l2 / 2 * value**2 + penalties.l1 * jnp.abs(value)).sum(-1)


def scale_of(rows: Rows) -> jax.Array:
    """A power of two that targets and scores of examples that count do not exceed: what values may be like."""
    most = jnp.stack([_largest(rows, leaf) for leaf in jax.tree.leaves((rows.targets, rows.scores))]).max()
    return jnp.where(most > 0, 2.0 ** jnp.ceil(jnp.log2(jnp.where(most > 0, most, 1))), 1)


def _largest(rows: Rows, leaf: jax.Array) -> jax.Array:
    """The largest size among the finite numbers of examples that count; 0 if there are none."""
    sizes = jnp.abs(jnp.asarray(leaf).astype(jnp.float32)).reshape(len(leaf), -1)
    return jnp.where((rows.weights > 0)[:, None] & jnp.isfinite(sizes), sizes, 0).max(initial=0)


def _bisect(rows: Rows, derivatives: Derivatives, penalties: Penalties) -> jax.Array:
    """Where the slopes of each leaf's loss change sign, shape (leaves, k).

    All scores are searched at once, which finds the least loss where it is a sum over scores. In leaves where it is not, each
    score is searched by itself from zero on, one after the other: the loss only falls.
    """
    like, scale = jnp.zeros((rows.num_leaves, rows.scores.shape[1]), rows.scores.dtype), scale_of(rows)
    slope = functools.partial(slopes, rows, derivatives, penalties)
    value = bisection.root(slope, like, scale).value
    if like.shape[1] == 1:
        return value

    def is_going(carry):
        sweep, _, is_settled = carry
        return (sweep < SWEEPS) & ~is_settled.all()

    def search(carry):
        sweep, value, _ = carry
        is_settled = is_minimum(rows, slope, value, like).all(-1, keepdims=True)
        start = jnp.where(sweep == 0, like, value)
        moved = jax.lax.cond(is_settled.all(), lambda: value, lambda: bisection.in_turn(slope, start, scale))
        return sweep + 1, jnp.where(is_settled, value, moved), is_settled

    return jax.lax.while_loop(is_going, search, (0, value, jnp.zeros_like(like[:, :1], bool)))[1]


def slopes(rows: Rows, derivatives: Derivatives, penalties: Penalties, value: jax.Array) -> jax.Array:
    """The slopes of each leaf's loss at a value per leaf, shape (leaves, k)."""
    [own] = rows.sums(derivatives.gradient(rows.moved(value), rows.targets))
    return own + penalties.l2 * value + penalties.l1 * jnp.sign(value)


def is_minimum(rows: Rows, slope: Callable, value: jax.Array, tolerance: jax.Array) -> jax.Array:
    """Whether each score's slope is at most zero right below a value and at least zero right above it, the others as they are.

    Args:
        rows: The examples.
        slope: From values (leaves, k) to slopes.
        value: Where to look.
        tolerance: The size of slopes that count as zero, shape (leaves, k).
    """
    least = jnp.maximum(scale_of(rows) * PROBE**2, _largest(rows, rows.scores) / 4 * PROBE)
    apart = jnp.maximum(PROBE * jnp.abs(value), least)

    units = jnp.eye(value.shape[1], dtype=value.dtype)
    below, above = jax.lax.map(
        lambda side: jax.lax.map(lambda unit: slope(value + side * apart * unit[None]), units), jnp.array([-1, 1], value.dtype)
    )
    holds = (above >= -tolerance[None]) & (below <= tolerance[None])
    return jnp.diagonal(holds, axis1=0, axis2=2)
