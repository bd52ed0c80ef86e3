"""Arrays of examples, checked before anything compiles.

In flows a pytree of what numpy can read, out flows the same pytree of jax arrays: one length, finite.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradkit.checks import Described, refuse, require
from gradkit.trees import is_inexact, is_key, leaf_names


def check_arrays(argument: str, data: Any) -> Any:
    """Return the data as jax arrays, or say what is wrong with them.

    Numbers are converted as by ``jnp.asarray``: float64 becomes float32 unless jax is set to 64 bits.

    Args:
        argument: The name that messages use.
        data: Pytree of arrays whose leading axes have one length.

    Returns:
        The same pytree, on the device.

    Raises:
        ValueError: There is no leaf, lengths differ, a leaf is a scalar or empty, or a value is not finite.
        TypeError: A leaf does not hold numbers.

    >>> import numpy as np
    >>> check_arrays("data", (np.zeros((3, 2)), np.zeros(4)))
    Traceback (most recent call last):
        ...
    ValueError: `data` must have leaves of one length, got [0]: 3, [1]: 4. ...
    """
    _refuse_sparse(argument, data)
    leaves = [as_numbers(place, leaf) for place, leaf in places(argument, data)]
    arrays = jax.tree.unflatten(jax.tree.structure(data), map(jnp.asarray, leaves))
    num_examples(argument, arrays)
    check_finite(argument, arrays)
    return arrays


def num_examples(argument: str, data: Any) -> int:
    """Return the common length of all leaves, or name those that differ."""
    leaves = jax.tree.leaves(data)
    remedy = "Pass arrays with a common leading axis, such as (inputs, targets)."
    require(len(leaves) > 0, argument, "hold at least one array", data, remedy)
    for place, leaf in places(argument, data):
        require(np.ndim(leaf) > 0, place, "be an array with a leading axis of examples", leaf, remedy)
    lengths = {name: leaf.shape[0] for name, leaf in zip(leaf_names(data), leaves)}
    listed = Described(", ".join(f"{name}: {length}" for name, length in lengths.items()))
    remedy = "Pair inputs and targets row by row; a list of batches is passed as iter(batches)."
    require(len(set(lengths.values())) == 1, argument, "have leaves of one length", listed, remedy)
    require(leaves[0].shape[0] > 0, argument, "hold at least one example", 0, "Look at the filter that left none.")
    return leaves[0].shape[0]


def check_finite(argument: str, data: Any):
    """Refuse values that are not finite: which leaf, how many, and where the first one is."""
    for place, leaf in places(argument, data):
        if not is_inexact(leaf):
            continue
        is_bad = ~(np.isfinite(np.asarray(leaf)) if _is_on_host(leaf) else jnp.isfinite(leaf))  # numpy compiles nothing
        if is_bad.any():
            first = tuple(np.argwhere(is_bad)[0].tolist())
            words = f"{int(is_bad.sum())} of {leaf.size} values that are not (the first: {leaf[first]} at {list(first)})"
            remedy = "Remove these examples or fill the values in."
            require(False, place, f"be finite in {leaf.dtype}", Described(words), remedy)


def _is_on_host(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    return leaf.is_fully_addressable and all(device.platform == "cpu" for device in leaf.devices())


def as_numbers(place: str, leaf: Any) -> Any:
    """Return a leaf as a numpy or jax array of a dtype that jax holds; typed random keys stay as they are."""
    if isinstance(leaf, jax.Array) and is_key(leaf):
        return leaf
    check_plain(place, leaf)
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    is_numeric = array.dtype == bool or jnp.issubdtype(array.dtype, np.number)
    is_numeric = is_numeric and not np.issubdtype(array.dtype, np.timedelta64)  # numpy counts it among the numbers
    found = Described(f"{type(leaf).__name__} of dtype {array.dtype}")
    remedy = "Encode what is not a number, such as classes as 0, 1, ..., and fill in what is missing."
    remedy = "Make it dense by `.toarray()`." if hasattr(leaf, "toarray") else remedy
    require(is_numeric, place, "hold numbers", found, remedy, error=TypeError)
    return _canonical(place, array)


def check_plain(place: str, leaf: Any):
    """Refuse arrays whose numbers alone do not say what they mean: masked values, numpy's matrices."""
    if isinstance(leaf, np.ma.MaskedArray) and np.ma.is_masked(leaf):
        count = int(np.ma.getmaskarray(leaf).sum())
        require(False, place, "have no masked values", Described(f"{count} of {leaf.size} that are"),
                "Give examples that are to be left out the weight 0, fill the values in by `.filled(...)`, or remove "
                "these examples.")  # fmt: skip
    if isinstance(leaf, np.matrix):
        refuse(place, "be a plain array", Described(f"a numpy.matrix of shape {leaf.shape}"),
               "Convert it by np.asarray; products of arrays are elementwise.", error=TypeError)  # fmt: skip


def _refuse_sparse(argument: str, data: Any):
    """Refuse jax's sparse arrays, whose parts would pass for arrays of examples."""

    def is_sparse(node):
        return type(node).__module__.startswith("jax.experimental.sparse")

    for node in jax.tree.leaves(data, is_leaf=is_sparse):
        require(not is_sparse(node), argument, "hold dense arrays", Described(f"a {type(node).__name__}"),
                "Make it dense by `.todense()`.", error=TypeError)  # fmt: skip


def places(argument: str, tree: Any) -> list[tuple[str, Any]]:
    """Name each leaf as in ``data[0].x``."""
    return list(zip(leaf_names(tree, root=argument), jax.tree.leaves(tree)))


def _canonical(place: str, array: Any) -> Any:
    dtype = jnp.result_type(array)
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused by name
        narrow = array.astype(dtype)
    is_kept = is_inexact(array) or np.array_equal(narrow, array)
    require(
        is_kept,
        place,
        f"fit {dtype}",
        Described(f"{array.dtype} values beyond it"),
        "Shift them, or enable x64 in jax.",
    )
    return narrow
