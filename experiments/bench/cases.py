"""What the benchmark trains: names flow in, models with data and learning rates flow out.

The data are random numbers of the right shapes. A step sees the same work whatever they are, as long as nothing diverges, and
so all learning rates are small ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random

import gradkit as gk
from gradkit.data.orders import shuffled_epochs

OPTIMIZERS = {"optax": optax.adam, "gradkit": gk.optimizers.adam}
NUM_EXAMPLES, NUM_CLASSES, VOCABULARY = 4096, 10, 32
LOW, HIGH = 1e-4, 3e-3
MOST_STEPS = 2048


class Case(NamedTuple):
    """A model to be trained by many learning rates at once.

    Attributes:
        name: What it is called on the command line.
        model: The pure functions that are trained.
        data: Inputs and targets of all examples, on the device.
        members: How many learning rates there are.
        batch_size: Examples per step.
        optimizer: ``learning_rate -> GradientTransformation``.
        sizes: Widths of the layers, where the model is a multi-layer perceptron.
        loss: The loss of one example.
    """

    name: str
    model: gk.models.Model
    data: tuple[jax.Array, jax.Array]
    members: int
    batch_size: int
    optimizer: Callable[[Any], optax.GradientTransformation]
    sizes: tuple[int, ...] | None = None
    loss: Callable = gk.losses.softmax

    @property
    def rates(self) -> np.ndarray:
        """The learning rates, one per member."""
        return np.array(gk.geomspace(LOW, HIGH, self.members), np.float32)

    @property
    def flops(self) -> float:
        """Arithmetic of the matrix products of one step of one member; NaN where the model is no perceptron.

        Two per weight and example on the way there, two for the gradient of the weight and two for that of its input, which
        the first layer does not need.
        """
        if self.sizes is None:
            return float("nan")
        weights = [num_inputs * num_outputs for num_inputs, num_outputs in itertools.pairwise(self.sizes)]
        return float(self.batch_size * (6 * sum(weights) - 2 * weights[0]))

    def order(self) -> np.ndarray:
        """The rows of each step's batch, ``(MOST_STEPS, batch_size)``: those that ``gk.sweep`` draws from the key 0."""
        return shuffled_epochs(NUM_EXAMPLES, batch_size=self.batch_size, key=0)(None, 0, MOST_STEPS)


def mlp(name: str, sizes: tuple[int, ...], members: int, batch_size: int, optimizer, **options) -> Case:
    """A multi-layer perceptron that learns the classes of normal inputs by heart."""
    return Case(name, gk.models.mlp(sizes, **options), _images((sizes[0],)), members, batch_size, optimizer, sizes)


def cnn(optimizer) -> Case:
    """Two convolutions on images of 28 by 28."""
    return Case("cnn", gk.models.cnn((28, 28), NUM_CLASSES), _images((28, 28)), 16, 64, optimizer)


def transformer(optimizer, length: int = 64) -> Case:
    """Two blocks of causal attention and a perceptron, which predict each next token from those before."""
    tokens = random.randint(random.key(1), (NUM_EXAMPLES, length + 1), 0, VOCABULARY)
    data = tokens[:, :-1], tokens[:, 1:]
    return Case("transformer", transformer_model(length), data, 16, 16, optimizer, loss=_mean_over_tokens)


BUILDERS = {
    "tiny": lambda optimizer: mlp("tiny", (8, 16, 16, 10), 1024, 32, optimizer),
    "small": lambda optimizer: mlp("small", (64, 128, 128, 10), 64, 64, optimizer),
    "mnist": lambda optimizer: mlp("mnist", (784, 128, 128, 10), 64, 128, optimizer),
    "cnn": cnn,
    "resnet": lambda optimizer: mlp("resnet", (64,) * 7 + (10,), 64, 64, optimizer, batch_norm=True, residual=True),
    "transformer": transformer,
}


