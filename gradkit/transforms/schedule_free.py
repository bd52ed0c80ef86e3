"""AdamW without a schedule: it averages in place of letting the rate fall."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import nonnegative
from gradkit.roots import sqrt
from gradkit.transforms.adam import bias_correction
from gradkit.transforms.averaging import in_group
from gradkit.transforms.entrances import check_gradients, widen
from gradkit.transforms.scheduling import values_at
from gradkit.transforms.wrapping import copied, require_params


class ScheduleFreeState(NamedTuple):
    """State of :func:`schedule_free_adamw`.

    Attributes:
        count: Updates made, an int32 scalar.
        largest_rate: Of the updates so far, a scalar.
        relative_total: Sum of their weights over the last of these, a scalar: of equal weights, their very number.
        b1: The interpolation between ``z`` and the average.
        z: Where plain AdamW would be: like the parameters, float32 at least.
        nu: Fading mean of the squared gradients.
    """

    count: jax.Array
    largest_rate: jax.Array
    relative_total: jax.Array
    b1: jax.Array
    z: Any
    nu: Any

    def evaluation(self, params: Any) -> Any:
        """The average ``x``, of which the parameters are ``y = (1 - b1) * z + b1 * x``."""
        return in_group(lambda z, y: y + (1 - 1 / self.b1.astype(z.dtype)) * (z - y), self.z, widen(params))


def schedule_free_adamw(
    learning_rate: Any = 0.0025,
    *,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    warmup_steps: Any = 0,
    weight_power: Any = 2.0,
    step_power: Any = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """AdamW whose average takes the place of a falling rate; as the authors' own does it, warm-up included::

        rate = learning_rate * min(1, t / warmup_steps)
        c = weight / (sum of weights so far),    weight = t**step_power * (largest rate so far)**weight_power
        d = g / (sqrt(n / (1 - b2**t)) + eps) + weight_decay * y,    n = b2 * n + (1 - b2) * g**2
        y += c * (z - y) - rate * (1 - b1 * (1 - c)) * d
        z -= rate * d

    The parameters are ``y``; evaluate :func:`evaluation_params`. With ``optax.contrib.schedule_free`` the weights of a warm-up
    are those of the next step's rate, and its first step is 0.

    Args:
        learning_rate, b1, b2, eps, weight_decay, warmup_steps: Numbers or traced values. ``b1`` above 0.
        weight_power, step_power: The reference's ``weight_lr_power`` and ``r``.

    Raises:
        ValueError: A number is negative or not finite; or while tracing, if structure or shapes of gradients and parameters
            differ.
        TypeError: While tracing, if ``update`` is not told the parameters.

    >>> optimizer, y = schedule_free_adamw(0.5), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(y, optimizer.init(y), y)[0].round(3))
    [-0.5  0.5]

    References:
        Defazio et al., The road less scheduled, 2024: https://arxiv.org/abs/2405.15682
    """
    numbers = {
        "learning_rate": learning_rate, "b1": b1, "b2": b2, "eps": eps, "weight_decay": weight_decay,
        "warmup_steps": warmup_steps, "weight_power": weight_power, "step_power": step_power,
    }  # fmt: skip
    for name, value in numbers.items():
        nonnegative(name, value, below=1.0 if name in ("b1", "b2") else float("inf"), positive=name == "b1")
    at = values_at(numbers)

    def init(params):
        count, rate, total, z = jnp.zeros((), jnp.int32), jnp.zeros((), float), jnp.zeros((), float), copied(widen(params))
        b1 = jnp.asarray(at(count)["b1"], float)
        return ScheduleFreeState(count, rate, total, b1, z, jax.tree.map(jnp.zeros_like, z))

    def update(updates, state, params=None, **extra_args):
        del extra_args
        require_params(params)
        check_gradients(updates, params)
        h, t = SimpleNamespace(**at(state.count)), optax.safe_increment(state.count)
        rate = h.learning_rate * jnp.minimum(1.0, 1.0 * t / jnp.maximum(h.warmup_steps, 1))
        largest = jnp.maximum(state.largest_rate, rate)
        rise = jnp.where(largest > 0, state.largest_rate / jnp.where(largest > 0, largest, 1.0), 1.0)
        # at first there is no total and no rise, whose power below 1 would have an infinite slope
        rise = jnp.where(state.count == 0, 1.0, rise)
        total = 1 + state.relative_total * (jnp.asarray(state.count, float) / t) ** h.step_power * rise**h.weight_power
        c = 1 / total
        correction = bias_correction(h.b2, t)

        def step(g, y, z, n):
            as_leaf = lambda number: jnp.asarray(number, z.dtype)  # noqa: E731
            n = h.b2 * n + (1 - h.b2) * g * g
            d = g / (sqrt(n / as_leaf(correction)) + h.eps) + h.weight_decay * y
            moved = as_leaf(c) * (z - y) - as_leaf(rate * (1 - h.b1 * (1 - c))) * d
            return moved, z - as_leaf(rate) * d, n

        after = jax.tree.map(step, widen(updates), widen(params), state.z, state.nu)
        moved, z, nu = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0, 0, 0)), after)
        moved = jax.tree.map(lambda u, g: u.astype(jnp.result_type(g)), moved, updates)
        return moved, ScheduleFreeState(t, largest.astype(float), total.astype(float), jnp.asarray(h.b1, float), z, nu)

    return optax.GradientTransformationExtraArgs(init, update)
