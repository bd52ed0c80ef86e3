"""The intercept of a model: examples and a loss flow in, the constant of least loss flows out, or NaN where none was found."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gradkit.boosting import bisection, leaves
from gradkit.boosting.curvatures import Derivatives, Local
from gradkit.boosting.leaves import Rows
from gradkit.boosting.splits import Penalties

STEPS = 100
SWEEPS = 30
CLOSE = 1e-6  # of a value, and of how far single examples would move it: a smaller step is the last
FLAT = 1e-4  # of the slopes of single examples, added up: a smaller slope counts as none
AROUND = 1e-4  # of the scale of values: how far from a value slopes are looked at that may jump there
SAMPLES = 4  # of such slopes, per score
CORRECTIONS = 100


def intercept(rows: Rows, derivatives: Derivatives) -> jax.Array:
    """The constant that minimizes the loss of all examples, shape (k,); there must be one leaf.

    Newton's steps find it where the loss bends by itself, whatever the curvature that trees are grown by. Where they stop
    elsewhere, because the loss is straight there or its scores have units far apart, each score is searched by itself, then all
    together along a way down, over and over. A score whose slope does not change sign where the search ends is NaN, and so are
    all of them where the loss still falls along some way: there is no such constant, or it was not found.
    """
    penalties = Penalties(l2=0.0)
    slope = functools.partial(leaves.slopes, rows, derivatives, penalties)
    scale = leaves.scale_of(rows)
    zero = jnp.zeros((1, rows.scores.shape[1]), rows.scores.dtype)
    start = zero if derivatives.bend is None else _by_newton(rows, derivatives, penalties, zero)
    is_coupled = zero.shape[1] > 1

    def sums(value):
        own = derivatives.gradient(rows.moved(value), rows.targets)
        return rows.sums(own, jnp.abs(own))

    def are_found(value):
        together, apart = jax.lax.map(sums, jnp.stack([zero, value]))
        first = jnp.abs(together[0])
        tolerance = FLAT * jnp.maximum(apart[1], jnp.where(jnp.isfinite(first), first, 0))
        found = leaves.is_minimum(rows, slope, value, tolerance)
        if not is_coupled:
            return found
        way = _way_down(slope, value, scale)
        further = (slope(value + _radius(value, scale) * way) * way).sum()
        return found & (further >= -(tolerance * jnp.abs(way)).sum())

    def search(value):
        """Each score to where its own slope changes sign, one after the other, and then all along the way down."""
        value = bisection.in_turn(slope, value, scale)
        return bisection.along(slope, value, _way_down(slope, value, scale), scale) if is_coupled else value

    def is_going(carry):
        sweep, value, last, found = carry
        return (sweep < SWEEPS) & ~found.all() & (value != last).any()

    def advance(carry):
        sweep, value, _, _ = carry
        found = are_found(value)
        return sweep + 1, jax.lax.cond(found.all(), lambda value: value, search, value), value, found

    nowhere = jnp.zeros_like(zero, bool)
    start = jnp.where(jnp.isfinite(start), start, 0)
    _, value, _, found = jax.lax.while_loop(is_going, advance, (0, start, start + jnp.inf, nowhere))
    return jnp.where(found, value, jnp.nan)[0]


def _way_down(slope, value: jax.Array, scale: jax.Array) -> jax.Array:
    """A direction in which the loss falls although slopes jump here, shape (1, k); of length one, or zero at a minimum.

    It is against the shortest of all averages of slopes around the value, after Burke, Lewis and Overton (2005), "A robust
    gradient sampling algorithm for nonsmooth, nonconvex optimization": where slopes jump, each one alone may lead up.
    """
    k = value.shape[1]
    around = np.random.default_rng(0).normal(size=(SAMPLES * k + SAMPLES, 1, k))
    points = value[None] + _radius(value, scale) * jnp.asarray(around, value.dtype)
    slopes = jax.lax.map(slope, points)[:, 0]
    largest = jnp.abs(slopes).max()
    slopes = jnp.where(largest > 0, slopes / largest, 0)

    def shorten(_, average):
        apart = average - slopes[jnp.argmin(slopes @ average)]
        length = (apart**2).sum()
        return average - jnp.clip(jnp.where(length > 0, (average * apart).sum() / length, 0), 0, 1) * apart

    average = jax.lax.fori_loop(0, CORRECTIONS, shorten, slopes.mean(0))
    length = jnp.sqrt((average**2).sum())
    return -jnp.where(length > 0, average / length, 0)[None]


def _radius(value: jax.Array, scale: jax.Array) -> jax.Array:
    return AROUND * jnp.maximum(scale, jnp.abs(value)).max()


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
