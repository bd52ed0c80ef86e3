"""What a model is: how its parameters start, and how they turn inputs into scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num

from gradkit import checks
from gradkit.checks import Described

Inputs = Num[jax.Array | np.ndarray, "n ..."]
Scores = Float[jax.Array, "n ..."]


class Model(NamedTuple):
    """A model as pure functions.

    ``apply`` takes what ``init`` and what a fit returns, so it serves ``gk.objective(loss, model.apply)``, ``evaluate`` and
    ``jax.vmap`` over stacked parameters alike.

    Attributes:
        init: ``key -> params``; for a model with a state (batch statistics), ``key -> Stateful(params, state)``.
        apply: ``(params, inputs) -> scores`` in evaluation mode, with ``params`` as ``init`` returns them.
        train: ``(params, state, inputs, key) -> (scores, state)`` in training mode; ``None`` for a model without a state, which
            trains as it is evaluated.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, Inputs], Scores]
    train: Callable[[Any, Any, Inputs, jax.Array], tuple[Scores, Any]] | None = None


def check_sizes(argument: str, sizes: tuple[Any, ...]):
    """Refuse sizes that are not whole and positive."""
    for size in sizes:
        checks.whole_number(argument, size, at_least=1, remedy="Sizes count features, units, channels or scores.")


def shape_examples(inputs: Inputs, shape: tuple[int, ...]) -> jax.Array:
    """Give each example the shape that the model reads, or refuse examples of another size."""
    got = Described(f"an array of shape {inputs.shape}")
    checks.require(
        math.prod(inputs.shape[1:]) == math.prod(shape), "inputs", f"hold examples of shape {shape} or its flattened form", got,
        "Examples lie along the first axis; give the model the sizes of the data.",
    )  # fmt: skip
    return jnp.asarray(inputs).reshape(len(inputs), *shape)
