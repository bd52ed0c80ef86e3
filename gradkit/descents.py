"""A loss function, parameters and an optimizer flow in; a ``Descent`` in parameter space flows out.

The step differentiates the loss, sends the gradient through the chain of transformations and applies the updates: exactly
what a hand-written loop over optax does, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit import checks, gradients, keys, losses, transforms, trees, weights
from gradkit.contracts import Descent, Info
from gradkit.transforms.entrances import check_gradients
from gradkit.transforms.foreign import refuse_foreign
from gradkit.transforms.skips import stays_finite
from gradkit.transforms.wrapping import wrapped


class DescentState(NamedTuple):
    """What feeds the next step: the parameters, the state of the optimizer, and the mean weight of the data, if it counts."""

    params: Any
    optimizer: Any
    mean_weight: Any = ()


class StatefulDescentState(NamedTuple):
    """The same for a loss with a state: also that state, the member's key, the number of steps made.

    And what the state was at the last good point of a :func:`gradkit.transforms.guard` that goes back to it, else ``()``; and
    the mean weight of the data, if it counts.
    """

    params: Any
    optimizer: Any
    state: Any
    key: jax.Array
    step: jax.Array
    kept: Any = ()
    mean_weight: Any = ()


class Stateful(NamedTuple):
    """Parameters together with the state of the loss (batch statistics...): what is evaluated, saved and returned."""

    params: Any
    state: Any


def descent(
    loss_fn: Callable,
    params: Any,
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    *,
    state: Any = None,
    validation_loss: Callable | None = None,
) -> Descent:
    """Descend a loss function with a chain of gradient transformations.

        grads = d loss_fn(params, batch) / d params
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        params = params + updates

    The optimizer is also told ``value``, ``grad`` and ``value_fn``, for the transformations that ask (plateau, line search),
    ``obj_fn`` and ``grad_fn`` (``sophia`` and ``sam`` of ``optax.contrib``), and a metric of the loss that is named ``weight``
    (accumulation). Where the new ``state`` is not finite, the ``value`` told is
    NaN, so that a guard undoes the step. What gradkit's own transformations have to tell (``transforms.reported``) joins the
    metrics.

    Args:
        loss_fn: ``(params, batch) -> scalar``, or ``-> (scalar, metrics)`` with a dict of named scalars. With ``state``:
            ``(params, state, batch, key) -> (scalar, (state, metrics))``, where ``key`` differs between members and steps.
        params: A pytree of floating arrays, or ``key -> pytree``. A callable that has array leaves is a pytree.
        optimizer: Any optax transformation.
        state: A pytree of arrays that the loss carries from step to step (batch statistics), or ``key -> pytree``, which gets
            the same key as ``params``.
        validation_loss: The loss in evaluation mode: ``(params, batch) -> scalar``; with ``state``, ``(params, state, batch)
            -> scalar``. Default: ``loss_fn`` itself, an objective without its penalty (with ``state``, under a fixed key and
            without keeping the new state).

    Returns:
        A ``Descent``. What it evaluates and returns are the parameters, or the average that the optimizer keeps of them (
        ``gk.transforms.evaluation_params``); with ``state``, ``Stateful(params, state)``.

    Raises:
        TypeError: While tracing, if the loss is not a floating scalar, a parameter leaf is not floating, or the optimizer is
            one of optax's that no descent can run.
        ValueError: While tracing, if the updates do not have the shapes of the parameters.

    >>> import optax, jax.numpy as jnp
    >>> bowl = descent(lambda x, batch: jnp.sum(x**2), jnp.ones(2), optax.sgd(0.25))
    >>> state = bowl.init(jax.random.key(0), None, None)
    >>> state, info, _ = bowl.step(state, None)
    >>> float(info.loss), bowl.params(state, ()).tolist()
    (2.0, [0.5, 0.5])
    """
    checks.require(callable(loss_fn), "loss_fn", "be a function (params, batch) -> scalar", loss_fn,
                   "Write the loss as a pure function.", error=TypeError)  # fmt: skip
    optimizer = wrapped(optimizer)
    if state is None:
        return _plain(loss_fn, params, optimizer, validation_loss)
    return _stateful(loss_fn, params, optimizer, state, validation_loss)


def _plain(loss_fn, params, optimizer, validation_loss) -> Descent:
    differentiate = gradients.value_and_grad(loss_fn)

    def init(key, data, validation):
        start = _begin(params, key)
        return DescentState(
            start, _started(optimizer, start), _mean_weight(loss_fn, data, lambda batch: _scalar(loss_fn(start, batch)))
        )

    def move(state, batch):
        batch = weights.taken_from(state.mean_weight, batch)
        (loss, metrics), grads = differentiate(state.params, batch)
        value_fn = lambda params: _scalar(loss_fn(params, batch))  # noqa: E731
        return _descend(optimizer, state, Info(loss, metrics), Info(loss, metrics), grads, value_fn)

    def step(state, batch):
        moved = move(state, batch)
        following = DescentState(moved.params, moved.optimizer, state.mean_weight)
        return following, transforms.reported(moved.info, moved.optimizer), ()

    def parts(state, batch):
        return _parts(move(state, batch))

    is_objective = isinstance(loss_fn, losses.Objective)
    in_evaluation = validation_loss or (loss_fn.in_evaluation if is_objective else loss_fn)

    def evaluation_loss(params, batch):
        return _scalar(in_evaluation(params, batch))

    def read(state, growths):
        return transforms.evaluation_params(state.optimizer, state.params)

    return Descent(init, step, read, evaluation_loss, parts, loss_fn.rule if is_objective else _rule_within(loss_fn))


def _stateful(loss_fn, params, optimizer, loss_state, validation_loss) -> Descent:
    def init(key, data, validation):
        start, state = _begin(params, key), _begin(loss_state, key)
        optimizer_state, step_key = _started(optimizer, start), keys.branch(key, keys.STEP)
        kept = transforms.kept_beside(state, optimizer_state)
        mean_weight = _mean_weight(loss_fn, data, lambda batch: loss_fn(start, state, batch, step_key)[0])
        return StatefulDescentState(start, optimizer_state, state, step_key, jnp.zeros((), jnp.int32), kept, mean_weight)

    def move(state, batch):
        batch = weights.taken_from(state.mean_weight, batch)
        key = jax.random.fold_in(state.key, state.step)

        def loss_and_aux(params):
            loss, (new_state, metrics) = loss_fn(params, state.state, batch, key)
            return loss, (new_state, metrics)

        (loss, (new_state, metrics)), grads = gradients.value_and_grad(loss_and_aux)(state.params)
        value_fn = lambda params: loss_and_aux(params)[0]  # noqa: E731
        judged = Info(jnp.where(stays_finite(state.state, new_state), loss, jnp.nan), metrics)
        return _descend(optimizer, state, Info(loss, metrics), judged, grads, value_fn), new_state

    def step(state, batch):
        moved, new_state = move(state, batch)
        new_state, kept = transforms.unless_skipped(new_state, state.state, state.kept, moved.optimizer)
        following = StatefulDescentState(
            moved.params, moved.optimizer, new_state, state.key, state.step + 1, kept, state.mean_weight
        )
        return following, transforms.reported(moved.info, moved.optimizer), ()

    def parts(state, batch):
        moved, new_state = move(state, batch)
        return _parts(moved, state=new_state)

    def evaluation_loss(stateful, batch):
        if validation_loss is None:
            return loss_fn(stateful.params, stateful.state, batch, jax.random.key(0))[0]
        return validation_loss(stateful.params, stateful.state, batch)

    def read(state, growths):
        return Stateful(transforms.evaluation_params(state.optimizer, state.params), state.state)

    def whole_loss(stateful, batch):
        return loss_fn(stateful.params, stateful.state, batch, jax.random.key(0))

    return Descent(init, step, read, evaluation_loss, parts, _rule_within(whole_loss))


def _rule_within(loss_fn: Callable) -> Callable[[Any, Any], Any]:
    """What the targets must be of a loss that hands those of its batch on to an objective, as they are."""

    def rule(params, batch):
        found = []

        def trace(params, batch):
            with losses.watched() as calls:
                loss_fn(params, batch)
            found.extend(call.objective.rule(call.params, call.batch) for call in calls if _has_its_targets(call.batch, batch))

        with contextlib.suppress(Exception):  # its step says what is wrong with it, if anything
            jax.eval_shape(trace, params, batch)
        return next((each for each in found if each is not None), None)

    return rule


def _has_its_targets(one: Any, other: Any) -> bool:
    if not (isinstance(one, tuple) and isinstance(other, tuple) and min(len(one), len(other)) > 1):
        return False
    return list(map(id, jax.tree.leaves(one[1]))) == list(map(id, jax.tree.leaves(other[1])))


class _Move(NamedTuple):
    """What one update makes on its way."""

    info: Info
    gradients: Any
    updates: Any
    params: Any
    optimizer: Any


def _descend(optimizer, state, info, judged, grads, value_fn) -> _Move:
    def value_fn_in_line_search(params, obj_fn=None, grad_fn=None, weight=None):
        # optax's line searches refuse to be told what this does not take
        return value_fn(params)

    told = {"value": judged.loss, "grad": grads, "value_fn": value_fn_in_line_search}
    told |= {"obj_fn": value_fn, "grad_fn": lambda params, _: jax.grad(value_fn)(params)}
    told |= {name: value for name, value in judged.metrics.items() if name == "weight"}
    updates, optimizer_state = _updates(optimizer, grads, state, told)
    if jax.tree.structure(updates) == jax.tree.structure(state.params):  # adding would broadcast in silence
        check_gradients(updates, state.params, "updates", "The optimizer must give one number for each parameter.")
    return _Move(info, grads, updates, optax.apply_updates(state.params, updates), optimizer_state)


def _parts(moved: _Move, **after_loss: Any) -> dict[str, Any]:
    """The update in the order in which its parts are made."""
    return {
        "loss": moved.info.loss,
        **after_loss,
        "gradients": moved.gradients,
        "updates": moved.updates,
        "params": moved.params,
    }


def _started(optimizer: Any, params: Any) -> Any:
    """The state of an optimizer that a descent can run."""
    state = optimizer.init(params)
    refuse_foreign(state)
    return state


def _updates(optimizer, grads, state, told):
    """The optimizer's update, or the way out where one within a chain takes less than it is told."""
    try:
        return optimizer.update(grads, state.optimizer, state.params, **told)
    except TypeError as error:
        if any(f"unexpected keyword argument '{name}'" in str(error) for name in told):
            given = checks.Described(str(error))
            remedy = "Put the one that does not into gk.transforms.optimizer(...), which tells it what it takes."
            checks.refuse("optimizer", "take the extra arguments that it is told", given, remedy, error=TypeError)
        raise


def _mean_weight(loss_fn: Callable, data: Any, loss_of: Callable[[Any], jax.Array]) -> Any:
    """The mean weight of the data, if they have weights and the loss asks for it; else ``()``."""
    is_asked = isinstance(loss_fn, losses.Objective) and weights.has_weights(data)
    return weights.mean_weight(data) if is_asked or weights.is_mean_read(loss_of, data) else ()


def _begin(start: Any, key: jax.Array) -> Any:
    """Call a factory with the key; take anything else as the pytree itself."""
    is_pytree = not callable(start) or any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(start))
    return jax.tree.map(lambda leaf: jnp.asarray(trees.without_foreign_mesh(leaf)), start if is_pytree else start(key))


def _scalar(result: Any) -> jax.Array:
    return result[0] if isinstance(result, tuple) else result
