"""Compare the gradient of a loss with the slopes of the loss itself, leaf by leaf, and name the entry that is wrong.

In flow a loss function and its parameters, out flows a :class:`GradientCheck`. How the slopes are measured stands in ``lines``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gradkit.checks import require
from gradkit.contracts import Params
from gradkit.gradients.lines import NO_SLOPE, Line, Slope, measure, trace_line
from gradkit.gradients.values import require_floating
from gradkit.keys import key_words
from gradkit.settings import enable_x64
from gradkit.trees import leaf_names

NUM_COORDINATES = 8  # per leaf, measured one by one: all of a small leaf


class Verdict(enum.StrEnum):
    """What is to be said of the gradient of one leaf."""

    RIGHT = "right"
    KINK = "kink"
    WRONG = "wrong"
    MODES_DIFFER = "modes differ"
    NOT_FINITE = "not finite"
    UNCLEAR = "unclear"


PASSING = (Verdict.RIGHT, Verdict.KINK)


class LeafCheck(NamedTuple):
    """The gradient of one leaf beside the slope of the loss, at the entry that explains the verdict.

    Attributes:
        name: Of the leaf, as in ``params.layers[0].kernel``.
        verdict: See :class:`Verdict`.
        entry: Index into the leaf: the worst found for WRONG, a kink for KINK, the first for NOT_FINITE; else ``None``.
        given: What differentiation says: of the entry, or along a direction through the whole leaf.
        measured: What the loss does there; at a kink the mean of the slopes on both sides.
        error: How far ``measured`` may be off.
        kink: By how much the slope jumps there.
        is_finite: Whether the loss is, a little away from there.
    """

    name: str
    verdict: Verdict
    entry: tuple[int, ...] | None
    given: float
    measured: float
    error: float
    kink: float
    is_finite: bool

    @property
    def sides(self) -> tuple[float, float]:
        """The slopes on both sides, which differ at a kink."""
        return self.measured - self.kink / 2, self.measured + self.kink / 2

    def __str__(self) -> str:
        where = f" at {list(self.entry)}" if self.entry else ""
        reason = "is the loss a step here, or very rough?" if self.is_finite else "the loss is not finite a little away from here"
        return f"{self.name}: {self.verdict}{where}{_EXPLANATIONS[self.verdict].format(self, reason=reason)}"


_EXPLANATIONS = {
    Verdict.RIGHT: "",
    Verdict.KINK: ": slopes {0.sides[0]:.6g} and {0.sides[1]:.6g}, given {0.given:.6g} lies between",
    Verdict.WRONG: ": given {0.given:.6g}, measured {0.measured:.6g} (error {0.error:.0e})",
    Verdict.MODES_DIFFER: ": reverse mode {0.given:.6g} is right, forward mode {0.measured:.6g} is not; hvp will be wrong",
    Verdict.NOT_FINITE: ": given {0.given}",
    Verdict.UNCLEAR: ": no slope can be measured (error {0.error:.0e}); {reason}",
}


class GradientCheck(NamedTuple):
    """The verdict on each leaf. Prints what a person has to know."""

    leaves: tuple[LeafCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether the gradient of every leaf is right; at a kink, whether it lies between the slopes on both sides."""
        return all(leaf.verdict in PASSING for leaf in self.leaves)

    def __repr__(self) -> str:
        num_passing = sum(leaf.verdict in PASSING for leaf in self.leaves)
        findings = [f"\n  {leaf}" for leaf in self.leaves if leaf.verdict != Verdict.RIGHT]
        return f"GradientCheck: {num_passing} of {len(self.leaves)} leaves pass" + "".join(findings)


def check(loss_fn: Callable, params: Params, *args: Any, key: Any = 0, tolerance: float = 1e-6) -> GradientCheck:
    """Check the gradient of a loss against the loss, in float64: for hand-written rules, custom kernels, and doubts.

    Each leaf is measured along two random directions and at a few entries, all of them if it is small. A gradient that does not
    fit is followed into its leaf by halving, so that one wrong entry among 100,000 is found and named. Slopes come from
    differences extrapolated over thirteen step sizes, with an error estimate from their agreement: nothing to tune, and no false
    alarm where the loss is rough. A kink (ReLU or the absolute value at 0) shows as a Taylor remainder of first order; there a
    gradient between the slopes of both sides is accepted, and said to stand at a kink. Forward mode is compared with reverse
    mode, if there is one.

    This checks rules of differentiation, not the rounding of float32. It takes about 260 values of the loss per leaf: use a small
    model.

    Args:
        loss_fn: ``(params, *args)`` to a scalar or ``(scalar, aux)``; deterministic, and able to run in float64.
        params: A pytree of real floating arrays, cast to float64.
        *args: Pytrees of arrays; the floating ones are cast to float64.
        key: An int below 2**32 or a key; chooses directions and entries.
        tolerance: Error that is accepted, relative to the gradient of the leaf.

    Returns:
        A :class:`GradientCheck`; assert its ``ok``.

    Raises:
        TypeError: If a leaf of ``params`` is not a real floating array, or the loss not a float64 scalar computed in float64.
        ValueError: If the loss is not finite at ``params``, or ``key`` is no key.

    References:
        Ridders (1982), Accurate computation of F'(x) and F'(x) F''(x). https://doi.org/10.1016/S0141-1195(82)80057-0

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def double(x):
    ...     return 2 * x
    >>> double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g.at[1].set(0),))
    >>> check(lambda p: jnp.sum(double(p["w"])) + p["b"], {"w": jnp.ones(3), "b": 1.0})
    GradientCheck: 1 of 2 leaves pass
      params.w: wrong at [1]: given 0, measured 2 (error ...)
    """
    names, leaves = _real_leaves(params)
    generator = np.random.default_rng(key_words(key)[::-1])  # of key=7 as numpy's own of 7
    with enable_x64(True):
        line = trace_line(loss_fn, params, args)
        require(math.isfinite(line.value), "loss_fn", "be finite at `params`", line.value, "Check where it is defined.")
        starts = np.cumsum([0, *(np.size(leaf) for leaf in leaves)])
        entries = [_Leaf(line, name, np.shape(leaf), int(start), tolerance) for name, leaf, start in zip(names, leaves, starts)]
        return GradientCheck(tuple(_judge(entry, generator) for entry in entries))


