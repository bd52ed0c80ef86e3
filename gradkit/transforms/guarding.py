"""A step that went wrong, undone as a whole."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import one_of, whole_number
from gradkit.contracts import Status
from gradkit.transforms.skips import Skips, all_finite, are_equal, count_skip, no_skips, select, stays_finite
from gradkit.transforms.wrapping import copied, require_params, wrapped

POLICIES = ("skip", "raise", "restore")


class Kept(NamedTuple):
    """The last good point of :func:`guard` under ``"restore"``: parameters, optimizer state, good steps made from there."""

    params: Any
    inner: Any
    age: jax.Array


class GuardState(NamedTuple):
    """State of :func:`guard`.

    Attributes:
        skips: Steps undone, and the last finite loss.
        status: A ``Status`` as an int32 scalar: ``RUNNING``, or under ``"raise"`` from the first bad step on ``DIVERGED``.
        kept: The last good point under ``"restore"``, else ``()``.
        inner: State of the guarded optimizer.
    """

    skips: Skips
    status: jax.Array
    kept: Any
    inner: Any


def guard(optimizer: Any, *, policy: str = "skip", every: Any = 100) -> optax.GradientTransformationExtraArgs:
    """Undo a step as a whole unless the loss, the gradients, the updates and the new parameters are all finite.

    Wraps the whole chain. A step undone leaves the parameters and the optimizer's state as they were, counters included, so
    that no schedule moves on. The state must stay finite, too: squares of finite gradients overflow, and would hold a
    parameter fast for ever. Good steps are those of the optimizer alone, to rounding. The loss is looked at where ``value`` is
    told, as :func:`gradkit.descent` does. There, a step undone counts as made: the history shows the last finite loss in its
    place (``2**64`` before the first, which a sweep's table takes for none), and ``skipped`` and ``skipped_in_a_row``.

    Policies:

    - ``"skip"`` goes on with the next batch. For bad data.
    - ``"raise"`` rests for ever and says ``Status.DIVERGED`` in its state; in a fit or sweep, the member ends so.
    - ``"restore"`` goes back to the last good point and on from there. For dynamics that blow up, which had gone wrong
      some finite steps before; not without random batches, where it comes the same way again. Updates are added, which
      rounds: the way back takes a second step, rarely a third, before training goes on. Costs a copy of parameters and state.
      The state of a loss (batch statistics) goes back with them where the guard is the outermost of a descent's optimizer.

    ``optax.apply_if_finite`` looks at the gradients only, and lets them in after some failures.

    Args:
        optimizer: Any optax transformation; what comes behind the guard is not guarded.
        policy: ``"skip"``, ``"raise"`` or ``"restore"``. Static.
        every: Good steps from one good point to the next. For ``"restore"``.

    Raises:
        ValueError: Unknown policy, or ``every`` below 1.
        TypeError: ``optimizer`` is none; or while tracing, if ``update`` is not told the parameters.

    >>> optimizer, params = guard(optax.adam(0.1)), jnp.ones(2)
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update(jnp.array([1.0, jnp.nan]), state, params)
    >>> print(updates, state.skips.total, optax.tree.get(state, "count"))
    [0. 0.] 1 0
    """
    one_of("policy", policy, POLICIES)
    if not isinstance(every, jax.core.Tracer):
        whole_number("every", every, at_least=1, remedy="Count good steps.")
    optimizer = wrapped(optimizer)

    def init(params):
        inner = optimizer.init(params)
        kept = Kept(*copied((params, inner)), jnp.zeros((), jnp.int32)) if policy == "restore" else ()
        return GuardState(no_skips(), jnp.asarray(Status.RUNNING, jnp.int32), kept, inner)

    def update(updates, state, params=None, **extra_args):
        require_params(params)
        new_updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
        value = extra_args.get("value")
        is_good = all_finite(value, updates, new_updates, optax.apply_updates(params, new_updates))
        is_good &= stays_finite(state.inner, inner) & (state.status == Status.RUNNING)
        kept, status, instead = state.kept, state.status, (optax.tree.zeros_like(new_updates), state.inner)
        if policy == "raise":
            status = jnp.where(is_good, status, Status.DIVERGED)
        if policy == "restore":
            is_good &= (state.skips.in_a_row == 0) | are_equal(params, kept.params)
            instead = jax.tree.map(jnp.subtract, kept.params, params), kept.inner
            kept = _keep(kept, is_good, every, params, state.inner)
        new_updates, inner = select(is_good, (new_updates, inner), instead)
        return new_updates, GuardState(count_skip(state.skips, is_good, value), status, kept, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _keep(kept, is_good, every, params, inner):
    """The good point after a step: where the step began, if the one before is old enough. A step back makes it new."""
    is_due = is_good & (kept.age >= every)
    age = jnp.where(is_good, jnp.where(is_due, 1, kept.age + 1), 0)
    return Kept(*select(is_due, (params, inner), (kept.params, kept.inner)), age)


def found(state: Any, kind: type | tuple[type, ...]) -> Iterator[Any]:
    """All states of a kind in the state of a chain, outer ones first; not those that a guard keeps to go back to."""
    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, (kind, Kept))):
        if isinstance(node, kind) and not isinstance(node, Kept):
            yield node
            for part in node:
                yield from found(part, kind)
