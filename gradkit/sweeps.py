"""The front doors for many descents. A space flows in; ``plan`` says how it would run, ``sweep`` runs it into a ``Sweep``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from gradkit import checks, settings
from gradkit.contracts import Descent, Hyper
from gradkit.data import source
from gradkit.engine import compilation, planner
from gradkit.engine import group as groups
from gradkit.engine import halving as rules
from gradkit.engine.halving import Configuration, Halving
from gradkit.engine.interrupts import listening
from gradkit.engine.plan import Plan
from gradkit.engine.progress import Tally, shown
from gradkit.engine.runs import Run
from gradkit.keys import as_key
from gradkit.results import Fit, Sweep
from gradkit.results.fit import from_ledger, on_device
from gradkit.results.sweep import configurations
from gradkit.spaces import Space

ENGINE_AXES = ("steps", "batch_size", "seed")  # read by the engine, whether or not make reads them too


def sweep(
    make: Callable[[Hyper], Descent],
    data: Any,
    space: Space,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    key: Any = 0,
    validation: Any = None,
    evaluate: Callable[[Any, Any], dict[str, Any]] | None = None,
    evaluate_every: int | None = None,
    history_every: int = 1,
    halving: Halving | None = None,
    order: str = "shared",
    plan: Plan | None = None,
    progress: bool = True,
) -> Sweep:
    """Run a descent for every member of a space, many at once in one compiled program.

    Numeric axes are traced: a second sweep with other values, equal shapes and the same ``make`` compiles nothing. Programs are
    kept by ``make`` itself: if you change a function that it calls, define ``make`` anew as well. ``static`` axes, strings,
    callables and ``batch_size`` split the sweep into groups, one program each; members that differ in ``steps`` share one.

    Args:
        make: ``Hyper -> Descent``; called while tracing. The hyper-parameters are attributes: ``h.learning_rate``.
        data, batch_size, validation, evaluate, evaluate_every, history_every, progress: As in :func:`gradkit.fit`; shared by all
            members.
        space: The members, for example ``gk.grid(learning_rate=gk.geomspace(1e-4, 1, 9), seed=range(4))``. A ``seed`` axis
            gives each seed its own key: ``gk.keys.member_key(key, seed)``.
        steps: Updates to make, unless ``steps`` is an axis.
        key: An int or a jax key; seeds initialization and order.
        halving: ``gk.Halving(min_steps=...)`` stops what does badly early.
        order: ``"shared"``: all members see the same batches; ``"per_seed"``: each seed has its own order.
        plan: The layout: what :func:`gradkit.plan` gave for this sweep, or ``gk.Plan(width=..., threads=..., devices=...)``.
            Default: a first guess, or where the run lasts longer than a few seconds, what is measured to be fastest. Give a plan
            (``Sweep.plan``) to repeat a sweep to the bit elsewhere or later.

    Returns:
        A ``Sweep``. Members that fail are no error: each rests at its last finite state with ``Status.DIVERGED``. Ctrl-C ends the
        segment and returns what there is. Where memory runs out, chunks go on at half the width.

    Raises:
        TypeError, ValueError: Before anything compiles, if the arguments do not fit together.

    >>> import jax.numpy as jnp, optax
    >>> import gradkit as gk
    >>> x = jnp.linspace(-1, 1, 64)
    >>> line = lambda w, batch: jnp.mean((w * batch[0] - batch[1]) ** 2)
    >>> make = lambda h: gk.descent(line, jnp.zeros(()), optax.sgd(h.learning_rate))
    >>> result = gk.sweep(make, (x, 3 * x), gk.grid(learning_rate=[0.01, 0.1, 1.0, 100.0]), steps=100)
    >>> [fit.status.name for fit in result], result.best().hyper
    (['FINISHED', 'FINISHED', 'FINISHED', 'DIVERGED'], {'learning_rate': 1.0})
    """
    started = time.perf_counter()
    with compilation.persistent():
        prepared = _prepare(
            make, data, space, steps, batch_size, key, validation, evaluate, evaluate_every, history_every, halving, order, plan
        )
        settled = planner.plan(prepared.runs, prepared.names, plan or Plan(), halving, len(prepared.configurations),
                               is_asked=False)  # fmt: skip
        return _run(space, prepared, settled, halving, progress, started)


def plan(
    make: Callable[[Hyper], Descent],
    data: Any,
    space: Space,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    key: Any = 0,
    validation: Any = None,
    evaluate: Callable[[Any, Any], dict[str, Any]] | None = None,
    evaluate_every: int | None = None,
    history_every: int = 1,
    halving: Halving | None = None,
    order: str = "shared",
    plan: Plan | None = None,
) -> Plan:
    """Say how a sweep would run, and how long: compile a few widths and time a few steps of each.

    Planning takes at most about 2 seconds or 2 % of the predicted run, whichever is more; what was measured is kept in the user's
    cache folder, and the next sweep of the kind starts from it. ``print`` the plan, and give it to ``gk.sweep(..., plan=plan)``.

    Args:
        make, data, space: As for :func:`gradkit.sweep`, and so are the others.
        plan: What is fixed beforehand: ``gk.Plan(threads=1)``.

    Returns:
        A ``Plan`` with an entry per program: members, widths, chunks, bytes, compile and run seconds. Evaluations are not part
        of the estimate.

    Raises:
        TypeError, ValueError: As :func:`gradkit.sweep`.

    >>> import jax.numpy as jnp, optax
    >>> import gradkit as gk
    >>> x = jnp.linspace(-1, 1, 64)
    >>> line = lambda w, batch: jnp.mean((w * batch[0] - batch[1]) ** 2)
    >>> make = lambda h: gk.descent(line, jnp.zeros(()), optax.sgd(h.learning_rate))
    >>> print(gk.plan(make, (x, 3 * x), gk.grid(learning_rate=gk.geomspace(0.01, 1, 8)), steps=100))
    8 members in 1 program on ... device...; ... in flight
    program  members  width  chunks  memory...compile  run...measured (member-steps/s)
    all      8        ...
    planned in ... s
    """
    checks.require(not hasattr(data, "__next__"), "data", "be drawn again for the sweep", checks.Described("an iterator"),
                   "Use gk.stream(start_step -> iterable) or arrays.")  # fmt: skip
    with compilation.persistent():
        prepared = _prepare(
            make, data, space, steps, batch_size, key, validation, evaluate, evaluate_every, history_every, halving, order, plan
        )
        return planner.plan(prepared.runs, prepared.names, plan or Plan(), halving, len(prepared.configurations), is_asked=True)


class _Prepared(NamedTuple):
    """The programs of a sweep, checked: what their members share, what tells them apart in words, and who ranks with whom."""

    runs: list[Run]
    names: list[str]
    configurations: list[Configuration]


def _prepare(
    make, data, space, steps, batch_size, key, validation, evaluate, evaluate_every, history_every, halving, order, plan
) -> _Prepared:
    _check_arguments(make, space, steps, batch_size, halving, order, plan)
    every = checks.whole_number("history_every", history_every, at_least=1, remedy="1 keeps every step.")
    validation = groups.check_evaluation(validation, evaluate, evaluate_every)
    given = groups.Settings(as_key(key), validation, evaluate, evaluate_every, every)
    runs, names = [], []
    for static, positions in _groups(space, data):
        feed = source(data, batch_size=static.get("batch_size", batch_size), key=given.key, per_seed=order == "per_seed")
        data = feed.resident if jax.tree.leaves(feed.resident) else data  # on the device once, for all programs
        members = [{name: space[position][name] for name in space.traced} for position in positions]
        goals = [space[position].get("steps", steps) for position in positions]
        run = groups.prepare(make, static, members, positions, feed, goals, given)
        _check_seeds(run)
        runs.append(run)
        names.append(", ".join(f"{name}={_readable(value)}" for name, value in static.items()) or "all")
    _check_reads(space, runs)
    if halving is not None:
        _check_halving(halving, space, runs, has_validation=validation is not None)
    return _Prepared(runs, names, configurations(space, "seed" if halving is None else halving.over))


def _run(space, prepared: _Prepared, settled: Plan, halving, progress, started) -> Sweep:
    runs = prepared.runs
    tally = Tally(len(space), sum(int(run.members.goals.sum()) for run in runs))
    with listening() as is_interrupted, shown(tally, is_wanted=progress):
        rungs = groups.execute(runs, settled, tally, is_interrupted, halving, prepared.configurations)
    seconds = time.perf_counter() - started
    homes = {position: (run, member) for run in runs for member, position in enumerate(run.members.positions)}
    fits = tuple(from_ledger(run.ledger, member, seconds) for run, member in (homes[i] for i in range(len(space))))
    notes = [note for run in runs for note in (run.source.note(), *run.ledger.notes) if note]
    kept = settings.kept()
    replay = lambda member: _replay(*homes[member], settled, kept)  # noqa: E731
    return Sweep(tuple(space), fits, seconds, tuple(notes), settled, tuple(rungs), settings=kept, replay_fn=replay)


def _replay(run: Run, member: int, settled: Plan, kept: settings.Settings) -> Fit:
    checks.require(run.source.is_replayable, "data", "be drawn again for a replay", checks.Described("a plain iterable"),
                   "Use gk.stream(start_step -> iterable) or arrays.")  # fmt: skip
    started = time.perf_counter()
    with settings.restored(kept):
        with compilation.persistent(), listening() as is_interrupted:
            ledger = groups.replay(run, settled, member, is_interrupted)
        result = from_ledger(ledger, 0, time.perf_counter() - started)
        return replace(result, params=on_device(result.params), state=on_device(result.state))


def _check_arguments(make, space, steps, batch_size, halving, order, plan):
    checks.require(callable(make), "make", "be a function Hyper -> Descent", make,
                   "Write make = lambda h: gk.descent(loss_fn, params, optax.adam(h.learning_rate)).",
                   error=TypeError)  # fmt: skip
    checks.require(getattr(make, "__hash__", None) is not None, "make", "be hashable, as its programs are kept by it", make,
                   "Use a function, or a frozen dataclass.", error=TypeError)  # fmt: skip
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


def _check_halving(halving: Halving, space: Space, runs: list[Run], *, has_validation: bool):
    checks.require("steps" not in space.axes, "halving", "come with one number of steps", checks.Described("an axis of steps"),
                   "Members are compared after equally many steps: pass steps=... instead.")  # fmt: skip
    is_axis = halving.over == "seed" or halving.over in space.axes
    checks.require(is_axis, "halving.over", f"be an axis of the space, one of {', '.join(space.axes)}", halving.over,
                   "Members that differ along it alone are ranked together.")  # fmt: skip
    rules.rung_steps(halving, runs[0].num_steps)
    names = [name for name in runs[0].outline.metrics if name != "validation_loss"]
    reported = runs[0].outline.info.metrics
    rules.check_metric(halving, names, reported, has_validation=has_validation)
    every = runs[0].ledger.every
    checks.require(halving.metric not in ("loss", *reported) or every == 1 or 20 * every <= halving.min_steps, "history_every",
                   "be at most a twentieth of halving.min_steps, as members are ranked by the losses that are kept", every,
                   "Keep every step: history_every=1.")  # fmt: skip


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


def _readable(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)