def _real_leaves(params: Params) -> tuple[list[str], list[Any]]:
    require_floating(params)
    return leaf_names(params, root="params"), jax.tree.leaves(params)


class _Leaf(NamedTuple):
    """One leaf as a stretch of the flat parameters."""

    line: Line
    name: str
    shape: tuple[int, ...]
    start: int
    tolerance: float

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def of(self, flat: np.ndarray) -> np.ndarray:
        return flat[self.start : self.start + self.size]

    def direction(self, weights: np.ndarray, first: int, stop: int) -> np.ndarray:
        """Through the entries ``first`` to ``stop``, each with its weight."""
        direction = np.zeros_like(self.line.params)
        self.of(direction)[first:stop] = weights[first:stop]
        return direction

    def slope(self, weights: np.ndarray, first: int, stop: int) -> Slope:
        """Over steps as long for all entries; where these say nothing, as entries may differ in size, as long as each is."""
        params = self.of(self.line.params)
        scale = float(np.sqrt(np.mean(params**2))) or 1.0
        slope = measure(self.line, self.direction(weights, first, stop), scale, self.tolerance)
        if slope.is_clear:
            return slope
        sizes = np.where(params == 0, scale, np.abs(params))
        largest = float(sizes[first:stop].max())
        own = measure(self.line, self.direction(weights * sizes / largest, first, stop), largest, self.tolerance)
        return own if own.is_clear else slope

    def report(self, verdict: Verdict, slope: Slope, entry: int | None = None) -> LeafCheck:
        index = None if entry is None else tuple(int(i) for i in np.unravel_index(entry, self.shape))
        return LeafCheck(self.name, verdict, index, slope.given, slope.measured, slope.error, slope.kink, slope.is_finite)


def _judge(leaf: _Leaf, generator: np.random.Generator) -> LeafCheck:
    is_finite = np.isfinite(leaf.of(leaf.line.grads))
    if not is_finite.all():
        entry = int(is_finite.argmin())
        return leaf.report(Verdict.NOT_FINITE, NO_SLOPE._replace(given=float(leaf.of(leaf.line.grads)[entry])), entry)
    if leaf.size == 0:
        return leaf.report(Verdict.RIGHT, NO_SLOPE)

    probes = _probes(leaf.size, generator)
    slopes = [leaf.slope(*probe) for probe in probes]
    if found := _locate(leaf, probes, slopes, lambda slope: slope.excess):
        return leaf.report(Verdict.WRONG, *found)
    if not all(slope.is_clear for slope in slopes):
        return leaf.report(Verdict.UNCLEAR, max(slopes, key=lambda slope: slope.error))
    if found := _locate(leaf, probes, slopes, lambda slope: slope.kink):
        return leaf.report(Verdict.KINK, *found)
    return _compare_modes(leaf, leaf.direction(*probes[0]), slopes[0])


def _probes(size: int, generator: np.random.Generator) -> list[tuple[np.ndarray, int, int]]:
    """Weights of entries, and the stretch of entries to go through: twice all of them, then some alone.

    Random signs keep terms of one sign from hiding one that is wrong; unequal weights keep two that are swapped from cancelling.
    """
    weights = generator.choice([-1.0, 1.0], (2, size)) * generator.uniform(0.5, 1.5, (2, size))
    entries = generator.choice(size, min(NUM_COORDINATES, size), replace=False)
    return [(row, 0, size) for row in weights] + [(np.ones(size), int(entry), int(entry) + 1) for entry in entries]


def _locate(leaf: _Leaf, probes, slopes: list[Slope], badness: Callable[[Slope], float]) -> tuple[Slope, int] | None:
    """The worst entry of the worst probe and the slope along it, or ``None`` if nothing is bad.

    Halves the stretch and keeps the worse half. An entry that is not bad by itself acquits the leaf: along a rugged direction the
    error of a slope can be underestimated.
    """
    (weights, first, stop), worst = max(zip(probes, slopes), key=lambda probed: badness(probed[1]))
    if badness(worst) <= 0:
        return None
    while stop - first > 1:
        middle = (first + stop) // 2
        is_left = badness(leaf.slope(weights, first, middle)) >= badness(leaf.slope(weights, middle, stop))
        first, stop = (first, middle) if is_left else (middle, stop)
    slope = leaf.slope(np.ones(leaf.size), first, stop)
    return (slope, first) if badness(slope) > 0 else None


def _compare_modes(leaf: _Leaf, direction: np.ndarray, slope: Slope) -> LeafCheck:
    forward = leaf.line.forward(direction)
    terms = direction[direction != 0] * leaf.line.grads[direction != 0]
    given = float(terms.sum())
    if forward is not None and abs(forward - given) > leaf.tolerance * max(np.linalg.norm(terms), abs(given)):
        return leaf.report(Verdict.MODES_DIFFER, slope._replace(given=given, measured=forward))
    return leaf.report(Verdict.RIGHT, slope)
