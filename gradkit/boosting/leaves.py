"""The values of leaves: where each example is and what it loses flow in, one weight per leaf flows out.

    minimize over c:   sum over the leaf's examples of w L(y, score + c)  +  l2/2 |c|**2  +  l1 |c|

A loss with curvature takes Newton steps, halved until the leaf loses no more than before; a convex loss of one score without
curvature is solved by bisection, to the middle of its flat minimum. The intercept of a model is one leaf with all examples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradkit.boosting import native
from gradkit.boosting.curvatures import Derivatives, Local
from gradkit.boosting.growing import Bounds
from gradkit.boosting.splits import Penalties, Sums, weight

HALVINGS = 30
SLACK = 1e-6  # of the leaf's loss: what rounding may add to it
DOUBLINGS, BISECTIONS = 60, 40
INTERCEPT_STEPS = 100


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
    if not derivatives.has_curvature and rows.scores.shape[1] == 1:
        value = jnp.clip(_bisect(rows, derivatives, penalties), -penalties.max_delta_step, penalties.max_delta_step)
    else:
        step = lambda _, value: _newton_from(rows, derivatives, penalties, value)  # noqa: E731
        local = derivatives.at(rows.scores, rows.targets) if local is None else local
        origin = jnp.zeros((rows.num_leaves, rows.scores.shape[1]), rows.scores.dtype)
        value = jax.lax.fori_loop(1, steps, step, _newton(rows, derivatives, penalties, origin, local))
    return value if bounds is None else jnp.clip(value, bounds.low[:, None], bounds.high[:, None])


def intercept(rows: Rows, derivatives: Derivatives) -> jax.Array:
    """The constant that minimizes the loss of all examples, shape (k,); there must be one leaf."""
    penalties = Penalties(l2=0.0)
    if not derivatives.has_curvature and rows.scores.shape[1] == 1:
        return _bisect(rows, derivatives, penalties)[0]

    def is_going(carry):
        step, value, last = carry
        return (step < INTERCEPT_STEPS) & (jnp.abs(value - last) > SLACK * (1 + jnp.abs(value))).any()

    def advance(carry):
        step, value, _ = carry
        return step + 1, _newton_from(rows, derivatives, penalties, value), value

    zero = jnp.zeros((1, rows.scores.shape[1]), rows.scores.dtype)
    return jax.lax.while_loop(is_going, advance, (0, zero, zero + jnp.inf))[1][0]


def _newton_from(rows: Rows, derivatives: Derivatives, penalties: Penalties, origin: jax.Array) -> jax.Array:
    """One step from a value per leaf."""
    return _newton(rows, derivatives, penalties, origin, derivatives.at(rows.moved(origin), rows.targets))


def _newton(rows: Rows, derivatives: Derivatives, penalties: Penalties, origin: jax.Array, local: Local) -> jax.Array:
    """One step from a value per leaf, where the loss is known; halved where it would raise the leaf's loss."""
    is_diagonal = local.matrix is None
    gradient, bending, before = rows.sums(local.gradient, local.curvature if is_diagonal else local.matrix, local.value)
    before = before + _penalty(penalties, origin)
    target = (_diagonal_target if is_diagonal else _block_target)(penalties, origin, gradient, bending)
    limit = penalties.max_delta_step
    full = jnp.clip(target, -limit, limit) - origin

    def is_worse(share):
        moved = origin + share[:, None] * full
        [after] = rows.sums(derivatives.value(rows.moved(moved), rows.targets))
        return ~(after + _penalty(penalties, moved) <= before + SLACK * jnp.abs(before))

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
    size = jnp.trace(matrix, axis1=1, axis2=2)[:, None, None]
    unit = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)[None]
    ridge = jnp.maximum(penalties.l2, 1e-6 * size + 1e-30) * unit
    return -jnp.linalg.solve(matrix + ridge, pull[..., None])[..., 0]


def _penalty(penalties: Penalties, value: jax.Array) -> jax.Array:
    """What the weights of each leaf cost."""
    return (penalties.l2 / 2 * value**2 + penalties.l1 * jnp.abs(value)).sum(-1)


def _bisect(rows: Rows, derivatives: Derivatives, penalties: Penalties) -> jax.Array:
    """The middle of where the slope of each leaf's loss changes sign, shape (leaves, 1)."""

    def slope(value):
        [own] = rows.sums(derivatives.gradient(rows.moved(value), rows.targets))
        return own + penalties.l2 * value + penalties.l1 * jnp.sign(value)

    (low, has_low), (high, has_high) = (
        _boundary(lambda value: slope(value) >= 0, rows),
        _boundary(lambda value: slope(value) > 0, rows),
    )
    low, high = jnp.where(has_low, low, high), jnp.where(has_high, high, low)
    return jnp.where(has_low | has_high, (low + high) / 2, 0)


def _boundary(is_beyond, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """The least value per leaf from which on something holds, and whether there is one.

    A bracket is doubled until it holds the value, then halved.
    """
    zero = jnp.zeros((rows.num_leaves, 1), rows.scores.dtype)
    is_down = is_beyond(zero)  # then the boundary is at or below zero
    sign = jnp.where(is_down, -1.0, 1.0).astype(zero.dtype)

    def is_outside(edge):
        return is_beyond(sign * edge) == is_down

    def widen(carry):
        count, edge, outside = carry
        edge = jnp.where(outside, edge * 2, edge)
        return count + 1, edge, is_outside(edge)

    edge = zero + 1
    is_going = lambda carry: (carry[0] < DOUBLINGS) & carry[2].any()  # noqa: E731
    _, edge, outside = jax.lax.while_loop(is_going, widen, (0, edge, is_outside(edge)))
    low, high = jnp.where(is_down, -edge, 0), jnp.where(is_down, 0, edge)

    def halve(_, carry):
        low, high = carry
        middle = (low + high) / 2
        beyond = is_beyond(middle)
        return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))
    return (low + high) / 2, ~outside
