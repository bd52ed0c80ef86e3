"""The ends of many starts flow in; the different minima and how many starts reached each flow out. On the host."""

from typing import Any, NamedTuple

import jax
import numpy as np

from gradkit.checks import Described, require


class Minima(NamedTuple):
    """Different minima, lowest first.

    Attributes:
        params: A pytree whose leaves have a leading axis of minima.
        value: The function at each, shape ``(minima,)``.
        share: The part of all starts that reached each, shape ``(minima,)``; what is left of 1 did not converge.
        num_starts: How many starts there were.
    """

    params: Any
    value: np.ndarray
    share: np.ndarray
    num_starts: int

    def __repr__(self) -> str:
        lines = [f"{len(self.value)} minima from {self.num_starts} starts, {1 - self.share.sum():.1%} of which did not converge"]
        for index, (value, share) in enumerate(zip(self.value[:10], self.share[:10])):
            params = jax.tree.map(lambda leaf, index=index: leaf[index].tolist() if leaf[index].size <= 6 else "...", self.params)
            lines.append(f"{share:7.1%}  value {value:<12.6g} {params}")
        return "\n".join(lines + ["        ..."] * (len(self.value) > 10))


def distinguish(params: Any, values: Any, is_converged: Any, tolerance: float) -> Minima:
    """Group the converged ends: each joins the first lower one that it agrees with in every coordinate."""
    axes = Described(f"{np.ndim(is_converged)} axes of starts")
    require(
        np.ndim(is_converged) == 1,
        "distinct",
        "be asked of many starts",
        axes,
        "Minimize under jax.vmap over one axis of starts.",
    )
    values = np.asarray(values)
    flat = np.concatenate([np.asarray(leaf).reshape(len(values), -1) for leaf in jax.tree.leaves(params)], axis=1)
    left = np.flatnonzero(is_converged)
    left = left[np.argsort(values[left], kind="stable")]
    lowest, counts = [], []
    while left.size:
        one, others = flat[left[0]], flat[left]
        scale = np.maximum(np.maximum(np.abs(one), np.abs(others)), tolerance)
        is_same = np.all(np.abs(others - one) <= tolerance * scale, axis=1)
        lowest.append(left[0])
        counts.append(is_same.sum())
        left = left[~is_same]
    chosen = np.asarray(lowest, int)
    picked = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], params)
    return Minima(picked, values[chosen], np.asarray(counts, float) / len(values), len(values))
