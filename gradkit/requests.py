"""What a call of ``sweep`` or ``plan`` asks for, as one frozen request; checked, it becomes programs, ready to run.

A request flows in; the runs of its programs, the question with its defaults filled in, and who ranks with whom flow out.
Everything wrong with the arguments raises here, before anything compiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax

from gradkit import checks, questions
from gradkit.data import source
from gradkit.engine import group as groups
from gradkit.engine import halving as rules
from gradkit.engine import holdings, planner, programs
from gradkit.engine import outline as outlines
from gradkit.engine.halving import Configuration, Halving
from gradkit.engine.holdings import Holding
from gradkit.engine.plan import Plan
from gradkit.engine.runs import Run
from gradkit.keys import as_key
from gradkit.questions import BEST_LOSS, FINAL_LOSS, VALIDATION_LOSS, Question, Reported
from gradkit.results.sweep import configurations
from gradkit.spaces import Space

ENGINE_AXES = ("steps", "batch_size", "seed")  # read by the engine, whether or not make reads them too


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments of :func:`gradkit.sweep`, all but ``progress``, as they were given; the rule of each beside it."""

    make: Any  # a function Hyper -> Descent
    data: Any  # what gradkit.data.source takes
    space: Any  # a Space
    steps: Any  # a whole number of at least 1, unless it is an axis
    batch_size: Any  # a whole number of at least 1 or None; None if it is an axis
    key: Any  # an int or a jax key
    validation: Any  # arrays, or None
    evaluate: Any  # a function (params, batch) -> {name: scalar} or None, and then
    evaluate_every: Any  # a whole number of at least 1 or None; both only with validation data
    history_every: Any  # a whole number of at least 1
    metric: Any  # a name that all members report, or None
    goal: Any  # "min", "max", or None for a loss
    over: Any  # an axis, "seed" or None
    halving: Any  # a Halving or None; it asks the same question, if any
    order: Any  # "shared", or with a seed axis "per_seed"
    plan: Any  # a Plan or None


class Prepared(NamedTuple):
    """The programs of a sweep, checked.

    Attributes:
        runs: What the members of each program share.
        names: What tells the programs apart, in words.
        reported: What members report.
        question: How they are compared.
        configurations: The members of each.
        halving: The rules, with the question in them, or ``None``.
        holdings: The runs without their arrays.
    """

    runs: list[Run]
    names: list[str]
    reported: Reported
    question: Question
    configurations: list[Configuration]
    halving: Halving | None
    holdings: list[Holding]


def prepare(request: Request) -> Prepared:
    """Check a request, abstractly; nothing compiles.

    Raises:
        TypeError, ValueError: If the arguments do not fit together.
    """
    _check_arguments(request)
    programs.begin()
    space, data, batch_size = request.space, request.data, request.batch_size
    every = checks.whole_number("history_every", request.history_every, at_least=1, remedy="1 keeps every step.")
    validation = groups.check_evaluation(request.validation, request.evaluate, request.evaluate_every)
    given = groups.Settings(as_key(request.key), validation, request.evaluate, request.evaluate_every, every)
    runs, names, sources = [], [], []
    for static, positions in _groups(space, data):
        sources.append(
            functools.partial(
                source, batch_size=static.get("batch_size", batch_size), key=given.key, per_seed=request.order == "per_seed"
            )
        )
        feed = sources[-1](data)
        data = feed.resident if jax.tree.leaves(feed.resident) else data  # on the device once, for all programs
        members = [{name: space[position][name] for name in space.traced} for position in positions]
        goals = [space[position].get("steps", request.steps) for position in positions]
        run = groups.prepare(request.make, static, members, positions, feed, goals, given)
        _check_seeds(run)
        runs.append(run)
        names.append(", ".join(f"{name}={_readable(value)}" for name, value in static.items()) or "all")
    reported = outlines.reported([run.outline for run in runs])
    groups.check_names(reported, space.axes)
    _check_reads(space, runs)
    question, halving = _asked(request, reported), None
    if request.halving is not None:
        halving = replace(request.halving, metric=question.metric, goal=question.goal, over=question.over)
        _check_halving(halving, space, runs)
        runs = [run._replace(rungs=rules.rung_steps(halving, run.num_steps)) for run in runs]
    held = _holdings(request, runs, sources)
    return Prepared(runs, names, reported, question, configurations(space, question.over), halving, held)


def _holdings(request: Request, runs: list[Run], sources: list[Callable]) -> list[Holding]:
    """The runs as the result keeps them; a digest of the data is taken once for all."""
    is_held = bool(jax.tree.leaves(runs[0].source.resident))
    data = holdings.given(request.data) if is_held else None
    validation = None if request.validation is None else holdings.given(request.validation)
    return [holdings.let_go(run, data, feed, validation) for run, feed in zip(runs, sources)]


def settle(prepared: Prepared, plan: Plan | None, *, is_asked: bool) -> Plan:
    """The layout of a sweep; see :func:`gradkit.engine.planner.plan`."""
    count = len(prepared.configurations)
    return planner.plan(prepared.runs, prepared.names, plan or Plan(), prepared.halving, count, is_asked=is_asked)


