"""What a sweep's findings rest on: its members flow in, numbers for the statistical core flow out, and its findings come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradkit.contracts import Status
from gradkit.engine.programs import Static
from gradkit.questions import BEST_LOSS, FINAL_LOSS, Question, Reported
from gradkit.report import findings, noises
from gradkit.report.findings import Axis, Findings, Members
from gradkit.report.levels import ASSUMED_NOISE
from gradkit.report.ranges import Range, Ranking
from gradkit.results import words
from gradkit.results.fit import Fit

if TYPE_CHECKING:
    import pandas as pd

WHOLE = (Status.FINISHED, Status.CONVERGED)  # who can win
REPLICATES = ("seed", "fold", "split", "repeat")  # axes of this name number what is drawn alike, as do others that end so:
ENDINGS = ("seed", "fold")
OF_BATCHES = ("steps", "batch_size")  # axes whose values see batches of their own
ROWS_AT_THE_ENDS = 20  # that tell how much batches differ


def find(
    hyper: Sequence[dict[str, Any]],
    fits: Sequence[Fit],
    table: pd.DataFrame,
    configurations: list[tuple[int, ...]],
    question: Question,
    reported: Reported,
    *,
    has_shared_batches: bool,
) -> Findings:
    """The findings of a sweep, in the values of its axes."""
    names = [name for name in words.axes(hyper) if name != question.over and not is_replicate(name)]
    columns = {name: [_value(member, name) for member in hyper] for name in names}
    labels = {name: words.labels(values) for name, values in columns.items()}
    axes = tuple(
        _axis(name, values, list(labels[name]))._replace(is_lucky=has_shared_batches and name in OF_BATCHES)
        for name, values in columns.items()
    )
    members = _members(hyper, fits, table, configurations, question, reported)
    found = findings.find(members, axes)
    return found._replace(
        ranges=tuple(_in_whole_numbers(each, columns[each.name]) for each in found.ranges),
        rankings=tuple(_in_words(each, list(labels[each.name].values())) for each in found.rankings),
    )


def is_replicate(name: str) -> bool:
    """Whether the name alone says that the values of an axis have no order.

    >>> [is_replicate(name) for name in ("seed", "data_seed", "fold", "min_samples_split")]
    [True, True, True, False]
    """
    return name in REPLICATES or name.split("_")[-1] in ENDINGS


def notes(hyper: Sequence[dict[str, Any]], question: Question, *, has_shared_batches: bool) -> list[str]:
    """What the reader must know to compare members fairly."""
    told = []
    asked = [name for name in words.axes(hyper) if is_replicate(name) or name in (*OF_BATCHES, question.over)]
    varied = [name for name in asked if len({words.as_known(member[name]) for member in hyper if name in member}) > 1]
    sizes = max(_sizes_of_each(hyper).values(), key=lambda sizes: max(sizes) / min(sizes), default={1})
    if len(sizes) > 1:
        times = max(sizes) / min(sizes)
        told.append(f"after equally many steps batch_size={max(sizes)} has seen {times:.3g}x the data of batch_size={min(sizes)}")
    told += [
        f"{name} numbers what is drawn alike and has no best value: over={name!r} averages over it"
        + f" instead of over {question.over}" * (question.over in varied)
        for name in varied
        if is_replicate(name) and name != question.over
    ]
    lucky = [name for name in varied if name in OF_BATCHES]
    if has_shared_batches and lucky and question.over in varied:
        remedy = ". order='per_seed' shows it" if question.over == "seed" else ""
        told.append(
            f"each {question.over} saw the same batches, so that their spread does not show how lucky those of one value of "
            f"{' or '.join(lucky)} are: {ASSUMED_NOISE:.0%} of the metric is taken for it{remedy}"
        )
    return told


def _sizes_of_each(hyper: Sequence[dict[str, Any]]) -> dict[Any, set[int]]:
    """The batch sizes of the members that make equally many steps, by that number."""
    sizes: dict[Any, set[int]] = {}
    for member in hyper:
        if words.is_number(size := member.get("batch_size")):
            sizes.setdefault(member.get("steps"), set()).add(size)
    return sizes


def _members(hyper, fits, table, configurations, question: Question, reported: Reported) -> Members:
    count, is_max = len(fits), question.goal == "max"
    configuration = np.zeros(count, int)
    for place, members in enumerate(configurations):
        configuration[list(members)] = place
    values = [member.get(question.over) for member in hyper]
    order = {value: place for place, value in enumerate(dict.fromkeys(values))}
    end, rise = table[question.metric].to_numpy(float), _rises(fits, table, question.metric)
    gain_error, end_error = np.array([_errors(fit, question.metric, reported) for fit in fits]).T
    return Members(
        configuration=configuration,
        replicate=np.array([order[value] for value in values]),
        end=end,
        gain=rise if is_max else -rise,
        end_error=end_error,
        gain_error=gain_error,
        is_diverged=np.array([fit.status == Status.DIVERGED for fit in fits]),
        is_whole=np.array([fit.status in WHOLE for fit in fits]),
        is_max=is_max,
    )


def _rises(fits: Sequence[Fit], table: pd.DataFrame, metric: str) -> np.ndarray:
    """By how much a metric rose from start to end, of the training loss on the same batches where it was looked at."""
    if metric in (FINAL_LOSS, BEST_LOSS):
        ends = np.array([fit.end_loss for fit in fits])
        ends = np.where(np.isnan(ends), table[FINAL_LOSS].to_numpy(float), ends)
        return _differences(ends, np.array([fit.start_loss for fit in fits]))
    initial = f"initial_{metric}"
    starts = table[initial].to_numpy(float) if initial in table else np.full(len(fits), np.nan)
    return _differences(table[metric].to_numpy(float), starts)


def _differences(ends: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Ends less starts; NaN from a start that is not finite, of which nothing can be told."""
    return ends - np.where(np.isfinite(starts), starts, np.nan)


