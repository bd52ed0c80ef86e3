"""What all of Keras's optimizers have in common: clipping, decoupled weight decay, accumulation, a moving average."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import Described, nonnegative, require, whole_number
from gradkit.roots import sqrt
from gradkit.transforms import AverageState, by_rule, rounded, scheduled, values_at, widen
from gradkit.transforms import optimizer as with_door

BELOW_ONE, AT_MOST_ONE = ("beta_1", "beta_2"), ("rho", "momentum")


class Common(NamedTuple):
    """Arguments that every optimizer of Keras takes. Numbers may be Python numbers, traced values or schedules.

    Attributes:
        weight_decay: Decoupled: ``theta -= theta * weight_decay * learning_rate``, after clipping and before the update.
        clipnorm: Each leaf to at most this norm.
        clipvalue: Each entry into ``[-clipvalue, clipvalue]``.
        global_clipnorm: All gradients together to at most this norm. At most one of the three; zero does not clip.
        use_ema: Whether to average the parameters; ``gk.transforms.evaluation_params(state, params)`` gives the average.
        ema_momentum: Decay of the average, which starts at the parameters after the first update: no bias to correct.
        ema_overwrite_frequency: Updates after which the parameters are set to their average, a whole number; ``None``: never.
        gradient_accumulation_steps: Micro-steps whose mean gradient makes an update, a whole number of at least 2. A schedule of
            the learning rate counts micro-steps, all else updates; the average moves at every micro-step.
    """

    weight_decay: Any = None
    clipnorm: Any = None
    clipvalue: Any = None
    global_clipnorm: Any = None
    use_ema: bool = False
    ema_momentum: Any = 0.99
    ema_overwrite_frequency: int | None = None
    gradient_accumulation_steps: int | None = None


class AccumulationState(NamedTuple):
    """State of an optimizer that accumulates: micro-steps made, the sum of gradients since the last update, the inner state."""

    count: jax.Array
    total: Any
    inner: Any


def recipe(
    rule: Callable[..., tuple], start: Callable[..., tuple], common: dict[str, Any], **numbers: Any
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a rule for one leaf, ``(h, t, theta, g, *memory) -> (new theta, *memory)``.

    Args:
        rule: Sees gradients that are clipped, and parameters that have decayed.
        start: What a leaf begins with.
        common: The arguments of :class:`Common`, as far as given.
        **numbers: What ``h`` holds.

    Raises:
        TypeError: An argument that no optimizer of Keras has.
        ValueError: A number is out of its range, there is more than one kind of clipping, or gradients do not fit the parameters.
    """
    unknown = sorted(set(common) - set(Common._fields))
    require(not unknown, "arguments", f"be among {', '.join(Common._fields)}", Described(", ".join(unknown)),
            "These are what all of Keras's optimizers share.", error=TypeError)  # fmt: skip
    common = Common(**common)
    _check(common, numbers)
    num_micro_steps = common.gradient_accumulation_steps or 1
    if num_micro_steps > 1:
        numbers["learning_rate"] = _at_last_micro_step(numbers["learning_rate"], num_micro_steps)
    if common.weight_decay is not None:
        numbers["weight_decay"] = common.weight_decay

    def whole_rule(h, t, theta, g, *memory):
        decayed = theta
        if common.weight_decay is not None:
            decayed = theta - rounded(h, theta * h.weight_decay * h.learning_rate)
        new, *memory = rule(h, t, decayed, g, *memory)
        return new - theta, *memory

    optimizer = optax.chain(*_clips(common), by_rule(whole_rule, start, numbers))
    if num_micro_steps > 1:
        optimizer = _accumulated(optimizer, num_micro_steps)
    optimizer = with_door(optimizer)
    return _averaged(optimizer, common, num_micro_steps) if common.use_ema else optimizer


def _check(common: Common, numbers: dict[str, Any]):
    """Refuse what Keras refuses, and what is negative or not finite."""
    for name, value in numbers.items():
        below, at_most = 1.0 if name in BELOW_ONE else math.inf, 1.0 if name in AT_MOST_ONE else math.inf
        nonnegative(name, value, below=below, at_most=at_most)
    clips = {name: getattr(common, name) for name in ("clipnorm", "clipvalue", "global_clipnorm")}
    given = {name: value for name, value in clips.items() if value is not None}
    require(len(given) <= 1, "clipnorm", "be the only kind of clipping", Described(", ".join(given)), "Keep one of them.")
    for name, value in given.items():
        nonnegative(name, value)
    if common.weight_decay is not None:
        nonnegative("weight_decay", common.weight_decay)
    nonnegative("ema_momentum", common.ema_momentum, at_most=1.0)
    if common.ema_overwrite_frequency is not None:
        remedy = "It counts the updates between two."
        whole_number("ema_overwrite_frequency", common.ema_overwrite_frequency, at_least=1, remedy=remedy)
    if common.gradient_accumulation_steps is not None:
        remedy = "Leave it out for an update at every step."
        whole_number("gradient_accumulation_steps", common.gradient_accumulation_steps, at_least=2, remedy=remedy)


