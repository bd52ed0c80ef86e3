"""The tables over which the laws run, a row per schedule, a row per optimizer; truth is optax, or the formula itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from gradkit import optimizers, schedules


class Schedule(NamedTuple):
    """A schedule, arguments for it, and the same schedule from another hand, made from the same arguments."""

    name: str
    make: Callable[..., Callable]
    arguments: dict[str, Any]
    truth: Callable[..., Callable]


def _warm_restarts(start, steps, mult, end):
    cycles = [{"init_value": start, "peak_value": start, "warmup_steps": 0, "end_value": end}] * 6
    return optax.sgdr_schedule([{**cycle, "decay_steps": steps * mult**i} for i, cycle in enumerate(cycles)])


def _triangle(start, peak, steps):
    return lambda step: jnp.interp(step % steps, jnp.array([0, steps / 2, steps]), jnp.array([start, peak, start]))


def _trapezoid(peak, warmup_steps, stable_steps, decay_steps, start, end):
    corners = jnp.cumsum(jnp.array([0.0, warmup_steps, stable_steps, decay_steps]))
    return lambda step: jnp.interp(step, corners, jnp.array([start, peak, peak, end]))


def _piecewise(values, boundaries):
    factors = np.divide(values[1:], values[:-1])
    return optax.piecewise_constant_schedule(values[0], dict(zip(boundaries, factors)))


SCHEDULES = [
    Schedule("constant", schedules.constant, {"value": 0.3}, optax.constant_schedule),
    Schedule(
        "linear",
        schedules.linear,
        {"start": 0.3, "end": 0.02, "steps": 30, "begin": 7},
        lambda start, end, steps, begin: optax.linear_schedule(start, end, steps, begin),
    ),
    Schedule(
        "polynomial",
        schedules.polynomial,
        {"start": 0.3, "end": 0.02, "steps": 30, "power": 1.5, "begin": 7},
        lambda start, end, steps, power, begin: optax.polynomial_schedule(start, end, power, steps, begin),
    ),
    Schedule(
        "cosine",
        schedules.cosine,
        {"start": 0.3, "steps": 30, "end": 0.02},
        lambda start, steps, end: optax.cosine_decay_schedule(start, steps, alpha=end / start),
    ),
    Schedule(
        "exponential",
        schedules.exponential,
        {"start": 0.3, "steps": 8, "decay_rate": 0.6, "begin": 7},
        lambda start, steps, decay_rate, begin: optax.exponential_decay(start, steps, decay_rate, begin),
    ),
    Schedule(
        "exponential that stops",
        schedules.exponential,
        {"start": 0.3, "steps": 8, "decay_rate": 0.6, "end": 0.1},
        lambda start, steps, decay_rate, end: optax.exponential_decay(start, steps, decay_rate, end_value=end),
    ),
    Schedule(
        "exponential that grows",
        schedules.exponential,
        {"start": 0.3, "steps": 8, "decay_rate": 1.3, "end": 0.5},
        lambda start, steps, decay_rate, end: optax.exponential_decay(start, steps, decay_rate, end_value=end),
    ),
    Schedule(
        "exponential in stairs",
        lambda **arguments: schedules.exponential(**arguments, staircase=True),
        {"start": 0.3, "steps": 8, "decay_rate": 0.6},
        lambda start, steps, decay_rate: optax.exponential_decay(start, steps, decay_rate, staircase=True),
    ),
    Schedule(
        "inverse_time",
        schedules.inverse_time,
        {"start": 0.3, "decay_rate": 0.1},
        lambda start, decay_rate: lambda step: start / (1 + decay_rate * step),
    ),
    Schedule(
        "inverse_sqrt",
        schedules.inverse_sqrt,
        {"start": 0.3, "steps": 8},
        lambda start, steps: lambda step: start * (steps / (step + steps)) ** 0.5,
    ),
    Schedule("piecewise", schedules.piecewise, {"values": [0.3, 0.1, 0.2], "boundaries": [9, 31]}, _piecewise),
    Schedule(
        "warmup",
        lambda peak, steps, start: schedules.warmup(schedules.constant(peak), steps, start),
        {"peak": 0.3, "steps": 8, "start": 0.01},
        lambda peak, steps, start: optax.warmup_constant_schedule(start, peak, steps),
    ),
    Schedule(
        "warmup of an inverse_sqrt",
        lambda peak, steps: schedules.warmup(schedules.inverse_sqrt(peak, steps), steps),
        {"peak": 0.3, "steps": 8},
        lambda peak, steps: lambda step: peak * jnp.minimum(step / steps, (steps / jnp.maximum(step, 1)) ** 0.5),
    ),
    Schedule(
        "warmup_cosine",
        schedules.warmup_cosine,
        {"peak": 0.3, "warmup_steps": 8, "decay_steps": 40, "start": 0.01, "end": 0.02},
        lambda peak, warmup_steps, decay_steps, start, end: optax.warmup_cosine_decay_schedule(
            start, peak, warmup_steps, decay_steps, end
        ),
    ),
    Schedule(
        "warmup_stable_decay",
        schedules.warmup_stable_decay,
        {"peak": 0.3, "warmup_steps": 8, "stable_steps": 20, "decay_steps": 12, "start": 0.01, "end": 0.02},
        _trapezoid,
    ),
    Schedule("cyclic", schedules.cyclic, {"start": 0.02, "peak": 0.3, "steps": 14}, _triangle),
    Schedule(
        "one_cycle",
        schedules.one_cycle,
        {"peak": 0.3, "steps": 50, "pct_start": 0.35, "div_factor": 20.0, "final_div_factor": 50.0},
        lambda peak, steps, **arguments: optax.cosine_onecycle_schedule(steps, peak, **arguments),
    ),
    Schedule("warm_restarts", schedules.warm_restarts, {"start": 0.3, "steps": 5, "mult": 2.0, "end": 0.02}, _warm_restarts),
    Schedule(
        "warm_restarts that stay short",
        schedules.warm_restarts,
        {"start": 0.3, "steps": 12, "mult": 1.0, "end": 0.02},
        _warm_restarts,
    ),
]


class Optimizer(NamedTuple):
    """An optimizer, arguments for it, optax's of the same arguments, and its direction from the paper.

    ``direction(theta, g, t, slots, **arguments) -> (d, slots)`` with ``theta -= learning_rate * d``; slots start at zero.
    """

    name: str
    make: Callable[..., optax.GradientTransformation]
    arguments: dict[str, float]
    alias: Callable[..., optax.GradientTransformation]
    direction: Callable[..., tuple[np.ndarray, list[np.ndarray]]]


def _gradient_descent(theta, g, t, slots):
    return g, slots


def _momentum(theta, g, t, slots, *, momentum):
    v = momentum * slots[0] + g
    return v, [v]


def _nesterov(theta, g, t, slots, *, momentum):
    v = momentum * slots[0] + g
    return g + momentum * v, [v]


def _adagrad(theta, g, t, slots, *, initial_accumulator_value, eps):
    n = (slots[0] if t > 1 else initial_accumulator_value) + g**2
    return g / np.sqrt(n + eps), [n]


def _rmsprop(theta, g, t, slots, *, decay, eps):
    n = decay * slots[0] + (1 - decay) * g**2
    return g / np.sqrt(n + eps), [n]


def _adadelta(theta, g, t, slots, *, rho, eps):
    n = rho * slots[0] + (1 - rho) * g**2
    d = np.sqrt(slots[1] + eps) / np.sqrt(n + eps) * g
    return d, [n, rho * slots[1] + (1 - rho) * d**2]


def _moments(g, slots, b1, b2):
    return b1 * slots[0] + (1 - b1) * g, b2 * slots[1] + (1 - b2) * g**2


def _adam(theta, g, t, slots, *, b1, b2, eps):
    m, n = _moments(g, slots, b1, b2)
    return m / (1 - b1**t) / (np.sqrt(n / (1 - b2**t)) + eps), [m, n]


def _adamw(theta, g, t, slots, *, weight_decay, **arguments):
    d, slots = _adam(theta, g, t, slots, **arguments)
    return d + weight_decay * theta, slots


def _nadam(theta, g, t, slots, *, b1, b2, eps):
    m, n = _moments(g, slots, b1, b2)
    ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return ahead / (np.sqrt(n / (1 - b2**t)) + eps), [m, n]


def _adamax(theta, g, t, slots, *, b1, b2, eps):
    m, u = b1 * slots[0] + (1 - b1) * g, np.maximum(b2 * slots[1], np.abs(g) + eps)
    return m / (1 - b1**t) / u, [m, u]


def _amsgrad(theta, g, t, slots, *, b1, b2, eps):
    m, n = _moments(g, slots, b1, b2)
    x = np.maximum(slots[2], n / (1 - b2**t))
    return m / (1 - b1**t) / (np.sqrt(x) + eps), [m, n, x]


def _lion(theta, g, t, slots, *, b1, b2, weight_decay):
    d = np.sign(b1 * slots[0] + (1 - b1) * g) + weight_decay * theta
    return d, [b2 * slots[0] + (1 - b2) * g]


_ADAM = {"learning_rate": 0.1, "b1": 0.8, "b2": 0.95, "eps": 1e-6}
_VELOCITY = {"learning_rate": 0.02, "momentum": 0.8}
_DECAYED = {**_ADAM, "weight_decay": 0.03}
_SIGN = {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "weight_decay": 0.03}
_RSS = {"learning_rate": 0.3, "initial_accumulator_value": 0.2, "eps": 1e-6}
_RMS = {"learning_rate": 0.05, "decay": 0.8, "eps": 1e-6}
_DELTA = {"learning_rate": 2.0, "rho": 0.8, "eps": 1e-3}


def _sgd_nesterov(learning_rate, momentum):
    return optax.sgd(learning_rate, momentum, nesterov=True)


OPTIMIZERS = [
    Optimizer("gradient_descent", optimizers.gradient_descent, {"learning_rate": 0.1}, optax.sgd, _gradient_descent),
    Optimizer("momentum", optimizers.momentum, _VELOCITY, optax.sgd, _momentum),
    Optimizer("nesterov", optimizers.nesterov, _VELOCITY, _sgd_nesterov, _nesterov),
    Optimizer("adagrad", optimizers.adagrad, _RSS, optax.adagrad, _adagrad),
    Optimizer("rmsprop", optimizers.rmsprop, _RMS, optax.rmsprop, _rmsprop),
    Optimizer("adadelta", optimizers.adadelta, _DELTA, optax.adadelta, _adadelta),
    Optimizer("adam", optimizers.adam, _ADAM, optax.adam, _adam),
    Optimizer("adamw", optimizers.adamw, _DECAYED, optax.adamw, _adamw),
    Optimizer("nadam", optimizers.nadam, _ADAM, optax.nadam, _nadam),
    Optimizer("adamax", optimizers.adamax, _ADAM, optax.adamax, _adamax),
    Optimizer("amsgrad", optimizers.amsgrad, _ADAM, optax.amsgrad, _amsgrad),
    Optimizer("lion", optimizers.lion, _SIGN, optax.lion, _lion),
]
