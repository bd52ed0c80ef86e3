"""The end of a walk downhill flows in: parameters, status, counts; what a person wants to read of it flows out."""

import enum
from typing import Any, NamedTuple

import jax
import numpy as np

from gradkit.minima.distinctions import Minima, distinguish


class MinimumStatus(enum.IntEnum):
    """How a minimization ended."""

    RUNNING = 0
    CONVERGED = 1
    SADDLE = 2
    FLAT = 3
    LINE_SEARCH_FAILED = 4
    LIMIT = 5
    NOT_FINITE = 6

    @property
    def message(self) -> str:
        """The status in words."""
        return _MESSAGES[self]


_MESSAGES = {
    MinimumStatus.RUNNING: "has not ended",
    MinimumStatus.CONVERGED: (
        "converged: Newton's step and the decrease it promises are within the tolerance, all curvatures looked at are positive"
    ),
    MinimumStatus.SADDLE: (
        "stalled at a saddle: the gradient vanishes, but a curvature is negative (`escape_saddles=True` goes on)"
    ),
    MinimumStatus.FLAT: (
        "flat: the gradient vanishes and no curvature is negative, but along some direction there is none: a plateau, a minimum "
        "that is not one point (redundant or unused parameters) or flatter than a parabola, or a saddle of higher order"
    ),
    MinimumStatus.LINE_SEARCH_FAILED: (
        "line search failed: no step lowers the value, yet Newton's is not within the tolerance; the dtype may resolve no more "
        "(try float64), or the function may not be smooth here"
    ),
    MinimumStatus.LIMIT: "reached the limit of steps; raise `max_steps` or rescale the parameters",
    MinimumStatus.NOT_FINITE: "the value, its gradient or its curvature is not finite here",
}


class Minimum(NamedTuple):
    """What :func:`gradkit.minimize` found; under ``vmap`` each leaf has a leading axis of starts.

    Attributes:
        params: Where it ended, a pytree as ``x0``.
        value: The function there; for least squares half the sum of squares.
        status: A :class:`MinimumStatus` as int32.
        error: The largest relative length of the last Newton's step in any coordinate: an estimate of the relative error
            of where it was made from; ``params`` are nearer where it was made. Infinite where it says nothing: where a direction
            is flat; and at a limit or a failed line search if not all directions were looked at, or if Newton's next step would
            not be much shorter.
        curvature: The lowest curvature seen there, relative to the coordinates' own; below zero at a saddle.
        num_steps: Steps of the optimizer, Newton's included.
        num_evaluations: Evaluations of the function with its derivative.
        num_products: Products of the Hessian with a vector.
    """

    params: Any
    value: jax.Array
    status: jax.Array
    error: jax.Array
    curvature: jax.Array
    num_steps: jax.Array
    num_evaluations: jax.Array
    num_products: jax.Array

    @property
    def message(self) -> str:
        """The status in words; of many starts, how many ended how."""
        if np.ndim(self.status) == 0:
            return MinimumStatus(int(self.status)).message
        counts = {status: int(np.sum(np.asarray(self.status) == status)) for status in MinimumStatus}
        return ", ".join(f"{count} {status.name}" for status, count in counts.items() if count)

    def distinct(self, tolerance: float = 1e-3) -> Minima:
        """The different minima among many starts that converged, lowest first, and the share of the starts that reached each.

        Args:
            tolerance: Two are the same if no coordinate differs by more than this, relative to the larger of the two and to
                ``tolerance`` itself.

        Raises:
            ValueError: There is only one start.
        """
        return distinguish(self.params, self.value, np.asarray(self.status) == MinimumStatus.CONVERGED, tolerance)

    def __repr__(self) -> str:
        if isinstance(self.status, jax.core.Tracer):
            return f"Minimum({', '.join(f'{name}={value}' for name, value in self._asdict().items())})"
        if np.ndim(self.status) > 0:
            return f"{np.size(self.status)} starts: {self.message}\nlowest value {float(np.fmin.reduce(self.value, None)):.6g}"
        error = f"about {float(self.error):.0e}" if np.isfinite(self.error) else "unknown"
        return (
            f"{self.message}\nvalue {float(self.value):.6g}, relative error {error}\n"
            f"{int(self.num_steps)} steps, {int(self.num_evaluations)} evaluations, {int(self.num_products)} Hessian products\n"
            f"params {self.params}"
        )
