"""What a call of ``sweep`` or ``plan`` asks for, as one frozen request; checked, it becomes programs, ready to run.

A request flows in; the runs of its programs, the question with its defaults filled in, and who ranks with whom flow out.
Everything wrong with the arguments raises here, before anything compiles.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax

from gradkit import checks, questions, trees
from gradkit.contracts import Source
from gradkit.data import source
from gradkit.engine import group as groups
from gradkit.engine import halving as rules
from gradkit.engine import holdings, planner, programs, readings
from gradkit.engine import outline as outlines
from gradkit.engine.halving import Configuration, Halving
from gradkit.engine.holdings import Holding
from gradkit.engine.plan import Plan
from gradkit.engine.readings import Readings
from gradkit.engine.runs import Run
from gradkit.keys import as_key
from gradkit.questions import Question, Reported
from gradkit.results import words
from gradkit.results.best import configurations
from gradkit.spaces import Space


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
        found: What each member reads, and whose run it shares.
        holdings: The runs without their arrays.
    """

    runs: list[Run]
    names: list[str]
    reported: Reported
    question: Question
    configurations: list[Configuration]
    halving: Halving | None
    found: Readings
    holdings: list[Holding]


def prepare(request: Request) -> Prepared:
    """Check a request, abstractly; nothing compiles.

    Raises:
        TypeError, ValueError: If the arguments do not fit together.
    """
    _check_arguments(request)
    programs.begin()
    space = request.space
    _check_folds(space, request.data)
    every = checks.whole_number("history_every", request.history_every, at_least=1, remedy="1 keeps every step.")
    validation = groups.check_evaluation(trees.at_home(request.validation), request.evaluate, request.evaluate_every)
    given = groups.Settings(as_key(request.key), validation, request.evaluate, request.evaluate_every, every)
    parts = _parts(request, given)
    reported = outlines.reported([part.run.outline for part in parts])
    groups.check_names(reported, space.axes)
    _check_reads(space, parts)
    found = _readings(space, parts)
    parts = [kept for kept in (_only(request, given, part, found.own) for part in parts) if kept]
    runs = [part.run for part in parts]
    question, halving = _asked(request, reported), None
    if request.halving is not None:
        halving = replace(request.halving, metric=question.metric, goal=question.goal, over=question.over)
        _check_halving(halving, space, runs)
        runs = [run._replace(rungs=rules.rung_steps(halving, run.num_steps)) for run in runs]
    together = configurations(found.hyper, question.over, found.run_by)
    told = words.told(found.hyper)
    names = [_name(part, told[part.positions[0]]) for part in parts]
    held = _holdings(request, runs, [part.source for part in parts])
    return Prepared(runs, names, reported, question, together, halving, found, held)


class _Part(NamedTuple):
    """A program of a sweep: the static hyper-parameters, the members that have them, their batches, how they run."""

    static: dict[str, Any]
    positions: Sequence[int]
    source: Callable[[Any], Source]
    feed: Source
    run: Run


def _parts(request: Request, given: groups.Settings) -> list[_Part]:
    """All members of the space, in as few programs as hold them."""
    data, parts = request.data, []
    for static, positions in _groups(request.space, data):
        own = functools.partial(
            _source,
            batch_size=static.get("batch_size", request.batch_size),
            key=given.key,
            per_seed=request.order == "per_seed",
        )
        feed = own(data)
        data = feed.resident if jax.tree.leaves(feed.resident) else data  # on the device once, for all programs
        parts.append(_Part(static, positions, own, feed, _run_of(request, given, static, positions, feed)))
    return parts


def _run_of(request: Request, given: groups.Settings, static, positions, feed: Source) -> Run:
    here = [request.space[position] for position in positions]
    members = [{name: member[name] for name in request.space.traced if name in member} for member in here]
    goals = [member.get("steps", request.steps) for member in here]
    return groups.prepare(request.make, static, members, positions, feed, goals, given)


def _readings(space: Space, parts: Sequence[_Part]) -> Readings:
    names = {position: readings.names_read(part.run, part.static) for part in parts for position in part.positions}
    # A lone seed that matters nowhere is no axis to choose along: it stays in the table as it was written.
    lone = frozenset() if any("seed" in each for each in names.values()) else frozenset({"seed"})
    return readings.read(space.members, [names[position] | lone for position in range(len(space))])


def _only(request: Request, given: groups.Settings, part: _Part, own: frozenset[int]) -> _Part | None:
    """The part of a program whose members run themselves; ``None`` if all share the runs of others."""
    positions = tuple(position for position in part.positions if position in own)
    if not positions or len(positions) == len(part.positions):
        return part if positions else None
    run = _run_of(request, given, part.static, positions, part.feed)
    return part._replace(positions=positions, run=run)


def _name(part: _Part, hyper: dict[str, Any]) -> str:
    """What tells a program from the others: the static hyper-parameters that it reads."""
    own = {name: repr(value) if isinstance(value, str) else hyper[name] for name, value in part.static.items() if name in hyper}
    return ", ".join(f"{name}={word}" for name, word in own.items()) or "all"


def _source(data: Any, **settings) -> Source:
    """The source of data at home: members are spread over devices, not examples."""
    return source(trees.at_home(data), **settings)


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
    rule, remedy = "be an argument or an axis, not both", "Leave out one of them."
    if _all_have(space, "steps"):
        checks.require(steps is None, "steps", rule, steps, remedy)
    else:
        checks.whole_number("steps", steps, at_least=1, remedy="It counts the updates each member makes.")
    if _all_have(space, "batch_size"):
        checks.require(batch_size is None, "batch_size", rule, batch_size, remedy)
    if order == "per_seed":
        remedy = "Add a seed axis: seed=range(4)."
        checks.require(_all_have(space, "seed"), "order", "be 'shared' without a seed axis", order, remedy)


def _all_have(space: Space, name: str) -> bool:
    return all(name in member for member in space)


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


def _check_reads(space: Space, parts: Sequence[_Part]):
    """Refuse axes that no member reads."""
    read = frozenset().union(*(part.run.outline.reads for part in parts))
    unread = [name for name in space.axes if name not in read and name not in (*readings.ENGINE_AXES, "seed")]
    remedy = f"make reads {', '.join(sorted(read)) or 'nothing'}; use the axis or drop it."
    checks.require(not unread, "space", "have only axes that make reads", checks.Described(", ".join(unread)), remedy)
    used = frozenset().union(*(readings.names_read(part.run, part.static) for part in parts))
    _check_seeds(space, "seed" in used)
    idle = [name for name in space.axes if name not in used and name != "seed"]
    remedy = "make reads it, but nothing that a member is or tells depends on it; use the axis or drop it."
    checks.require(not idle, "space", "have only axes that change something", checks.Described(", ".join(idle)), remedy)


def _check_folds(space: Space, data: Any):
    """Hold an axis named ``fold`` to the folds of data that know theirs: a traced one is seen by no descent."""
    for fold in dict.fromkeys(member["fold"] for member in space if "fold" in member):
        if hasattr(data, "check_fold"):
            data.check_fold(fold)


def _check_seeds(space: Space, matter: bool):
    seeds = {member["seed"] for member in space if "seed" in member}
    remedy = (
        "Give gk.descent parameters that depend on the key (key -> pytree), or order='per_seed' with a batch_size, or drop "
        "the axis."
    )
    given = checks.Described(f"{len(seeds)} seeds for identical members")
    checks.require(matter or len(seeds) < 2, "seed", "change something", given, remedy)