def build(name: str, optimizer: str = "gradkit", members: int | None = None) -> Case:
    """The case of that name, with another number of members if one is given."""
    case = BUILDERS[name](OPTIMIZERS[optimizer])
    return case if members is None else case._replace(members=members)


def start(case: Case) -> tuple[Any, Any]:
    """Parameters and state of every member before its first step: those that ``gk.sweep`` draws from the key 0."""
    begun = case.model.init(random.key(0))
    return (begun, ()) if case.model.train is None else tuple(begun)


def mean_loss(case: Case, params: Any, state: Any, batch) -> tuple[jax.Array, Any]:
    """Cross-entropy of a batch in training mode, and the next state: what a person would write without gradkit."""
    inputs, targets = batch
    if case.model.train is None:
        scores = case.model.apply(params, inputs)
    else:
        scores, state = case.model.train(params, state, inputs, random.key(0))
    logarithms = jnp.take_along_axis(jax.nn.log_softmax(scores), targets[..., None], axis=-1)
    return -logarithms.mean(), state


def descent(case: Case, learning_rate: Any) -> gk.Descent:
    """The same training as gradkit's users write it."""
    return gk.models.descent(case.model, case.loss, case.optimizer(learning_rate))


def _mean_over_tokens(scores, targets):
    return jax.vmap(gk.losses.softmax)(scores, targets).mean()


def _images(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    keys = random.split(random.key(1))
    return random.normal(keys[0], (NUM_EXAMPLES, *shape)), random.randint(keys[1], (NUM_EXAMPLES,), 0, NUM_CLASSES)


def transformer_model(length: int, width: int = 64, heads: int = 4, blocks: int = 2) -> gk.models.Model:
    """A pre-norm transformer without biases in its projections: tokens ``[n, length]`` to scores ``[n, length, VOCABULARY]``."""
    block_shapes = {
        "query_key_value": (width, 3 * width), "mix": (width, width), "up": (width, 4 * width), "down": (4 * width, width),
    }  # fmt: skip
    scales = ("before_attention", "before_mlp")

    def init_block(key):
        keys = random.split(key, len(block_shapes))
        block = {name: _normal(key, shape) for key, (name, shape) in zip(keys, block_shapes.items())}
        return block | {name: jnp.ones(width) for name in scales}

    def init(key):
        keys = random.split(key, blocks + 3)
        return {
            "tokens": _normal(keys[0], (VOCABULARY, width)), "positions": _normal(keys[1], (length, width)),
            "blocks": [init_block(key) for key in keys[3:]],
            "last": jnp.ones(width), "scores": _normal(keys[2], (width, VOCABULARY)),
        }  # fmt: skip

    def attend(block, values):
        split = (values @ block["query_key_value"]).reshape(*values.shape[:2], 3, heads, width // heads)
        query, key, value = (split[:, :, index] for index in range(3))
        weights = jnp.einsum("nqhc,nkhc->nhqk", query, key) * (width // heads) ** -0.5
        is_past = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), weights.shape)
        weights = jax.nn.softmax(jnp.where(is_past, weights, -jnp.inf))
        return jnp.einsum("nhqk,nkhc->nqhc", weights, value).reshape(values.shape) @ block["mix"]

    def apply(params, inputs):
        values = params["tokens"][inputs]
        values = values + jnp.broadcast_to(params["positions"], values.shape)
        for block in params["blocks"]:
            values = values + attend(block, _scale_to_one(values, block["before_attention"]))
            values = values + jax.nn.relu(_scale_to_one(values, block["before_mlp"]) @ block["up"]) @ block["down"]
        return _scale_to_one(values, params["last"]) @ params["scores"]

    return gk.models.Model(init, apply)


def _normal(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return random.normal(key, shape) * shape[0] ** -0.5


def _scale_to_one(values: jax.Array, scale: jax.Array) -> jax.Array:
    """Root-mean-square normalization over the features."""
    inverse = jax.lax.rsqrt(jnp.mean(values**2, axis=-1, keepdims=True) + 1e-6)
    return values * inverse * jnp.broadcast_to(scale, values.shape)
