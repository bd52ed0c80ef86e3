"""Synchronous successive halving: scores at a rung flow in; which members stop there flows out."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gradkit import checks

Configuration = tuple[int, ...]  # the members that differ in their seed alone


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Stop what does badly early: at each rung only the best configurations go on, from the state they have.

    Rung k = 0, 1, ... stands after ``min_steps * eta**k`` steps, for as long as that is at most an eta-th of the run: a rung near
    the end saves little, and drops what noise alone sets apart. The first always stands. Of n configurations

        max(1, floor(n / eta**(k + 1)))

    pass rung k: 243 become 81, 27, 9, 3. Each stretch between rungs costs about the same: with R rungs, the last after an eta-th
    of the run, all members together make about ``n * min_steps * (1 + R * (1 - 1 / eta))`` steps. Configurations are ranked by
    the mean of the metric over their members: all seeds of a configuration go on or stop together, and ties go to the one that
    stands first in the space. One with a diverged member, or a metric that is not finite, never passes; fewer pass instead.

    Where many configurations end about equally well, what is left after the last rung is a draw among them: with few finalists
    the winner is a matter of luck. Start with more, or raise ``min_steps`` until a rung falls away.

    The loss of a step is that before its update: with ``min_steps=1`` and the training loss, the first rung ranks the starts.
    Members that are equal in all axes but the seed (or ``over``) are one configuration.

    Not where what wins late looks bad early: low learning rates, strong regularization, schedules that warm up or decay over the
    whole run (all members are compared in the middle of theirs). Choose ``min_steps`` such that the initial transient is over, or
    run the full sweep. Members that stopped tell nothing about the end of their run: for a curve over the whole range of an
    axis, halving is the wrong tool.

    Attributes:
        eta: One configuration in ``eta`` goes on; at least 2. A larger one saves more and trusts the early ranking more.
        min_steps: Steps that every member makes, the first rung; at least 1.
        metric: What ranks: ``"loss"``, the mean training loss over the last twentieth of the steps made, or likewise what else
            the steps report, as ``"held_out_loss"`` of boosting; or, on the validation data, ``"validation_loss"`` or a name that
            ``evaluate`` reports. ``None``: that of the sweep, whose question it is; asked here, it holds for the sweep as well.
        goal: ``"min"``, or ``"max"`` for an accuracy, say. ``None``: that of the sweep, or ``"min"`` for a loss.
        over: The axis along which members are one configuration: seeds, or the folds of a cross-validation. ``None``: that of the
            sweep.
        tolerance: A configuration that passes a rung while its metric changed by less than this share since the rung before,
            ``|now - before| <= tolerance * |before|``, has converged: it stops there and counts as one of those that passed.
            ``None``: all run on.

    Raises:
        TypeError, ValueError: If a value is not of its kind or range.

    >>> halving = Halving(min_steps=1)
    >>> rungs = rung_steps(halving, 81)
    >>> rungs, [num_kept(243, halving.eta, rung) for rung in range(len(rungs))]
    ((1, 3, 9, 27), [81, 27, 9, 3])

    References:
        Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, 2016,
        https://proceedings.mlr.press/v51/jamieson16.html
        Li et al., Hyperband, 2018, https://jmlr.org/papers/v18/16-558.html
    """

    eta: int = 3
    min_steps: int
    metric: str | None = None
    goal: str | None = None
    over: str | None = None
    tolerance: float | int | None = None

    def __post_init__(self):
        eta = checks.whole_number("eta", self.eta, at_least=2, remedy="One configuration in eta goes on at each rung.")
        min_steps = checks.whole_number(
            "min_steps", self.min_steps, at_least=1, remedy="It counts the steps that all members make."
        )
        checks.require(self.metric is None or isinstance(self.metric, str), "metric", "be a name", self.metric,
                       "Write 'loss', 'validation_loss' or a name that evaluate reports.", error=TypeError)  # fmt: skip
        if self.goal is not None:
            checks.one_of("goal", self.goal, ["min", "max"])
        object.__setattr__(self, "eta", eta)
        object.__setattr__(self, "min_steps", min_steps)
        object.__setattr__(self, "tolerance", None if self.tolerance is None else _share(self.tolerance))


