"""A factor for each parameter, by its name."""

import fnmatch
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import Described, nonnegative, require
from gradkit.transforms.scheduling import values_at
from gradkit.trees import leaf_names


class ScaleByPathState(NamedTuple):
    """State of :func:`scale_by_path`: updates made, an int32 scalar, by which schedules are asked."""

    count: jax.Array


def scale_by_path(factors: Mapping[str, Any]) -> optax.GradientTransformation:
    """Multiply the updates of each leaf by the factor of the first pattern that its name matches; others stay as they are.

    Put it last in the chain: learning rates per layer are factors of one rate, and Adam forgets the scale of what it gets.
    A factor of 0 freezes, weight decay and NaN before it included. For other optimizers per group, use ``optax.partition``.

    Args:
        factors: ``{pattern: factor}``. Names are written as ``gradkit.trees.leaf_names`` does: ``layers[0].kernel``. In a
            pattern ``*`` stands for any characters, ``?`` for one; brackets are brackets. A factor is a number, a traced
            value or a schedule.

    Raises:
        ValueError: A factor is negative, not finite or has a shape; or at ``init``, a pattern matches no leaf that an earlier
            one left.

    >>> params = {"layers": [{"kernel": jnp.ones(2)}, {"kernel": jnp.ones(2)}], "bias": jnp.ones(2)}
    >>> scale = scale_by_path({"layers[0].*": 0.5, "bias": lambda step: 0.25})
    >>> updates, _ = scale.update(params, scale.init(params))
    >>> print([leaf.tolist() for leaf in jax.tree.leaves(updates)])
    [[0.25, 0.25], [0.5, 0.5], [1.0, 1.0]]
    """
    names = {pattern: f"factors[{pattern!r}]" for pattern in factors}
    at = values_at({names[pattern]: nonnegative(names[pattern], factor) for pattern, factor in factors.items()})

    def init(params):
        _require_all_match(factors, leaf_names(params))
        return ScaleByPathState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        del params
        values = at(state.count)
        patterns = [_first_match(factors, name) for name in leaf_names(updates)]
        leaves, structure = jax.tree.flatten(updates)
        scaled = [leaf if p is None else _scaled(leaf, values[names[p]]) for p, leaf in zip(patterns, leaves)]
        return jax.tree.unflatten(structure, scaled), ScaleByPathState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _scaled(leaf, factor):
    """The product; 0 times NaN is 0 here."""
    factor = jnp.asarray(factor, jnp.result_type(leaf))
    frozen = jnp.where(jnp.isfinite(leaf), leaf, 0) * factor  # not a bare 0, which would hide how the factor could grow
    return jnp.where(factor == 0, frozen, leaf * factor)


def _first_match(patterns, name) -> str | None:
    is_match = lambda pattern: fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))  # noqa: E731
    return next(filter(is_match, patterns), None)


def _require_all_match(patterns, names):
    taken = {name: _first_match(patterns, name) for name in names}
    for pattern in patterns:
        free = [name for name, winner in taken.items() if winner is None or winner == pattern]
        require(pattern in taken.values(), f"factors[{pattern!r}]", "match a leaf that no earlier pattern matches",
                Described(f"none of {', '.join(names)}"), f"Left over: {', '.join(free) or 'nothing'}.")  # fmt: skip
