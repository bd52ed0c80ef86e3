"""Numbers of a transformation as constants, traced values or schedules, without a change of the updates' dtype."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import Described, nonnegative, refuse, require
from gradkit.contracts import is_number


class ScheduledState(NamedTuple):
    """State of a :func:`scheduled` transformation.

    Attributes:
        count: Updates made, an int32 scalar.
        inner: State of the transformation itself.
    """

    count: jax.Array
    inner: Any


def scheduled(factory: Callable[..., optax.GradientTransformation]) -> Callable[..., optax.GradientTransformation]:
    """Let every number that ``factory`` takes be a constant, a traced value or a schedule.

    The factory is called with keyword arguments. If none of them is callable, the result is ``factory(**arguments)``:
    Python numbers reach it as they are, and arrays follow the dtype of the updates as Python numbers do. Otherwise the
    transformation is made anew at every step from the values of its schedules; ``init`` sees their values at step 0.

    Args:
        factory: Makes a transformation; its numbers must not decide the structure of the state. Callables that are not
            schedules, such as masks, are bound to it by ``functools.partial``.

    Raises:
        ValueError: A number has a shape.

    >>> optimizer = scheduled(optax.trace)(decay=lambda step: 0.5 * step)
    >>> state = optimizer.init(jnp.zeros(()))
    >>> for _ in range(3):
    ...     updates, state = optimizer.update(jnp.ones(()), state)
    ...     print(float(updates))
    1.0
    1.5
    2.5
    """

    def make(**arguments):
        if not any(map(callable, arguments.values())):
            return factory(**{name: _weak(name, value) for name, value in arguments.items()})
        at = values_at(arguments)
        return _remade(lambda count: optax.with_extra_args_support(factory(**at(count))))

    return make


def values_at(numbers: dict[str, Any]) -> Callable[[jax.Array], dict[str, Any]]:
    """``count -> values``: schedules asked with the count, other numbers as they are; arrays become weakly typed scalars.

    Raises:
        ValueError: A number has a shape.

    >>> values_at({"momentum": 0.9, "rate": lambda step: 0.1 * step})(2)
    {'momentum': 0.9, 'rate': 0.2}
    """
    constants = {name: _weak(name, value) for name, value in numbers.items() if not callable(value)}
    schedules = {name: value for name, value in numbers.items() if callable(value)}

    def at(count):
        return constants | {name: _weak(name, schedule(count)) for name, schedule in schedules.items()}

    return at


def scale_by_learning_rate(learning_rate: Any) -> optax.GradientTransformation:
    """Multiply by minus the learning rate: a number, a traced value or a schedule.

    Equal to ``optax.scale_by_learning_rate``, and refuses its ``None``, which leaves the sign as it is and so climbs.

    Raises:
        TypeError: The rate is neither a number nor a schedule.
        ValueError: The rate has a shape, is negative or not finite.

    >>> descend = scale_by_learning_rate(0.5)
    >>> updates, _ = descend.update(jnp.array([2.0, -4.0]), descend.init(None))
    >>> print(updates)
    [-1.  2.]
    """
    if callable(learning_rate):
        return optax.scale_by_learning_rate(learning_rate)
    if not is_number(learning_rate):
        rule, remedy = "be a number, a traced value or a schedule", "Give a rate, such as 1e-3."
        refuse("learning_rate", rule, learning_rate, remedy, error=TypeError)
    return optax.scale_by_learning_rate(_weak("learning_rate", nonnegative("learning_rate", learning_rate)))


def _remade(at: Callable[[jax.Array], optax.GradientTransformationExtraArgs]) -> optax.GradientTransformationExtraArgs:
    """The transformation that is ``at(count)`` at each step."""

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return ScheduledState(count, at(count).init(params))

    def update(updates, state, params=None, **extra_args):
        updates, inner = at(state.count).update(updates, state.inner, params, **extra_args)
        return updates, ScheduledState(optax.safe_increment(state.count), inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _weak(name: str, value: Any) -> Any:
    """A scalar array as a weakly typed one, which takes the dtype of what it meets; anything else as it is."""
    if not (hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)):
        return value
    given = Described(f"an array of shape {jnp.shape(value)}")
    require(jnp.shape(value) == (), name, "be a scalar", given, "Map over several values with jax.vmap or gradkit.sweep.")
    return jax.lax.full_like(0.0, value)
