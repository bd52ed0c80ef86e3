"""How a loss bends: a one-example loss flows in; gradients and curvatures of all examples flow out, by autodiff alone.

The curvature decides which splits are found and how far a leaf goes. It must not be negative, so that sums and differences of it
are not; a policy says where it comes from:

- ``"diagonal"``: the second derivative in each score, negative ones as 0;
- ``"block"``: the whole matrix of second derivatives, made positive semi-definite (in units in which its diagonal is 1), for
  losses that couple a few scores;
- ``"unit"``: 1, for losses without a curvature to speak of; leaves are then found by bisection, score by score;
- a function ``(score, target) -> (k, k)`` or, for a scalar score, a scalar: your own, positive semi-definite, such as
  :func:`gauss_newton` makes, or the Fisher information, closed or as :func:`fisher` makes it: leaves then step along the natural
  gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, jaxpr_as_fun

from gradkit import checks, losses
from gradkit.boosting import matrices
from gradkit.keys import as_key

POLICIES = ("diagonal", "block", "unit")


def _fisher_of_gaussian(score: jax.Array, target: Any) -> jax.Array:
    return jnp.diag(jnp.stack([jnp.exp(-2 * score[1]), jnp.full_like(score[1], 2)]))


DECLARED = {
    losses.absolute: "unit", losses.quantile: "unit", losses.hinge: "unit", losses.huber: "unit",
    losses.log_cosh: "unit", losses.squared: "diagonal", losses.poisson: "diagonal", losses.logistic: "diagonal",
    losses.softmax: "diagonal", losses.focal: "diagonal", losses.gaussian: _fisher_of_gaussian,
}  # fmt: skip

OWN_UNITS = (losses.poisson, losses.gaussian)  # whose second derivative has the units of the target, or of 1 / target**2


class Derivatives(NamedTuple):
    """Of one loss, over examples; scores always have a last axis of outputs.

    Attributes:
        value: ``(scores (n, k), targets) -> (n,)``.
        gradient: ``(scores, targets) -> (n, k)``.
        curvature: ``(scores, targets) -> (n, k)``: the diagonal that splits are judged by, at least 0.
        matrix: ``(scores, targets) -> (n, k, k)``, where leaves are solved with more than the diagonal; else ``None``.
        has_curvature: Whether leaves may rely on the curvature.
        bend: ``(scores, targets) -> (n, k)``: the loss's own second derivatives, at least 0; ``None`` if there are none.
        has_units: Whether sums of curvature change with the units of the target or have none of their own, so that no number
            held against them suits all data.
    """

    value: Callable
    gradient: Callable
    curvature: Callable
    matrix: Callable | None
    has_curvature: bool
    bend: Callable | None
    has_units: bool

    def at(self, scores: jax.Array, targets: Any) -> Local:
        """All of them at those scores."""
        value, gradient = self.value(scores, targets), self.gradient(scores, targets)
        if self.matrix is None:
            return Local(value, gradient, self.curvature(scores, targets), None)
        matrix = self.matrix(scores, targets)
        return Local(value, gradient, _diagonal_of(matrix), matrix)


class Local(NamedTuple):
    """What a loss is at the scores of examples: value (n,), gradient and curvature (n, k), and matrix (n, k, k) or ``None``."""

    value: jax.Array
    gradient: jax.Array
    curvature: jax.Array
    matrix: jax.Array | None


def declared(loss: Callable) -> str | Callable | None:
    """The policy of one of ``gk.losses``, with or without fixed parameters; ``None`` for any other loss.

    >>> declared(functools.partial(losses.quantile, level=0.9))
    'unit'
    """
    return DECLARED.get(_bare(loss))


def _bare(loss: Callable) -> Callable:
    """A loss without fixed parameters."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss


def _bends(second: Callable, score: Any, target: Any) -> bool:
    """Whether a second derivative depends on anything: that of a loss of straight pieces is a constant 0."""
    closed = jax.make_jaxpr(second)(score, target)
    known = set(closed.jaxpr.constvars)
    for equation in closed.jaxpr.eqns:
        if all(isinstance(var, Literal) or var in known for var in equation.invars):
            known.update(equation.outvars)
    [out] = closed.jaxpr.outvars
    if not (isinstance(out, Literal) or out in known):
        return True
    with jax.ensure_compile_time_eval():
        zeros = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((score, target))]
        return bool((jaxpr_as_fun(closed)(*zeros)[0] != 0).any())


