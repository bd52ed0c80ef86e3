"""Linear models and multi-layer perceptrons: sizes flow in, a ``Model`` flows out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradkit import checks
from gradkit.descents import Stateful
from gradkit.models import layers
from gradkit.models.base import Inputs, Model, Scores, check_sizes, shape_examples


def linear(num_inputs: int, num_outputs: int | None = None) -> Model:
    """Scores that are linear in the inputs: ``inputs @ weight + bias``.

    Args:
        num_inputs: Numbers per example, d; examples of another shape are flattened.
        num_outputs: Scores per example: k gives ``[n, k]``, as ``softmax`` wants them; ``None`` gives one, ``[n]``, as
            ``squared`` and ``logistic`` want it.

    Returns:
        A ``Model`` with parameters ``{"weight": [d, k], "bias": [k]}``.

    Raises:
        ValueError: If a size is not positive, or (from ``apply``) if an example does not hold ``num_inputs`` numbers.

    >>> model = linear(4)
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.ones((3, 4))).shape
    (3,)
    """
    check_sizes("num_inputs", (num_inputs,))
    check_sizes("num_outputs", () if num_outputs is None else (num_outputs,))

    def init(key: jax.Array) -> Any:
        return layers.init_output(key, num_inputs, num_outputs)

    def apply(params: Any, inputs: Inputs) -> Scores:
        return layers.output(params, shape_examples(inputs, (num_inputs,)), num_outputs)

    return Model(init, apply)


def mlp(
    sizes: Sequence[int | None],
    *,
    activation: str = "relu",
    batch_norm: bool = False,
    residual: ArrayLike = False,
    weight_scale: ArrayLike | None = None,
) -> Model:
    """A multi-layer perceptron: hidden layers of ``activation(values @ weight + bias)``, then a linear layer.

    With ``batch_norm``, a hidden layer is ``activation(scale * normalize(values @ weight) + bias)``: by the moments of the batch
    in training mode, by running ones (decay 0.9, biased variance, eps 1e-5) in evaluation mode. With ``residual``, a hidden
    layer that keeps its width is ``values + residual * activation(...)``.

    Args:
        sizes: Widths from the inputs to the scores, ``(d, h, ..., k)``. Examples of another shape are flattened to d numbers.
            The last size k gives scores ``[n, k]``; a last size of ``None`` gives one score per example, ``[n]``.
        activation: One of relu, tanh, sigmoid, gelu, identity.
        batch_norm: Whether the hidden layers normalize; the model then has a state.
        residual: ``False``, or the scale a of the branch in ``x + a f(x)``; ``True`` is 1. May be traced.
        weight_scale: Hidden weights have standard deviation ``weight_scale / sqrt(fan_in)``. Default: sqrt(2) for relu (He et
            al. 2015), 1 for the others (LeCun et al. 1998). The last layer always has 1. May be traced.

    Returns:
        A ``Model`` with parameters ``{"hidden": [{"weight": [d, h], "bias": [h]}, ...], "output": {"weight", "bias"}}``; with
        batch norm, hidden layers also have a ``"scale"``, and the state is a list of ``Moments``. A hidden bias may be given a
        row per example, ``[n, h]``: its gradient is that of the pre-activations.

    Raises:
        ValueError: If there are fewer than two sizes, one is not positive, or the activation is unknown.

    >>> model = mlp((64, 32, 10), activation="tanh")
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.ones((5, 8, 8))).shape
    (5, 10)

    References:
        Ioffe and Szegedy, Batch normalization, 2015, https://arxiv.org/abs/1502.03167
        He et al., Delving deep into rectifiers, 2015, https://arxiv.org/abs/1502.01852
    """
    *widths, num_outputs = _check_mlp_sizes(sizes)
    activate = layers.ACTIVATIONS[checks.one_of("activation", activation, layers.ACTIVATIONS)]
    if weight_scale is None:
        weight_scale = layers.HE if activation == "relu" else 1.0

    def init_params(key: jax.Array) -> Any:
        *keys, last = jax.random.split(key, len(widths))
        hidden = [layers.init_dense(*each, weight_scale) for each in zip(keys, widths[:-1], widths[1:])]
        if batch_norm:
            hidden = [layer | {"scale": jnp.ones_like(layer["bias"])} for layer in hidden]
        return {"hidden": hidden, "output": layers.init_output(last, widths[-1], num_outputs)}

    def forward(params: Any, inputs: Inputs, running: Any = None) -> tuple[Scores, Any]:
        values, used = shape_examples(inputs, (widths[0],)), []
        for index, layer in enumerate(params["hidden"]):
            products = values @ layer["weight"]
            if batch_norm:
                used.append(running[index] if running is not None else layers.batch_moments(products))
                products = jnp.broadcast_to(layer["scale"], products.shape) * layers.normalize(products, used[-1])
            values = _join(values, activate(layers.add_bias(products, layer["bias"])), residual)
        return layers.output(params["output"], values, num_outputs), used

    def init(key: jax.Array) -> Stateful:
        return Stateful(init_params(key), [layers.init_moments(width) for width in widths[1:]])

    def apply(params: Stateful, inputs: Inputs) -> Scores:
        return forward(params.params, inputs, params.state)[0]

    def train(params: Any, state: Any, inputs: Inputs, key: jax.Array) -> tuple[Scores, Any]:
        scores, moments = forward(params, inputs)
        return scores, [layers.decay_moments(*each) for each in zip(state, moments)]

    if batch_norm:
        return Model(init, apply, train)
    return Model(init_params, lambda params, inputs: forward(params, inputs)[0])


def _check_mlp_sizes(sizes) -> tuple[int | None, ...]:
    remedy = "Write (inputs, hidden..., scores), with None for a single score."
    checks.require(len(sizes) >= 2, "sizes", "have at least an input and an output size", sizes, remedy)
    check_sizes("sizes", tuple(sizes[:-1]) if sizes[-1] is None else tuple(sizes))
    return tuple(sizes)


def _join(values: jax.Array, branch: jax.Array, residual: ArrayLike) -> jax.Array:
    if residual is False or values.shape != branch.shape:
        return branch
    return values + jnp.asarray(residual, branch.dtype) * branch
