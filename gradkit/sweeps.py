"""The front doors for many descents. A space flows in; ``plan`` says how it would run, ``sweep`` runs it into a ``Sweep``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gradkit import checks, judging, requests, settings
from gradkit.contracts import Descent, Hyper
from gradkit.data.sources import take_all
from gradkit.engine import compilation
from gradkit.engine import group as groups
from gradkit.engine.halving import Halving
from gradkit.engine.interrupts import listening
from gradkit.engine.plan import Plan
from gradkit.engine.progress import Tally, shown
from gradkit.requests import Prepared, Request
from gradkit.reruns import Reruns
from gradkit.results import Sweep
from gradkit.results.fit import from_ledger
from gradkit.spaces import Space


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
    metric: str | None = None,
    goal: str | None = None,
    over: str | None = "seed",
    halving: Halving | None = None,
    order: str = "shared",
    plan: Plan | None = None,
    progress: bool = True,
) -> Sweep:
    """Run a descent for every member of a space, many at once in one compiled program.

    Numeric axes are traced: a second sweep with other values, equal shapes and the same ``make`` compiles nothing. Programs are
    kept by what ``make`` reads, its own code and that of your functions, globals and objects it reaches: an edit there makes a
    new program; code of installed packages is taken not to change. Where they read a file, a clock or a generator that all share
    (``np.random.randn``), each sweep compiles anew. ``static`` axes, strings, callables and ``batch_size`` split the sweep into
    groups, one program each; members that differ in ``steps`` share one. See :mod:`gradkit.engine.programs`.

    Args:
        make: ``Hyper -> Descent``; called while tracing. The hyper-parameters are attributes: ``h.learning_rate``.
        data, batch_size, validation, evaluate, evaluate_every, history_every, progress: As in :func:`gradkit.fit`; shared by all
            members.
        space: The members, for example ``gk.grid(learning_rate=gk.geomspace(1e-4, 1, 9), seed=range(4))``. A ``seed`` axis
            gives each seed its own key: ``gk.keys.member_key(key, seed)``. Spaces with different axes may be joined by ``+``.
            An axis that a member does not have, or that its program does not read, is blank for it; members that are equal
            therefore run once and share their result. An axis that no member reads is an error.
        steps: Updates to make, unless ``steps`` is an axis.
        key: An int or a jax key; seeds initialization and order.
        metric, goal, over: The question: what members are compared by, ``"min"`` or ``"max"``, and the axis along which they are
            averaged. Asked once, here or in ``halving``, and used by it and by all that the result says. ``metric`` is what
            ``evaluate`` or the steps report; where both report an accuracy, ``"validation_accuracy"`` or ``"train_accuracy"``.
            Default: the validation loss; without validation data the held-out loss of boosting, else the final training loss.
            ``goal`` may be left out for a loss. ``over=None`` compares single members.
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
    with settings.without_mesh(), compilation.persistent():
        request = Request(
            make=make,
            data=data,
            space=space,
            steps=steps,
            batch_size=batch_size,
            key=key,
            validation=validation,
            evaluate=evaluate,
            evaluate_every=evaluate_every,
            history_every=history_every,
            metric=metric,
            goal=goal,
            over=over,
            halving=halving,
            order=order,
            plan=plan,
        )
        prepared = requests.prepare(request)
        settled = requests.settle(prepared, plan, is_asked=False)
        return _run(request, prepared, settled, progress, started)


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
    metric: str | None = None,
    goal: str | None = None,
    over: str | None = "seed",
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
    with settings.without_mesh(), compilation.persistent():
        prepared = requests.prepare(
            Request(
                make=make,
                data=data,
                space=space,
                steps=steps,
                batch_size=batch_size,
                key=key,
                validation=validation,
                evaluate=evaluate,
                evaluate_every=evaluate_every,
                history_every=history_every,
                metric=metric,
                goal=goal,
                over=over,
                halving=halving,
                order=order,
                plan=plan,
            )
        )
        return requests.settle(prepared, plan, is_asked=True)


def _run(request: Request, prepared: Prepared, settled: Plan, progress, started) -> Sweep:
    space, runs = request.space, prepared.runs
    tally = Tally(len(prepared.found.own), sum(int(run.members.goals.sum()) for run in runs))
    with listening() as is_interrupted, shown(tally, is_wanted=progress):
        rungs = groups.execute(runs, settled, tally, is_interrupted, prepared.halving, prepared.configurations)
    seconds = time.perf_counter() - started
    homes = {position: (run, member) for run in runs for member, position in enumerate(run.members.positions)}
    own = {position: from_ledger(run.ledger, member, seconds) for position, (run, member) in homes.items()}
    run_by = prepared.found.run_by
    fits = tuple(own[position] for position in run_by)
    notes = [*judging.unlike_losses(space, prepared), *judging.unlike_traces(prepared), *prepared.found.note()]
    notes += [note for run in runs for note in (run.source.note(), *run.ledger.notes) if note]
    kept = settings.kept()
    courses = tuple(groups.course(*homes[run_by[member]]) for member in range(len(space)))
    return Sweep(
        prepared.found.hyper,
        fits,
        seconds,
        tuple(notes),
        settled,
        tuple(rungs),
        question=prepared.question,
        reported=prepared.reported,
        run_by=run_by,
        has_shared_batches=any(run.source.batch is not take_all and not run.source.is_ordered for run in runs),
        settings=kept,
        rerun=Reruns(request, settled, courses, tuple(prepared.holdings)),
    )
