"""What a transformation that wraps an optimizer asks of it, and of those who call its own update."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import require
from gradkit.contracts import Params


def wrapped(
    optimizer: Any, argument: str = "optimizer", example: str = "optax.adam(1e-3) or gk.optimizers.adam(1e-3)"
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, taking any extra arguments and using those that it knows, or a refusal of what is none.

    >>> wrapped(0.1)
    Traceback (most recent call last):
        ...
    TypeError: `optimizer` must be an optax gradient transformation, got 0.1. Pass for example optax.adam(1e-3) or ...
    """
    require(hasattr(optimizer, "init") and hasattr(optimizer, "update"), argument, "be an optax gradient transformation",
            optimizer, f"Pass for example {example}.", error=TypeError)  # fmt: skip
    if isinstance(optimizer, optax.MultiSteps):
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    return _told_what_it_takes(optax.with_extra_args_support(optimizer))


def _told_what_it_takes(optimizer: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """The optimizer, deaf to extra arguments that its ``update`` does not name (``optax.contrib.sam``)."""
    try:
        parameters = inspect.signature(optimizer.update).parameters
    except (TypeError, ValueError):  # a callable without a signature
        return optimizer
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return optimizer

    def update(updates, state, params=None, **extra_args):
        taken = {name: value for name, value in extra_args.items() if name in parameters}
        return optimizer.update(updates, state, params, **taken)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def require_params(params: Params):
    """Refuse an update that was not told the parameters."""
    require(params is not None, "params", "be given to `update`", None, "Call update(grads, state, params).", error=TypeError)


def copied(tree: Any) -> Any:
    """The tree in arrays of its own: a step that donates its arguments refuses to be given one of them twice."""
    return jax.tree.map(jnp.copy, tree)
