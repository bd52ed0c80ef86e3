"""Gradient clipping as PyTorch computes it, to stand first in a chain: ``optax.chain(clip_grad_norm(1.0), sgd(lr=0.1))``."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import nonnegative
from gradkit.roots import norm
from gradkit.transforms import scheduled, widen


def clip_grad_norm(max_norm: Any, norm_type: float = 2.0) -> optax.GradientTransformation:
    """``torch.nn.utils.clip_grad_norm_``: all gradients times ``min(1, max_norm / (norm + 1e-6))``.

    ``optax.clip_by_global_norm`` has no 1e-6 and leaves norms in ``(max_norm - 1e-6, max_norm]`` as they are. One infinite
    gradient makes the others zero and itself NaN, one NaN makes all NaN, as in torch. Norms of bfloat16 and float16 gradients
    are float32.

    Args:
        max_norm: Largest norm of all gradients together; a number, a traced value or a schedule.
        norm_type: The p of the norm, ``inf`` for the largest entry. Static.

    Raises:
        ValueError: ``max_norm`` is negative or not finite.

    >>> clip = clip_grad_norm(1.0)
    >>> updates, _ = clip.update(jnp.array([3.0, 4.0]), clip.init(jnp.zeros(2)))
    >>> print(updates.round(3))
    [0.6 0.8]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
    """
    nonnegative("max_norm", max_norm)

    def factory(max_norm):
        def clip(updates):
            norms = [norm(g.ravel(), norm_type) for g in jax.tree.leaves(updates)]
            if not norms:
                return updates
            factor = jnp.minimum(max_norm / (norm(jnp.stack(norms), norm_type) + 1e-6), 1.0)
            return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

        return optax.stateless(lambda updates, params: optax.tree.cast_like(clip(widen(updates)), updates))

    return scheduled(factory)(max_norm=max_norm)


def clip_grad_value(clip_value: Any) -> optax.GradientTransformation:
    """``torch.nn.utils.clip_grad_value_``: every entry into ``[-clip_value, clip_value]``; NaN stays.

    Args:
        clip_value: A number, a traced value or a schedule.

    Raises:
        ValueError: ``clip_value`` is negative or not finite.

    >>> clip = clip_grad_value(1.0)
    >>> print(clip.update(jnp.array([3.0, -0.5]), clip.init(jnp.zeros(2)))[0])
    [ 1.  -0.5]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_value_.html
    """
    nonnegative("clip_value", clip_value)
    return scheduled(lambda clip_value: optax.clip(clip_value))(clip_value=clip_value)
