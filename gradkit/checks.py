"""One message format for everything that is wrong before a run: argument, rule, value, remedy."""

from collections.abc import Iterable
from typing import Any, NoReturn


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