def _errors(fit: Fit, metric: str, reported: Reported) -> tuple[float, float]:
    """The standard errors of that rise and of the end, for the luck of batches; 0 for what is taken on all validation data."""
    names = {column: name for name, column in reported.step_columns.items()}
    if metric not in names and metric not in (FINAL_LOSS, BEST_LOSS):
        return 0.0, 0.0
    rows = _finite(fit.history.get(names.get(metric, "loss")))
    last = max(len(rows) // 20, 1)
    of_last = _noise(rows[-max(last, ROWS_AT_THE_ENDS) :])
    if metric not in names and not np.isnan(fit.end_loss):
        of_first = of_last / np.sqrt(fit.num_compared)  # start and end are those of the same batches
    else:
        of_first = _noise(rows[:ROWS_AT_THE_ENDS])
    return of_first, float(of_last / np.sqrt(last))


def _finite(values: np.ndarray | None) -> np.ndarray:
    values = np.zeros(0) if values is None else values.astype(float)
    return values[np.isfinite(values)]


def _noise(rows: np.ndarray) -> float:
    """By how much one batch differs from another: what is left of each row without the trend."""
    return float(np.median(noises.left_over(rows)) / noises.OF_NOISE[1]) if len(rows) > 2 else 0.0


def _value(member: dict[str, Any], name: str) -> Any:
    """A value of an axis; NaN where the member does not read it."""
    return member.get(name, np.nan)


def _axis(name: str, values: list[Any], known: list[Static]) -> Axis:
    if all(words.is_number(value) for value in values):
        return Axis(name, np.array(values, float))
    codes = {each: float(code) for code, each in enumerate(known)}
    coded = np.array([np.nan if words.is_blank(value) else codes[words.as_known(value)] for value in values])
    return Axis(name, coded, is_range=False)


def _in_whole_numbers(found: Range, values: list[Any]) -> Range:
    """The range in the values as they were given."""
    if not all(isinstance(value, (int, np.integer)) or words.is_blank(value) for value in values):
        return found

    def whole(value):
        if isinstance(value, tuple):
            return tuple(map(int, value))
        return int(value) if isinstance(value, float) else value

    return Range(*(whole(value) for value in found))


def _in_words(found: Ranking, labels: list[Any]) -> Ranking:
    """The ranking with values in place of codes."""

    def of(codes):
        return tuple(labels[int(code)] for code in codes)

    return found._replace(values=of(found.values), diverged=of(found.diverged), not_finite=of(found.not_finite))
