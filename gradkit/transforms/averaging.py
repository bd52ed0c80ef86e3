"""Averages of the parameters along a descent: an optimizer flows in, one that keeps an average beside it flows out.

The parameters that are trained stay as they are; :func:`evaluation_params` gives those to evaluate, save and use. ``gk.descent``
asks it by itself, so validation, ``evaluate`` and ``fit.params`` see the average. Batch statistics belong to the parameters
they were taken with: after averaging weights take them anew.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from gradkit.checks import nonnegative, require, whole_number
from gradkit.transforms.adam import bias_correction
from gradkit.transforms.entrances import check_gradients, widen
from gradkit.transforms.foreign import AVERAGING, foreign_evaluation
from gradkit.transforms.guarding import Kept
from gradkit.transforms.scheduling import values_at
from gradkit.transforms.wrapping import copied, require_params, wrapped


class AverageState(NamedTuple):
    """State of an optimizer with an average.

    Attributes:
        count: Updates made, an int32 scalar.
        average: The average of the parameters after each update, float32 at least; the parameters themselves at first.
        inner: State of the optimizer.
    """

    count: jax.Array
    average: Any
    inner: Any

    def evaluation(self, params: Any) -> Any:
        """The average."""
        del params
        return self.average


class LookaheadState(NamedTuple):
    """State of :func:`lookahead`: updates made, the slow weights, the state of the optimizer of the fast ones."""

    count: jax.Array
    slow: Any
    inner: Any

    def evaluation(self, params: Any) -> Any:
        """The slow weights."""
        del params
        return self.slow


def average(optimizer: Any, weight: Any) -> optax.GradientTransformationExtraArgs:
    """Keep an average of the parameters beside an optimizer, whose updates pass unchanged::

        average += weight(count) * (params after the update - average)

    Args:
        optimizer: Any optax transformation, a whole chain: what it gives is added to the parameters.
        weight: ``count -> weight`` of the parameters after ``count + 1`` updates, from :func:`fading` or :func:`equal`.

    Raises:
        TypeError: ``optimizer`` or ``weight`` is none; or while tracing, if ``update`` is not told the parameters.
        ValueError: While tracing, if structure or shapes of gradients and parameters differ.

    >>> sgd = average(optax.sgd(0.5), fading(0.9))
    >>> theta = jnp.array([4.0, -1.0])
    >>> updates, state = sgd.update(theta, sgd.init(theta), theta)
    >>> print(evaluation_params(state, theta + updates))
    [ 2.  -0.5]

    References:
        Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992: https://doi.org/10.1137/0330046
    """
    optimizer = wrapped(optimizer)
    require(callable(weight), "weight", "be a function of the count of updates", weight,
            "Call average(optimizer, fading(0.9)), or equal() for a plain mean.", error=TypeError)  # fmt: skip

    def init(params):
        return AverageState(jnp.zeros((), jnp.int32), copied(widen(params)), optimizer.init(params))

    def update(updates, state, params=None, **extra_args):
        require_params(params)
        check_gradients(updates, params)
        updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
        now = widen(optax.apply_updates(params, updates))
        portion = weight(state.count)
        moved = jax.tree.map(lambda mean, theta: _toward(mean, theta, portion), state.average, now)
        return updates, AverageState(optax.safe_increment(state.count), moved, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def fading(decay: Any, *, warmup: bool = False) -> Callable[[jax.Array], Any]:
    """Weights of an exponential moving average without bias, ``(1 - decay) / (1 - decay**t)`` at update ``t`` = 1, 2, ...

    The first parameters after an update get weight 1, so that those from before it are forgotten.

    Args:
        decay: Below 1; a number or a traced value.
        warmup: Let the decay grow as ``min(decay, t / (t + 9))``: an average over about the last tenth, at first. Static.

    Raises:
        ValueError: The decay is negative or not below 1.

    >>> weight = fading(0.5)
    >>> [round(float(weight(jnp.int32(count))), 3) for count in range(3)]
    [1.0, 0.667, 0.571]

    References:
        https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage, num_updates
    """
    nonnegative("decay", decay, below=1.0)
    at = values_at({"decay": decay})

    def weight(count):
        decay, t = at(count)["decay"], count + 1
        later = 1 - jnp.minimum(decay, 1.0 * t / (t + 9)) if warmup else (1 - decay) / bias_correction(decay, t)
        return jnp.where(count == 0, 1.0, later)

    return weight


def equal(*, start: Any = 0, every: Any = 1) -> Callable[[jax.Array], jax.Array]:
    """Weights of a plain mean: of the parameters after update ``start + 1`` and every ``every`` updates from there on.

    Up to there the average is where the parameters are. With a constant or cyclical rate this is stochastic weight averaging.

    Args:
        start, every: Whole numbers of updates, or traced values.

    Raises:
        ValueError: ``start`` is negative or ``every`` below 1.
        TypeError: One of them is not whole.

    >>> weight = equal(start=1, every=2)
    >>> [round(float(weight(jnp.int32(count))), 2) for count in range(6)]
    [1.0, 1.0, 0.0, 0.5, 0.0, 0.33]

    References:
        Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018: https://arxiv.org/abs/1803.05407
    """
    _require_whole("start", start, at_least=0)
    _require_whole("every", every, at_least=1)

    def weight(count):
        since = count - start
        return jnp.where(since < 0, 1.0, jnp.where(since % every == 0, 1.0 / (1 + jnp.maximum(since, 0) // every), 0.0))

    return weight


def lookahead(optimizer: Any, *, sync_steps: Any = 6, slow_step: Any = 0.5) -> optax.GradientTransformationExtraArgs:
    """Slow weights that go part of the way the fast ones went, every few updates; the fast ones start again from there::

        slow += slow_step * (fast - slow),    fast = slow        every sync_steps updates

    Unlike ``optax.lookahead`` the parameters are a plain pytree, the fast weights, and extra arguments pass.

    Args:
        optimizer: Of the fast weights, a whole chain.
        sync_steps: Updates between two; a whole number or a traced value.
        slow_step: Part of the way, a number, a traced value or a schedule.

    Raises:
        ValueError: A number is negative or not finite, ``sync_steps`` below 1; or while tracing, if structure or shapes of
            gradients and parameters differ.
        TypeError: ``optimizer`` is none, ``sync_steps`` not whole; or while tracing, if ``update`` is not told the parameters.

    >>> sgd = lookahead(optax.sgd(0.5), sync_steps=1)
    >>> theta = jnp.array([4.0, -1.0])
    >>> print(sgd.update(theta, sgd.init(theta), theta)[0])
    [-1.    0.25]

    References:
        Zhang et al., Lookahead optimizer: k steps forward, 1 step back, 2019: https://arxiv.org/abs/1907.08610
    """
    _require_whole("sync_steps", sync_steps, at_least=1)
    nonnegative("slow_step", slow_step)
    optimizer, at = wrapped(optimizer), values_at({"slow_step": slow_step})

    def init(params):
        return LookaheadState(jnp.zeros((), jnp.int32), copied(widen(params)), optimizer.init(params))

    def update(updates, state, params=None, **extra_args):
        require_params(params)
        check_gradients(updates, params)
        updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
        fast, count = widen(optax.apply_updates(params, updates)), optax.safe_increment(state.count)
        is_due = count % sync_steps == 0
        part = jnp.where(is_due, at(state.count)["slow_step"], 0.0)
        slow = jax.tree.map(lambda old, new: _toward(old, new, part), state.slow, fast)
        updates = jax.tree.map(
            lambda u, new, theta: jnp.where(is_due, (new - theta).astype(jnp.result_type(u)), u), updates, slow, widen(params)
        )
        return updates, LookaheadState(count, slow, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def evaluation_params(state: Any, params: Any) -> Any:
    """The parameters to evaluate, save and use: the average that an optimizer keeps, else ``params``.

    Args:
        state: Of any optimizer; the average may be anywhere in it but where a guard keeps a point to go back to. It holds for
            the leaves of its group in ``optax.partition``; of two for the same leaves the later one counts. Those of
            ``optax.contrib.schedule_free`` are found as well, and where ``optax.contrib.sam`` started from.
        params: The parameters that are trained.

    Returns:
        A pytree like ``params``, in its dtypes.

    >>> evaluation_params(optax.adam(0.1).init(jnp.ones(2)), jnp.ones(2))
    Array([1., 1.], dtype=float32)
    """
    keeps_average = lambda node: hasattr(node, "evaluation") or isinstance(node, AVERAGING)  # noqa: E731
    for node in jax.tree.leaves(state, is_leaf=lambda node: keeps_average(node) or isinstance(node, Kept)):
        if keeps_average(node):
            params = _evaluated(node, params)
    return params


def _evaluated(node: Any, params: Any) -> Any:
    """The parameters to evaluate as the state of one optimizer with an average has them."""
    if isinstance(node, optax.contrib.SAMState):
        outer = params if node.cache is None else _as_kept(node.cache, functools.partial(foreign_evaluation, node), params)
        return evaluation_params(node.opt_state, outer)
    if isinstance(node, AVERAGING):
        return _as_kept(node.z, functools.partial(foreign_evaluation, node), params)
    kept = next(getattr(node, name) for name in ("average", "slow", "z") if hasattr(node, name))
    return _as_kept(kept, node.evaluation, params)


def _as_kept(kept: Any, evaluation: Callable, params: Any) -> Any:
    """The evaluation of parameters that are shaped as what is kept of them, in their own shapes and dtypes."""
    if jax.tree.structure(kept) == jax.tree.structure(0) != jax.tree.structure(params):
        flat, unravel = ravel_pytree(params)  # optax.flatten had made one vector of them
        return unravel(evaluation(flat))
    return in_group(lambda new, old: new.astype(jnp.result_type(old)), evaluation(params), params)


def in_group(change: Callable, found: Any, params: Any) -> Any:
    """``change(found, params)`` leaf by leaf, where ``optax.masked`` lets see; what it hides stays as in ``params``."""
    is_masked = lambda leaf: isinstance(leaf, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(lambda new, old: old if is_masked(new) else change(new, old), found, params, is_leaf=is_masked)


def _require_whole(argument: str, value: Any, *, at_least: int):
    """Refuse a number of updates that is not whole; traced ones pass."""
    if not isinstance(value, jax.core.Tracer):
        whole_number(argument, value, at_least=at_least, remedy="Count updates.")


def _toward(start: jax.Array, end: jax.Array, part: Any) -> jax.Array:
    """``start + part * (end - start)``, and ``end`` where the part is 1, from where a change of the part leads as well."""
    gap, portion = end - start, jnp.asarray(part, start.dtype)
    return jnp.where(part == 1, end + (portion - 1) * gap, start + portion * gap)
