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
LEVELS = np.linspace(0, 1, 11)  # of the targets' quantiles, at which the search may begin
ENOUGH = 4096  # examples to choose among them


def intercept(rows: Rows, derivatives: Derivatives) -> jax.Array:
    """The constant that minimizes the loss of all examples, shape (k,); there must be one leaf.

    The search begins at 0, or score by score at the best of a few quantiles of the targets where the loss is flat at 0: far from
    all targets a slope of 0 tells nothing. Newton's steps find the constant where the loss bends by itself, whatever the
    curvature that trees are grown by. Where they stop elsewhere, because the loss is straight there or its scores have units far
    apart, each score is searched by itself, then all together along a way down, over and over. A score whose slope does not
    change sign where the search ends is NaN, and so are all of them where the loss still falls along some way: there is no such
    constant, or it was not found.
    """
    penalties = Penalties(l2=0.0)
    slope = functools.partial(leaves.slopes, rows, derivatives, penalties)
    scale = leaves.scale_of(rows)
    zero = jnp.zeros((1, rows.scores.shape[1]), rows.scores.dtype)
    is_coupled = zero.shape[1] > 1

    def sums(value):
        own = derivatives.gradient(rows.moved(value), rows.targets)
        return rows.sums(own, jnp.abs(own))

    # from 0, unless it is flat there: from a target, that target would pass for the middle of a flat minimum
    best = _best_of_targets(_few(rows), derivatives, zero)
    steepness = jax.lax.map(lambda value: sums(value)[1], jnp.stack([zero, best]))
    first = jnp.where(steepness[0] <= FLAT * steepness[1], best, zero)
    start = first if derivatives.bend is None else _by_newton(rows, derivatives, penalties, first)

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
    start = jnp.where(jnp.isfinite(start), start, first)
    _, value, _, found = jax.lax.while_loop(is_going, advance, (0, start, start + jnp.inf, nowhere))
    return jnp.where(found, value, jnp.nan)[0]


def _best_of_targets(rows: Rows, derivatives: Derivatives, zero: jax.Array) -> jax.Array:
    """The constant (1, k) of least finite mean loss among 0 and quantiles of the targets, chosen for one score after the other.

    What has the shape of the scores may be meant as a score; where it is not, as a class or a count, 0 or a lucky guess is best.
    """
    quantiles = [_quantiles(rows, leaf) for leaf in jax.tree.leaves(rows.targets) if _is_like_scores(leaf, rows.scores)]
    if not quantiles:
        return zero
    candidates = jnp.concatenate([zero, *quantiles])

    def total(value):
        [losses] = rows.sums(derivatives.value(rows.moved(value), rows.targets))
        return jnp.where(jnp.isfinite(losses[0]), losses[0], jnp.inf)

    def choose(j, value):
        found = jax.lax.map(lambda candidate: total(value.at[0, j].set(candidate)), candidates[:, j])
        return value.at[0, j].set(candidates[jnp.argmin(found), j])

    return jax.lax.fori_loop(0, zero.shape[1], choose, zero)


def _few(rows: Rows) -> Rows:
    """The examples, or some that are drawn at random: enough to say where a search may begin."""
    n = len(rows.scores)
    if n <= ENOUGH:
        return rows
    drawn = np.random.default_rng(0).integers(0, n, ENOUGH).astype(np.int32)
    take = lambda leaf: jnp.asarray(leaf)[drawn]  # noqa: E731
    weights = rows.weights if len(rows.weights) == 1 else take(rows.weights)
    return Rows(take(rows.scores), jax.tree.map(take, rows.targets), weights, take(rows.leaf), rows.num_leaves)


def _is_like_scores(leaf: jax.Array, scores: jax.Array) -> bool:
    n, k = scores.shape
    return jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.shape in ((n, k), (n,) * (k == 1))


def _quantiles(rows: Rows, leaf: jax.Array) -> jax.Array:
    """Of what is left of the targets at the scores, by weight: shape (levels, k); 0 where that is not finite."""
    left = leaf.astype(rows.scores.dtype).reshape(rows.scores.shape) - rows.scores
    weights = jnp.broadcast_to(rows.weights, left.shape[:1])
    left = jnp.where(weights[:, None] > 0, left, jnp.inf)  # last in order, beyond all shares

    def of(left):
        ordered, heavy = jax.lax.sort((left, weights), num_keys=1)
        shares = jnp.cumsum(heavy)
        place = jnp.searchsorted(shares, jnp.asarray(LEVELS, shares.dtype) * shares[-1])
        return ordered[jnp.clip(place, 0, len(ordered) - 1)]

    values = jax.vmap(of, in_axes=1, out_axes=1)(left)
    return jnp.where(jnp.isfinite(values), values, 0)


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
