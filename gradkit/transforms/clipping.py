"""Gradients cut to a largest norm, leaf by leaf or all together, whatever their scale.

optax squares the gradients as they are: a norm above 1.8e19 in float32 overflows, and what comes out is zero; so does one
above 256 in float16. Here they are divided by their largest magnitude first.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import nonnegative
from gradkit.roots import sqrt
from gradkit.transforms.scheduling import scheduled


def clip_by_norm(max_norm: Any) -> optax.GradientTransformation:
    """Shrink each leaf whose own norm is above ``max_norm`` to that norm::

        g = g * min(1, max_norm / norm(g))

    Directions within a leaf stay, the balance between leaves does not; :func:`clip_by_global_norm` keeps both. An infinite
    coordinate becomes NaN, which :func:`guard` sees.

    Args:
        max_norm: A number, a traced value or a schedule.

    Raises:
        ValueError: It is negative, not finite, or has a shape.

    >>> clip = clip_by_norm(1.0)
    >>> grads = {"steep": jnp.array([3.0, 4.0]), "flat": jnp.array([0.5])}
    >>> updates, _ = clip.update(grads, clip.init(grads))
    >>> print(updates["steep"].round(1), updates["flat"])
    [0.6 0.8] [0.5]

    References:
        Pascanu et al., On the difficulty of training recurrent neural networks, 2013: https://arxiv.org/abs/1211.5063
    """
    return _clipping(lambda updates, limit: jax.tree.map(lambda leaf: _shrink(leaf, limit), updates), max_norm)


def clip_by_global_norm(max_norm: Any) -> optax.GradientTransformation:
    """Shrink all leaves together if their common norm is above ``max_norm``::

        g = g * min(1, max_norm / norm(all g))

    Equal to ``optax.clip_by_global_norm`` to rounding, but for norms that overflow. A transformation inside
    ``optax.partition`` sees only its group, and so cuts each group by itself; before the partition, the cut is global, as
    below. To leave a frozen group out of the norm, wrap the clip in ``optax.masked``.

    Args:
        max_norm: A number, a traced value or a schedule.

    Raises:
        ValueError: It is negative, not finite, or has a shape.

    >>> groups = optax.partition({"fast": optax.sgd(1.0), "slow": optax.sgd(0.5)}, {"a": "fast", "b": "slow"})
    >>> optimizer = optax.chain(clip_by_global_norm(1.0), groups)
    >>> grads = {"a": jnp.array(3.0), "b": jnp.array(4.0)}
    >>> updates, _ = optimizer.update(grads, optimizer.init(grads))
    >>> print(updates["a"].round(1), updates["b"].round(1))
    -0.6 -0.4

    References:
        Pascanu et al., On the difficulty of training recurrent neural networks, 2013: https://arxiv.org/abs/1211.5063
    """
    return _clipping(_shrink, max_norm)


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all leaves together, in float32 or wider, without overflow or underflow on the way.

    >>> print(norm({"a": jnp.array([3e30]), "b": jnp.array([4e30])}))
    5e+30
    """
    scale, root = _scale_and_root(tree)
    return scale * root


def _clipping(shrink, max_norm):
    nonnegative("max_norm", max_norm)

    def factory(max_norm):
        return optax.stateless(lambda updates, params: shrink(updates, max_norm))

    return scheduled(factory)(max_norm=max_norm)


def _shrink(tree, max_norm):
    scale, root = _scale_and_root(tree)
    is_long, factor = root > max_norm / scale, max_norm / jnp.where(root == 0, 1, root)
    return jax.tree.map(lambda leaf: jnp.where(is_long, leaf / scale * factor, leaf).astype(jnp.result_type(leaf)), tree)


def _scale_and_root(tree) -> tuple[jax.Array, jax.Array]:
    """The largest magnitude, as far as it has an inverse, and the norm of the tree divided by it."""
    leaves = jax.tree.leaves(tree)
    wide = [jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32)) for leaf in leaves]
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(leaf), initial=0) for leaf in wide], jnp.float32(0))
    limit = 2.0 ** (jnp.finfo(largest.dtype).maxexp * 3 // 4)
    scale = jax.lax.stop_gradient(jnp.clip(largest, 1 / limit, limit))
    square = sum((jnp.sum(_square(leaf / scale)) for leaf in wide), jnp.float32(0))
    return scale, sqrt(square)


def _square(x: jax.Array) -> jax.Array:
    """The squared magnitude; not of the absolute value where that can be avoided, which is not twice differentiable at 0."""
    return jnp.abs(x) ** 2 if jnp.iscomplexobj(x) else x**2
