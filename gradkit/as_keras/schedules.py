"""Keras's schedules of the learning rate: ``schedule(step) -> rate``, with ``step = 0`` at the first update.

Every number may be traced, so that a sweep over it never recompiles; booleans are static.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from gradkit import schedules
from gradkit.checks import nonnegative

Schedule = Callable[[Any], Any]


def exponential_decay(initial_learning_rate: Any, decay_steps: Any, decay_rate: Any, staircase: bool = False) -> Schedule:
    """``ExponentialDecay``: ``initial_learning_rate * decay_rate**(step / decay_steps)``.

    >>> schedule = exponential_decay(1.0, 10, 0.5)
    >>> [float(schedule(step)) for step in (0, 10, 20)]
    [1.0, 0.5, 0.25]
    """
    _check(initial_learning_rate=initial_learning_rate, decay_rate=decay_rate)
    nonnegative("decay_steps", decay_steps, positive=True)
    return schedules.exponential(initial_learning_rate, decay_steps, decay_rate, staircase=staircase)


def piecewise_constant_decay(boundaries: Sequence[Any], values: Sequence[Any]) -> Schedule:
    """``PiecewiseConstantDecay``: ``values[i + 1]`` from the step *after* ``boundaries[i]`` on.

    ``gradkit.schedules.piecewise``, optax and torch switch at the boundary. One that is not whole is passed at the next step.

    >>> schedule = piecewise_constant_decay([10, 20], [1.0, 0.5, 0.25])
    >>> [float(schedule(step)) for step in (10, 11, 20, 21)]
    [1.0, 0.5, 0.5, 0.25]
    """
    _check(**{f"values[{index}]": value for index, value in enumerate(values)})
    return schedules.piecewise(values, [boundary // 1 + 1 for boundary in boundaries])


def polynomial_decay(
    initial_learning_rate: Any, decay_steps: Any, end_learning_rate: Any = 0.0001, power: Any = 1.0, cycle: bool = False
) -> Schedule:
    """``PolynomialDecay``: ``end + (initial - end) * (1 - step / decay_steps)**power``; with ``cycle`` ever longer ones.

    A cycle begins from half way, a third, ... of the first one's: the length is the next multiple of ``decay_steps``.

    >>> schedule = polynomial_decay(1.0, 4, 0.0, cycle=True)
    >>> [float(schedule(step)) for step in (0, 2, 4, 5, 6, 8)]
    [1.0, 0.5, 0.0, 0.375, 0.25, 0.0]
    """
    _check(initial_learning_rate=initial_learning_rate, end_learning_rate=end_learning_rate, power=power)
    nonnegative("decay_steps", decay_steps, positive=True)

    def schedule(step):
        length = decay_steps * (jnp.maximum(1.0, jnp.ceil(1.0 * step / decay_steps)) if cycle else 1.0)
        left = jnp.maximum(0.0, length - step) / length
        return end_learning_rate + (initial_learning_rate - end_learning_rate) * jnp.power(left, power)

    return schedule


def inverse_time_decay(initial_learning_rate: Any, decay_steps: Any, decay_rate: Any, staircase: bool = False) -> Schedule:
    """``InverseTimeDecay``: ``initial_learning_rate / (1 + decay_rate * step / decay_steps)``.

    >>> schedule = inverse_time_decay(1.0, 10, 0.5)
    >>> [float(schedule(step)) for step in (0, 20, 60)]
    [1.0, 0.5, 0.25]
    """
    _check(initial_learning_rate=initial_learning_rate, decay_rate=decay_rate)
    nonnegative("decay_steps", decay_steps, positive=True)

    def schedule(step):
        passed = step - jnp.mod(step, decay_steps) if staircase else step
        return initial_learning_rate / (1 + decay_rate * (1.0 * passed / decay_steps))

    return schedule


def cosine_decay(
    initial_learning_rate: Any, decay_steps: Any, alpha: Any = 0.0, *, warmup_target: Any = None, warmup_steps: Any = 0
) -> Schedule:
    """``CosineDecay``: half a cosine to ``alpha`` times the rate in ``decay_steps``, which do not count a warm-up before it.

    Args:
        initial_learning_rate: The first rate, before a warm-up if there is one.
        decay_steps: Of the cosine.
        alpha: Last rate as a share of the highest.
        warmup_target: Rise to this in a straight line first.
        warmup_steps: For so many steps.

    >>> schedule = cosine_decay(0.0, 4, warmup_target=1.0, warmup_steps=2)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    _check(initial_learning_rate=initial_learning_rate, alpha=alpha, warmup_steps=warmup_steps)
    nonnegative("decay_steps", decay_steps, positive=True)
    if warmup_target is None:
        return schedules.cosine(initial_learning_rate, decay_steps, end=alpha * initial_learning_rate)
    nonnegative("warmup_target", warmup_target)
    down = schedules.cosine(warmup_target, decay_steps, end=alpha * warmup_target)
    return schedules.warmup(down, warmup_steps, initial_learning_rate)


def cosine_decay_restarts(
    initial_learning_rate: Any, first_decay_steps: Any, t_mul: Any = 2.0, m_mul: Any = 1.0, alpha: Any = 0.0
) -> Schedule:
    """``CosineDecayRestarts``: half a cosine again and again, each ``t_mul >= 1`` times as long and ``m_mul`` times as high.

    ``alpha``, the least as a share of the first rate, is not multiplied by ``m_mul``.

    >>> schedule = cosine_decay_restarts(1.0, 2, m_mul=0.5)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [1.0, 0.5, 0.5, 0.427, 0.25, 0.073, 0.25]
    """
    _check(initial_learning_rate=initial_learning_rate, m_mul=m_mul, alpha=alpha)
    nonnegative("t_mul", t_mul, at_least=1.0)
    nonnegative("first_decay_steps", first_decay_steps, positive=True)

    def schedule(step):
        cycle, share = schedules.restarts(step, first_decay_steps, t_mul)
        height = (1 - alpha) * schedules.power(m_mul, cycle) * jnp.sin(jnp.pi / 2 * share) ** 2
        return initial_learning_rate * (height + alpha)

    return schedule


def _check(**numbers: Any):
    """Refuse numbers that are negative or not finite."""
    for name, value in numbers.items():
        nonnegative(name, value)
