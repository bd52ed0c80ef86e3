"""The front door for many descents: ``sweep``. A space flows in, a program per group runs, a ``Sweep`` flows out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from gradkit import checks
from gradkit.contracts import Descent, Hyper
from gradkit.data import source
from gradkit.engine import group as groups
from gradkit.engine.group import Group
from gradkit.engine.interrupts import listening
from gradkit.engine.plan import Plan
from gradkit.engine.progress import Tally, shown
from gradkit.keys import as_key
from gradkit.results import Fit, Sweep
from gradkit.results.fit import from_lane, on_device
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
    order: str = "shared",
    plan: Plan | None = None,
    progress: bool = True,
) -> Sweep:
    """Run a descent for every member of a space, many at once in one compiled program.

    Numeric axes are traced: a second sweep with other values, equal shapes and the same ``make`` compiles nothing. Programs are
    kept by ``make`` itself: if you change a function that it calls, define ``make`` anew as well. ``static`` axes, strings,
    callables, ``batch_size`` and ``steps`` split the sweep into groups, one program each.

    Args:
        make: ``Hyper -> Descent``; called while tracing. The hyper-parameters are attributes: ``h.learning_rate``.
        data, batch_size, validation, evaluate, evaluate_every, progress: As in :func:`gradkit.fit`; shared by all members.
        space: The members, for example ``gk.grid(learning_rate=gk.geomspace(1e-4, 1, 9), seed=range(4))``. A ``seed`` axis
            gives each seed its own key: ``gk.keys.member_key(key, seed)``.
        steps: Updates to make, unless ``steps`` is an axis.
        key: An int or a jax key; seeds initialization and order.
        order: ``"shared"``: all members see the same batches; ``"per_seed"``: each seed has its own order.
        plan: The layout: ``gk.Plan(width=..., threads=..., devices=...)``. Default: a first guess for this machine.

    Returns:
        A ``Sweep``. Members that fail are no error: each rests at its last finite state with ``Status.DIVERGED``. Ctrl-C ends the
        segment and returns what there is.

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
    _check_arguments(make, space, steps, batch_size, order, plan)
    key = as_key(key)
    validation = groups.check_evaluation(validation, evaluate, evaluate_every)
    prepared = []
    for static, positions in _groups(space, data):
        num_steps, size = static.get("steps", steps), static.get("batch_size", batch_size)
        feed = source(data, batch_size=size, key=key, per_seed=order == "per_seed")
        data = feed.resident if jax.tree.leaves(feed.resident) else data  # on the device once, for all programs
        members = [_traced(space, position) for position in positions]
        group = groups.prepare(
            make, static, members, feed, key=key, validation=validation, num_steps=num_steps, evaluate=evaluate,
            evaluate_every=evaluate_every, plan=plan,
        )  # fmt: skip
        _check_seeds(group)
        prepared.append((group, positions))
    _check_reads(space, [group for group, _ in prepared])
    return _run(space, prepared, progress, started)


def _run(space, prepared, progress, started) -> Sweep:
    tally = Tally(len(space), sum(group.run.num_steps * group.num_members for group, _ in prepared))
    places, notes = {}, []
    with listening() as is_interrupted, shown(tally, is_wanted=progress):
        for group, positions in prepared:
            for record in groups.execute(group, tally, is_interrupted):
                for lane, member in enumerate(record.members):
                    places.setdefault(positions[member], (record, lane))
            notes += [group.run.source.note()]
    seconds = time.perf_counter() - started
    fits = tuple(from_lane(*places[member], seconds) for member in range(len(space)))
    homes = {member: (group, i) for group, positions in prepared for i, member in enumerate(positions)}
    replay = lambda member: _replay(*homes[member])  # noqa: E731
    return Sweep(tuple(space), fits, seconds, tuple(note for note in notes if note), replay_fn=replay)


def _replay(group: Group, position: int) -> Fit:
    feed = group.run.source
    checks.require(feed.is_replayable, "data", "be drawn again for a replay", checks.Described("a plain iterable"),
                   "Use gk.stream(start_step -> iterable) or arrays.")  # fmt: skip
    started = time.perf_counter()
    with listening() as is_interrupted:
        record, lane = groups.replay(group, position, is_interrupted)
    result = from_lane(record, lane, time.perf_counter() - started)
    return replace(result, params=on_device(result.params), state=on_device(result.state))


def _check_arguments(make, space, steps, batch_size, order, plan):
    checks.require(callable(make), "make", "be a function Hyper -> Descent", make,
                   "Write make = lambda h: gk.descent(loss_fn, params, optax.adam(h.learning_rate)).",
                   error=TypeError)  # fmt: skip
    checks.require(getattr(make, "__hash__", None) is not None, "make", "be hashable, as its programs are kept by it", make,
                   "Use a function, or a frozen dataclass.", error=TypeError)  # fmt: skip
    checks.require(isinstance(space, Space), "space", "be a Space", space,
                   "Make one with gk.grid(...), gk.zipped(...) or gk.sample(...).", error=TypeError)  # fmt: skip
    checks.require(plan is None or isinstance(plan, Plan), "plan", "be a Plan", plan, "Write gk.Plan(width=4).", error=TypeError)
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


def _traced(space: Space, position: int) -> dict[str, Any]:
    member = space[position]
    return {name: member[name] for name in space.traced}


def _check_reads(space: Space, prepared: list[Group]):
    read = frozenset().union(*(group.run.outline.reads for group in prepared))
    unread = [name for name in space.axes if name not in read and name not in ENGINE_AXES]
    checks.require(not unread, "space", "have only axes that make reads", checks.Described(", ".join(unread)),
                   f"make reads {', '.join(sorted(read)) or 'nothing'}; use the axis or drop it.")  # fmt: skip


def _check_seeds(group: Group):
    if len(set(group.seeds)) < 2:
        return
    outline = group.run.outline
    matters = outline.is_keyed or group.run.source.is_ordered or "seed" in outline.reads
    checks.require(matters, "seed", "change something", checks.Described(f"{len(set(group.seeds))} seeds for identical members"),
                   "Give gk.descent parameters that depend on the key (key -> pytree), or order='per_seed' with a "
                   "batch_size, or drop the axis.")  # fmt: skip
