"""Schedules: numbers in, ``schedule(step) -> value`` out, with ``step = 0`` at the first update.

Every argument may be a Python number or a traced value, so that peaks, ends and horizons can be swept in one compiled program.
``start``, ``peak`` and ``end`` are values of the schedule (optax's ``init_value``...), ``steps`` are lengths. After its last step
a schedule rests at its end; a phase of zero steps is over at once. Optimizers bring the value to the dtype of the updates.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradkit.checks import Described, is_known, nonnegative, require

Number = ArrayLike
Schedule = Callable[[Number], Number]


def constant(value: Number) -> Schedule:
    """The same value at every step.

    >>> constant(0.1)(7)
    0.1
    """
    return lambda step: value


def linear(start: Number, end: Number, steps: Number, *, begin: Number = 0) -> Schedule:
    """A straight line from ``start`` at step ``begin`` to ``end`` at step ``begin + steps``.

    >>> schedule = linear(1.0, 0.0, 4)
    >>> [float(schedule(step)) for step in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    return polynomial(start, end, steps, power=1, begin=begin)


def polynomial(start: Number, end: Number, steps: Number, *, power: Number, begin: Number = 0) -> Schedule:
    """From ``start`` to ``end`` along ``end + (start - end) * left**power``; ``left`` is the share of ``steps`` to go.

    Equal to ``optax.polynomial_schedule``, save that zero steps give ``end``, where optax stays at ``start`` for ever.

    Args:
        start, end: Values up to step ``begin`` and from step ``begin + steps`` on.
        steps: Length of the transition.
        power: 1 is a straight line, 2 slows down towards the end.
        begin: Steps at ``start`` beforehand.

    >>> schedule = polynomial(1.0, 0.0, 4, power=2)
    >>> [float(schedule(step)) for step in (0, 2, 4)]
    [1.0, 0.25, 0.0]
    """
    return lambda step: end + (start - end) * _left(step - begin, steps) ** power


def cosine(start: Number, steps: Number, *, end: Number = 0.0) -> Schedule:
    """Half a cosine from ``start`` down to ``end``, where it stays.

    ``sin(pi/2 * (1 - step / steps))**2`` keeps the digits that ``(1 + cos(pi * step / steps)) / 2`` cancels near the
    end: in float32, ten steps before the end of 1e5, 21 % of the value. Equal to ``optax.cosine_decay_schedule``,
    ``end`` being absolute; torch's climbs again after ``steps``.

    >>> schedule = cosine(1.0, 4)
    >>> [round(float(schedule(step)), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    return lambda step: _ease(start, end, _left(step, steps))


def exponential(
    start: Number, steps: Number, decay_rate: Number, *, begin: Number = 0, staircase: bool = False, end: Number | None = None
) -> Schedule:
    """``start * decay_rate**((step - begin) / steps)``, equal to ``optax.exponential_decay``.

    Args:
        start: Value up to step ``begin``, where the decay begins.
        steps, decay_rate: Steps for one factor, and the factor, positive.
        staircase: Whether to multiply once every ``steps`` steps instead of a little at each. Static.
        end: Where the decay stops, if it does.

    >>> schedule = exponential(1.0, 10, 0.5)
    >>> [float(schedule(step)) for step in (0, 10, 20)]
    [1.0, 0.5, 0.25]
    """

    def schedule(step):
        passed = jnp.maximum(step - begin, 0)
        # No floor of the quotient: XLA may multiply by the rounded inverse of `steps` and come out a step late.
        passed -= jnp.mod(passed, _positive(steps)) if staircase else 0
        value = start * power(decay_rate, _divide(passed, steps))
        return value if end is None else jnp.where(decay_rate < 1, jnp.maximum(value, end), jnp.minimum(value, end))

    return schedule


def inverse_time(start: Number, decay_rate: Number) -> Schedule:
    """``start / (1 + decay_rate * step)``: the decay under which stochastic descent converges, if slowly.

    >>> schedule = inverse_time(1.0, 0.5)
    >>> [float(schedule(step)) for step in (0, 2, 6)]
    [1.0, 0.5, 0.25]

    References:
        Robbins and Monro, A stochastic approximation method, 1951: https://doi.org/10.1214/aoms/1177729586
    """
    return lambda step: start / (1 + decay_rate * step)


def inverse_sqrt(start: Number, steps: Number) -> Schedule:
    """``start / sqrt(1 + step / steps)``, which falls to half after three times ``steps``.

    ``warmup(inverse_sqrt(peak, steps), steps)`` is the Transformer's.

    >>> schedule = inverse_sqrt(1.0, 10)
    >>> [float(schedule(step)) for step in (0, 30, 150)]
    [1.0, 0.5, 0.25]

    References:
        Vaswani et al., Attention is all you need, 2017: https://arxiv.org/abs/1706.03762
    """
    return lambda step: start / jnp.sqrt(1 + _divide(step, steps))


def piecewise(values: Sequence[Number], boundaries: Sequence[Number]) -> Schedule:
    """``values[i + 1]`` from step ``boundaries[i]`` on.

    Values are absolute, where ``optax.piecewise_constant_schedule`` takes factors; boundaries rise. Keras switches a step later.

    Raises:
        ValueError: The lengths do not fit.

    >>> schedule = piecewise([1.0, 0.5, 0.25], boundaries=[10, 20])
    >>> [float(schedule(step)) for step in (9, 10, 20)]
    [1.0, 0.5, 0.25]
    """
    rule, given = "be one more than the boundaries", Described(f"{len(values)} values and {len(boundaries)} boundaries")
    require(len(values) == len(boundaries) + 1, "values", rule, given, "The first value holds before the first boundary.")

    def schedule(step):
        value = values[0]
        for boundary, later in zip(boundaries, values[1:]):
            value = jnp.where(step >= boundary, later, value)
        return value

    return schedule


def warmup(schedule: Schedule, steps: Number, start: Number = 0.0) -> Schedule:
    """Rise in a straight line from ``start`` to the first value of ``schedule``, then follow it from its step 0.

    >>> schedule = warmup(cosine(1.0, 4), steps=2)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    def warmed(step):
        rise = linear(start, schedule(0), steps)(step)
        return jnp.where(step < steps, rise, schedule(jnp.maximum(step - steps, 0)))

    return warmed


def warmup_cosine(peak: Number, warmup_steps: Number, decay_steps: Number, *, start: Number = 0.0, end: Number = 0.0) -> Schedule:
    """Rise from ``start`` to ``peak``, then half a cosine down to ``end``.

    Equal to ``optax.warmup_cosine_decay_schedule``: ``decay_steps`` counts the warm-up, which it does not in Keras; it is larger.

    >>> schedule = warmup_cosine(1.0, 2, 6)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if isinstance(warmup_steps, (int, float)) and isinstance(decay_steps, (int, float)):
        rule = f"be above the {warmup_steps} of the warm-up"
        require(decay_steps > warmup_steps, "decay_steps", rule, decay_steps, "It counts the warm-up as well.")
    return warmup(cosine(peak, decay_steps - warmup_steps, end=end), warmup_steps, start)


def warmup_stable_decay(
    peak: Number, *, warmup_steps: Number, stable_steps: Number, decay_steps: Number, start: Number = 0.0, end: Number = 0.0
) -> Schedule:
    """Rise to ``peak``, stay there for ``stable_steps``, fall to ``end``: straight lines.

    >>> schedule = warmup_stable_decay(1.0, warmup_steps=2, stable_steps=3, decay_steps=2)
    >>> [float(schedule(step)) for step in range(8)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]

    References:
        Hägele et al., Scaling laws beyond fixed training durations, 2024: https://arxiv.org/abs/2405.18392
    """
    return warmup(linear(peak, end, decay_steps, begin=stable_steps), warmup_steps, start)


def cyclic(start: Number, peak: Number, steps: Number) -> Schedule:
    """Up from ``start`` to ``peak`` and down again in straight lines, ``steps`` for both together, for ever.

    >>> schedule = cyclic(0.0, 1.0, 4)
    >>> [float(schedule(step)) for step in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]

    References:
        Smith, Cyclical learning rates for training neural networks, 2017: https://arxiv.org/abs/1506.01186
    """

    def schedule(step):
        progress = _divide(jnp.mod(step, _positive(steps)), steps)
        return start + (peak - start) * (1 - jnp.abs(1 - 2 * progress))

    return schedule


def one_cycle(
    peak: Number, steps: Number, *, pct_start: Number = 0.3, div_factor: Number = 25.0, final_div_factor: Number = 1e4
) -> Schedule:
    """Half a cosine up from ``peak / div_factor``, half a cosine down to ``peak / div_factor / final_div_factor``.

    Equal to ``optax.cosine_onecycle_schedule``; torch's has peak and end a step earlier, ``as_torch.one_cycle_lr``.

    >>> schedule = one_cycle(1.0, 10)
    >>> [round(float(schedule(step)), 3) for step in (0, 3, 10)]
    [0.04, 1.0, 0.0]

    References:
        Smith and Topin, Super-convergence, 2018: https://arxiv.org/abs/1708.07120
    """
    start = peak / div_factor

    def schedule(step):
        turn = jnp.floor(pct_start * steps)
        rise = _ease(start, peak, _left(step, turn))
        fall = _ease(peak, start / final_div_factor, _left(step - turn, steps - turn))
        return jnp.where(step < turn, rise, fall)

    return schedule


def warm_restarts(start: Number, steps: Number, *, mult: Number = 1, end: Number = 0.0) -> Schedule:
    """Half a cosine from ``start`` to ``end`` again and again, each ``mult >= 1`` times as long as the one before.

    Cycle ``i`` has ``steps * mult**i`` steps, whole or not; less than 1 is refused. Equal to ``optax.sgdr_schedule``.

    >>> schedule = warm_restarts(1.0, 2, mult=2)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]

    References:
        Loshchilov and Hutter, SGDR, 2017: https://arxiv.org/abs/1608.03983
    """
    nonnegative("mult", mult, at_least=1.0)
    return lambda step: _ease(start, end, restarts(step, steps, mult)[1])


def restarts(step: Number, steps: Number, mult: Number) -> tuple[Number, Number]:
    """The cycle of :func:`warm_restarts` that a step is in, counted from 0, and the share of it that is still to go."""
    is_growing = mult > 1
    growth = jnp.where(is_growing, 1.0 * mult - 1, 1)

    def begin_of(cycle):
        near, far = jnp.expm1(jnp.minimum(cycle * jnp.log1p(growth), 1)), power(1.0 * mult, cycle) - 1
        begin = jnp.where(is_growing, jnp.where(far < 1, near, far) / growth, cycle) * steps
        off, rounding = jnp.round(begin) - begin, jnp.where(is_growing, 8, 2) * jnp.finfo(jnp.result_type(begin)).eps * begin
        return begin + jax.lax.stop_gradient(jnp.where(jnp.abs(off) <= rounding, off, 0))

    # The cycle of half a step later, or half a cycle, which rounding cannot make too early, and at most one too late.
    passed = _divide(step + 0.5 * jnp.minimum(steps, 1), steps)
    later = jnp.floor(jnp.where(is_growing, jnp.log1p(growth * passed) / jnp.log1p(growth), passed))
    cycle = jnp.where(begin_of(later) > step, later - 1, later)
    return cycle, _left(step - begin_of(cycle), steps * power(1.0 * mult, cycle))


def power(base: Number, exponent: Number) -> Number:
    """``base**exponent``, without the digits that a Python number loses in float32 and the exponent would multiply."""
    value = jnp.power(base, exponent)
    if not is_known(base) or float(base) <= 0:
        return value
    kept = float(np.asarray(base, jnp.result_type(float)))
    return value * jnp.exp(math.log1p((float(base) - kept) / kept) * exponent)


def _ease(start, end, left):
    """Half a cosine between two values, exact to rounding near ``end``."""
    return end + (start - end) * jnp.sin(jnp.pi / 2 * left) ** 2


def _left(step, steps):
    """The share of ``steps`` still to go after ``step``: 1 before the first, 0 from the last on."""
    return jnp.clip(_divide(steps - step, steps), 0, 1)


def _divide(count, steps):
    """``count / steps``, and 0 where there are no steps."""
    return jnp.where(steps > 0, 1.0 * count / _positive(steps), 0.0)


def _positive(steps):
    """``steps`` where there are any, else 1: under ``where``, the branch not taken must have a finite gradient too."""
    return jnp.where(steps > 0, steps, 1)
