"""What a transformation that wraps an optimizer asks of it, and of those who call its own update."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import require
from gradkit.contracts import Params


def wrapped(
    optimizer: Any, argument: str = "optimizer", example: str = "optax.adam(1e-3) or gk.optimizers.adam(1e-3)"
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, taking extra arguments, or a refusal of what is none.

    >>> wrapped(0.1)
    Traceback (most recent call last):
        ...
    TypeError: `optimizer` must be an optax gradient transformation, got 0.1. Pass for example optax.adam(1e-3) or ...
    """
    require(hasattr(optimizer, "init") and hasattr(optimizer, "update"), argument, "be an optax gradient transformation",
            optimizer, f"Pass for example {example}.", error=TypeError)  # fmt: skip
    if isinstance(optimizer, optax.MultiSteps):
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    return optax.with_extra_args_support(optimizer)


def require_params(params: Params):
    """Refuse an update that was not told the parameters."""
    require(params is not None, "params", "be given to `update`", None, "Call update(grads, state, params).", error=TypeError)


def copied(tree: Any) -> Any:
    """The tree in arrays of its own: a step that donates its arguments refuses to be given one of them twice."""
    return jax.tree.map(jnp.copy, tree)