def derivatives(loss: Callable, num_outputs: int | None, curvature: Any, score: Any, target: Any) -> Derivatives:
    """The derivatives of a loss under a policy.

    Args:
        loss: ``(score, target) -> scalar`` for one example; the score is a scalar, or (k,) with ``num_outputs=k``.
        num_outputs: ``None`` for a scalar score.
        curvature: A policy; ``None`` for the declared one.
        score, target: Of one example, as shapes; the score has an axis of outputs.
    """
    own = loss if num_outputs is not None else lambda score, target: loss(score[0], target)
    is_bent = _bends(functools.partial(_diagonal, own), score, target)
    policy = curvature
    if policy is None:
        policy = declared(loss) or ("diagonal" if is_bent else "unit")
    if not callable(policy):
        checks.one_of("curvature", policy, POLICIES)
        is_curved = is_bent or policy == "unit" or (policy == "block" and _bends(jax.hessian(own), score, target))
        checks.require(is_curved, "curvature", "be unit for a loss of straight pieces", policy,
                       "Its second derivative is 0 wherever it has one; leave `curvature` out.")  # fmt: skip
    value, gradient = jax.vmap(own), jax.vmap(jax.grad(own))
    bend = jax.vmap(lambda score, target: jnp.maximum(_diagonal(own, score, target), 0)) if is_bent else None
    if policy == "unit":
        return Derivatives(value, gradient, lambda scores, targets: jnp.ones_like(scores), None, False, bend, True)
    has_units = callable(policy) or _bare(loss) in OWN_UNITS
    if policy == "diagonal":
        return Derivatives(value, gradient, bend, None, True, bend, has_units)
    of_all = jax.vmap(jax.hessian(own) if policy == "block" else _as_matrix(policy, num_outputs))
    matrix = (lambda *batch: matrices.semidefinite(of_all(*batch))) if policy == "block" else of_all
    curvature = lambda *batch: _diagonal_of(matrix(*batch))  # noqa: E731
    is_coupled = num_outputs is not None and num_outputs > 1
    return Derivatives(value, gradient, curvature, matrix if is_coupled else None, True, bend, has_units)


def _diagonal_of(matrix: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.diagonal(matrix, axis1=-2, axis2=-1), 0)


def gauss_newton(outer: Callable, inner: Callable) -> Callable:
    """The curvature ``J' l'' J`` of ``outer(inner(score), target)``: positive semi-definite where ``outer`` is convex.

    Args:
        outer: ``(prediction, target) -> scalar``, convex in the prediction, which may be an array.
        inner: ``score -> prediction``.

    >>> curve = gauss_newton(lambda p, t: (p - t) ** 2, jnp.exp)
    >>> float(curve(jnp.array(0.0), 5.0))
    2.0
    """

    def curvature(score, target):
        score = jnp.asarray(score)
        prediction, jacobian = inner(score), jax.jacobian(inner)(score)
        bend = jax.hessian(outer)(prediction, target)
        flat = jacobian.reshape(prediction.size, score.size)
        matrix = flat.T @ bend.reshape(prediction.size, prediction.size) @ flat
        return matrix.reshape(score.shape * 2)

    return curvature


def fisher(loss: Callable, draw: Callable, *, draws: int = 32, key: Any = 0) -> Callable:
    """The curvature ``E[g g']`` of a negative log-likelihood, ``g`` its gradient at targets drawn from the model itself.

    A leaf then goes ``-(sum of E[g g'])^-1 (sum of g)``: a step along the natural gradient, which does not depend on how the
    distribution is written. Positive semi-definite where the second derivative is not.

    Args:
        loss: ``(score, target) -> scalar``, minus the logarithm of a density, up to a constant.
        draw: ``(key, score) -> target``, from the distribution of that score.
        draws: Targets that the mean is taken over; at least as many as there are scores.
        key: An int or a jax key; the same draws at every tree.

    References:
        Amari, Natural gradient works efficiently in learning, 1998. https://doi.org/10.1162/089976698300017746
        Duan et al., NGBoost, 2020. https://arxiv.org/abs/1910.03225

    >>> draw = lambda key, score: jax.random.poisson(key, jnp.exp(score)).astype(float)
    >>> curve = fisher(losses.poisson, draw, draws=10_000)
    >>> bool(abs(curve(jnp.array(1.0), 0.0) - jnp.e) < 0.1)
    True
    """
    draws = checks.whole_number("draws", draws, at_least=1, remedy="It counts the targets that are drawn.")
    keys = jax.random.split(as_key(key), draws)

    def curvature(score, target):
        slopes = jax.vmap(lambda key: jax.grad(loss)(score, jax.lax.stop_gradient(draw(key, score))))(keys)
        return (jnp.einsum("ik,il->kl", slopes, slopes) if slopes.ndim > 1 else (slopes**2).sum()) / draws

    return curvature


def _diagonal(loss: Callable, score: jax.Array, target: Any) -> jax.Array:
    slope = jax.grad(loss)
    bend = lambda unit: jnp.vdot(unit, jax.jvp(lambda s: slope(s, target), (score,), (unit,))[1])  # noqa: E731
    return jax.vmap(bend)(jnp.eye(len(score), dtype=score.dtype))


def _as_matrix(curvature: Callable, num_outputs: int | None) -> Callable:
    if num_outputs is not None:
        return curvature
    return lambda score, target: jnp.reshape(curvature(score[0], target), (1, 1))
