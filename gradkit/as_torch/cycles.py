"""PyTorch's cycles of the learning rate, and of the momentum beside it, as pure schedules; see ``gradkit.as_torch.schedulers``.

torch changes the momentum of the optimizer, or its first beta, along with the rate. Here it is a schedule of its own::

    sgd(lr=one_cycle_lr(0.1, 1000), momentum=one_cycle_momentum(1000))
    adam(lr=one_cycle_lr(0.1, 1000), betas=(one_cycle_momentum(1000), 0.999))
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gradkit.as_torch.schedulers import Scheduler
from gradkit.checks import nonnegative, one_of, refuse, require
from gradkit.schedules import power


def cyclic_lr(
    base_lr: Any,
    max_lr: Any,
    step_size_up: Any = 2000,
    step_size_down: Any = None,
    mode: str = "triangular",
    gamma: Any = 1.0,
    scale_fn: Callable[[Any], Any] | None = None,
    scale_mode: str = "cycle",
) -> Scheduler:
    """``CyclicLR``: up from ``base_lr`` to ``max_lr`` in ``step_size_up`` steps and down in ``step_size_down``, for ever.

    By default torch's cycles the momentum as well, ``cycle_momentum=True``. Here that is a schedule of its own, with the same
    arguments: ``sgd(lr=cyclic_lr(0.01, 0.1, 500), momentum=cyclic_momentum(500))``.

    Args:
        base_lr, max_lr: Numbers or traced values.
        step_size_up, step_size_down: Steps; the second is the first unless given.
        mode: ``"triangular"``; ``"triangular2"``: half as high each cycle; ``"exp_range"``: ``gamma**step`` as high. Static.
        gamma: Of ``"exp_range"``.
        scale_fn: In place of a mode, the height as a function of the cycle = 1, 2, ..., or of the step.
        scale_mode: ``"cycle"`` or ``"iterations"``: what ``scale_fn`` is asked with. Static.

    Raises:
        ValueError: An unknown mode, or a number that is negative or not finite.

    >>> schedule = cyclic_lr(0.0, 1.0, 2)
    >>> [float(schedule(step)) for step in range(6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.CyclicLR.html
    """
    height = _wave(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)
    nonnegative("base_lr", base_lr)
    nonnegative("max_lr", max_lr)
    value = lambda step: base_lr + (max_lr - base_lr) * height(step)  # noqa: E731
    return Scheduler(base_lr, value, lambda rate, step: value(step))


def cyclic_momentum(
    step_size_up: Any = 2000,
    step_size_down: Any = None,
    mode: str = "triangular",
    gamma: Any = 1.0,
    scale_fn: Callable[[Any], Any] | None = None,
    scale_mode: str = "cycle",
    *,
    base_momentum: Any = 0.8,
    max_momentum: Any = 0.9,
) -> Callable[[Any], Any]:
    """The momentum beside :func:`cyclic_lr`: down from ``max_momentum`` to ``base_momentum`` while the rate goes up.

    >>> schedule = cyclic_momentum(2)
    >>> [round(float(schedule(step)), 3) for step in range(5)]
    [0.9, 0.85, 0.8, 0.85, 0.9]
    """
    height = _wave(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)
    nonnegative("base_momentum", base_momentum)
    nonnegative("max_momentum", max_momentum)
    return lambda step: max_momentum - (max_momentum - base_momentum) * height(step)


def one_cycle_lr(
    max_lr: Any,
    total_steps: Any = None,
    epochs: Any = None,
    steps_per_epoch: Any = None,
    pct_start: Any = 0.3,
    anneal_strategy: str = "cos",
    div_factor: Any = 25.0,
    final_div_factor: Any = 1e4,
    three_phase: bool = False,
) -> Scheduler:
    """``OneCycleLR``: up from ``max_lr / div_factor`` to ``max_lr``, down to ``max_lr / div_factor / final_div_factor``.

    The peak is at step ``pct_start * total_steps - 1``, which need not be whole, the end at ``total_steps - 1``, where the rate
    stays; torch refuses to go on. With three phases the rate comes down to where it began by the same way, and then to the end.

    By default torch's cycles the momentum as well, ``cycle_momentum=True``, of Adam and its like the first beta. Here that is a
    schedule of its own, with the same arguments: ``sgd(lr=one_cycle_lr(0.1, 1000), momentum=one_cycle_momentum(1000))``.

    Args:
        max_lr, pct_start, div_factor, final_div_factor: Numbers or traced values.
        total_steps: Or ``epochs`` and ``steps_per_epoch``, whose product it is.
        anneal_strategy: ``"cos"`` or ``"linear"``. Static.
        three_phase: Static.

    Raises:
        ValueError: No length, or a number that is out of its range.

    >>> schedule = one_cycle_lr(1.0, 11, pct_start=4 / 11)
    >>> [round(float(schedule(step)), 3) for step in (0, 3, 10)]
    [0.04, 1.0, 0.0]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.OneCycleLR.html
    """
    nonnegative("max_lr", max_lr)
    nonnegative("div_factor", div_factor, positive=True)
    nonnegative("final_div_factor", final_div_factor, positive=True)
    start = max_lr / div_factor
    levels = [start, max_lr, start, start / final_div_factor] if three_phase else [start, max_lr, start / final_div_factor]
    value = _phases(levels, _length(total_steps, epochs, steps_per_epoch), pct_start, anneal_strategy)
    return Scheduler(start, value, lambda rate, step: value(step))


def one_cycle_momentum(
    total_steps: Any = None,
    epochs: Any = None,
    steps_per_epoch: Any = None,
    pct_start: Any = 0.3,
    anneal_strategy: str = "cos",
    base_momentum: Any = 0.85,
    max_momentum: Any = 0.95,
    three_phase: bool = False,
) -> Callable[[Any], Any]:
    """The momentum beside :func:`one_cycle_lr`: down from ``max_momentum`` to ``base_momentum`` while the rate goes up, and back.

    >>> schedule = one_cycle_momentum(11, pct_start=4 / 11)
    >>> [round(float(schedule(step)), 3) for step in (0, 3, 10)]
    [0.95, 0.85, 0.95]
    """
    nonnegative("base_momentum", base_momentum)
    nonnegative("max_momentum", max_momentum)
    levels = [max_momentum, base_momentum, max_momentum] + [max_momentum] * three_phase
    return _phases(levels, _length(total_steps, epochs, steps_per_epoch), pct_start, anneal_strategy)


def _wave(up, down, mode, gamma, scale_fn, scale_mode) -> Callable[[Any], Any]:
    """The height of :func:`cyclic_lr` above its base, between 0 and 1."""
    one_of("mode", mode, ("triangular", "triangular2", "exp_range"))
    one_of("scale_mode", scale_mode, ("cycle", "iterations"))
    nonnegative("step_size_up", up, positive=True)
    nonnegative("gamma", gamma)
    down = up if down is None else nonnegative("step_size_down", down, positive=True)

    def scale(cycle, step):
        if scale_fn is not None:
            return scale_fn(cycle if scale_mode == "cycle" else step)
        return {"triangular": 1.0, "triangular2": 0.5 ** (cycle - 1), "exp_range": power(gamma, step)}[mode]

    def height(step):
        since = jnp.mod(1.0 * step, up + down)
        cycle = 1 + jnp.round((step - since) / (up + down))
        return jnp.where(since <= up, since / up, (up + down - since) / down) * scale(cycle, step)

    return height


def _length(total_steps, epochs, steps_per_epoch) -> Any:
    """The steps of a cycle."""
    if total_steps is None and (epochs is None or steps_per_epoch is None):
        refuse("total_steps", "be given, or both `epochs` and `steps_per_epoch`", total_steps, "How long is the cycle?")
    return nonnegative("total_steps", epochs * steps_per_epoch if total_steps is None else total_steps, positive=True)


def _phases(levels, total_steps, pct_start, anneal_strategy) -> Callable[[Any], Any]:
    """From level to level; the ends of the phases lie a step before the shares of the whole that torch's are meant to be."""
    one_of("anneal_strategy", anneal_strategy, ("cos", "linear"))
    if isinstance(pct_start, (int, float)):
        require(
            0 <= pct_start <= 1, "pct_start", "lie between 0 and 1", pct_start, "It is the share of the cycle before the peak."
        )
    turn = pct_start * total_steps - 1
    ends = [0, turn, 2 * turn, total_steps - 1] if len(levels) == 4 else [0, turn, total_steps - 1]

    def value(step):
        rate = levels[-1]
        for index in reversed(range(len(ends) - 1)):
            begin, end = ends[index], ends[index + 1]
            length = jnp.where(end == begin, 1.0, end - begin)
            # from the level that is nearer, as they differ by factors of up to 1e5
            shares = [jnp.clip(part / length, 0.0, 1.0) for part in (step - 1.0 * begin, end - 1.0 * step)]
            done, left = [jnp.sin(jnp.pi / 2 * share) ** 2 for share in shares] if anneal_strategy == "cos" else shares
            rise = levels[index + 1] - levels[index]
            between = jnp.where(done < left, levels[index] + rise * done, levels[index + 1] - rise * left)
            rate = jnp.where(step <= end, between, rate)
        return rate

    return value
