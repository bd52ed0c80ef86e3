"""The intercept of a model: examples and a loss flow in, the constant of least loss flows out, or NaN where none was found."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from gradkit.boosting import bisection, leaves
from gradkit.boosting.curvatures import Derivatives, Local
from gradkit.boosting.leaves import Rows
from gradkit.boosting.splits import Penalties

STEPS = 100
SWEEPS = 30
CLOSE = 1e-6  # of a value, and of how far single examples would move it: a smaller step is the last
FLAT = 1e-4  # of the slopes of single examples, added up: a smaller slope counts as none


def intercept(rows: Rows, derivatives: Derivatives) -> jax.Array:
    """The constant that minimizes the loss of all examples, shape (k,); there must be one leaf.

    Newton's steps find it where the loss bends by itself, whatever the curvature that trees are grown by. Where they stop
    elsewhere, because the loss is straight there or its scores have units far apart, each score is searched by itself, over and
    over. A score whose slope does not change sign where the search ends is NaN: there is no such constant, or it was not found.
    """
    penalties = Penalties(l2=0.0)
    slope = functools.partial(leaves.slopes, rows, derivatives, penalties)
    scale = leaves.scale_of(rows)
    zero = jnp.zeros((1, rows.scores.shape[1]), rows.scores.dtype)
    start = zero if derivatives.bend is None else _by_newton(rows, derivatives, penalties, zero)
    first = jnp.abs(slope(zero))
    first = jnp.where(jnp.isfinite(first), first, 0)

    def is_found(value):
        [own] = rows.sums(jnp.abs(derivatives.gradient(rows.moved(value), rows.targets)))
        return leaves.is_minimum(rows, slope, value, FLAT * jnp.maximum(own, first))

    def is_going(carry):
        sweep, value, last, found = carry
        return (sweep < SWEEPS) & ~found.all() & (value != last).any()

    def search(carry):
        sweep, last, _, _ = carry
        value = _in_turn(slope, last, scale)
        return sweep + 1, value, last, is_found(value)

    if derivatives.bend is None:  # of straight pieces, most often a sum over scores
        start = bisection.root(slope, zero, scale).value
    _, value, _, found = jax.lax.while_loop(is_going, search, (0, start, start + jnp.inf, is_found(start)))
    return jnp.where(found, value, jnp.nan)[0]


def _in_turn(slope, value: jax.Array, scale: jax.Array) -> jax.Array:
    """Each score where its own slope changes sign, one after the other."""

    def move(j, value):
        unit = (jnp.arange(value.shape[1]) == j)[None]
        step = bisection.root(
            lambda step: jnp.where(unit, slope(value + step * unit), 0).sum(-1, keepdims=True), value[:, :1], scale
        )
        return value + step.value * unit

    return jax.lax.fori_loop(0, value.shape[1], move, value)


def _by_newton(rows: Rows, derivatives: Derivatives, penalties: Penalties, zero: jax.Array) -> jax.Array:
    """Where Newton's steps end, by the policy's curvature or, where it has none, by the loss's own."""

    def at(scores):
        if derivatives.has_curvature:
            return derivatives.at(scores, rows.targets)
        parts = (part(scores, rows.targets) for part in (derivatives.value, derivatives.gradient, derivatives.bend))
        return Local(*parts, None)

    def is_going(carry):
        step, value, last, apart = carry
        return (step < STEPS) & (jnp.abs(value - last) > CLOSE * (jnp.abs(value) + apart)).any()

    def advance(carry):
        step, value, _, _ = carry
        local = at(rows.moved(value))
        slope, bend = rows.sums(jnp.abs(local.gradient), local.curvature)
        apart = jnp.where(bend > 0, slope / jnp.where(bend > 0, bend, 1), 0)
        return step + 1, leaves.newton_from(rows, derivatives, penalties, value, local), value, apart

    return jax.lax.while_loop(is_going, advance, (0, zero, zero + jnp.inf, zero))[1]
