"""What all of PyTorch's optimizers have in common: checks, ``maximize``, weight decay of both kinds, first moments."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import is_zero, nonnegative, require
from gradkit.transforms import by_rule, rounded

BELOW_ONE, AT_MOST_ONE = ("beta1", "beta2"), ("alpha", "rho")


def recipe(
    rule: Callable[..., tuple],
    start: Callable[..., tuple],
    *,
    maximize: bool,
    unused: str,
    is_decoupled: bool = False,
    **numbers: Any,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of an update rule ``(h, t, theta, g, *memory) -> (update, *memory)``; see :func:`gradkit.transforms.by_rule`.

    Args:
        rule: Sees gradients with ``maximize`` and L2 decay done, and need not decay weights itself.
        start: What a leaf begins with.
        maximize: Climb instead.
        unused: What a gradient of zeros means, ``"zero"`` or ``"skip"``.
        is_decoupled: Whether ``weight_decay`` shrinks the weights instead of entering the gradient.
        **numbers: What ``h`` holds.
    """
    for name, value in numbers.items():
        below, at_most = 1.0 if name in BELOW_ONE else math.inf, 1.0 if name in AT_MOST_ONE else math.inf
        nonnegative(name, value, below=below, at_most=at_most)
    is_decaying = "weight_decay" in numbers and not is_zero(numbers["weight_decay"])

    def whole_rule(h, t, theta, g, *memory):
        g = -g if maximize else g
        if is_decaying and not is_decoupled:
            g = g + h.weight_decay * theta
        decayed = theta
        if is_decaying and is_decoupled:
            decayed = rounded(h, theta * (1 - h.lr * h.weight_decay))
        update, *memory = rule(h, t, decayed, g, *memory)
        return decayed + update - theta if is_decoupled else update, *memory

    return by_rule(whole_rule, start, numbers, unused=unused)


def scaled(theta: jax.Array, rate: Any, step: jax.Array) -> jax.Array:
    """``-rate * step``, so that the new parameters are ``theta - rate * step`` rounded once, as torch's ``add_`` rounds them."""
    return theta - rate * step - theta


def lerp(start: jax.Array, end: jax.Array, weight: Any) -> jax.Array:
    """``start + weight * (end - start)``, from the end that is nearer, so that both ends are met exactly.

    >>> print(lerp(jnp.float32(1e9), jnp.float32(3.0), 1.0))
    3.0
    """
    gap, weight = end - start, jnp.asarray(weight, start.dtype)
    return jnp.where(weight < 0.5, start + weight * gap, end - gap * (1 - weight))


def pair(name: str, values: Any) -> tuple[Any, Any]:
    """Two numbers, or refuse."""
    is_pair = isinstance(values, (tuple, list)) and len(values) == 2
    require(is_pair, name, "be a pair", values, f"Give two numbers: {name}=(first, second).", error=TypeError)
    return values[0], values[1]
