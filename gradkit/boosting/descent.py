"""A loss and the form of its trees flow in; a ``Descent`` in function space flows out, whose step fits a tree to the gradient.

The scores of the examples play the part of the parameters: they are the state. A step takes gradient and curvature of the loss
there, grows a tree along them, solves its leaves, and moves the scores by a share of it. The tree is the step's growth.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gradkit import checks
from gradkit.boosting import sharding, steps
from gradkit.boosting.prediction import Ensemble
from gradkit.boosting.problems import Settings
from gradkit.boosting.splits import Penalties
from gradkit.contracts import Descent
from gradkit.losses.targets import rule_of

MOST_DEPTH = 10
WITH_DEFAULTS = ("l2", "min_child_weight")  # penalties that follow from the loss where they are None


def descent(
    loss: Callable,
    *,
    learning_rate: Any,
    depth: int = 6,
    num_outputs: int | None = None,
    curvature: Any = None,
    l1: Any = 0.0,
    l2: Any = None,
    gamma: Any = 0.0,
    min_child_weight: Any = None,
    min_child_samples: Any = 1,
    max_delta_step: Any = math.inf,
    subsample: Any = 1.0,
    colsample_bytree: Any = 1.0,
    colsample_bylevel: Any = 1.0,
    monotone: Any = None,
    oblivious: bool = False,
    newton_steps: int = 1,
    nesterov: bool = False,
    fold: Any = None,
    patience: int | None = None,
    deterministic: bool = False,
    start: Any = None,
    shard: str | None = None,
) -> Descent:
    """Boost trees along the gradient of any loss: a step grows one tree.

        g, h   = gradient and curvature of the loss at the scores
        tree   = the splits of most gain for (g, h), and in each leaf the weight of least loss
        scores = scores + learning_rate * tree

    Args:
        loss: ``(score, target) -> scalar`` of one example: one of ``gk.losses``, or any pure function. Nothing else is asked:
            gradient and curvature come from it, the intercept is the constant of least loss.
        learning_rate: The share of each tree: a number, a traced scalar, or a schedule ``count -> share``.
        depth: Levels of splits of every tree, from 1 to 10. Static, as are ``num_outputs``, ``newton_steps`` and ``patience``;
            the other numbers may be traced.
        num_outputs: ``k`` where the score of an example is a vector of shape (k,), as for ``losses.softmax``; a tree then has a
            vector in each leaf.
        curvature: ``"diagonal"``, ``"block"``, ``"unit"`` or a function; see ``boosting.curvatures``. By default what the loss
            is known for; a loss without second derivative gets ``"unit"``, any other ``"diagonal"``. For a distribution with
            several scores :func:`~gradkit.boosting.curvatures.fisher` makes leaves step along the natural gradient.
        l1, l2, gamma, min_child_weight, min_child_samples, max_delta_step: See :class:`~gradkit.boosting.splits.Penalties`.
            They are held against sums over examples, weights included, and so have units. By default ``l2`` and
            ``min_child_weight`` are 1, XGBoost's, where the curvature is the loss's own second derivative, and 0 where it
            has none (``"unit"``), where it is a function, and for ``losses.poisson`` and ``losses.gaussian``, whose second
            derivative has the target's units: predictions of a target in other units are then those in other units. A loss
            of your own that is not quadratic in the target wants 0 too.
        subsample: The share of the examples that a tree is grown on, each drawn by itself.
        colsample_bytree, colsample_bylevel: The share of the features that a tree may use, and of those, each of its levels.
        monotone: Per feature 1 where the score must not fall as it grows, -1 where it must not rise, else 0. For one output.
        oblivious: Whether all nodes of a level share their split.
        newton_steps: Newton steps to the weights of leaves.
        nesterov: Whether the gradient is taken ahead of the model; faster, and sooner overfitted, so give ``patience``.
        fold: The examples with this number in ``Examples.fold`` are held out: they weigh nothing, and
            ``info.metrics["held_out_loss"]`` is their mean loss after the step: NaN if it is traced and has no examples, else
            such a fold is refused.
        patience: Trees without a lower held-out loss after which no more grow; the model ends with the best one.
        deterministic: Whether histograms are sums of whole numbers, so that the order of the examples changes no split. On a CPU
            that has the kernel they always are, but for categorical and oblivious trees.
        start: A model to go on from, grown to the same bins and depth: its trees lead those of the new model, which are then the
            ones that a longer run would have grown, sampling and schedules included.
        shard: What all local devices share while a tree grows: ``"rows"``, for many examples, or ``"features"``, for wide data;
            by default one device grows it. By rows with ``deterministic``, and by features, the number of devices changes no
            bit on CPUs; by rows without, rounding may decide between splits that are equally good. In a sweep such trees take
            ``plan=gk.Plan(width=1, threads=1, devices=jax.local_devices()[:1])``: its members would want the devices too.

    Returns:
        A ``Descent`` whose data are ``(binned, targets)``, ``(binned, targets, weights)`` or ``Examples``, taken whole
        (``batch_size=None``). It returns an ``Ensemble``; see :func:`~gradkit.boosting.prediction.predict`.

    Raises:
        TypeError, ValueError: If an argument breaks its rule.

    References:
        Friedman, Greedy function approximation, 2001. https://doi.org/10.1214/aos/1013203451
        Chen & Guestrin, XGBoost, 2016. https://arxiv.org/abs/1603.02754
        Lu et al., Accelerating gradient boosting machine, 2020. https://arxiv.org/abs/1903.08708

    >>> import jax, jax.numpy as jnp
    >>> from gradkit import losses
    >>> from gradkit.boosting import bin, predict
    >>> data = bin(jnp.arange(8.0)[:, None]), jnp.arange(8.0)
    >>> booster = descent(losses.squared, learning_rate=1.0, depth=3, l2=0.0)
    >>> state, info, tree = booster.step(booster.init(jax.random.key(0), data, None), data)
    >>> predict(booster.params(state, jax.tree.map(lambda leaf: leaf[None], tree)), data[0]).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    checks.require(callable(loss), "loss", "be a function (score, target) -> scalar", loss,
                   "Take one of gk.losses, or write your own.", error=TypeError)  # fmt: skip
    depth = checks.whole_number("depth", depth, at_least=1, remedy="It counts the levels of splits.")
    checks.require(depth <= MOST_DEPTH, "depth", f"be at most {MOST_DEPTH}", depth, "A tree of that depth has 1,024 leaves.")
    if num_outputs is not None:
        num_outputs = checks.whole_number("num_outputs", num_outputs, at_least=1, remedy="Leave it out for a scalar score.")
    if patience is not None:
        patience = checks.whole_number("patience", patience, at_least=1, remedy="It counts trees.")
        checks.require(fold is not None, "patience", "come with `fold`", patience, "Say which examples are held out.")
    if monotone is not None:
        monotone = _check_monotone(monotone, num_outputs)
    newton_steps = checks.whole_number("newton_steps", newton_steps, at_least=1, remedy="1 is classical boosting.")
    for name, share in (
        ("subsample", subsample),
        ("colsample_bytree", colsample_bytree),
        ("colsample_bylevel", colsample_bylevel),
    ):
        _check_number(name, share, lambda number: 0 < number <= 1, "lie above 0 and be at most 1", "It is a share; 1 takes all.")
    if not callable(learning_rate):
        is_right = lambda number: 0 < number < math.inf  # noqa: E731
        _check_number("learning_rate", learning_rate, is_right, "be above 0 and finite", "0.1 is usual.")
    if shard is not None:
        checks.one_of("shard", shard, sharding.WAYS)
    penalties = Penalties(l1, l2, gamma, min_child_weight, min_child_samples, max_delta_step)
    for name, value in zip(penalties._fields, penalties):
        if value is not None or name not in WITH_DEFAULTS:
            _check_number(name, value, lambda number: number >= 0, "be at least 0", "Leave it out for the default.")
    settings = Settings(
        loss, learning_rate, depth, num_outputs, curvature, penalties, subsample, colsample_bytree, colsample_bylevel, monotone,
        oblivious, newton_steps, nesterov, fold, patience, deterministic,
        None if start is None else _check_start(start, depth, num_outputs, nesterov), shard,
    )  # fmt: skip
    return (_remembered if _is_constant(settings) else _made)(settings)