def _asked(request: Request, reported: Reported) -> Question:
    """The one question, whether it was asked of the sweep or of its halving."""
    halving = request.halving or Halving(min_steps=1)
    where, metric = _one("metric", request.metric, halving.metric)
    _, goal = _one("goal", request.goal, halving.goal)
    over_where, over = ("over", request.over) if halving.over is None else ("halving.over", halving.over)
    is_one = halving.over is None or request.over in ("seed", halving.over)
    checks.require(is_one, "over", f"be that of the halving, {halving.over!r}", request.over, "Name it once.")
    metric = reported.default if metric is None else metric
    questions.check_metric(where, metric, reported)
    questions.check_over(over_where, over, request.space.axes)
    return Question(metric=questions.column_of(metric), goal=questions.goal_of(metric, goal), over=over)


def _one(name: str, own: str | None, of_halving: str | None) -> tuple[str, str | None]:
    """What was named in one of two places, and which."""
    if of_halving is None:
        return name, own
    is_one = own is None or questions.column_of(own) == questions.column_of(of_halving)
    checks.require(is_one, name, f"be that of the halving, {of_halving!r}", own, "Name it once.")
    return f"halving.{name}", of_halving


def _check_arguments(request: Request):
    make, space, steps, batch_size = request.make, request.space, request.steps, request.batch_size
    halving, order, plan = request.halving, request.order, request.plan
    checks.require(callable(make), "make", "be a function Hyper -> Descent", make,
                   "Write make = lambda h: gk.descent(loss_fn, params, optax.adam(h.learning_rate)).",
                   error=TypeError)  # fmt: skip
    checks.require(isinstance(space, Space), "space", "be a Space", space,
                   "Make one with gk.grid(...), gk.zipped(...) or gk.sample(...).", error=TypeError)  # fmt: skip
    checks.require(plan is None or isinstance(plan, Plan), "plan", "be a Plan", plan, "Write gk.Plan(width=4).", error=TypeError)
    checks.require(halving is None or isinstance(halving, Halving), "halving", "be a Halving", halving,
                   "Write gk.Halving(min_steps=20).", error=TypeError)  # fmt: skip
    checks.one_of("order", order, ["shared", "per_seed"])
    if "steps" in space.axes:
        checks.require(steps is None, "steps", "be an argument or an axis, not both", steps, "Leave out one of them.")
    else:
        checks.whole_number("steps", steps, at_least=1, remedy="It counts the updates each member makes.")
    if "batch_size" in space.axes:
        checks.require(batch_size is None, "batch_size", "be an argument or an axis, not both", batch_size,
                       "Leave out one of them.")  # fmt: skip
    if order == "per_seed":
        checks.require("seed" in space.axes, "order", "be 'shared' without a seed axis", order,
                       "Add a seed axis: seed=range(4).")  # fmt: skip


def _groups(space: Space, data: Any) -> list[tuple[dict[str, Any], tuple[int, ...]]]:
    """The programs of a sweep: static hyper-parameters and the members that have them."""
    split = [(dict(static), positions) for static, positions in space.groups()]
    is_single_use = hasattr(data, "__next__")
    checks.require(len(split) == 1 or not is_single_use, "data", "be drawn once per program", checks.Described(
        f"an iterator for {len(split)} programs"), "Use gk.stream(start_step -> iterable) or arrays.")  # fmt: skip
    return split


def _check_halving(halving: Halving, space: Space, runs: list[Run]):
    checks.require("steps" not in space.axes, "halving", "come with one number of steps", checks.Described("an axis of steps"),
                   "Members are compared after equally many steps: pass steps=... instead.")  # fmt: skip
    rules.rung_steps(halving, runs[0].num_steps)


def _check_reads(space: Space, runs: list[Run]):
    read = frozenset().union(*(run.outline.reads for run in runs))
    unread = [name for name in space.axes if name not in read and name not in ENGINE_AXES]
    checks.require(not unread, "space", "have only axes that make reads", checks.Described(", ".join(unread)),
                   f"make reads {', '.join(sorted(read)) or 'nothing'}; use the axis or drop it.")  # fmt: skip


def _check_seeds(run: Run):
    if len(set(run.members.seeds)) < 2:
        return
    matters = run.outline.is_keyed or run.source.is_ordered or "seed" in run.outline.reads
    checks.require(matters, "seed", "change something",
                   checks.Described(f"{len(set(run.members.seeds))} seeds for identical members"),
                   "Give gk.descent parameters that depend on the key (key -> pytree), or order='per_seed' with a "
                   "batch_size, or drop the axis.")  # fmt: skip


def unlike_losses(space: Space, prepared: Prepared) -> list[str]:
    """Say it where members are judged by losses that are not one and the same."""
    has_validation = VALIDATION_LOSS in prepared.reported.of_evaluation
    if prepared.question.metric not in ([VALIDATION_LOSS] if has_validation else [FINAL_LOSS, BEST_LOSS]):
        return []
    read = frozenset().union(*(run.outline.read_by_loss for run in prepared.runs))
    differing = [name for name in space.axes if name in read and len({member.get(name) for member in space}) > 1]
    if not differing:
        return []
    which = "loss in evaluation mode" if has_validation else "training loss"
    remedy = "Pass validation= (an objective is evaluated without its penalty)"
    remedy = "Pass validation_loss= to gk.descent" if has_validation else remedy
    return [
        f"the {which} reads {', '.join(differing)} itself, not through the parameters: members that differ in it are ranked by "
        f"different losses. {remedy}, or rank by a metric of evaluate="
    ]


def _readable(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)