def _share(tolerance) -> float:
    rule, remedy = "be a finite number of at least 0", "It is a share: 0.01 is one percent. None lets all run on."
    is_number = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
    checks.require(is_number, "tolerance", rule, tolerance, remedy, error=TypeError)
    checks.require(math.isfinite(tolerance) and tolerance >= 0, "tolerance", rule, tolerance, remedy)
    return float(tolerance)


def rung_steps(halving: Halving, num_steps: int) -> tuple[int, ...]:
    """The numbers of steps after which members are compared: the first, and those up to an eta-th of the run.

    Raises:
        ValueError: If the first rung is not before the end.

    >>> rung_steps(Halving(min_steps=10, eta=2), 80), rung_steps(Halving(min_steps=10, eta=2), 79)
    ((10, 20, 40), (10, 20))
    """
    checks.require(halving.min_steps < num_steps, "halving.min_steps", f"be below the number of steps, {num_steps}",
                   halving.min_steps, "Lower it or make more steps, so that there is a rung before the last step.")  # fmt: skip
    rungs = [halving.min_steps]
    while rungs[-1] * halving.eta**2 <= num_steps:
        rungs.append(rungs[-1] * halving.eta)
    return tuple(rungs)


def num_kept(num_configurations: int, eta: int, rung: int) -> int:
    """How many configurations pass a rung at most, of ``num_configurations`` at the start.

    >>> [num_kept(20, 3, rung) for rung in range(4)]
    [6, 2, 1, 1]
    """
    return max(1, num_configurations // eta ** (rung + 1))


class Verdict(NamedTuple):
    """What stops at a rung; all other members that run go on.

    Attributes:
        pruned: Members dropped, in order: the running ones of the configurations that did not pass.
        converged: Members done, in order: those of the configurations that passed and no longer change.
    """

    pruned: tuple[int, ...]
    converged: tuple[int, ...]


def judge(
    halving: Halving,
    rung: int,
    scores: Sequence[float] | np.ndarray,
    *,
    is_running: Sequence[bool] | np.ndarray,
    configurations: Collection[Configuration],
    num_configurations: int,
    previous: Sequence[float] | np.ndarray | None = None,
) -> Verdict:
    """Rank the configurations that are still in play, and say which members stop at this rung.

    Args:
        halving: The rules.
        rung: Counted from 0.
        scores: The metric of each member ``[m]``, as it is (a ``goal`` of max is seen to here). Only those in play are read.
        is_running: Whether each member ``[m]`` reached the rung: False for one that diverged before.
        configurations: Those in play: not pruned and not converged at an earlier rung. A configuration that lost a member
            since then is still in play.
        num_configurations: How many there were before the first rung.
        previous: The metric ``[m]`` at the rung before; ``None`` at the first.

    >>> judge(Halving(min_steps=1), 0, [3.0, 1.0, 2.0, 0.5], is_running=[True, True, True, False],
    ...       configurations=[(0,), (1,), (2,), (3,)], num_configurations=4)
    Verdict(pruned=(0, 2), converged=())
    """
    sign = -1 if halving.goal == "max" else 1
    sound = [each for each in configurations if all(is_running[i] and math.isfinite(scores[i]) for i in each)]
    ranked = sorted(sound, key=lambda each: (sign * _mean(scores, each), min(each)))
    kept = ranked[: num_kept(num_configurations, halving.eta, rung)]
    dropped = set(configurations).difference(kept)
    converged = [each for each in kept if _is_settled(halving, scores, previous, each)]
    return Verdict(tuple(i for i in _members(dropped) if is_running[i]), _members(converged))


def _is_settled(halving, scores, previous, configuration) -> bool:
    if halving.tolerance is None or previous is None:
        return False
    now, before = _mean(scores, configuration), _mean(previous, configuration)
    return math.isfinite(before) and abs(now - before) <= halving.tolerance * abs(before)


def _mean(scores, configuration) -> float:
    """In Python's floats: float64 whatever came in, and no warning where finite scores add up to infinity."""
    return sum(float(scores[i]) for i in configuration) / len(configuration)


def _members(configurations) -> Configuration:
    return tuple(sorted(i for each in configurations for i in each))
