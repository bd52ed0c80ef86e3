"""Many members' results: table, curves, best, summary, replay."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradkit import checks, questions, settings, travels
from gradkit.engine.plan import Plan
from gradkit.engine.rungs import Rung
from gradkit.questions import AS_ASKED, Question, Reported
from gradkit.report import plots, summaries
from gradkit.results import evidence, remedies, rows, words
from gradkit.results.best import Best, configurations, winners
from gradkit.results.evidence import WHOLE
from gradkit.results.fit import Fit, on_device

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class Sweep:
    """The results of all members of a sweep, in the order of its space.

    Attributes:
        hyper: The hyper-parameters of each member, without those that it does not have or its program does not read.
        fits: The result of each member; parameters are views on the host.
        seconds: Wall time, compilation included.
        notes: What the reader must know: why a stream ended early, where memory ran out, which losses are not alike.
        plan: How it was laid out; give it to ``gk.sweep`` to repeat it to the bit.
        passed: What happened at the rungs of a halving; see :meth:`rungs`.
        question: How members are compared, unless a call asks otherwise.
        reported: The names of what they report.
        run_by: The member whose run each shares: itself, or the first of those that are equal in all they read.
        has_shared_batches: Whether all seeds saw the same batches, each a part of the data.
        settings: Those of jax that it ran under; :meth:`replay` restores them.
    """

    hyper: tuple[dict[str, Any], ...]
    fits: tuple[Fit, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    plan: Plan | None = None
    passed: tuple[Rung, ...] = ()
    question: Question = field(kw_only=True)
    reported: Reported = field(kw_only=True)
    run_by: tuple[int, ...] = field(kw_only=True)
    has_shared_batches: bool = field(default=False, kw_only=True)
    settings: settings.Settings = field(default_factory=dict, kw_only=True)
    rerun: Callable[..., Fit] = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.fits)

    def __iter__(self) -> Iterator[Fit]:
        return iter(self.fits)

    def __getitem__(self, member: int) -> Fit:
        return self.fits[member]

    @property
    def metric(self) -> str:
        """What ranks members unless a call asks otherwise."""
        return self.question.metric

    @property
    def axes(self) -> list[str]:
        """The names of the hyper-parameters."""
        return words.axes(self.hyper)

    def table(self) -> pd.DataFrame:
        """A row per member, in the order of the space: hyper-parameters, status, steps made, metrics, first bad leaf.

        What a member does not have, or its program does not read, is blank (NaN); functions of one name are numbered.

        What the sweep was asked for is the first metric. ``initial_loss`` is that of the first batch that has a finite one,
        ``final_loss`` the mean over the last twentieth of the steps made (one batch alone is noise), ``best_loss`` the lowest of
        any batch. What the steps report besides their loss stands under its own name, and at the first step as ``initial_...``;
        taken like ``final_loss``, but for counts, of which the last tells: ``skipped_in_a_row``, and whole numbers that never
        fall. What steps and ``evaluate`` both report is two columns, as ``train_accuracy`` and ``validation_accuracy``.
        """
        import pandas as pd

        blank = dict.fromkeys(self.axes, np.nan)
        return pd.DataFrame([self._row(member, blank | hyper) for member, hyper in enumerate(words.told(self.hyper))])

    def _row(self, member: int, hyper: dict[str, Any]) -> dict[str, Any]:
        fit = self.fits[member]
        metrics = rows.metrics_of(fit, self.reported)
        return {
            "member": member,
            **hyper,
            "status": fit.status.name,
            "steps_made": fit.steps,
            **({"rung": fit.rung} if self.passed else {}),
            self.metric: metrics[self.metric],
            **metrics,
            "bad_leaf": fit.bad_leaf,
        }

    @property
    def rungs(self) -> pd.DataFrame:
        """A row per rung of a halving: steps, members and configurations in play, who left and why, who went on, widths.

        ``best`` is the best mean of a configuration by the sweep's metric.
        """
        import pandas as pd

        return pd.DataFrame(self.passed, columns=Rung._fields)

    def curves(self) -> pd.DataFrame:
        """A row per member and number of steps made: the loss there, what the step reported and, where taken, the evaluation."""
        import pandas as pd

        frames = [rows.curve_of(fit, self.reported) for fit in self.fits]
        for member, frame in enumerate(frames):
            frame.insert(0, "member", member)
        return pd.concat(frames, ignore_index=True)

    def best(self, metric: str | None = None, goal: str | None = None, over: Any = AS_ASKED) -> Best:
        """The best configuration by the mean of a metric over an axis; a diverged member never wins.

        A configuration counts only if all its members finished, with a metric that is finite; where none did, those that did
        count. Of equals the first in the space wins.

        Args:
            metric: A column of the table. Default: that of the sweep's question, and so for the others.
            goal: ``"min"`` or ``"max"``; may be left out for a loss.
            over: The axis to average over; ``None`` for the best single member. ``"seed"`` may be missing.

        Raises:
            ValueError: If the metric or the goal is unknown, or no member finished.
        """
        table = self.table()
        return self._best(table, self._asked(table, metric, goal, over))

    def _best(self, table: pd.DataFrame, question: Question) -> Best:
        metric, values = question.metric, table[question.metric].to_numpy()
        is_whole = np.array([fit.status in WHOLE for fit in self.fits])
        given = checks.Described(self._counts())
        checks.require(is_whole.any(), "sweep", "have a member that finished", given, remedies.remedy(self.fits, self.notes))
        given = checks.Described(f"{metric} that is NaN or infinite in all {is_whole.sum()}")
        remedy = "Look at what reports it, or ask by another metric."
        is_sound = is_whole & np.isfinite(values)
        checks.require(is_sound.any(), "metric", "be finite in a member that finished", given, remedy)
        members = winners(values, question.goal, self.configurations(question.over), is_sound)
        hyper = {name: value for name, value in self.hyper[members[0]].items() if name != question.over}
        found = values[list(members)]
        std = found.std(ddof=1) if len(found) > 1 else np.nan
        return Best(hyper, metric, float(found.mean()), float(std), members)

    def _asked(self, table, metric, goal, over) -> Question:
        """The question with what a call asks for in its place."""
        if metric is not None:
            questions.check_is_one("metric", metric, self.reported)
            checks.one_of("metric", questions.column_of(metric), self._metrics(table))
        if over not in (AS_ASKED, None, "seed"):
            checks.one_of("over", over, self.axes)
        return questions.also_asked(self.question, metric, goal, over)

    def configurations(self, over: Any = AS_ASKED) -> list[tuple[int, ...]]:
        """The members that differ at most along one axis (default: the one averaged over), for each combination of the others.

        Of members that share a run, the one that ran.
        """
        return configurations(self.hyper, self.question.over if over is AS_ASKED else over, self.run_by)

    def params(self, member: int) -> Any:
        """The parameters of a member, as jax arrays of the types they had."""
        with settings.restored(self.settings):
            return on_device(self.fits[member].params)

    def replay(self, member: int) -> Fit:
        """Run a member again in the chunk shape and lane it had: the same bits, and this time with its final state.

        jax's settings (64-bit types, the precision of matrix products...) are those of the sweep, whatever is set by now. A sweep
        that was sent replays in another process too, if ``make`` and other functions are found in a module there, and devices
        of the same kind; data and programs must be those that ran (programs are compared under one version of jax only).

        What is still compiled is run as it is; where something must be traced anew, ``make`` and what it calls must be what
        they were. A member that was stopped (Ctrl-C) ends where it was stopped.

        Raises:
            ValueError: If the data were a plain iterable, which cannot be drawn again, if something is not found or was edited
                since, or if the member made no step.
        """
        with settings.restored(self.settings):
            return self.rerun(self.run_by[member], is_alone=False)

    def refit(self, member: int) -> Fit:
        """Fit a member alone: its hyper-parameters, its key, its order of the data, all its steps, in a lane of its own.

        What a sweep at width one gives to the bit. A replay repeats what happened instead: at the width, in the lane and up to
        the rung at which a halving dropped the member; a refit runs on to its last step.

        Raises:
            ValueError: As :meth:`replay`.
        """
        with settings.restored(self.settings):
            return self.rerun(self.run_by[member], is_alone=True)

    def __copy__(self) -> Sweep:
        return replace(self)

    def __deepcopy__(self, memo) -> Sweep:
        hyper = tuple(dict(values) for values in self.hyper)  # the values are shared, they may be any objects
        return replace(self, hyper=hyper, fits=copy.deepcopy(self.fits, memo))

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled; what cannot travel arrives as its name."""
        return self.__dict__ | {"hyper": travels.sent_each(self.hyper), "settings": travels.sent_each([self.settings])[0]}

    def __setstate__(self, state: dict[str, Any]):
        here = {name: value for name, value in state["settings"].items() if not travels.is_missing(value)}
        self.__dict__.update(state | {"settings": here})

    def summary(self, metric: str | None = None, goal: str | None = None, over: Any = AS_ASKED) -> summaries.Summary:
        """The answer: the best configuration, per axis the range that works, what diverged and what barely moved."""
        return self._summary(self.table(), metric, goal, over)

    def _summary(self, table: pd.DataFrame, metric=None, goal=None, over: Any = AS_ASKED) -> summaries.Summary:
        question = self._asked(table, metric, goal, over)
        best, told = self._best(table, question), words.told(self.hyper)
        own, place = self._own(table)
        together = [tuple(place[member] for member in each) for each in self.configurations(question.over)]
        hyper, fits = [self.hyper[member] for member in place], [self.fits[member] for member in place]
        shared = self.has_shared_batches
        found = evidence.find(hyper, fits, own, together, question, self.reported, has_shared_batches=shared)
        return summaries.summarize(
            own, found, best, [place[member] for member in best.members],
            words={name: told[best.member][name] for name in best.hyper}, num_configurations=len(together), question=question,
            others=[name for name in self.reported.columns if name in self._metrics(table)], seconds=self.seconds,
            notes=(*self.notes, *evidence.notes(hyper, question, has_shared_batches=shared)),
        )  # fmt: skip

    def plot(self, metric: str | None = None, axis: str | None = None, goal: str | None = None, over: Any = AS_ASKED):
        """Draw the metric against an axis, and the curves; returns a matplotlib figure.

        Each value of the axis stands for the best configuration that has it: mean and band over its members.

        Args:
            metric: A column of the table; default as in :meth:`best`, and so for ``goal`` and ``over``.
            axis: Default: the numeric axis with the most values, of those that all members have if there are such.
            goal: ``"min"`` or ``"max"``.
            over: The axis to average over.
        """
        import pandas as pd

        table = self.table()
        question = self._asked(table, metric, goal, over)
        axes = plots.drawable(self.axes, question.over)
        if axis is not None:
            checks.one_of("axis", axis, axes)
        whole = [name for name in axes if all(name in hyper for hyper in self.hyper)]
        axes = [axis] if axis else whole or axes[:1]
        own, place = self._own(table, () if whole and not axis else axes)
        together = [tuple(place[i] for i in each) for each in self.configurations(question.over) if each[0] in place]
        curves = {member: self.fits[member].curve for member in place}
        steps = {member: np.arange(len(curve)) * self.fits[member].every for member, curve in curves.items()}
        losses = pd.DataFrame({place[member]: pd.Series(curve, steps[member]) for member, curve in curves.items()})
        told = words.told(self.hyper)
        with_none = [name for name in axes if any(member.get(name, 0) is None for member in told)]  # in a table as if missing
        own = own.assign(**{name: [str(told[member].get(name)) for member in place] for name in with_none})
        return plots.draw_sweep(
            own, losses, axes, together, metric=question.metric, goal=question.goal, axis=axis,
            replicate=question.over or "member",
        )  # fmt: skip

    def _own(self, table: pd.DataFrame, axes: Sequence[str] = ()) -> tuple[pd.DataFrame, dict[int, int]]:
        """The rows of the members that ran and have these axes, numbered anew, and the number of each."""
        members = [member for member in sorted(set(self.run_by)) if all(name in self.hyper[member] for name in axes)]
        place = {member: number for number, member in enumerate(members)}
        return table.iloc[members].assign(member=range(len(members))).reset_index(drop=True), place

    def _metrics(self, table) -> list[str]:
        """The columns that members can be compared by."""
        return [name for name in rows.names(self.reported) if table[name].dtype.kind == "f"]

    def _counts(self) -> str:
        names = [fit.status.name for fit in self.fits]
        return ", ".join(f"{names.count(name)} {name.lower()}" for name in dict.fromkeys(names))

    def __repr__(self) -> str:
        is_whole = [fit.status in WHOLE for fit in self.fits]
        table = self.table()
        if any(np.isfinite(table[self.metric].to_numpy()[is_whole])):
            return str(self._summary(table))
        head = f"Sweep of {len(self)} members in {self.seconds:.1f} s: {self._counts()}"
        if any(is_whole):
            return f"{head}; in none of those that finished is {self.metric} finite"
        first = min(range(len(self)), key=lambda member: self.fits[member].steps)
        story = f"First to stop: member {first}, {self.hyper[first]}: {self.fits[first]!r}."
        return f"{head}; none finished. {story} {remedies.remedy(self.fits, self.notes)}"
