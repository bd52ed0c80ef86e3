"""What every optimizer does at its door: gradients are held against the parameters, half precision is widened."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import Described, refuse, require
from gradkit.transforms.wrapping import wrapped
from gradkit.trees import leaf_names


def optimizer(*transforms: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """:func:`optax.chain` with a door: gradients must fit the parameters, and half precision is computed in float32.

    Each transformation is told the extra arguments that it takes; those of ``optax.chain`` must take all that there are.
    optax broadcasts a gradient of another shape silently, and keeps moments in the dtype of the parameters: in bfloat16 a
    second moment stops moving at half its value, in float16 ``eps`` is 0. Here the chain sees leaves of less than 32 bits as
    float32, and so keeps its state; the updates that leave it have the dtype of the gradients. Other leaves pass as they are.

    Raises:
        ValueError: While tracing, if structure or shapes of gradients and parameters differ.

    >>> adagrad = optimizer(optax.scale_by_rss(), optax.scale(-0.1))
    >>> weights = jnp.ones(2, jnp.bfloat16)
    >>> adagrad.init(weights)[0].sum_of_squares.dtype
    dtype('float32')
    >>> adagrad.update(jnp.ones(3, jnp.bfloat16), adagrad.init(weights), weights)
    Traceback (most recent call last):
        ...
    ValueError: `grads` must have the shapes of `params`, got (3,) where `params` has (2,). Differentiate with respect to ...
    """
    chain = optax.with_extra_args_support(optax.chain(*map(wrapped, transforms)))

    def init(params):
        return chain.init(widen(params))

    def update(updates, state, params=None, **extra_args):
        if params is not None:
            check_gradients(updates, params)
        wide, state = chain.update(widen(updates), state, None if params is None else widen(params), **extra_args)
        return jax.tree.map(lambda update, g: update.astype(jnp.result_type(g)), wide, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def widen(tree: Any) -> Any:
    """Floating leaves of less than 32 bits as float32; others as they are.

    >>> widen({"w": jnp.ones(2, jnp.float16)})["w"].dtype
    dtype('float32')
    """

    def wide(leaf):
        dtype = jnp.result_type(leaf)
        is_half = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        return jnp.asarray(leaf, jnp.float32) if is_half else leaf

    return jax.tree.map(wide, tree)


def check_parameters(params: Any):
    """Refuse parameters that no step along a gradient can change, naming the first such leaf."""
    remedy = "Keep other leaves out of the optimizer with optax.partition."
    for name, theta in zip(leaf_names(params), jax.tree.leaves(params)):
        dtype = jnp.result_type(theta)
        given = Described(f"{dtype.name} at {name!r}" if name else dtype.name)
        require(jnp.issubdtype(dtype, jnp.floating), "params", "be real floating", given, remedy, error=TypeError)


def check_gradients(
    grads: Any, params: Any, argument: str = "grads", remedy: str = "Differentiate with respect to these parameters."
):
    """Refuse gradients whose structure or shapes are not those of the parameters, naming the first leaf that differs."""
    if jax.tree.structure(grads) != jax.tree.structure(params):
        theirs, ours = set(leaf_names(grads)), set(leaf_names(params))
        differing = sorted(theirs ^ ours)
        where = argument if differing and differing[0] in theirs else "params"
        given = f"the leaf {differing[0]!r} only in `{where}`" if differing else str(jax.tree.structure(grads))
        refuse(argument, "have the structure of `params`", Described(given), remedy)
    for name, g, theta in zip(leaf_names(params), jax.tree.leaves(grads), jax.tree.leaves(params)):
        at = f" at {name!r}" if name else ""
        given = Described(f"{jnp.shape(g)}{at} where `params` has {jnp.shape(theta)}")
        require(jnp.shape(g) == jnp.shape(theta), argument, "have the shapes of `params`", given, remedy)