def _made(settings: Settings) -> Descent:
    return Descent(
        init=lambda key, data, validation: steps.begin(settings, key, data),
        step=functools.partial(steps.advance, settings),
        params=functools.partial(steps.finish, settings),
        loss=functools.partial(steps.loss, settings),
        rule=lambda params, batch: rule_of(settings.loss, () if settings.num_outputs is None else (settings.num_outputs,)),
    )


_remembered = functools.lru_cache(maxsize=64)(_made)  # equal settings give one descent, and so one program, traced once


def _is_constant(settings: Settings) -> bool:
    """Whether equal settings mean the same for ever: no arrays, and no functions but gradkit's own losses."""
    others = jax.tree.leaves(settings._replace(loss=None))
    is_ours = isinstance(settings.loss, types.FunctionType) and settings.loss.__module__.startswith("gradkit.")
    return is_ours and all(isinstance(leaf, (int, float, str)) for leaf in others)


def _check_monotone(monotone: Any, num_outputs: int | None) -> tuple[int, ...]:
    signs = list(monotone)
    remedy = "Give 1, -1 or 0 for each feature."
    checks.require(all(sign in (-1, 0, 1) for sign in signs), "monotone", "hold 1, -1 and 0", signs, remedy)
    checks.require(num_outputs in (None, 1), "monotone", "come with a single output", checks.Described(f"{num_outputs} outputs"),
                   "Leave it out.")  # fmt: skip
    return tuple(int(sign) for sign in signs)


def _check_start(start: Any, depth: int, num_outputs: int | None, nesterov: bool) -> Ensemble:
    """The model to go on from, without trees that do not count."""
    checks.require(isinstance(start, Ensemble), "start", "be an Ensemble", start, "Pass what a fit returned: fit(...).params.",
                   error=TypeError)  # fmt: skip
    checks.require(not nesterov, "start", "come without `nesterov`", checks.Described("both"),
                   "The acceleration needs more than a model keeps; go on without it.")  # fmt: skip
    checks.require(start.depth == depth, "start", f"have trees of depth {depth}", start.depth, "Give both the same `depth`.")
    checks.require(start.intercept.shape == (() if num_outputs is None else (num_outputs,)), "start",
                   f"have {'a scalar score' if num_outputs is None else f'{num_outputs} outputs'}",
                   checks.Described(f"scores of shape {start.intercept.shape}"), "Give both the same `num_outputs`.")  # fmt: skip
    number = int((np.asarray(start.coefficient) > 0).sum())
    return Ensemble(*jax.tree.map(lambda leaf: leaf[:number], tuple(start[:2])), start.intercept)


def _check_number(name: str, value: Any, is_right: Callable[[float], bool], rule: str, remedy: str):
    """Hold numbers of Python, numpy and jax to a rule; those that are traced pass."""
    if isinstance(value, jax.core.Tracer):
        return
    checks.require(checks.is_known(value), name, f"be a number or a traced value, and {rule}", value, remedy, error=TypeError)
    checks.require(is_right(float(value)), name, rule, value, remedy)
