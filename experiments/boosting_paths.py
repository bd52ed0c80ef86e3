"""Where a descent of trees stands after every step: places and targets flow in, scores, losses and gradients flow out."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradkit as gk
from gradkit.settings import enable_x64


class Path(NamedTuple):
    """A descent in function space, in float64.

    Attributes:
        scores: Where it stood before and after each tree, (t + 1, n).
        losses: The mean loss there, (t + 1,).
        downhill: The negative gradient of the mean loss there, (t + 1, n).
        curvature: The diagonal of its Hessian, which has nothing else, (t + 1, n).
        rounding: How far the sum of all trees is from the last scores.
    """

    scores: np.ndarray
    losses: np.ndarray
    downhill: np.ndarray
    curvature: np.ndarray
    rounding: float

    @property
    def moves(self) -> np.ndarray:
        """The steps eta T, (t, n)."""
        return np.diff(self.scores, axis=0)

    @property
    def falls(self) -> np.ndarray:
        """How much the loss fell with each step."""
        return -np.diff(self.losses)

    @property
    def promises(self) -> np.ndarray:
        """How much it would by the gradient alone."""
        return (self.downhill[:-1] * self.moves).sum(1)

    @property
    def bent_promises(self) -> np.ndarray:
        """How much it would by gradient and curvature."""
        return self.promises - (self.curvature[:-1] * self.moves**2).sum(1) / 2

    @property
    def cosines(self) -> np.ndarray:
        """Of the angle between each step and the negative gradient."""
        norms = np.linalg.norm(self.downhill[:-1], axis=1) * np.linalg.norm(self.moves, axis=1)
        return (self.downhill[:-1] * self.moves).sum(1) / norms


def half_squared(score, target):
    """The loss of one example, whose negative gradient is the residual."""
    return gk.losses.squared(score, target) / 2


def boost(x: np.ndarray, y: np.ndarray, *, loss, rate: float, steps: int, depth: int, nesterov: bool = False) -> Path:
    """Take the steps of a descent of trees that nothing holds back, on places x (n,) and targets y (n,)."""
    data = gk.boosting.bin(x[:, None]), jnp.asarray(y)
    booster = gk.boosting.descent(loss, learning_rate=rate, depth=depth, l2=0.0, min_child_weight=0.0, nesterov=nesterov)

    def advance(state, _):
        state, _, tree = booster.step(state, data)
        return state, (state.model if nesterov else state.scores, tree)

    @jax.jit
    def run(key):
        first = booster.init(key, data, None)
        last, (scores, trees) = jax.lax.scan(advance, first, length=steps)
        return jnp.concatenate([first.scores[None], scores])[..., 0], booster.params(last, trees)

    scores, ensemble = run(jax.random.key(0))
    rounding = np.abs(np.asarray(gk.boosting.predict(ensemble, data[0])) - np.asarray(scores[-1])).max()
    return trace(np.asarray(scores, float), np.asarray(y, float), loss, float(rounding))


def trace(scores: np.ndarray, y: np.ndarray, loss, rounding: float = 0.0) -> Path:
    """What the loss says of places in function space."""
    with enable_x64(True):
        parts = loss, jax.grad(loss), jax.grad(jax.grad(loss))
        over = [jax.jit(jax.vmap(jax.vmap(part), (0, None))) for part in parts]
        values, gradient, curvature = (np.asarray(part(scores, y)) for part in over)
    return Path(scores, values.mean(1), -gradient / len(y), curvature / len(y), rounding)


def shares_left(rate: float, steps: int) -> np.ndarray:
    """The share of the residual that Nesterov's descent leaves after each step, where a tree is the residual itself, (t + 1,).

    ``m' = (1 - rate) a`` and ``a' = (1 - c) m' + c m`` with ``c = (1 - l) / l'`` and ``l' = (1 + sqrt(1 + 4 l**2)) / 2``, from
    ``a = m = 1`` and ``l = 1``.
    """
    ahead, left, momentum = 1.0, [1.0], 1.0
    for _ in range(steps):
        left.append((1 - rate) * ahead)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        share, momentum = (1 - momentum) / following, following
        ahead = (1 - share) * left[-1] + share * left[-2]
    return np.array(left)