def _clips(common: Common) -> list[optax.GradientTransformation]:
    """The clipping asked for, by Keras's formulas: a norm that is not finite makes all NaN, a bound of zero is none."""

    def by_norm(clipnorm):
        def clip(g):
            return jnp.where(clipnorm > 0, g * clipnorm / jnp.maximum(sqrt(jnp.sum(g * g)), _bound(clipnorm)), g)

        return optax.stateless_with_tree_map(lambda g, theta: clip(g))

    def by_global_norm(global_clipnorm):
        def clip(grads):
            norm = sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
            inverse = jnp.where(norm == 0, jnp.inf, 1 / jnp.where(norm == 0, 1, norm))
            scale = global_clipnorm * jnp.minimum(inverse, 1 / _bound(global_clipnorm)) + (norm - norm)
            return jax.tree.map(lambda g: g * jnp.where(global_clipnorm > 0, scale, 1.0).astype(g.dtype), grads)

        return optax.stateless(lambda grads, params: clip(grads))

    def by_value(clipvalue):
        return optax.clip(jnp.where(clipvalue > 0, clipvalue, jnp.inf))

    factories = {"clipnorm": by_norm, "global_clipnorm": by_global_norm, "clipvalue": by_value}
    given = {name: getattr(common, name) for name in factories}
    return [scheduled(factories[name])(**{name: value}) for name, value in given.items() if value is not None]


def _bound(number: Any) -> Any:
    """A bound to divide by, where zero means that there is none."""
    return jnp.where(number > 0, number, 1.0)


def _at_last_micro_step(learning_rate: Any, num_micro_steps: int) -> Any:
    """The rate by the number of updates, of a schedule by the number of micro-steps."""
    if not callable(learning_rate):
        return learning_rate
    return lambda count: learning_rate(count * num_micro_steps + num_micro_steps - 1)


def _accumulated(optimizer: optax.GradientTransformationExtraArgs, num_micro_steps: int) -> optax.GradientTransformationExtraArgs:
    """An update from the mean gradient of every ``num_micro_steps`` micro-steps, and zeros in between."""

    def init(params):
        return AccumulationState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), optimizer.init(params))

    def update(grads, state, params=None, **extra_args):
        total = jax.tree.map(lambda g, total: (g + total).astype(total.dtype), grads, state.total)

        def step():
            mean = jax.tree.map(lambda g: g / num_micro_steps, total)
            updates, inner = optimizer.update(mean, state.inner, params, **extra_args)
            return optax.tree.cast_like(updates, grads), jax.tree.map(jnp.zeros_like, total), inner

        def wait():
            return jax.tree.map(jnp.zeros_like, grads), total, state.inner

        count = optax.safe_increment(state.count)
        updates, total, inner = jax.lax.cond(count % num_micro_steps == 0, step, wait)
        return updates, AccumulationState(count, total, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _averaged(
    optimizer: optax.GradientTransformationExtraArgs, common: Common, num_micro_steps: int
) -> optax.GradientTransformationExtraArgs:
    """The optimizer with a moving average of the parameters, which takes their place from time to time if asked."""
    at, frequency = values_at({"ema_momentum": common.ema_momentum}), common.ema_overwrite_frequency

    def init(params):
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, widen(params)), optimizer.init(params))

    def update(grads, state, params=None, **extra_args):
        updates, inner = optimizer.update(grads, state.inner, params, **extra_args)
        num_updates = state.count // num_micro_steps
        momentum = jnp.where(num_updates == 0, 0.0, at(num_updates)["ema_momentum"])
        now = widen(optax.apply_updates(params, updates))
        h = SimpleNamespace(zero=jnp.minimum(state.count, 0))

        def blend(mean, theta):
            kept = momentum.astype(theta.dtype)
            return rounded(h, kept * mean) + rounded(h, (1 - kept) * theta)

        means = jax.tree.map(blend, state.average, now)
        if frequency is not None:
            is_due = (num_updates + 1) % frequency == 0
            overwrite = lambda mean, theta, u: jnp.where(is_due, (mean - theta).astype(u.dtype), u)  # noqa: E731
            updates = jax.tree.map(overwrite, means, widen(params), updates)
        return updates, AverageState(optax.safe_increment(state.count), means, inner)

    return optax.GradientTransformationExtraArgs(init, update)
