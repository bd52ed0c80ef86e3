"""A descent and a stack of batches flow in; the state after them, the infos and the growths flow out. Pure."""

from __future__ import annotations

from typing import Any

import jax

from gradkit.contracts import Descent


def unroll(descent: Descent, state: Any, batches: Any) -> tuple[Any, Any, Any]:
    """Make one step per batch: a ``lax.scan``, for use inside your own ``jit``, ``vmap`` or ``grad``.

    Args:
        descent: What to run.
        state: Where to start, from ``descent.init(key, data, validation)``.
        batches: A pytree of arrays ``[t, ...]``: a batch per step.

    Returns:
        The final state; the infos and the growths, stacked along a leading axis of length t. Nothing is checked on the way: use
        :func:`gradkit.fit` for a run that watches itself. A derivative through a step whose loss is NaN is NaN, also where a
        guard undoes the step: 0 times NaN. Leave such batches out.

    >>> import jax.numpy as jnp, optax
    >>> from gradkit import descents
    >>> mean = descents.descent(lambda m, batch: jnp.mean((m - batch) ** 2), jnp.zeros(()), optax.sgd(0.5))
    >>> state = mean.init(jax.random.key(0), None, None)
    >>> state, infos, _ = unroll(mean, state, jnp.array([[1.0, 3.0], [1.0, 3.0]]))
    >>> float(state.params), infos.loss.tolist()
    (2.0, [5.0, 1.0])
    """

    def step(state, batch):
        state, info, growth = descent.step(state, batch)
        return state, (info, growth)

    state, (infos, growths) = jax.lax.scan(step, state, batches)
    return state, infos, growths
