"""The question of a sweep: by which metric members are compared, which way, and along which axis they are averaged.

What members report flows in, as names; out flows the question with its defaults filled in, and a name of its own for each
thing reported. All that compares members (halving, ``best``, ``print``, ``summary``, ``plot``) reads one ``Question``.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from gradkit import checks

VALIDATION_LOSS = "validation_loss"  # of the validation data, in evaluation mode
HELD_OUT_LOSS = "held_out_loss"  # what a step reports of examples that it does not learn from
FINAL_LOSS = "final_loss"  # of the training data
BEST_LOSS = "best_loss"


class AsAsked(enum.Enum):
    """Stands for an argument that was left out, where ``None`` has a meaning of its own."""

    AS_ASKED = "as the sweep was asked"

    def __repr__(self) -> str:
        return self.name


AS_ASKED = AsAsked.AS_ASKED


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a sweep is asked.

    Attributes:
        metric: A column of ``Sweep.table``; ``"loss"`` is another name of ``"final_loss"``.
        goal: ``"min"`` or ``"max"``.
        over: The axis along which members are one configuration: seeds, or the folds of a cross-validation. ``None``: each
            member stands for itself.
    """

    metric: str
    goal: str
    over: str | None = "seed"


class Reported(NamedTuple):
    """The names of what members report besides the training loss, and the columns that stand for them.

    A name that both report is two columns: of the steps ``train_accuracy``, of the evaluation ``validation_accuracy``.

    Attributes:
        of_steps: What each step reports, on its batch.
        of_evaluation: What is taken on the validation data: their loss, and what ``evaluate`` reports.
        whole: Those of the steps' that are whole numbers by type: counts, where they never fall.
        of_all: The columns of the real numbers that all programs of the sweep report; only by these can all members be compared.

    >>> told = Reported(("accuracy", "norm"), ("validation_loss", "accuracy"))
    >>> told.step_columns
    {'accuracy': 'train_accuracy', 'norm': 'norm'}
    >>> told.evaluation_columns
    {'validation_loss': 'validation_loss', 'accuracy': 'validation_accuracy'}
    """

    of_steps: tuple[str, ...]
    of_evaluation: tuple[str, ...]
    whole: frozenset[str] = frozenset()
    of_all: frozenset[str] = frozenset()

    @property
    def step_columns(self) -> dict[str, str]:
        """The column of each thing that steps report."""
        return {name: f"train_{name}" if name in self.of_evaluation else name for name in self.of_steps}

    @property
    def evaluation_columns(self) -> dict[str, str]:
        """The column of each thing that is taken on the validation data."""
        return {name: f"validation_{name}" if name in self.of_steps else name for name in self.of_evaluation}

    @property
    def columns(self) -> list[str]:
        """All of them: those of the evaluation, then those of the steps."""
        return [*self.evaluation_columns.values(), *self.step_columns.values()]

    @property
    def default(self) -> str:
        """What compares members unless told otherwise: a loss of data that they do not learn from, where there are such."""
        if VALIDATION_LOSS in self.of_all:
            return VALIDATION_LOSS
        return HELD_OUT_LOSS if HELD_OUT_LOSS in self.of_all else FINAL_LOSS

    @property
    def comparable(self) -> list[str]:
        """The names of all that members of all programs can be compared by."""
        columns = [*self.step_columns.values(), *self.evaluation_columns.values()]
        return ["loss", *(column for column in columns if column in self.of_all)]


def is_loss(metric: str) -> bool:
    """Whether the name alone says that less is better.

    >>> [is_loss(name) for name in ("loss", "held_out_loss", "accuracy", "error")]
    [True, True, False, False]
    """
    return metric == "loss" or metric.endswith("_loss")


def column_of(metric: str) -> str:
    """The column of the table that a metric is."""
    return FINAL_LOSS if metric == "loss" else metric


def check_metric(argument: str, metric: Any, reported: Reported):
    """Refuse a metric that not all members report, and a name that two things bear.

    Raises:
        TypeError: If the metric is not a name.
        ValueError: If nothing of that name is reported, not by all members, or by steps and
            evaluation alike.
    """
    remedy = "Write 'loss', 'validation_loss' or a name that evaluate reports."
    checks.require(isinstance(metric, str), argument, "be a name", metric, remedy, error=TypeError)
    if metric in (FINAL_LOSS, BEST_LOSS):
        return
    check_is_one(argument, metric, reported)
    is_of_all = metric in reported.comparable
    is_of_some = metric in reported.columns and not is_of_all
    rule = "be a real number that all programs of the sweep report"
    checks.require(not is_of_some, argument, rule, metric, "Report it in each, or sweep them apart.")
    if not reported.of_evaluation:
        rule = f"be {' or '.join(map(repr, reported.comparable))} without validation data"
        remedy = "Pass validation=(inputs, targets), and evaluate=... for other metrics than the loss."
        checks.require(is_of_all, argument, rule, metric, remedy)
    checks.one_of(argument, metric, reported.comparable)


def check_is_one(argument: str, metric: str, reported: Reported):
    """Refuse a name that the steps and the evaluation both report."""
    is_both = metric in reported.of_steps and metric in reported.of_evaluation
    rule = f"say which {metric} is meant, as steps and evaluate both report one"
    remedy = f"Write 'train_{metric}' or 'validation_{metric}'."
    checks.require(not is_both, argument, rule, metric, remedy)


def goal_of(metric: str, goal: str | None) -> str:
    """The goal as given, or ``"min"`` for a loss.

    Raises:
        ValueError: If there is none and the metric is no loss, or it is neither of the two.

    >>> goal_of("held_out_loss", None), goal_of("accuracy", "max")
    ('min', 'max')
    """
    if goal is not None:
        return checks.one_of("goal", goal, ["min", "max"])
    rule = "be given with a metric that is no loss"
    remedy = "Write goal='max' if more is better, goal='min' if less is."
    checks.require(is_loss(metric), "goal", rule, checks.Described(f"None for {metric!r}"), remedy)
    return "min"


def check_over(argument: str, over: Any, axes: Collection[str]):
    """Refuse an axis that the space does not have; ``"seed"`` may be missing."""
    is_axis = over in (None, "seed") or over in axes
    rule = f"be an axis of the space, one of {', '.join(axes)}"
    remedy = "Members that differ along it alone are ranked together."
    checks.require(is_axis, argument, rule, over, remedy)


def also_asked(question: Question, metric: str | None, goal: str | None, over: Any = AS_ASKED) -> Question:
    """The question with what one call asks for in its place; another metric brings its own goal."""
    over = question.over if over is AS_ASKED else over
    if metric is None or column_of(metric) == question.metric:
        return Question(metric=question.metric, goal=goal_of(question.metric, goal or question.goal), over=over)
    return Question(metric=column_of(metric), goal=goal_of(metric, goal), over=over)
