"""Pytree arithmetic that jax and optax lack: names of leaves, finiteness per leaf, selection by lane, the way to the host."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core.primitives import convert_element_type_p
from jax.sharding import AxisType, NamedSharding


def _path_name(path) -> str:
    """The path of a leaf as a person writes it: ``.layers[0].kernel``; ``""`` for a bare leaf."""
    text = ""
    for entry in path:
        match entry:
            case jax.tree_util.DictKey(key=key) if isinstance(key, str) and key.isidentifier():
                text += f".{key}"
            case jax.tree_util.DictKey(key=key):
                text += f"[{key!r}]"
            case jax.tree_util.GetAttrKey(name=name):
                text += f".{name}"
            case jax.tree_util.SequenceKey(idx=index):
                text += f"[{index}]"
            case _:
                text += f"[{getattr(entry, 'key', entry)}]"
    return text


def leaf_names(tree: Any, root: str = "") -> list[str]:
    """The names of all leaves, in the order of ``jax.tree.leaves``; behind the name of the tree, if that is given.

    >>> leaf_names({"w": 1.0, "layers": [2.0, 3.0]})
    ['layers[0]', 'layers[1]', 'w']
    >>> leaf_names([1.0, 2.0], root="params")
    ['params[0]', 'params[1]']
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [(root + _path_name(path)) if root else _path_name(path).removeprefix(".") for path in paths]


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds typed random keys."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf holds floating or complex numbers, the only ones that can fail to be finite."""
    return jnp.issubdtype(jnp.result_type(leaf) if not hasattr(leaf, "dtype") else leaf.dtype, jnp.inexact)


def finite_leaves(tree: Any, *, lane_axes: int = 0) -> jax.Array:
    """For each leaf, whether all its values are finite, shape ``lanes + (num_leaves,)``; leaves without floats are."""

    def is_finite(leaf):
        if not is_inexact(leaf):
            return jnp.ones(jnp.shape(leaf)[:lane_axes], bool)
        return jnp.all(jnp.isfinite(leaf), axis=tuple(range(lane_axes, jnp.ndim(leaf))))

    leaves = [is_finite(leaf) for leaf in jax.tree.leaves(tree)]
    return jnp.stack(leaves, axis=-1) if leaves else jnp.ones((0,), bool)


def strong(tree: Any) -> Any:
    """The tree without weak types, under which the programs that take it would compile twice."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), tree)


def weak(leaf: Any) -> jax.Array:
    """The same values with a weak type: they take the dtype of the arrays they meet, as Python's numbers do."""
    return convert_element_type_p.bind(jnp.asarray(leaf), new_dtype=leaf.dtype, weak_type=True, sharding=None)


def select_lanes(mask: jax.Array, chosen: Any, other: Any) -> Any:
    """Leaf by leaf, lanes of ``chosen`` where ``mask`` (shape ``m``) holds, else of ``other``; lanes lead each leaf."""

    def select(a, b):
        return jnp.where(mask.reshape(mask.shape + (1,) * (jnp.ndim(a) - 1)), a, b)

    return jax.tree.map(select, chosen, other)


def take_lane(tree: Any, lane: int) -> Any:
    """One lane of a tree whose leaves lead with lanes."""
    return jax.tree.map(lambda leaf: leaf[lane], tree)


def num_bytes(tree: Any) -> int:
    """Bytes held by the leaves of a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def at_home(tree: Any) -> Any:
    """The tree with arrays that are bound to other devices, or spread over several, on the first one; what is no array stays."""
    home = jax.local_devices()[0]

    def place(leaf):
        if not isinstance(leaf, jax.Array) or not leaf.committed or leaf.devices() == {home}:
            return leaf
        is_spread = len(leaf.devices()) > 1 and not is_key(leaf)
        return jax.device_put(np.asarray(leaf) if is_spread else leaf, home)  # by the host: the mesh may be a part of the type

    return place(tree) if jax.tree_util.all_leaves([tree]) else jax.tree.map(place, tree)


def unbound(tree: Any) -> Any:
    """The tree with arrays that are bound to one device on the host; those that are spread over several stay."""

    def free(leaf):
        is_bound = isinstance(leaf, jax.Array) and leaf.committed and len(leaf.devices()) == 1 and not is_key(leaf)
        return np.asarray(leaf) if is_bound else leaf

    return free(tree) if jax.tree_util.all_leaves([tree]) else jax.tree.map(free, tree)


def is_spread(tree: Any) -> bool:
    """Whether an array lies on several devices, by no explicit mesh."""
    leaves = [tree] if jax.tree_util.all_leaves([tree]) else jax.tree.leaves(tree)
    spread = [leaf for leaf in leaves if isinstance(leaf, jax.Array) and len(leaf.devices()) > 1]
    return any(without_foreign_mesh(leaf) is leaf for leaf in spread)


def without_foreign_mesh(leaf: Any) -> Any:
    """A leaf whose type holds another mesh than the one in force, by the host: it cannot enter a program; any other as it is."""
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer) or not isinstance(leaf.sharding, NamedSharding):
        return leaf
    mesh = leaf.sharding.mesh
    is_foreign = AxisType.Explicit in mesh.axis_types and mesh.abstract_mesh != jax.sharding.get_abstract_mesh()
    return np.asarray(leaf) if is_foreign else leaf


def to_host(tree: Any) -> Any:
    """The tree with numpy arrays for leaves; typed random keys stay jax arrays, which numpy cannot hold."""
    return jax.tree.map(lambda leaf: leaf if is_key(leaf) else np.asarray(leaf), tree)
