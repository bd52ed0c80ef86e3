"""The answer a sweep gives, in words: the best configuration, per axis what works, what ties with the best, where it ends.

Findings flow in; a ``Summary`` flows out, which prints. What the findings rest on: :mod:`~gradkit.report.ranges`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gradkit.questions import Question
from gradkit.report.findings import Findings
from gradkit.report.levels import ASSUMED_NOISE
from gradkit.report.ranges import WORKS_FROM, Range, Ranking

if TYPE_CHECKING:
    import pandas as pd

CUT_SHORT = "halving dropped members early: which values would have worked, it does not tell; Sweep.rungs has its course"
NOISE_ASSUMED = f"one member per value does not show the noise: {ASSUMED_NOISE:.0%} of the metric is taken for it"
FEW = 4  # so many values are listed one by one


class Summary(NamedTuple):
    """The answer of a sweep; ``print`` it.

    Attributes:
        num_members, num_configurations: What ran.
        counts: Members by status.
        seconds: Wall time.
        best: The best configuration.
        words: Its hyper-parameters as the table tells them.
        start: Its metric at the start, NaN if unknown.
        others: Its other metrics, ``{name: (mean, std)}``.
        axes: What each axis with an order showed, and more than one value.
        rankings: What each other axis showed.
        share_diverged: Of the members.
        share_barely_moved: Of the members, those that ended about where they began.
        share_worsened: Of the members, those that did not diverge and ended worse than they began.
        notes: What else the reader must know.
        replicate: What the members of a configuration differ by.
        has_gained: Whether the best configuration improved on its start by more than the noise; ``None`` if that is unknown.
    """

    num_members: int
    num_configurations: int
    counts: dict[str, int]
    seconds: float
    best: Any
    words: dict[str, Any]
    start: float
    others: dict[str, tuple[float, float]]
    axes: tuple[Range, ...]
    rankings: tuple[Ranking, ...]
    share_diverged: float
    share_barely_moved: float
    share_worsened: float
    notes: tuple[str, ...]
    replicate: str
    has_gained: bool | None

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {status.lower()}" for status, number in self.counts.items())
        names = ", ".join(f"{name}={_short(value)}" for name, value in self.words.items()) or "the only one"
        spread = functools.partial(_spread, count=len(self.best.members), replicate=self.replicate)
        start = "" if self.start != self.start else f", {self.start:.4g} at the start"
        lines = [
            f"{_count(self.num_members, 'member')} ({_count(self.num_configurations, 'configuration')}) "
            f"in {self.seconds:.1f} s: {counts}; {self.share_barely_moved:.0%} ended about where they began, "
            f"{self.share_worsened:.0%} worse",
            f"best: {names}: {self.best.metric} {spread(self.best.mean, self.best.std)}{start}",
        ]
        if self.has_gained is False:
            lines.append("no configuration improved on its start by more than the noise")
        lines += [f"      {name} {spread(*values)}" for name, values in self.others.items()]
        for axis in self.axes:
            lines += _range_lines(axis, self)
        for ranking in self.rankings:
            lines += _ranking_lines(ranking, self)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    @property
    def noise(self) -> str:
        """What the noise is called: its source is seeds, folds, or unknown."""
        is_repeated = self.num_configurations < self.num_members
        return f"{self.replicate} noise" if is_repeated and self.replicate != "member" else "noise"


def summarize(
    table: pd.DataFrame, found: Findings, best, rows: Sequence[int], *, words: dict[str, Any], num_configurations: int,
    question: Question, others: Sequence[str] = (), seconds: float, notes: Sequence[str] = (),
) -> Summary:  # fmt: skip
    """Put findings beside what ran.

    Args:
        table: A row per member, with the columns of ``Sweep.table``.
        found: What it showed.
        best: The best configuration, with ``hyper``, ``metric``, ``mean``, ``std`` and ``members``.
        rows: Where its members stand in the table.
        words: Its hyper-parameters as the table tells them.
        num_configurations: Among the members.
        question: How members are compared.
        others: Columns of what else they report.
        seconds, notes: Handed through.
    """
    own_rows = table.iloc[list(rows)]
    is_pruned = table.status.eq("PRUNED").any()  # where a member was dropped tells nothing about where it would have ended
    num_cut = int(table.status.isin(["STOPPED", "RUNNING"]).sum())
    is_told = found.ranges or found.rankings or found.has_gained is False
    own = [
        *([CUT_SHORT] if is_pruned else []),
        *([f"{_count(num_cut, 'member')} did not make all steps and say nothing here"] if num_cut else []),
        *([NOISE_ASSUMED] if not is_pruned and found.is_noise_assumed and is_told else []),
    ]
    return Summary(
        num_members=len(table),
        num_configurations=num_configurations,
        counts={status: int(number) for status, number in table.status.value_counts().items()},
        seconds=seconds,
        best=best,
        words=words,
        start=float(own_rows[_start(best.metric)].mean()) if _start(best.metric) in table else float("nan"),
        others={name: (own_rows[name].mean(), own_rows[name].std()) for name in others if name != best.metric},
        axes=() if is_pruned else found.ranges,
        rankings=() if is_pruned else found.rankings,
        share_diverged=float(table.status.eq("DIVERGED").mean()),
        share_barely_moved=float(found.barely_moved.mean()),
        share_worsened=float(found.worsened.mean()),
        notes=(*notes, *own),
        replicate=question.over if question.over in table else "member",
        has_gained=found.has_gained,
    )


def _start(metric: str) -> str:
    """The column of a metric before the first step."""
    return "initial_loss" if metric in ("final_loss", "best_loss") else f"initial_{metric}"


def _range_lines(axis: Range, summary: Summary) -> list[str]:
    lines = [f"{axis.name}: {_works(axis, summary)}"]
    if axis.tie_low is not None:
        lines.append(f"    no difference beyond {summary.noise} from {_short(axis.tie_low)} to {_short(axis.tie_high)}")
    if axis.diverged:
        lines.append(f"    diverged at {_span(axis.diverged)}")
    if axis.not_finite and axis.best is not None:
        lines.append(f"    no finite {summary.best.metric} at {_span(axis.not_finite)}")
    if axis.worsened:
        lines.append(f"    ended worse than they began at {_span(axis.worsened)}")
    if axis.barely_moved:
        lines.append(f"    barely moved, or ended about where they began, at {_span(axis.barely_moved)}")
    if axis.edge:
        lines.append(f"    {_edge(axis)}")
    elif axis.is_inside:
        lines.append("    the best value lies inside the range tried")
    return lines


def _works(axis: Range, summary: Summary) -> str:
    if axis.low is not None:
        return f"works from {_short(axis.low)} to {_short(axis.high)} (at least {WORKS_FROM:.0%} of the best gain)"
    if axis.best is None:
        return _all_failed(axis, summary)
    if summary.has_gained is None:
        return "what works is unknown, as the start is"
    return "no range stands out from the noise" if summary.has_gained else "nothing works"


def _all_failed(axis: Range | Ranking, summary: Summary) -> str:
    is_repeated = summary.num_configurations < summary.num_members and summary.replicate != "member"
    if axis.not_finite:
        return f"no value has a finite {summary.best.metric}" + f" in every {summary.replicate}" * is_repeated
    is_part = is_repeated and summary.share_diverged < 1
    return f"at every value a {summary.replicate} diverged" if is_part else "every value diverged"


def _edge(axis: Range) -> str:
    end = axis.first if axis.edge == "lower" else axis.last
    where = "the best value sits" if axis.best == end else "the metric still improves"
    return f"{where} at the {axis.edge} edge of the range: extend it beyond {_short(end)}"


def _ranking_lines(ranking: Ranking, summary: Summary) -> list[str]:
    placed = [f"{_short(value)} ({end:.4g})" for value, end in zip(ranking.values, ranking.ends)]
    ties = [words for words, is_tie in zip(placed, ranking.is_tie) if is_tie]
    worse = [words for words, is_tie in zip(placed, ranking.is_tie) if not is_tie]
    if not placed:
        return [f"{ranking.name}: {_all_failed(ranking, summary)}"]
    first = f"no difference beyond {summary.noise} between {_listed(ties)}" if len(ties) > 1 else f"{ties[0]} is best"
    lines = [f"{ranking.name}: {first}{f'; worse: {_listed(worse)}' if worse else ''}"]
    if ranking.diverged:
        lines.append(f"    diverged at {_listed([_short(value) for value in ranking.diverged])}")
    if ranking.not_finite:
        lines.append(f"    no finite {summary.best.metric} at {_listed([_short(value) for value in ranking.not_finite])}")
    return lines


def _listed(words: list[str]) -> str:
    few = words if len(words) <= 2 * FEW else [*words[:FEW], f"{len(words) - FEW} others"]
    return ", ".join(few)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _short(value: Any) -> str:
    """A value of an axis in three digits, or more where these hide how far it is from 1.

    >>> [_short(value) for value in (0.123456, 0.9, 0.9996, 1.0, 1.077, max)]
    ['0.123', '0.9', '0.9996', '1', '1.08', 'max']
    """
    if not isinstance(value, float):
        return str(getattr(value, "__name__", value))
    told = (f"{value:.{digits}g}" for digits in range(3, 9))
    return next((each for each in told if abs(float(each) - value) <= 0.05 * abs(1 - value)), f"{value:.9g}")


def _span(values: tuple) -> str:
    """Values in words: all of them if they are few, else their ends."""
    if len(values) <= FEW:
        return ", ".join(_short(value) for value in values)
    return f"{len(values)} values from {_short(values[0])} to {_short(values[-1])}"


def _spread(mean: float, std: float, *, count: int, replicate: str) -> str:
    return f"{mean:.4g} ± {std:.2g} over {count} {replicate}s" if count > 1 else f"{mean:.4g}"
