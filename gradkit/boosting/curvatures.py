"""How a loss bends: a one-example loss flows in; gradients and curvatures of all examples flow out, by autodiff alone.

The curvature decides which splits are found and how far a leaf goes. It must not be negative, so that sums and differences of it
are not; a policy says where it comes from:

- ``"diagonal"``: the second derivative in each score, negative ones as 0;
- ``"block"``: the whole matrix of second derivatives, made positive semi-definite, for losses that couple a few scores;
- ``"unit"``: 1, for losses without a curvature to speak of; leaves are then found by bisection (one score) or by a line search;
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
from gradkit.keys import as_key

POLICIES = ("diagonal", "block", "unit")


def _fisher_of_gaussian(score: jax.Array, target: Any) -> jax.Array:
    return jnp.diag(jnp.stack([jnp.exp(-2 * score[1]), jnp.full_like(score[1], 2)]))


DECLARED = {
    losses.absolute: "unit", losses.quantile: "unit", losses.hinge: "unit", losses.huber: "unit",
    losses.squared: "diagonal", losses.log_cosh: "diagonal", losses.poisson: "diagonal", losses.logistic: "diagonal",
    losses.softmax: "diagonal", losses.focal: "diagonal", losses.gaussian: _fisher_of_gaussian,
}  # fmt: skip


class Derivatives(NamedTuple):
    """Of one loss, over examples; scores always have a last axis of outputs.

    Attributes:
        value: ``(scores (n, k), targets) -> (n,)``.
        gradient: ``(scores, targets) -> (n, k)``.
        curvature: ``(scores, targets) -> (n, k)``: the diagonal that splits are judged by, at least 0.
        matrix: ``(scores, targets) -> (n, k, k)``, where leaves are solved with more than the diagonal; else ``None``.
        has_curvature: Whether leaves may rely on the curvature.
    """

    value: Callable
    gradient: Callable
    curvature: Callable
    matrix: Callable | None
    has_curvature: bool

    def at(self, scores: jax.Array, targets: Any) -> Local:
        """All of them at those scores."""
        matrix = None if self.matrix is None else self.matrix(scores, targets)
        parts = (part(scores, targets) for part in (self.value, self.gradient, self.curvature))
        return Local(*parts, matrix)


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
    while isinstance(loss, functools.partial):
        loss = loss.func
    return DECLARED.get(loss)


def _default(loss: Callable, own: Callable, score: Any, target: Any) -> str | Callable:
    return declared(loss) or ("diagonal" if _bends(own, score, target) else "unit")


def _bends(loss: Callable, score: Any, target: Any) -> bool:
    """Whether the second derivative depends on anything: that of a loss of straight pieces is a constant 0."""
    closed = jax.make_jaxpr(functools.partial(_diagonal, loss))(score, target)
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
    policy = _default(loss, own, score, target) if curvature is None else curvature
    if not callable(policy):
        checks.one_of("curvature", policy, POLICIES)
    value, gradient = jax.vmap(own), jax.vmap(jax.grad(own))
    if policy == "unit":
        return Derivatives(value, gradient, lambda scores, targets: jnp.ones_like(scores), None, False)
    if policy == "diagonal":
        return Derivatives(
            value, gradient, jax.vmap(lambda score, target: jnp.maximum(_diagonal(own, score, target), 0)), None, True
        )
    matrix = _semidefinite(jax.hessian(own)) if policy == "block" else _as_matrix(policy, num_outputs)
    diagonal = jax.vmap(lambda score, target: jnp.maximum(jnp.diagonal(matrix(score, target)), 0))
    is_coupled = num_outputs is not None and num_outputs > 1
    return Derivatives(value, gradient, diagonal, jax.vmap(matrix) if is_coupled else None, True)


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


def _semidefinite(hessian: Callable) -> Callable:
    """The nearest matrix without negative eigenvalues."""

    def matrix(score, target):
        values, vectors = jnp.linalg.eigh(hessian(score, target))
        return (vectors * jnp.maximum(values, 0)[None]) @ vectors.T

    return matrix


def _as_matrix(curvature: Callable, num_outputs: int | None) -> Callable:
    if num_outputs is not None:
        return curvature
    return lambda score, target: jnp.reshape(curvature(score[0], target), (1, 1))
