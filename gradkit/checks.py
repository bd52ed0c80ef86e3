"""One message format for everything that is wrong before a run: argument, rule, value, remedy."""

import math
from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import numpy as np


def refuse(argument: str, rule: str, value: Any, remedy: str, *, error: type[Exception] = ValueError) -> NoReturn:
    """Raise ``error`` saying which argument broke which rule, what was given and what to do.

    >>> refuse("steps", "be at least 1", 0, "Ask for the number of updates to make.")
    Traceback (most recent call last):
        ...
    ValueError: `steps` must be at least 1, got 0. Ask for the number of updates to make.
    """
    raise error(f"`{argument}` must {rule}, got {shorten(value)}. {remedy}")


def require(condition: Any, argument: str, rule: str, value: Any, remedy: str, *, error: type[Exception] = ValueError):
    """Call :func:`refuse` unless ``condition`` holds."""
    if not condition:
        refuse(argument, rule, value, remedy, error=error)


def whole_number(argument: str, value: Any, *, at_least: int, remedy: str) -> int:
    """Return ``value`` as an int, or refuse it if it is not a whole number of at least ``at_least``."""
    rule = f"be a whole number of at least {at_least}"
    is_whole = hasattr(value, "__index__") and not isinstance(value, bool)
    require(is_whole, argument, rule, value, remedy, error=TypeError)
    require(int(value) >= at_least, argument, rule, value, remedy)
    return int(value)


def nonnegative(
    argument: str,
    value: Any,
    *,
    at_least: float = 0.0,
    at_most: float = math.inf,
    below: float = math.inf,
    positive: bool = False,
    whole: bool = False,
) -> Any:
    """Return ``value``, or refuse a number that is negative, not finite or out of bounds; traced values and schedules pass.

    ``positive`` refuses zero as well, ``whole`` what is not a whole number. What has a shape is refused, traced or not.

    >>> nonnegative("beta", 1.0, below=1.0)
    Traceback (most recent call last):
        ...
    ValueError: `beta` must be at least 0 and below 1, got 1.0. Give a number, a traced value or a schedule in that range.
    """
    if callable(value):
        return value
    is_scalar = not isinstance(value, (list, tuple)) and np.ndim(value) == 0
    given = Described(f"an array of shape {value.shape}") if hasattr(value, "shape") else value
    require(is_scalar, argument, "be a scalar", given, "Map over several values with jax.vmap or gradkit.sweep.")
    if isinstance(value, jax.core.Tracer):
        return value
    remedy = "Give a number, a traced value or a schedule in that range."
    require(is_known(value), argument, "be a number, a traced value or a schedule", value, remedy, error=TypeError)
    number = float(value)
    is_inside = at_least <= number <= at_most and number < below and not (positive and number == 0)
    require(is_inside and not (whole and number % 1), argument, _rule(at_least, at_most, below, positive, whole), value, remedy)
    return value


def _rule(at_least: float, at_most: float, below: float, positive: bool, whole: bool) -> str:
    """What :func:`nonnegative` asks for."""
    least = "above 0" if positive else f"at least {at_least:g}"
    if whole:
        return f"be a whole number {least}"
    if below == at_most == math.inf:
        return f"be finite and {least}"
    return f"be {least} and {f'at most {at_most:g}' if at_most < math.inf else f'below {below:g}'}"


def is_known(value: Any) -> bool:
    """Whether a value is a number that can be looked at: not traced, no schedule."""
    is_number = isinstance(value, (int, float)) or (hasattr(value, "dtype") and np.ndim(value) == 0)
    return is_number and not isinstance(value, (bool, jax.core.Tracer))


def is_zero(value: Any) -> bool:
    """Whether a number is known to be zero."""
    return is_known(value) and float(value) == 0


def one_of(argument: str, value: Any, choices: Iterable[str]) -> Any:
    """Return ``value``, or refuse it with the list of choices."""
    choices = list(choices)
    require(value in choices, argument, f"be one of {', '.join(choices)}", value, "Choose one of these names.")
    return value


def shorten(value: Any, limit: int = 80) -> str:
    """Write a value so that it fits a message: strings quoted, long ones cut in the middle."""
    text = value if isinstance(value, Described) else repr(value)
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 4 :]}"


class Described(str):
    """Words that describe a value, to stand in a message as they are."""
