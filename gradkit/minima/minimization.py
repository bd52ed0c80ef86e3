"""The front door: a function and a start flow in; a :class:`Minimum` flows out. A search goes down until its steps are small, the
curvature there says whether that is a minimum; if not yet, Newton's step is tried and the search goes on."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from gradkit.checks import Described, is_known, require, whole_number
from gradkit.engine import programs
from gradkit.gradients import hvp
from gradkit.minima.curvatures import curvature, num_directions
from gradkit.minima.outcomes import Minimum, MinimumStatus
from gradkit.minima.searches import descend, lbfgs, least_squares, quasi_newton, relative
from gradkit.transforms.wrapping import wrapped
from gradkit.trees import is_inexact, leaf_names


def minimize(
    fn: Callable,
    x0: Any,
    *,
    optimizer: Any = None,
    residuals: bool = False,
    escape_saddles: bool = False,
    tolerance: Any = 1e-6,
    max_steps: int = 2000,
    args: tuple = (),
) -> Minimum:
    """Minimize a smooth function, all of it at every step, and say honestly how that ended.

    L-BFGS with a line search, or with ``residuals=True`` Levenberg-Marquardt, goes down until its steps are small. There the
    Hessian is looked at: with all its eigenvalues in up to 64 parameters, on 64 directions in more. *Converged* means that
    Newton's step is relatively smaller than ``tolerance`` in every coordinate, that the decrease it promises is smaller than
    ``tolerance**2`` of the value and of what was gained, and that all curvatures looked at are positive, and stay what they are
    over as long a step: at an inflection they do not. In more than 64 parameters a saddle may escape the look. Where Newton's
    step does not raise the value by more than that, it is made; short of convergence the search goes on from there.

    In up to 64 parameters L-BFGS looks at the Hessian first, and again every 20 steps or more, and walks in coordinates in which
    it is one: units do not matter. All of it is traced: under ``jit``, and under ``vmap`` for many starts, whose different minima
    ``.distinct()`` lists.

    Not for losses that are sampled (see :func:`gradkit.fit`), and not for kinks: second derivatives are used.

    Args:
        fn: ``(x, *args) -> scalar``; with ``residuals=True`` ``(x, *args) -> residuals``, a pytree of arrays, of which half the
            sum of squares is minimized. The same function object is compiled once.
        x0: Where to start, a pytree of float64 or float32 arrays; float32 knows a minimum to about 1e-4.
        optimizer: A gradient transformation instead of L-BFGS; one with a line search gets ``value``, ``grad`` and ``value_fn``.
        residuals: Static.
        escape_saddles: At a saddle, step along the direction that curves down most, and go on; a saddle of higher order, where
            that does not curve, ends flat all the same. Static.
        tolerance: Relative; not finer than the square root of the dtype's precision.
        max_steps: Of the search; looked at between searches by Levenberg-Marquardt. Static.
        args: Traced.

    Raises:
        ValueError: ``fn`` does not return a scalar, ``x0`` is empty, ``optimizer`` is given with ``residuals``, a number is out
            of its range.
        TypeError: ``x0`` has leaves of another dtype, ``args`` is no tuple, ``optimizer`` is none, ``fn`` has no hash.

    >>> def banana(x, a):
    ...     return (1 - x[0]) ** 2 + a * (x[1] - x[0] ** 2) ** 2
    >>> found = minimize(banana, jnp.array([-1.2, 1.0]), args=(100.0,))
    >>> print(MinimumStatus(int(found.status)).name)
    CONVERGED

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapters 3, 7, 10. https://doi.org/10.1007/978-0-387-40065-5
        Dauphin et al. (2014), the saddle-free Newton step. https://arxiv.org/abs/1406.2572
        Optimistix, whose Levenberg-Marquardt this is. https://docs.kidger.site/optimistix
    """
    leaves = jax.tree.leaves(x0)
    require(sum(map(jnp.size, leaves)), "x0", "have at least one number", x0, "Give the parameters to start from.")
    for name, leaf in zip(leaf_names(x0, "x0"), leaves):
        require(jnp.result_type(leaf) in (jnp.float32, jnp.float64), "x0", "be float32 or float64",
                Described(f"{jnp.result_type(leaf)} at {name}"), "Write 1.0 for 1, or convert it.", error=TypeError)  # fmt: skip
    is_fine = not is_known(tolerance) or 0 < float(tolerance) < 1
    require(is_fine, "tolerance", "be above 0 and below 1", tolerance, "1e-6 asks for six digits.")
    require(isinstance(args, tuple), "args", "be a tuple", args, "Write args=(1.0,) for one.", error=TypeError)
    if optimizer is not None:
        wrapped(optimizer)
    require(optimizer is None or not residuals, "optimizer", "be left out where `residuals` is True", optimizer,
            "Levenberg-Marquardt is the optimizer of residuals; or minimize half their sum of squares.")  # fmt: skip
    max_steps = whole_number("max_steps", max_steps, at_least=1, remedy="Say how many steps the search may make.")
    for name, value in (("fn", fn), ("optimizer", optimizer)):
        _require_hash(name, value)
    x0 = jax.tree.map(jnp.asarray, x0)
    with programs.keyed(fn, optimizer) as key:
        _require_outputs(fn, x0, args, residuals)
        return _minimize(key, x0, args, tolerance, residuals, escape_saddles, max_steps)


def _require_hash(name: str, value: Any):
    try:
        hash(value)
    except TypeError:
        require(False, name, "have a hash", value, "Hand over a function, or freeze the dataclass.", error=TypeError)


def _require_outputs(fn: Callable, x0: Any, args: tuple, residuals: bool):
    outputs = jax.tree.leaves(jax.eval_shape(fn, x0, *args))
    shapes = Described(", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in outputs) or "nothing")
    if residuals:
        is_right = outputs and all(is_inexact(leaf) for leaf in outputs)
        require(is_right, "fn", "return floating residuals", shapes, "Return prediction - target.")
    else:
        is_right = len(outputs) == 1 and outputs[0].shape == () and is_inexact(outputs[0])
        require(is_right, "fn", "return one floating scalar", shapes, "Return a sum or a mean; or pass residuals=True.")


LADDER = np.outer([1, -1], 4.0 ** -np.arange(12)).ravel()  # lengths, both ways, to leave a saddle


class _Walk(NamedTuple):
    minimum: Minimum
    small: jax.Array
    start: jax.Array
    was_stuck: jax.Array
    least_error: jax.Array
    frame: jax.Array
    newton: jax.Array


@partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _minimize(key, x0, args, tolerance, residuals, escape_saddles, max_steps) -> Minimum:
    fn, optimizer = key.functions
    flat0, unravel = ravel_pytree(x0)
    eps = jnp.finfo(flat0.dtype).eps

    def result_fn(x):
        return jax.tree.map(lambda leaf: leaf.astype(flat0.dtype), fn(x, *args))

    def value_fn(x):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(result_fn(x))) / 2 if residuals else result_fn(x)

    tolerance = jnp.maximum(jnp.asarray(tolerance, flat0.dtype), eps**0.5)
    floor = tolerance
    # in a curved valley the steps of Levenberg-Marquardt are short long before its end
    first = tolerance**1.5 if residuals else tolerance**0.5
    num_seen = num_directions(flat0.size)
    is_framed = not residuals and optimizer is None and num_seen == flat0.size
    if residuals:
        search = least_squares(result_fn, floor, max_steps)
    elif is_framed:
        search = quasi_newton(value_fn, floor, max(20, 2 * num_seen))
    else:
        search = descend(value_fn, optimizer or lbfgs(), floor)
    value_and_grad = jax.value_and_grad(lambda flat: value_fn(unravel(flat)))
    product_fn = hvp(lambda flat, _: value_fn(unravel(flat)))

    def look(walk: _Walk) -> _Walk:
        last = walk.minimum
        most_steps = jnp.where(is_framed & (last.num_products == 0), 0, max_steps - last.num_steps)
        found = search(last.params, walk.frame, walk.small, most_steps)
        flat = ravel_pytree(found.params)[0]
        value, grad = value_and_grad(flat)
        bend = curvature(lambda vector: product_fn(flat, None, vector), flat, grad)
        is_finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(grad)) & jnp.all(jnp.isfinite(bend.step))
        trifle = tolerance**2 * (jnp.abs(value) + jnp.abs(walk.start - value))
        error = relative(bend.step, flat, floor)
        is_still = (error <= tolerance) & (bend.decrease <= trifle)
        is_saddle = is_still & bend.is_negative

        newton = -bend.frame.T @ grad
        moved = flat + bend.frame @ newton
        if escape_saddles:
            longest = jnp.sqrt(jnp.maximum(tolerance**-1.5 * trifle, eps))
            tries = flat[None, :] + longest * jnp.outer(LADDER.astype(flat.dtype), bend.downward)
            moved = jnp.where(is_saddle, tries[jnp.argmin(jax.vmap(lambda x: value_fn(unravel(x)))(tries))], moved)
        lower = value_fn(unravel(moved))
        is_lower = lower <= value - 0.05 * jnp.sum(newton**2) + trifle
        num_steps = last.num_steps + found.num_steps
        is_escaping = is_saddle & is_lower & (lower < value) & (num_steps < max_steps) & escape_saddles
        # values may be rounded by more than their last digit: what is gained must be more than a trifle, or Newton's step shorter
        is_stuck = (last.value - jnp.where(is_lower, lower, value) <= trifle) & (error > 0.9 * walk.least_error)
        Status = MinimumStatus
        status = jnp.select(
            [
                ~is_finite, is_escaping, is_saddle, is_still & bend.is_flat, is_still,
                num_steps >= max_steps, is_stuck & walk.was_stuck,
            ],
            [
                Status.NOT_FINITE, Status.RUNNING, Status.SADDLE, Status.FLAT, Status.CONVERGED,
                Status.LIMIT, Status.LINE_SEARCH_FAILED,
            ],
            Status.RUNNING,
        )  # fmt: skip
        goes_on = is_lower & ((status == Status.RUNNING) | (status == Status.CONVERGED))
        new = Minimum(
            params=unravel(jnp.where(goes_on, moved, flat)),
            value=jnp.where(goes_on, lower, value),
            status=status.astype(jnp.int32),
            error=error,
            curvature=bend.lowest,
            num_steps=num_steps + goes_on,
            num_evaluations=last.num_evaluations + found.num_evaluations + 2,
            num_products=last.num_products + num_seen,
        )
        small = jnp.where(is_escaping, first, jnp.maximum(walk.small / 10, 1e-4 * first))
        return _Walk(new, small, walk.start, is_stuck, jnp.minimum(walk.least_error, error), bend.frame, newton)

    def stays_curved(walk: _Walk) -> jax.Array:
        """Whether curvatures of one are still about one another Newton's step on; at x**3 or x**4 they are not."""
        flat, ways = ravel_pytree(walk.minimum.params)[0], walk.frame * walk.newton[None, :]
        bends = jax.vmap(lambda v, way: v @ product_fn(flat + way, None, v), in_axes=1)(walk.frame, ways)
        is_seen = jnp.any(walk.frame != 0, axis=0)
        return jnp.all(~is_seen | (jnp.abs(bends - 1) < 0.1))

    start = value_fn(x0)
    zero = jnp.zeros((), jnp.int32)
    infinite = jnp.asarray(jnp.inf, flat0.dtype)
    minimum = Minimum(x0, start, zero + int(MinimumStatus.RUNNING), infinite, -infinite, zero, zero + 1, zero)
    nothing = jnp.zeros((flat0.size, num_seen), flat0.dtype)
    walk = _Walk(minimum, first, start, jnp.asarray(False), infinite, nothing, nothing[0])
    walk = jax.lax.while_loop(lambda walk: walk.minimum.status == MinimumStatus.RUNNING, look, walk)
    end = walk.minimum
    is_flat = (end.status == MinimumStatus.CONVERGED) & ~stays_curved(walk)
    status = jnp.where(is_flat, int(MinimumStatus.FLAT), end.status)
    return end._replace(status=status, num_products=end.num_products + num_seen)
