"""The front door for one descent: ``fit``. A sweep of one member, run by the same engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradkit import checks, settings, trees
from gradkit.contracts import Descent
from gradkit.data import source
from gradkit.engine import compilation, programs
from gradkit.engine import group as groups
from gradkit.engine import outline as outlines
from gradkit.engine.interrupts import listening
from gradkit.engine.progress import Tally, shown
from gradkit.keys import as_key
from gradkit.results import Fit
from gradkit.results.fit import from_ledger, on_device


@settings.without_explicit_mesh()
def fit(
    descent: Descent,
    data: Any,
    *,
    steps: int,
    batch_size: int | None = None,
    key: Any = 0,
    validation: Any = None,
    evaluate: Callable[[Any, Any], dict[str, Any]] | None = None,
    evaluate_every: int | None = None,
    history_every: int = 1,
    progress: bool = True,
) -> Fit:
    """Run one descent.

    Args:
        descent: What to run, for example ``gk.descent(loss_fn, params, optimizer)``.
        data: A pytree of arrays with a common leading axis (kept on the device), ``gk.drawn(...)``, ``gk.stream(...)`` or a
            plain iterable of batches.
        steps: Updates to make.
        batch_size: Examples per step, from shuffled epochs; ``None`` takes all of them each time (batch gradient descent), 1 is
            stochastic gradient descent. Only for arrays.
        key: An int or a jax key; seeds the initialization and the order of the data.
        validation: A batch of held-out arrays, on which the loss in evaluation mode is taken before the first step and after the
            last.
        evaluate: ``(params, batch) -> {name: scalar}``: more metrics on the validation batch.
        evaluate_every: Steps between further evaluations.
        history_every: Steps from one row of the history to the next; more than one saves memory on the host.
            The last twentieth of the steps is kept besides.
        progress: Whether to show a live line where somebody watches (a terminal or a notebook).

    Returns:
        A ``Fit``. A descent that fails is not an error: it rests at its last finite state with ``Status.DIVERGED``. Ctrl-C ends
        the segment and returns what there is.

    Raises:
        TypeError, ValueError: Before anything compiles, if the arguments do not fit together.

    >>> import jax.numpy as jnp, optax
    >>> import gradkit as gk
    >>> x = jnp.linspace(-1, 1, 64)
    >>> line = lambda w, batch: jnp.mean((w * batch[0] - batch[1]) ** 2)
    >>> result = gk.fit(gk.descent(line, jnp.zeros(()), optax.sgd(0.5)), (x, 3 * x), steps=50)
    >>> result.status.name, round(float(result.params), 3)
    ('FINISHED', 3.0)
    """
    started = time.perf_counter()
    checks.require(isinstance(descent, Descent), "descent", "be a Descent", descent,
                   "Make one with gk.descent(loss_fn, params, optimizer).", error=TypeError)  # fmt: skip
    steps = checks.whole_number("steps", steps, at_least=1, remedy="It counts the updates to make.")
    history_every = checks.whole_number("history_every", history_every, at_least=1, remedy="1 keeps every step.")
    key = as_key(key)
    are_spread = trees.is_spread(data) or trees.is_spread(validation)  # then they stay so, and the others are free to join them
    data, validation = map(trees.unbound if are_spread else trees.at_home, (data, validation))
    feed = source(data, batch_size=batch_size, key=key, per_seed=False)
    validation = groups.check_evaluation(validation, evaluate, evaluate_every)
    given = groups.Settings(key, validation, evaluate, evaluate_every, history_every, keeps_state=True)
    with compilation.persistent():
        programs.begin()
        run = groups.prepare(groups.Fixed(descent), {}, [{}], [0], feed, [steps], given)
        groups.check_names(outlines.reported([run.outline]), [])
        tally = Tally(1, steps)
        with listening() as is_interrupted, shown(tally, is_wanted=progress):
            groups.execute([run], groups.lone_plan(), tally, is_interrupted)
    result = from_ledger(run.ledger, 0, time.perf_counter() - started)
    notes = tuple(note for note in (run.source.note(), *run.ledger.notes) if note)
    return replace(result, params=on_device(result.params), state=on_device(result.state), notes=notes)
