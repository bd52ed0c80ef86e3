"""One update from several micro-batches, inside the chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import whole_number
from gradkit.transforms.skips import Skips, all_finite, count_skip, no_skips, select


class AccumulateState(NamedTuple):
    """State of :func:`accumulate`.

    Attributes:
        skips: Micro-batches left out, and the last finite loss.
        mini_step: Micro-batches seen since the last update, an int32 scalar.
        num_updates: Updates made, an int32 scalar.
        weight: Of the micro-batches since then, together.
        value: Weighted sum of their losses.
        grads: Weighted sum of their gradients, in float32 or wider.
        inner: State of the optimizer.
    """

    skips: Skips
    mini_step: jax.Array
    num_updates: jax.Array
    weight: jax.Array
    value: jax.Array
    grads: Any
    inner: Any


def accumulate(optimizer: Any, num_steps: Any) -> optax.GradientTransformationExtraArgs:
    """Let an optimizer see the mean gradient of every ``num_steps`` micro-batches, and rest in between::

        grads = sum_i weight_i * grads_i / sum_i weight_i

    The weights are those told to ``update(..., weight=)``, 1 by default: with the number of examples or tokens, ragged
    micro-batches give what their union would. :func:`gradkit.descent` tells a metric of the loss that is named ``weight``.
    The optimizer is told the mean of ``value`` and ``grad``, too, and its schedules count its own updates. A micro-batch
    whose gradient, weight or loss is not finite is left out and counted; if none is left, there is no update. What stands
    behind this in a chain acts at every micro-batch: put it into ``optimizer``.

    ``optax.MultiSteps`` runs the optimizer at every micro-batch, has no weights, and is NaN for ever after one NaN. Where
    the large batch comes as one array, :func:`gradkit.gradients.accumulate` is simpler.

    Args:
        optimizer: Any optax transformation.
        num_steps: Micro-batches to an update, those left out included; a number or a traced value. Under ``vmap`` the
            optimizer runs at each of them, and its result is selected.

    Raises:
        ValueError: ``num_steps`` is below 1.
        TypeError: It is not a whole number.

    >>> optimizer = accumulate(optax.sgd(1.0), 2)
    >>> state = optimizer.init(jnp.zeros(()))
    >>> for grad, weight in [(1.0, 3.0), (5.0, 1.0)]:
    ...     updates, state = optimizer.update(jnp.array(grad), state, weight=weight)
    ...     print(updates)
    0.0
    -2.0
    """
    if not isinstance(num_steps, jax.core.Tracer):
        whole_number("num_steps", num_steps, at_least=1, remedy="Count the micro-batches of an update.")
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params):
        number, count = jnp.zeros((), jnp.result_type(float)), jnp.zeros((), jnp.int32)
        return AccumulateState(no_skips(), count, count, number, number, _wide_zeros(params), optimizer.init(params))

    def update(updates, state, params=None, *, weight=1.0, **extra_args):
        value = extra_args.get("value")
        is_good = all_finite(updates, weight, value)

        def add(total, term):
            return total + jnp.where(is_good, weight * term, 0).astype(total.dtype)

        total, value_sum = add(state.weight, 1.0), add(state.value, 0.0 if value is None else value)
        grads = jax.tree.map(add, state.grads, jax.tree.map(lambda g, like: g.astype(like.dtype), updates, state.grads))
        is_due = state.mini_step + 1 >= num_steps
        is_update = is_due & (total > 0)

        def step():
            mean = jax.tree.map(lambda leaf, like: (leaf / total).astype(like.dtype), grads, updates)
            means = {"value": value_sum / total, "grad": mean}
            told = {name: means.get(name, argument) for name, argument in extra_args.items()}
            return optimizer.update(mean, state.inner, params, **told)

        def rest():
            return optax.tree.zeros_like(jax.eval_shape(step)[0]), state.inner

        new_updates, inner = jax.lax.cond(is_update, step, rest)
        sums = (jnp.where(is_due, 0, state.mini_step + 1), total, value_sum, grads)
        mini_step, total, value_sum, grads = select(is_due, optax.tree.zeros_like(sums), sums)
        skips, num_updates = count_skip(state.skips, is_good, value), state.num_updates + is_update
        return new_updates, AccumulateState(skips, mini_step, num_updates, total, value_sum, grads, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _wide_zeros(params):
    return jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), jnp.promote_types(leaf.dtype, jnp.float32)), params)
