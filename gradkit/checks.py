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


def nonnegative(argument: str, value: Any, *, below: float = math.inf, positive: bool = False) -> Any:
    """Return ``value``, or refuse a number that is negative, not finite or not below a bound; traced values and schedules pass.

    ``positive`` refuses zero as well.

    >>> nonnegative("beta", 1.0, below=1.0)
    Traceback (most recent call last):
        ...
    ValueError: `beta` must be at least 0 and below 1, got 1.0. Give a number, a traced value or a schedule in that range.
    """
    if callable(value) or isinstance(value, jax.core.Tracer) or np.ndim(value) > 0:
        return value
    remedy = "Give a number, a traced value or a schedule in that range."
    is_number = (isinstance(value, (int, float)) and not isinstance(value, bool)) or hasattr(value, "dtype")
    require(is_number, argument, "be a number, a traced value or a schedule", value, remedy, error=TypeError)
    least = "above 0" if positive else "at least 0"
    rule = f"be finite and {least}" if below == math.inf else f"be {least} and below {below:g}"
    require(0 <= float(value) < below and not (positive and value == 0), argument, rule, value, remedy)
    return value


def is_zero(value: Any) -> bool:
    """Whether a number is known to be zero."""
    return isinstance(value, (int, float)) and value == 0


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
