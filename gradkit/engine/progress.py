"""One live line between segments: members, steps, rate, best so far, diverged, time left. The only printing in the engine."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Tally:
    """What a run has done so far, told by the threads that run it."""

    def __init__(self, num_members: int, num_member_steps: int):
        self.num_members, self.num_member_steps = num_members, num_member_steps
        self.done_members = self.done_member_steps = self.skipped_member_steps = self.diverged = 0
        self.best, self.started = math.inf, time.perf_counter()
        self._lock = threading.Lock()

    def add(self, *, member_steps=0, skipped_member_steps=0, members=0, diverged=0, best=math.inf):
        """Count what a segment did, and what a member at rest will never do; ``best`` is the lowest loss it ended with."""
        with self._lock:
            self.done_member_steps += member_steps
            self.skipped_member_steps += skipped_member_steps
            self.done_members += members
            self.diverged += diverged
            self.best = min(self.best, best)

    def line(self) -> str:
        """The state of the run in words."""
        rate = self.done_member_steps / max(time.perf_counter() - self.started, 1e-9)
        best = "-" if math.isinf(self.best) else f"{self.best:.4g}"
        return (
            f"{self.done_members}/{self.num_members} members, {self.done_member_steps:,} steps, "
            f"{rate:,.0f} member-steps/s, best loss {best}, {self.diverged} diverged"
        )


@contextmanager
def shown(tally: Tally, *, is_wanted: bool) -> Iterator[None]:
    """Show the tally as one live line on standard error (in a notebook: below the cell) while the block runs.

    Nothing is shown where nobody watches: if it is not wanted, or standard error is neither a terminal nor a notebook.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not is_wanted or not (console.is_terminal or console.is_jupyter):
        yield
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("compiling", total=tally.num_member_steps)
        is_over = threading.Event()

        def refresh():
            while not is_over.wait(0.2):
                if tally.done_member_steps:
                    settled = tally.done_member_steps + tally.skipped_member_steps
                    progress.update(task, completed=settled, description=tally.line())
                progress.refresh()

        watcher = threading.Thread(target=refresh, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()
