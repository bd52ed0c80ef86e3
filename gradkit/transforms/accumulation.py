"""One update from several micro-batches, inside the chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import whole_number
from gradkit.transforms.entrances import check_gradients
from gradkit.transforms.skips import Skips, all_finite, count_skip, no_skips, select
from gradkit.transforms.wrapping import wrapped


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
    The optimizer is told the means as ``value`` and ``grad`` (that of the gradients which come in here, not of those told),
    the sum of the weights as ``weight``, and no ``value_fn``: that of the last micro-batch is not the loss whose gradient it
    gets, so a line search finds none. Its schedules count its own updates. A micro-batch whose gradient, weight or loss is
    not finite is left out and counted; if none is left, there is no update, nor where the sums overflow, which counts as one
    left out. What stands behind this in a chain acts at every micro-batch: put it into ``optimizer``.

    ``optax.MultiSteps`` runs the optimizer at every micro-batch, has no weights, and is NaN for ever after one NaN. Where
    the large batch comes as one array, :func:`gradkit.gradients.accumulate` is simpler.

    Args:
        optimizer: Any optax transformation.
        num_steps: Micro-batches to an update, those left out included; a number or a traced value. Under ``vmap`` the
            optimizer runs at each of them, and its result is selected.

    Raises:
        ValueError: ``num_steps`` is below 1; or while tracing, if structure or shapes of gradients and parameters differ.
        TypeError: It is not a whole number, or ``optimizer`` is none.

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
    optimizer = wrapped(optimizer)

    def init(params):
        counts, sums = jnp.zeros((2,), jnp.int32), jnp.zeros((2,), jnp.result_type(float))
        return AccumulateState(no_skips(), *counts, *sums, _wide_zeros(params), optimizer.init(params))

    def update(updates, state, params=None, *, weight=1.0, **extra_args):
        check_gradients(updates, state.grads)
        value = extra_args.get("value")
        is_good = all_finite(updates, weight, value)

        def add(total, term):
            return total + jnp.where(is_good, weight * term, 0).astype(total.dtype)

        total, value_sum = add(state.weight, 1.0), add(state.value, 0.0 if value is None else value)
        grads = jax.tree.map(lambda total, g: add(total, jnp.asarray(g, total.dtype)), state.grads, updates)
        is_due = state.mini_step + 1 >= num_steps
        has_any, divisor = is_due & (total > 0), jnp.where(total > 0, total, 1)
        mean = jax.tree.map(lambda leaf, like: (leaf / divisor).astype(jnp.result_type(like)), grads, updates)
        means = {"value": value_sum / divisor, "grad": mean}
        is_update = has_any & all_finite(total, means)

        def step():
            told = {name: means.get(name, argument) for name, argument in extra_args.items() if name != "value_fn"}
            return optimizer.update(mean, state.inner, params, **told, weight=total)

        def rest():
            return optax.tree.zeros_like(jax.eval_shape(step)[0]), state.inner

        new_updates, inner = jax.lax.cond(is_update, step, rest)
        sums = (jnp.where(is_due, 0, state.mini_step + 1), total, value_sum, grads)
        mini_step, total, value_sum, grads = select(is_due, optax.tree.zeros_like(sums), sums)
        skips = count_skip(state.skips, is_good & (is_update | ~has_any), value)
        num_updates = state.num_updates + is_update
        return new_updates, AccumulateState(skips, mini_step, num_updates, total, value_sum, grads, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _wide_zeros(params):
    wide = lambda leaf: jnp.promote_types(jnp.result_type(leaf), jnp.float32)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), wide(leaf)), params)
