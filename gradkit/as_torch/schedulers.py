"""PyTorch's schedulers of the learning rate as pure schedules: ``schedule(step) -> rate``, with ``step = 0`` at the first update.

That is how torch counts where ``scheduler.step()`` follows ``optimizer.step()``. ``lr`` is the rate that torch takes from the
optimizer. Every number may be traced, so that a sweep over it never recompiles; strings and booleans are static. A schedule goes
where a number goes: ``sgd(lr=step_lr(lr=0.1, step_size=30))``.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradkit.checks import Described, nonnegative, require
from gradkit.schedules import piecewise, power, warm_restarts


class Scheduler(NamedTuple):
    """A schedule that can also be chained.

    Attributes:
        lr: The rate it begins from.
        value: ``step -> rate``.
        advance: ``(rate, step) -> rate`` at the step from the rate at the step before, as torch's recursions have it; at step 0
            from ``lr``.
        is_factor: Whether it multiplies the rate by a function of the step alone.
        places: The schedulers of schedulers in which torch's rates are those of ``value`` or ``advance``.
    """

    lr: Any
    value: Callable[[Any], Any]
    advance: Callable[[Any, Any], Any]
    is_factor: bool = False
    places: tuple[str, ...] = ("sequential_lr", "chained_scheduler")

    def __call__(self, step: Any) -> Any:
        """The rate at a step."""
        return self.value(step)


def lambda_lr(lr_lambda: Callable[[Any], Any], *, lr: Any) -> Scheduler:
    """``LambdaLR``: ``lr * lr_lambda(step)``; the function must be traceable.

    >>> float(lambda_lr(lambda step: 0.5**step, lr=1.0)(2))
    0.25
    """
    nonnegative("lr", lr)
    return _absolute(lr, lambda step: lr * lr_lambda(step))


def multiplicative_lr(lr_lambda: Callable[[Any], Any], *, lr: Any) -> Scheduler:
    """``MultiplicativeLR``: ``lr * lr_lambda(1) * ... * lr_lambda(step)``. A rate takes as many products as its step.

    In torch's ``SequentialLR`` it would go on from the rate of the part before it: :func:`sequential_lr` refuses it.

    >>> float(multiplicative_lr(lambda step: 0.5, lr=1.0)(2))
    0.25
    """
    nonnegative("lr", lr)

    def factor(step):
        return jax.lax.fori_loop(1, step + 1, lambda i, product: product * lr_lambda(i), jnp.ones((), float))

    return _factor(lr, factor)._replace(places=("chained_scheduler",))


def step_lr(step_size: Any, gamma: Any = 0.1, *, lr: Any) -> Scheduler:
    """``StepLR``: ``lr * gamma**(step // step_size)``.

    >>> schedule = step_lr(10, 0.5, lr=1.0)
    >>> [float(schedule(step)) for step in (9, 10, 20)]
    [1.0, 0.5, 0.25]
    """
    _check(lr=lr, gamma=gamma)
    nonnegative("step_size", step_size, positive=True, whole=True)
    return _factor(lr, lambda step: power(gamma, step // step_size))


def multi_step_lr(milestones: Sequence[Any], gamma: Any = 0.1, *, lr: Any) -> Scheduler:
    """``MultiStepLR``: times ``gamma`` at each milestone.

    >>> schedule = multi_step_lr([3, 5], 0.5, lr=1.0)
    >>> [float(schedule(step)) for step in (2, 3, 5)]
    [1.0, 0.5, 0.25]
    """
    _check(lr=lr, gamma=gamma)
    _check_milestones(milestones)
    return _factor(lr, lambda step: power(gamma, sum(1.0 * (jnp.asarray(step) >= milestone) for milestone in milestones)))


def constant_lr(factor: Any = 1 / 3, total_iters: Any = 5, *, lr: Any) -> Scheduler:
    """``ConstantLR``: ``lr * factor`` before step ``total_iters``, then ``lr``.

    >>> schedule = constant_lr(0.5, 4, lr=1.0)
    >>> [float(schedule(step)) for step in (3, 4)]
    [0.5, 1.0]
    """
    nonnegative("lr", lr)
    nonnegative("factor", factor, at_most=1.0)
    nonnegative("total_iters", total_iters, positive=True, whole=True)
    return _factor(lr, lambda step: jnp.where(step < total_iters, factor, 1.0))


def linear_lr(start_factor: Any = 1 / 3, end_factor: Any = 1.0, total_iters: Any = 5, *, lr: Any) -> Scheduler:
    """``LinearLR``: times a factor that goes in a straight line from one to the other over ``total_iters`` steps.

    >>> schedule = linear_lr(0.5, 1.0, 4, lr=1.0)
    >>> [float(schedule(step)) for step in (0, 2, 4, 9)]
    [0.5, 0.75, 1.0, 1.0]
    """
    nonnegative("lr", lr)
    nonnegative("start_factor", start_factor, positive=True, at_most=1.0)
    nonnegative("end_factor", end_factor, at_most=1.0)
    nonnegative("total_iters", total_iters, positive=True, whole=True)
    return _factor(lr, lambda step: start_factor + (end_factor - start_factor) * jnp.minimum(1.0, step / (1.0 * total_iters)))


def exponential_lr(gamma: Any, *, lr: Any) -> Scheduler:
    """``ExponentialLR``: ``lr * gamma**step``.

    >>> float(exponential_lr(0.5, lr=1.0)(3))
    0.125
    """
    _check(lr=lr, gamma=gamma)
    return _factor(lr, lambda step: power(gamma, step))


def polynomial_lr(total_iters: Any = 5, power: Any = 1.0, *, lr: Any) -> Scheduler:
    """``PolynomialLR``: ``lr * (1 - step / total_iters)**power``, and 0 from ``total_iters`` on.

    >>> schedule = polynomial_lr(4, 2.0, lr=1.0)
    >>> [float(schedule(step)) for step in (0, 2, 4)]
    [1.0, 0.25, 0.0]
    """
    _check(lr=lr, power=power)
    nonnegative("total_iters", total_iters, positive=True, whole=True)
    return _factor(lr, lambda step: jnp.power(jnp.maximum(0.0, total_iters - 1.0 * step) / total_iters, power))


def cosine_annealing_lr(T_max: Any, eta_min: Any = 0.0, *, lr: Any) -> Scheduler:
    """``CosineAnnealingLR``: half a cosine from ``lr`` down to ``eta_min`` in ``T_max`` steps, and up again, for ever.

    ``gradkit.schedules.cosine`` stays at its end.

    >>> schedule = cosine_annealing_lr(4, lr=1.0)
    >>> [round(float(schedule(step)), 3) for step in (0, 2, 4, 6, 8)]
    [1.0, 0.5, 0.0, 0.5, 1.0]
    """
    _check(lr=lr, eta_min=eta_min)
    nonnegative("T_max", T_max, positive=True)

    def share(step):  # sin(x)**2 keeps the digits that 1 + cos(2 x) cancels
        return jnp.sin(jnp.pi / 2 * (T_max - jnp.mod(1.0 * step, 2 * T_max)) / T_max) ** 2

    def advance(rate, step):
        is_turn = jnp.mod(step - 1 - T_max, 2 * T_max) == 0
        before = jnp.where(is_turn, 1.0, share(step - 1))
        rising = rate + (lr - eta_min) * share(T_max + 1)
        onward = jnp.where(is_turn, rising, eta_min + share(step) / before * (rate - eta_min))
        return jnp.where(step == 0, rate, onward)

    return Scheduler(lr, lambda step: eta_min + (lr - eta_min) * share(step), advance)


def cosine_annealing_warm_restarts(T_0: Any, T_mult: Any = 1, eta_min: Any = 0.0, *, lr: Any) -> Scheduler:
    """``CosineAnnealingWarmRestarts``: half a cosine from ``lr`` to ``eta_min`` again and again, each ``T_mult`` times as long.

    >>> schedule = cosine_annealing_warm_restarts(2, 2, lr=1.0)
    >>> [round(float(schedule(step)), 3) for step in range(7)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """
    _check(lr=lr, eta_min=eta_min)
    nonnegative("T_0", T_0, positive=True)
    nonnegative("T_mult", T_mult, at_least=1.0)
    return _absolute(lr, warm_restarts(lr, T_0, mult=T_mult, end=eta_min))


def sequential_lr(schedulers: Sequence[Callable[[Any], Any]], milestones: Sequence[Any]) -> Scheduler:
    """``SequentialLR``: one schedule after the other, each from its own step 0 at its milestone.

    Each begins from its own ``lr``. torch has one for all, the optimizer's, which ``OneCycleLR`` and ``CyclicLR`` overwrite with
    the rate they start from: the rates of parts that are made after one of these change there, and not here. To have the same,
    give those that rate, e.g. ``max_lr / div_factor``, as their ``lr``.

    Args:
        schedulers: Schedules, but not :func:`multiplicative_lr`, :func:`chained_scheduler` or another sequence: torch goes on
            with these from where the rate is.
        milestones: Whole numbers, rising.

    Raises:
        ValueError: None or one of those, a milestone that is not whole, or not one fewer than schedulers.

    >>> schedule = sequential_lr([constant_lr(0.5, 9, lr=1.0), exponential_lr(0.5, lr=1.0)], [2])
    >>> [float(schedule(step)) for step in range(4)]
    [0.5, 0.5, 1.0, 0.5]
    """
    _check_places(schedulers, "sequential_lr")
    _check_milestones(milestones)
    given = Described(f"{len(schedulers)} schedulers and {len(milestones)} milestones")
    require(len(schedulers) == len(milestones) + 1, "schedulers", "be one more than the milestones", given, "A milestone each.")

    def value(step):
        starts = [0, *milestones]
        rates = [schedule(jnp.maximum(step - start, 0)) for schedule, start in zip(schedulers, starts)]
        return piecewise(rates, milestones)(step)

    return _absolute(schedulers[0](0), value)._replace(places=())


def chained_scheduler(schedulers: Sequence[Callable[[Any], Any]]) -> Scheduler:
    """``ChainedScheduler``: all of them act on one rate, each on what the one before it left.

    Factors are multiplied. With others among them a rate is found from the rate before it, as torch does, all the way from
    step 0: a loop as long as the step, at each of its calls. The first scheduler's ``lr`` is that of all. A
    :func:`sequential_lr` among them is refused: at its milestones torch's sets the rate for all.

    Raises:
        TypeError: One of them is not a schedule of this room.
        ValueError: There is none, or a sequence.

    >>> schedule = chained_scheduler([constant_lr(0.5, 2, lr=1.0), exponential_lr(0.5, lr=1.0)])
    >>> [float(schedule(step)) for step in range(4)]
    [0.5, 0.25, 0.25, 0.125]
    """
    for scheduler in schedulers:
        require(isinstance(scheduler, Scheduler), "schedulers", "be schedules of gradkit.as_torch", scheduler,
                "Write a function of the step as lambda_lr.", error=TypeError)  # fmt: skip
    _check_places(schedulers, "chained_scheduler")
    lr, places = schedulers[0].lr, ("chained_scheduler",)
    if all(scheduler.is_factor for scheduler in schedulers):
        factor = lambda step: jnp.prod(jnp.stack([scheduler(step) / scheduler.lr for scheduler in schedulers]))  # noqa: E731
        return _factor(lr, factor)._replace(places=places)

    def advance(rate, step):
        for scheduler in schedulers:
            rate = scheduler.advance(rate, step)
        return jnp.asarray(rate, float)

    def value(step):
        return jax.lax.fori_loop(0, step + 1, lambda i, rate: advance(rate, i), jnp.asarray(lr, float))

    return Scheduler(lr, value, advance, places=places)


def _absolute(lr: Any, value: Callable[[Any], Any]) -> Scheduler:
    """A schedule that says the rate whatever it was before."""
    return Scheduler(lr, value, lambda rate, step: value(step))


def _factor(lr: Any, factor: Callable[[Any], Any]) -> Scheduler:
    """A schedule that multiplies the rate."""

    def advance(rate, step):
        before = jnp.where(step == 0, 1.0, factor(jnp.maximum(step - 1, 0)))
        return jnp.where(before == 0, rate, rate * factor(step) / jnp.where(before == 0, 1.0, before))

    return Scheduler(lr, lambda step: lr * factor(step), advance, is_factor=True)


def _check_places(schedulers: Sequence[Any], place: str):
    """Refuse none, and such as torch computes otherwise in this place."""
    require(len(schedulers) > 0, "schedulers", "hold at least one", schedulers, "Give schedules of gradkit.as_torch.")
    for index, scheduler in enumerate(schedulers):
        places = scheduler.places if isinstance(scheduler, Scheduler) else (place,)
        given = Described(f"one for {' or '.join(places) or 'no other scheduler'}")
        remedy = "torch goes on with it from the present rate. Write the whole as lambda_lr."
        require(place in places, f"schedulers[{index}]", f"be a schedule that can stand in {place}", given, remedy)


def _check_milestones(milestones: Sequence[Any]):
    """Refuse milestones between steps, at which torch never is."""
    for index, milestone in enumerate(milestones):
        nonnegative(f"milestones[{index}]", milestone, whole=True)


def _check(**numbers: Any):
    """Refuse numbers that are negative or not finite."""
    for name, value in numbers.items():
        nonnegative(name, value)
