"""A loss computed in half precision, of parameters that stay in float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradkit.checks import require


def mixed_precision(loss_fn: Any, compute_dtype: Any = jnp.bfloat16) -> Callable:
    """Compute a loss in ``compute_dtype``, while parameters, gradients, loss and metrics stay in float32.

    Floating leaves of the parameters and the batch are cast on their way in, which halves what activations take and is
    several times as fast on accelerators; gradients come back through the cast in the dtype of the parameters. Updates
    are added to those: in bfloat16, 1 + 0.001 is 1, and training stalls.

    Not for float16 without more: its gradients underflow below 6e-8. bfloat16 has the range of float32. Cast scores to
    float32 within ``loss_fn`` where the loss itself needs its digits.

    Args:
        loss_fn: As for :func:`gradkit.descent`: ``(params, batch)``, or with a state ``(params, state, batch, key)``. The state
            is handed over as it is, and comes back in its own dtypes.
        compute_dtype: Static.

    Raises:
        TypeError: ``loss_fn`` is not callable, or ``compute_dtype`` not floating.

    >>> loss = mixed_precision(lambda w, x: jnp.mean((w * x) ** 2))
    >>> value, grad = jax.value_and_grad(loss)(jnp.ones(()), jnp.array([1.0, 2.0]))
    >>> print(value, value.dtype, grad.dtype)
    2.5 float32 float32

    References:
        Micikevicius et al., Mixed precision training, 2018: https://arxiv.org/abs/1710.03740
    """
    require(callable(loss_fn), "loss_fn", "be a function (params, batch) -> scalar", loss_fn,
            "Write the loss as a pure function.", error=TypeError)  # fmt: skip
    require(jnp.issubdtype(compute_dtype, jnp.floating), "compute_dtype", "be a floating dtype", compute_dtype,
            "Use jnp.bfloat16.", error=TypeError)  # fmt: skip

    def lower(tree):
        return _cast(tree, lambda dtype: compute_dtype)

    def loss_of_batch(params, batch):
        return _widened(loss_fn(lower(params), lower(batch)))

    def loss_with_state(params, state, batch, key):
        loss, (new_state, metrics) = loss_fn(lower(params), state, lower(batch), key)
        new_state = jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), new_state, state)
        return _widened(loss), (new_state, _widened(metrics))

    return lambda params, *args: (loss_of_batch if len(args) == 1 else loss_with_state)(params, *args)


def _widened(tree):
    return _cast(tree, lambda dtype: jnp.promote_types(dtype, jnp.float32))


def _cast(tree: Any, dtype_of: Callable) -> Any:
    """Floating leaves in the dtype that ``dtype_of`` makes of theirs; others as they are."""

    def cast(leaf):
        is_floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype_of(jnp.result_type(leaf))) if is_floating else leaf

    return jax.tree.map(cast, tree)
