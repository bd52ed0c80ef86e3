"""The slope of a loss along a line through its parameters, measured without knowing its gradient, and how far to trust it.

In flow a loss and its parameters, out flows a :class:`Line`, and from it a :class:`Slope` for each direction.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradkit.checks import Described, require
from gradkit.contracts import Params
from gradkit.gradients.values import value_and_grad
from gradkit.trees import is_inexact

RATIO = 4.0  # between one step size and the next
STEPS = 0.1 * RATIO ** -np.arange(13)
SAFETY = 10.0  # the agreement of estimates is a guess at their error
EPS = np.finfo(float).eps


class Line(NamedTuple):
    """A loss along lines through its parameters, all of which lie in one vector of p entries.

    Attributes:
        params: Shape (p,).
        value: The loss there.
        grads: Its gradient there by reverse mode, shape (p,).
        values: ``(direction, steps) -> losses`` at ``params + step * direction``.
        forward: ``direction -> slope`` by forward mode; ``None`` from a loss that has none.
    """

    params: np.ndarray
    value: float
    grads: np.ndarray
    values: Callable[[np.ndarray, np.ndarray], np.ndarray]
    forward: Callable[[np.ndarray], float | None]


class Slope(NamedTuple):
    """The derivative of a loss along a direction.

    Attributes:
        given: What differentiation says.
        measured: What differences say; at a kink the mean of both sides.
        error: Of ``measured``.
        kink: By how much the slope jumps here; 0 where the loss is smooth.
        size: What is normal for such a direction: the norm of the gradient's terms, or ``measured`` if that is larger.
        excess: By how much ``given`` is farther from ``measured`` than error, kink and tolerance explain; above 0, it is wrong.
        is_clear: Whether the error is small enough to say anything.
        is_finite: Whether the loss is, at half or more of the steps.
    """

    given: float
    measured: float
    error: float
    kink: float
    size: float
    excess: float
    is_clear: bool
    is_finite: bool


NO_SLOPE = Slope(np.nan, np.nan, error=np.inf, kink=0.0, size=0.0, excess=-np.inf, is_clear=False, is_finite=True)


def trace_line(loss_fn: Callable, params: Params, args: tuple[Any, ...]) -> Line:
    """Compile a loss for measuring. Call it, and what it returns, within ``enable_x64(True)``."""
    x, unravel = ravel_pytree(jax.tree.map(_widened, params))
    args = jax.tree.map(_widened, args)

    def loss(x, args):
        result = loss_fn(unravel(x), *args)
        return result[0] if isinstance(result, tuple) else result

    (value, _), grads = jax.jit(value_and_grad(loss))(x, args)
    _require_float64(lambda x: loss(x, args), x)
    losses = jax.jit(lambda v, steps, args: jax.lax.map(lambda step: loss(x + step * v, args), steps))
    derivative = jax.jit(lambda v, args: jax.jvp(lambda x: loss(x, args), (x,), (v,))[1])

    def forward(direction):
        try:
            return float(derivative(direction, args))
        except TypeError:  # jax.custom_vjp
            return None

    def values(direction, steps):
        return np.asarray(losses(direction, steps, args))

    return Line(np.asarray(x), float(value), np.asarray(grads), values, forward)


def _require_float64(loss, x):
    """Refuse a loss whose gradient flows through a narrower dtype: its rounding looks like steps and drowns the slopes."""
    value, pullback = jax.eval_shape(lambda x: jax.vjp(loss, x), x)
    program = str(jax.make_jaxpr(lambda pullback, cotangent: pullback(cotangent))(pullback, value))
    narrow = re.search(r"new_dtype=(float32|float16|bfloat16)", f"new_dtype={value.dtype} {program}")
    require(narrow is None, "loss_fn", "compute in float64 when its parameters are float64",
            Described(f"a cast to {narrow and narrow[1]}"), "Leave casts out of what is checked.", error=TypeError)  # fmt: skip


def measure(line: Line, direction: np.ndarray, scale: float, tolerance: float) -> Slope:
    """Measure the slope along ``direction``, with steps from 1/10 of ``scale`` down to 1e-8 of it."""
    steps = STEPS * scale
    up, down = line.values(direction, np.concatenate([steps, -steps])).reshape(2, -1)
    reach = np.maximum(np.maximum(np.abs(up), np.abs(down)), abs(line.value)) / steps
    measured, error = _extrapolate((up - down) / (2 * steps), reach, powers=(2, 4))
    kink, kink_error = _extrapolate((up - 2 * line.value + down) / steps, reach, powers=(1, 3))

    terms = direction[direction != 0] * line.grads[direction != 0]
    given = float(terms.sum())
    size = float(max(np.linalg.norm(terms), abs(measured)))
    kink = abs(kink) if abs(kink) > SAFETY * kink_error + tolerance * size else 0.0
    excess = abs(given - measured) - (tolerance * size + SAFETY * error + kink / 2)
    is_clear = SAFETY * error <= max(0.01 * size, 1e-6 * abs(line.value) / scale)
    is_finite = np.mean(np.isfinite(up) & np.isfinite(down)) >= 0.5
    excess = float(np.nan_to_num(excess, nan=-np.inf))
    return Slope(given, measured, error, kink, size, excess, bool(is_clear), bool(is_finite))


def _extrapolate(values, reach, *, powers: tuple[int, ...]) -> tuple[float, float]:
    """The limit of ``values`` for small steps, whose error is a sum of these powers of the step, and the error that is left.

    Of all step sizes and orders of Richardson's extrapolation, the estimate that agrees best with those of the next larger and
    the next smaller step. Values that are not finite agree with nothing. Over steps in which a bounded loss turns many times, all
    slopes agree on nearly 0: the error must also be small beside ``reach``, the slope of losing the whole loss in one step.
    """
    candidates = [(np.inf, np.nan)]
    for power in (None, *powers):
        if power is not None:
            values, reach = values[1:] + np.diff(values) / (RATIO**power - 1), reach[1:]
        gaps = np.abs(np.diff(values))
        errors = np.maximum(gaps[:-1], gaps[1:]) + 4 * EPS * reach[1:-1]
        errors = np.where(errors <= 1e-3 * reach[1:-1], errors, np.inf)
        candidates += zip(errors.tolist(), values[1:-1].tolist())
    error, limit = min(candidates)
    return limit, error


def _widened(leaf):
    return jnp.asarray(leaf, jnp.float64) if is_inexact(leaf) and not jnp.iscomplexobj(leaf) else leaf
