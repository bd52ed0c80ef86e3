"""Ctrl-C as an event that the host loop looks at between segments, so that no finished work is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def listening() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C inside the block into an event; a second one interrupts as usual.

    Outside the main thread, where Python allows no handlers, the event is never set.
    """
    is_interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield is_interrupted
        return
    usual = signal.getsignal(signal.SIGINT)

    def note(number, frame):
        is_interrupted.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield is_interrupted
    finally:
        signal.signal(signal.SIGINT, usual)
