"""The answer a sweep gives: the best configuration, per axis the range that works, what diverged and what barely moved.

All is measured by the share of the possible gain: 0 for a member that ends where it began, 1 for the best configuration. Where
the best gained nothing, a share of the start stands in.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gradkit.questions import Question

if TYPE_CHECKING:
    import pandas as pd

WORKS_FROM = 0.9  # share of the best gain from which a value counts as working
CUT_SHORT = "halving dropped members early: which values would have worked, it does not tell; Sweep.rungs has its course"
BARELY_MOVED_UP_TO = 0.1  # share of the best gain, in either direction


class AxisSummary(NamedTuple):
    """What a numeric axis showed; each value stands for the best configuration that has it.

    Attributes:
        name: The axis.
        best: The value of the best configuration.
        low, high: The ends of the unbroken range around it in which the gain is at least ``WORKS_FROM`` and no member diverged;
            ``None`` if nothing gained.
        diverged: Values at which any member diverged.
        barely_moved: Values at which the gain is within ``BARELY_MOVED_UP_TO`` of nothing and no member diverged.
        worsened: Values at which the metric got worse by more than that, though no member diverged.
        edge: ``"lower"`` or ``"upper"`` if the best value ends the axis, ``None`` if it does not or nothing gained.
    """

    name: str
    best: float
    low: float | None
    high: float | None
    diverged: tuple[float, ...]
    barely_moved: tuple[float, ...]
    worsened: tuple[float, ...]
    edge: str | None


class Summary(NamedTuple):
    """The answer of a sweep; ``print`` it.

    Attributes:
        num_members, num_configurations: What ran.
        counts: Members by status.
        seconds: Wall time.
        best: The best configuration.
        others: Its other metrics, ``{name: (mean, std)}``.
        axes: One entry per numeric axis with more than one value.
        share_diverged: Of the members.
        share_barely_moved: Of the members, those whose gain is within ``BARELY_MOVED_UP_TO`` of nothing.
        share_worsened: Of the members, those that did not diverge and got worse by more than that.
        notes: What else the reader must know.
        replicates: What the members of a configuration differ by, in the plural.
        has_gained: Whether the best configuration improved on its start.
    """

    num_members: int
    num_configurations: int
    counts: dict[str, int]
    seconds: float
    best: Any
    others: dict[str, tuple[float, float]]
    axes: tuple[AxisSummary, ...]
    share_diverged: float
    share_barely_moved: float
    share_worsened: float
    notes: tuple[str, ...]
    replicates: str
    has_gained: bool

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {status.lower()}" for status, number in self.counts.items())
        names = ", ".join(f"{name}={_short(value)}" for name, value in self.best.hyper.items()) or "the only one"
        spread = functools.partial(_spread, count=len(self.best.members), replicates=self.replicates)
        lines = [
            f"{_count(self.num_members, 'member')} ({_count(self.num_configurations, 'configuration')}) "
            f"in {self.seconds:.1f} s: {counts}; {self.share_barely_moved:.0%} ended about where they began, "
            f"{self.share_worsened:.0%} worse",
            f"best: {names}: {self.best.metric} {spread(self.best.mean, self.best.std)}",
        ]
        if not self.has_gained:
            lines.append("no configuration improved on its start")
        lines += [f"      {name} {spread(*values)}" for name, values in self.others.items()]
        for axis in self.axes:
            lines += _axis_lines(axis)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _axis_lines(axis: AxisSummary) -> list[str]:
    found = f"works from {_short(axis.low)} to {_short(axis.high)} (at least {WORKS_FROM:.0%} of the best gain)"
    lines = [f"{axis.name}: {'nothing works' if axis.low is None else found}"]
    if axis.diverged:
        lines.append(f"    diverged at {_span(axis.diverged)}")
    if axis.worsened:
        lines.append(f"    ended worse than they began at {_span(axis.worsened)}")
    if axis.barely_moved:
        lines.append(f"    barely moved, or ended about where they began, at {_span(axis.barely_moved)}")
    if axis.edge:
        lines.append(f"    the best value sits at the {axis.edge} edge of the range: extend it beyond {_short(axis.best)}")
    elif axis.low is not None:
        lines.append("    the best value lies inside the range tried")
    return lines


def summarize(
    table: pd.DataFrame, axes: list[str], configurations: list[tuple[int, ...]], best, *, question: Question,
    others: Sequence[str] = (), seconds: float, notes=(),
) -> Summary:  # fmt: skip
    """Summarize a sweep's table.

    Args:
        table: A row per member, with the columns of ``Sweep.table``.
        axes: Names of the hyper-parameters.
        configurations: The members of each.
        best: The best configuration, with ``hyper``, ``metric``, ``mean``, ``std`` and ``members``.
        question: How members are compared.
        others: Columns of what else they report.
        seconds, notes: Handed through.
    """
    starts = _starts(table, best.metric)
    improvements = (1 if question.goal == "min" else -1) * (starts - table[best.metric])
    possible = improvements.iloc[list(best.members)].mean()
    has_gained = bool(possible > 0)
    is_whole = ~table.status.eq("PRUNED")  # where a member was dropped early tells nothing about where it would have ended
    gains = (improvements / (possible if has_gained else starts.abs().median())).where(is_whole)
    keys = [name for name in axes if name not in ("seed", question.over)]
    diverged = table.status.eq("DIVERGED")
    rows = table.iloc[list(best.members)]
    place = {member: index for index, members in enumerate(configurations) for member in members}
    measured = table[axes].assign(_gain=gains, _diverged=diverged, _configuration=[place[member] for member in table.member])
    numeric = [name for name in keys if table[name].dtype.kind in "iuf" and table[name].nunique() > 1]
    numeric = [name for name in numeric if table[name].notna().all()]  # a batch size of None stands for all examples
    if len(keys) > 1:  # in a random sample each value stands for one configuration only, and a range for nothing
        numeric = [name for name in numeric if table[name].nunique() < len(configurations)]
    return Summary(
        num_members=len(table),
        num_configurations=len(configurations),
        counts={status: int(number) for status, number in table.status.value_counts().items()},
        seconds=seconds,
        best=best,
        others={name: (rows[name].mean(), rows[name].std()) for name in others if name != best.metric},
        axes=tuple(_axis(measured, name, best.hyper[name], has_gained) for name in numeric) if is_whole.all() else (),
        share_diverged=float(diverged.mean()),
        share_barely_moved=float(((gains.abs() <= BARELY_MOVED_UP_TO) & ~diverged).mean()),
        share_worsened=float(((gains < -BARELY_MOVED_UP_TO) & ~diverged).mean()),
        notes=tuple(notes) if is_whole.all() else (*notes, CUT_SHORT),
        replicates=f"{question.over}s" if question.over in axes else "members",
        has_gained=has_gained,
    )


def _starts(table, metric):
    """The metric of each member before its first step; its last value where that was not taken."""
    initial = "initial_loss" if metric in ("final_loss", "best_loss") else f"initial_{metric}"
    return table[initial if initial in table else metric]


def _axis(measured, name, best_value, has_gained) -> AxisSummary:
    per_configuration = measured.groupby("_configuration").agg(
        value=(name, "first"), gain=("_gain", "mean"), diverged=("_diverged", "any")
    )
    per_value = per_configuration.groupby("value").agg(gain=("gain", "max"), diverged=("diverged", "all"))
    any_diverged = measured.groupby(name)._diverged.any()
    still = per_value.gain.abs().le(BARELY_MOVED_UP_TO) & ~any_diverged
    worse = per_value.gain.lt(-BARELY_MOVED_UP_TO) & ~any_diverged
    picked = [tuple(mask.index[mask]) for mask in (any_diverged, still, worse)]
    if not has_gained:
        return AxisSummary(name, best_value, None, None, *picked, None)
    values = list(per_value.index)
    works = [gain >= WORKS_FROM and not bad for gain, bad in zip(per_value.gain, per_value.diverged)]
    place = values.index(best_value)
    low = high = place
    while low > 0 and works[low - 1]:
        low -= 1
    while high < len(values) - 1 and works[high + 1]:
        high += 1
    edge = "lower" if place == 0 else "upper" if place == len(values) - 1 else None
    return AxisSummary(name, best_value, values[low], values[high], *picked, edge)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(getattr(value, "__name__", value))


def _span(values: tuple) -> str:
    """Values in words: all of them if they are few, else their ends."""
    if len(values) <= 4:
        return ", ".join(_short(value) for value in values)
    return f"{len(values)} values from {_short(values[0])} to {_short(values[-1])}"


def _spread(mean: float, std: float, *, count: int, replicates: str) -> str:
    return f"{mean:.4g} ± {std:.2g} over {count} {replicates}" if count > 1 else f"{mean:.4g}"
