"""PyTorch's ``ReduceLROnPlateau`` as a transformation, for what it decides depends on the losses seen."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import nonnegative, one_of, require
from gradkit.transforms import values_at


class ReduceLROnPlateauState(NamedTuple):
    """State of :func:`reduce_lr_on_plateau`: the rate, the best value, counters, and the values since it last looked."""

    lr: jax.Array
    best: jax.Array
    num_bad_epochs: jax.Array
    cooldown_counter: jax.Array
    total: jax.Array
    num_values: jax.Array


def reduce_lr_on_plateau(
    mode: str = "min",
    factor: Any = 0.1,
    patience: Any = 10,
    threshold: Any = 1e-4,
    threshold_mode: str = "rel",
    cooldown: Any = 0,
    min_lr: Any = 0.0,
    eps: Any = 1e-8,
    *,
    lr: Any,
    steps_per_epoch: Any = 1,
) -> optax.GradientTransformationExtraArgs:
    """``ReduceLROnPlateau``: after an optimizer of rate ``lr``, multiply its updates by the present rate over ``lr``.

    It is told ``value=``, the loss, at each update, and looks at the mean of an epoch's values after its last update, as a
    loop over torch calls ``scheduler.step(mean)``. As in torch a relative threshold is wrong where losses are negative:
    ``gk.transforms.reduce_on_plateau`` is right there.

    Args:
        mode, threshold_mode: ``"min"`` or ``"max"``, ``"rel"`` or ``"abs"``. Static.
        factor, patience, threshold, cooldown, min_lr, eps: torch's; numbers or traced values.
        lr: The rate of the optimizer before it in the chain.
        steps_per_epoch: Updates between two looks.

    Raises:
        ValueError: An unknown mode, a number that is negative or not finite, a factor not below 1, a rate of 0, or ``update`` is
            not told ``value``.

    >>> plateau = reduce_lr_on_plateau(patience=0, factor=0.5, lr=0.1)
    >>> state = plateau.init(jnp.zeros(1))
    >>> for loss in (1.0, 2.0, 0.5):
    ...     updates, state = plateau.update(jnp.ones(1), state, value=loss)
    ...     print(updates)
    [1.]
    [1.]
    [0.5]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html
    """
    one_of("mode", mode, ("min", "max"))
    one_of("threshold_mode", threshold_mode, ("rel", "abs"))
    numbers = {"patience": patience, "threshold": threshold, "cooldown": cooldown, "min_lr": min_lr, "eps": eps}
    for name, number in numbers.items():
        nonnegative(name, number)
    nonnegative("factor", factor, below=1.0)
    nonnegative("lr", lr, positive=True)
    nonnegative("steps_per_epoch", steps_per_epoch, positive=True)
    h = SimpleNamespace(**values_at({**numbers, "factor": factor, "lr": lr})(0))

    def is_better(value, best):
        threshold = -h.threshold if mode == "min" else h.threshold
        bound = best * (1 + threshold) if threshold_mode == "rel" else best + threshold
        return value < bound if mode == "min" else value > bound

    def init(params):
        del params
        worst = jnp.asarray(jnp.inf if mode == "min" else -jnp.inf, float)
        num_bad, cooldown, num_values = (jnp.zeros((), jnp.int32) for _ in range(3))
        return ReduceLROnPlateauState(jnp.array(h.lr, float), worst, num_bad, cooldown, jnp.zeros((), float), num_values)

    def look(state):
        value = state.total / state.num_values
        better = is_better(value, state.best)
        is_cooling = state.cooldown_counter > 0
        num_bad = jnp.where(better | is_cooling, 0, state.num_bad_epochs + 1)
        is_due = num_bad > h.patience
        lower = jnp.maximum(state.lr * h.factor, h.min_lr)
        return ReduceLROnPlateauState(
            lr=jnp.where(is_due & (state.lr - lower > h.eps), lower, state.lr).astype(float),
            best=jnp.where(better, value, state.best),
            num_bad_epochs=jnp.where(is_due, 0, num_bad),
            cooldown_counter=jnp.where(is_due, h.cooldown, state.cooldown_counter - is_cooling).astype(jnp.int32),
            total=jnp.zeros_like(state.total),
            num_values=jnp.zeros_like(state.num_values),
        )

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        require(value is not None, "value", "be given to `update`", None, "Call update(grads, state, params, value=loss).")
        scale = state.lr / h.lr
        seen = state._replace(total=state.total + jnp.asarray(value, float), num_values=state.num_values + 1)
        is_epoch = seen.num_values >= steps_per_epoch
        after = jax.tree.map(lambda looked, waiting: jnp.where(is_epoch, looked, waiting), look(seen), seen)
        return jax.tree.map(lambda u: u * scale.astype(u.dtype), updates), after

    return optax.GradientTransformationExtraArgs(init, update)
