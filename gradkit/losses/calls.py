"""Which objectives a function calls: seen while it is traced."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A call of an objective, with what it was given."""

    objective: Any
    params: Any
    batch: Any


_calls: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar("calls", default=None)


@contextlib.contextmanager
def watched() -> Iterator[list[Call]]:
    """The calls made inside, in order; what they were given may be tracers, and lives no longer than their trace."""
    calls = []
    token = _calls.set(calls)
    try:
        yield calls
    finally:
        _calls.reset(token)


def tell(objective: Any, params: Any, batch: Any):
    """Note a call, where somebody watches."""
    calls = _calls.get()
    if calls is not None:
        calls.append(Call(objective, params, batch))
