"""The front door: a function and a start flow in; a :class:`Minimum` flows out."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradkit.checks import Described, is_known, require, whole_number
from gradkit.decompositions import may_wait_for_each_other
from gradkit.engine import programs
from gradkit.minima.outcomes import Minimum
from gradkit.minima.sensitivities import found
from gradkit.minima.walks import Manner
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

    In up to 64 parameters damped Newton steps, in more L-BFGS with a line search, or with ``residuals=True``
    Levenberg-Marquardt, go down until the steps are small. There the Hessian is looked at: with all its eigenvalues in up to
    64 parameters, on 64 directions in more. *Converged* means that Newton's step is relatively smaller than ``tolerance`` in
    every coordinate, that the decrease it promises is smaller than ``tolerance**2`` of the value and of what was gained, and
    that all curvatures looked at are positive, and stay what they are over as long a step: at an inflection they do not. A
    negative one makes a saddle if it is not only seen from beside a curved valley's floor. An end that looks flat, or where
    derivatives fail at that one point, is looked at once more a rounding step away, and is that point if it is a minimum. In
    more than 64 parameters a saddle may escape the look. Where Newton's step does not raise the value by more than that, it
    is made; short of convergence the search goes on from there.

    Newton's and Levenberg-Marquardt's steps take absolute curvatures or those of the linear model, in coordinates in which
    units do not matter, and bend as the function does along them: curved valleys take tens of steps, not hundreds.

    All of it is traced: under ``jit``, and under ``vmap`` for many starts, whose different minima ``.distinct()`` lists.
    ``params`` and ``value`` have derivatives in ``args`` and in what ``fn`` closes over, by the implicit function theorem;
    NaN where the end is not converged, and in more than 1,000 parameters where the conjugate gradients that give those of
    ``params`` do not end: then rescale. The start has none. On a CPU, a function that decomposes matrices is not mapped but
    run start by start: batched calls of LAPACK may wait for each other for ever.

    Not for losses that are sampled (see :func:`gradkit.fit`), and not for kinks: second derivatives are used.

    Args:
        fn: ``(x, *args) -> scalar``; with ``residuals=True`` ``(x, *args) -> residuals``, a pytree of arrays, real or complex,
            of which half the sum of squared absolute values is minimized. Functions that read the same are compiled once.
        x0: Where to start, a pytree of float64 or float32 arrays; float32 knows a minimum to about 1e-4.
        optimizer: A gradient transformation for the search; one with a line search gets ``value``, ``grad`` and ``value_fn``.
        residuals: Static.
        escape_saddles: At a saddle, step along the direction that curves down most, and go on; a saddle of higher order, where
            that does not curve, ends flat all the same. Static.
        tolerance: Relative; not finer than the square root of the dtype's precision.
        max_steps: Of the search, refused ones included. Static.
        args: Traced, and differentiable.

    Raises:
        ValueError: ``fn`` does not return a scalar, ``x0`` is empty, ``optimizer`` is given with ``residuals``, a number is out
            of its range.
        TypeError: ``x0`` has leaves of another dtype, ``args`` is no tuple, ``optimizer`` is not one, ``fn`` has no hash.

    >>> def banana(x, a):
    ...     return (1 - x[0]) ** 2 + a * (x[1] - x[0] ** 2) ** 2
    >>> found = minimize(banana, jnp.array([-1.2, 1.0]), args=(100.0,))
    >>> print(found.message.split(":")[0])
    converged

    References:
        Nocedal and Wright (2006), Numerical Optimization, chapters 3, 7, 10. https://doi.org/10.1007/978-0-387-40065-5
        Dauphin et al. (2014), the saddle-free Newton step. https://arxiv.org/abs/1406.2572
        Transtrum and Sethna (2012), steps that bend along valleys. https://arxiv.org/abs/1201.5885
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
    with contextlib.ExitStack() as stack:
        key = stack.enter_context(programs.keyed(fn, optimizer))
        traced, shapes = jax.make_jaxpr(fn, return_shape=True)(x0, *args)
        _require_outputs(shapes, residuals)
        if any(isinstance(const, jax.core.Tracer) for const in traced.consts):
            # what the function closes over may be differentiated or mapped: it becomes an argument, as if it had been given
            fn, hidden = jax.closure_convert(fn, x0, *args)
            args = (*args, *hidden)
            key = stack.enter_context(programs.keyed(fn, optimizer))
        manner = Manner(residuals, escape_saddles, max_steps, may_wait_for_each_other(traced))
        return found(key, manner, x0, args, jnp.asarray(tolerance))


def _require_hash(name: str, value: Any):
    try:
        hash(value)
    except TypeError:
        require(False, name, "have a hash", value, "Hand over a function, or freeze the dataclass.", error=TypeError)


def _require_outputs(returned: Any, residuals: bool):
    outputs = jax.tree.leaves(returned)
    shapes = Described(", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in outputs) or "nothing")
    if residuals:
        is_right = outputs and all(is_inexact(leaf) for leaf in outputs)
        require(is_right, "fn", "return floating residuals", shapes, "Return prediction - target.")
    else:
        is_right = len(outputs) == 1 and outputs[0].shape == () and jnp.issubdtype(outputs[0].dtype, jnp.floating)
        require(is_right, "fn", "return one floating scalar", shapes, "Return a sum or a mean; or pass residuals=True.")
