"""The descent of a model: a model or flax module, a one-example loss and an optimizer flow in; a ``Descent`` flows out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from gradkit import descents, losses
from gradkit.contracts import Descent
from gradkit.models.base import Model
from gradkit.models.modules import from_nnx


def descent(module: Any, loss: Callable, optimizer: optax.GradientTransformation) -> Descent:
    """Descend a one-example loss of a model's scores, in training mode; evaluate it in evaluation mode.

    Batches are ``(inputs, targets)`` or ``(inputs, targets, weights)``, as for ``gk.objective``. Not for weights of zero with
    batch norm: such an example does not reach the loss, but another one then counts twice in the moments of the batch.

    Args:
        module: A ``Model``, a flax ``nnx.Module``, or ``key -> nnx.Module``, so that each seed starts from other weights.
        loss: A one-example loss ``(score, target) -> scalar``.
        optimizer: Any optax transformation.

    Returns:
        A ``Descent``. What it evaluates and returns goes into ``model.apply(params, inputs)``; for a module, ``model`` is
        ``from_nnx(module)``.

    Raises:
        TypeError: If ``module`` is none of these.
        ValueError: While tracing, if the scores do not fit the targets.

    >>> import jax, jax.numpy as jnp
    >>> from gradkit import losses, models
    >>> batch = jnp.ones((8, 4)), jnp.zeros(8)
    >>> bowl = descent(models.mlp((4, 16, None), batch_norm=True), losses.squared, optax.sgd(0.1))
    >>> state, info, _ = bowl.step(bowl.init(jax.random.key(0), batch, None), batch)
    >>> bowl.loss(bowl.params(state, ()), batch).shape
    ()
    """
    model = module if isinstance(module, Model) else from_nnx(module)
    evaluate = losses.objective(loss, model.apply)
    if model.train is None:
        return descents.descent(evaluate, model.init, optimizer)

    def training_loss(params, state, batch, key):
        new_states = []  # goes round the objective, which carries nothing but scores

        def apply(params, inputs):
            scores, new_state = model.train(params, state, inputs, key)
            new_states.append(new_state)
            return scores

        return losses.objective(loss, apply)(params, batch), (new_states.pop(), {})

    made = descents.descent(
        training_loss,
        lambda key: model.init(key).params,
        optimizer,
        state=lambda key: model.init(key).state,
        validation_loss=lambda params, state, batch: evaluate(descents.Stateful(params, state), batch),
    )
    return made._replace(rule=evaluate.rule)
