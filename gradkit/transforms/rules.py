"""An update rule for one leaf, written as its formula, flows in; a gradient transformation flows out."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import one_of, refuse
from gradkit.transforms.entrances import check_gradients, check_parameters, widen
from gradkit.transforms.scheduling import values_at


class RuleState(NamedTuple):
    """State of an optimizer made by :func:`by_rule`.

    Attributes:
        count: Updates made, an int32 scalar; what schedules are asked with.
        steps: Updates that each leaf took part in: one int32 scalar, or with ``unused="skip"`` a tree of them.
        memory: For each leaf of the parameters the tuple of what its rule remembers.
    """

    count: jax.Array
    steps: Any
    memory: Any


def by_rule(
    rule: Callable[..., tuple],
    start: Callable[..., tuple],
    numbers: dict[str, Any],
    *,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """Apply an update rule leaf by leaf.

    The rule sees leaves of less than 32 bits as float32; its updates leave in the dtype of the gradients.

    Args:
        rule: ``(h, t, theta, g, *memory) -> (update, *memory)`` for one leaf; ``h`` has the numbers of this step as attributes,
            ``t`` = 1, 2, ... counts the updates of the leaf.
        start: ``(h, theta) -> memory``, the tuple of arrays that a leaf begins with.
        numbers: What ``h`` holds: Python numbers, traced values or schedules, asked with the number of updates made before.
        unused: ``"zero"``: a gradient of zeros is a gradient; ``"skip"``: a leaf whose gradient is zero everywhere got none, it,
            its memory and its ``t`` stay. Static.

    Raises:
        ValueError: A number has a shape; ``params`` were not given to ``update``, or do not fit the gradients.
        TypeError: A leaf of the parameters is not real floating.

    >>> heavy_ball = by_rule(lambda h, t, theta, g, v: (-h.lr * (h.mu * v + g), h.mu * v + g),
    ...                      lambda h, theta: (jnp.zeros_like(theta),), {"lr": 0.5, "mu": lambda step: 0.9})
    >>> theta = jnp.array([4.0, -1.0])
    >>> print(heavy_ball.update(2 * theta, heavy_ball.init(theta), theta)[0])
    [-4.  1.]
    """
    is_skipping = one_of("unused", unused, ("zero", "skip")) == "skip"
    at = values_at(numbers)

    def init(params):
        check_parameters(params)
        count = jnp.zeros((), jnp.int32)
        h = SimpleNamespace(**at(count))
        # each its own buffer, as a state that is donated must not hold one twice
        steps = jax.tree.map(lambda _: jnp.zeros((), jnp.int32), params if is_skipping else 0)
        return RuleState(count, steps, jax.tree.map(lambda theta: start(h, theta), widen(params)))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            refuse("params", "be given to `update`", params, "Call optimizer.update(grads, state, params).")
        check_gradients(updates, params)
        h, treedef = SimpleNamespace(**at(state.count)), jax.tree.structure(params)
        steps = jax.tree.map(optax.safe_increment, state.steps)
        steps_of_leaves = treedef.flatten_up_to(steps) if is_skipping else [steps] * treedef.num_leaves
        given = zip(*map(jax.tree.leaves, (widen(params), widen(updates))), treedef.flatten_up_to(state.memory))
        h.zero = jnp.minimum(state.count, 0)
        after = [rule(h, t, theta, g, *memory) for t, (theta, g, memory) in zip(steps_of_leaves, given)]
        new_updates = treedef.unflatten([step[0] for step in after])
        memory = treedef.unflatten([tuple(step[1:]) for step in after])
        if is_skipping:
            used = jax.tree.map(lambda g: jnp.any(g != 0), updates)
            new_updates = _keep(used, new_updates, jax.tree.map(jnp.zeros_like, new_updates))
            steps, memory = _keep(used, steps, state.steps), _keep(used, memory, state.memory)
        new_updates = jax.tree.map(lambda update, g: update.astype(jnp.result_type(g)), new_updates, updates)
        return new_updates, RuleState(optax.safe_increment(state.count), steps, memory)

    return optax.GradientTransformationExtraArgs(init, update)


def zeros(num: int) -> Callable[..., tuple]:
    """A leaf begins with ``num`` arrays of zeros of its shape."""
    return lambda h, theta: tuple(jnp.zeros_like(theta) for _ in range(num))


def _keep(used: Any, new: Any, old: Any) -> Any:
    """Leaf by leaf of ``used``, the new subtree where it holds, else the old one."""
    return jax.tree.map(lambda is_used, a, b: jax.tree.map(lambda x, y: jnp.where(is_used, x, y), a, b), used, new, old)
