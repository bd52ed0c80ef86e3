"""Values, gradients and Hessian products of a loss, with a clear refusal of what has none. Nothing is added to the program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradkit.checks import Described, refuse, require
from gradkit.contracts import Params
from gradkit.trees import leaf_names


def value_and_grad(loss_fn: Callable) -> Callable:
    """Differentiate a loss by its first argument, as ``jax.value_and_grad`` does and to the same bits.

    Args:
        loss_fn: ``(params, *args)`` to a floating scalar, to ``(scalar, metrics)`` with a dict of named scalars, or to
            ``(scalar, (state, metrics))``.

    Returns:
        ``(params, *args) -> ((loss, aux), grads)``; ``aux`` is what the loss returned beside the scalar, ``{}`` if nothing.

    Raises:
        TypeError: While tracing, if a leaf of ``params`` is not floating or has no gradient, the loss is no floating scalar, or
            the metrics are not a dict of scalars.

    >>> (loss, aux), grads = value_and_grad(lambda w, x: (w * x) ** 2)(3.0, 2.0)
    >>> float(loss), aux, float(grads)
    (36.0, {}, 24.0)
    """

    def loss_and_aux(params, *args):
        result = loss_fn(params, *args)
        loss, aux = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
        _require_scalar(loss)
        _require_metrics(aux[1] if isinstance(aux, tuple) and len(aux) == 2 else aux)
        return loss, aux

    differentiate = jax.value_and_grad(loss_and_aux, has_aux=True)

    def value_aux_and_grads(params, *args):
        require_floating(params)
        try:
            return differentiate(params, *args)
        except (ValueError, NotImplementedError) as error:
            _refuse_undefined(loss_and_aux, params, args, error)
            raise

    return value_aux_and_grads


def hvp(loss_fn: Callable) -> Callable:
    """Multiply the Hessian of a loss by a vector, at the price of about two gradients and without ever forming the Hessian.

    Forward over reverse: the directional derivative of the gradient. Not for a gradient written by hand (``jax.custom_vjp``)
    whose backward pass has no derivative of its own.

    Args:
        loss_fn: ``(params, batch)`` to a scalar or to ``(scalar, metrics)``.

    Returns:
        ``(params, batch, vector) -> product``; ``vector`` and ``product`` have the structure, shapes and dtypes of ``params``.

    References:
        Pearlmutter (1994), Fast exact multiplication by the Hessian. https://doi.org/10.1162/neco.1994.6.1.147

    >>> import jax.numpy as jnp
    >>> product = hvp(lambda x, batch: jnp.sum(x**3))
    >>> product(jnp.array([1.0, 2.0]), None, jnp.array([1.0, 1.0])).tolist()
    [6.0, 12.0]
    """
    differentiate = value_and_grad(loss_fn)

    def product(params: Params, batch: Any, vector: Params) -> Params:
        require_floating(params)
        _require_alike(vector, params)
        return jax.jvp(lambda params: differentiate(params, batch)[1], (params,), (vector,))[1]

    return product


def require_floating(params: Params):
    """Refuse parameters with a leaf that has no gradient, by its name."""
    for name, leaf in zip(leaf_names(params, root="params"), jax.tree.leaves(params)):
        dtype = float if isinstance(leaf, float) else getattr(leaf, "dtype", int)
        is_floating = jnp.issubdtype(dtype, jnp.floating)
        require(is_floating, name, "be floating, as only that has a gradient", _described(leaf),
                "Convert it to a floating dtype (a complex one to two real ones), or pass it in the batch.",
                error=TypeError)  # fmt: skip


def _refuse_undefined(loss_and_aux, params, args, error):
    """Name the leaf for which jax knows no gradient, if the loss itself is sound."""
    jax.eval_shape(loss_and_aux, params, *args)
    leaves, structure = jax.tree.flatten(params)
    for place, name in enumerate(leaf_names(params, root="params")):

        def of_leaf(leaf, place=place):
            return loss_and_aux(jax.tree.unflatten(structure, [*leaves[:place], leaf, *leaves[place + 1 :]]), *args)[0]

        try:
            jax.eval_shape(jax.grad(of_leaf), leaves[place])
        except (ValueError, NotImplementedError):
            words = Described(str(error).splitlines()[0])
            remedy = "Use jax.lax.scan or a loop of fixed length, jax.custom_vjp, or jax.lax.stop_gradient."
            refuse(name, "have a gradient", words, remedy, error=TypeError)


def _require_scalar(loss):
    is_scalar = isinstance(loss, float) or getattr(loss, "shape", None) == ()
    require(is_scalar and jnp.issubdtype(jnp.result_type(loss), jnp.floating), "loss_fn", "return a floating scalar",
            _described(loss), "Take the mean over examples and outputs.", error=TypeError)  # fmt: skip


def _require_metrics(metrics):
    is_dict = isinstance(metrics, dict)
    require(is_dict, "loss_fn", "return its metrics as a dict of named scalars", _described(metrics),
            "Return `loss, {'name': value}`.", error=TypeError)  # fmt: skip
    for name, value in metrics.items():
        is_scalar = isinstance(value, (int, float)) or getattr(value, "shape", None) == ()
        require(is_scalar, f"metrics[{name!r}]", "be a scalar", _described(value),
                "Take the mean; compute what is no scalar after the run.", error=TypeError)  # fmt: skip


def _require_alike(vector, params):
    got, wanted = jax.tree.structure(vector), jax.tree.structure(params)
    require(got == wanted, "vector", f"have the structure of the parameters, {wanted}", got,
            "Build it with jax.tree.map over the parameters.")  # fmt: skip
    for name, leaf, like in zip(leaf_names(vector, root="vector"), jax.tree.leaves(vector), jax.tree.leaves(params)):
        require(_described(leaf) == _described(like), name,
                f"be {_described(like)}, as the parameter is", _described(leaf),
                "Build it with jax.tree.map over the parameters.")  # fmt: skip


def _described(value) -> Described:
    """Shape and dtype of an array, the type of anything else."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return Described(f"{value.dtype} of shape {tuple(value.shape)}")
    return Described(type(value).__name__)
