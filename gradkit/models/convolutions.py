"""A small convolutional network: the shape of an image flows in, a ``Model`` flows out.

A convolution is one matrix product over shifted copies of the images: inside a compiled loop on CPU, XLA's own convolution
trains many times slower. Lanes of stacked kernels become a batched product, or one wide one where they share their images.

``cnn`` keeps its images as ``[c, h, w, n]``, so that each copy moves long runs of memory, and convolves and pools in one step:
the four scores of a window are four outputs of one 4x4 kernel of stride two. That kernel is nearly half zeros, but its copies
take less than half the memory, and the memory is what costs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Num

from gradkit import checks
from gradkit.models import layers
from gradkit.models.base import Inputs, Model, Scores, check_sizes, shape_examples

BLOCK = 256  # examples at a time: the shifted copies of a whole validation set would not fit memory


def convolve(
    images: Num[jax.Array | np.ndarray, "n h w c"], kernel: Float[jax.Array | np.ndarray, "a b c k"]
) -> Float[jax.Array, "n h w k"]:
    """Correlate images with a kernel, with stride one and a border of zeros that keeps their size.

        out[n, y, x, k] = sum over i, j, c of images[n, y + i - (a - 1) // 2, x + j - (b - 1) // 2, c] * kernel[i, j, c, k]

    Equal to ``jax.lax.conv_general_dilated`` with padding ``"SAME"``. Not for large kernels: it holds ``a * b`` copies of the
    images.

    >>> images = jnp.arange(6.0).reshape(1, 1, 6, 1)
    >>> convolve(images, jnp.ones((1, 3, 1, 1))).ravel().tolist()
    [1.0, 3.0, 6.0, 9.0, 12.0, 9.0]
    """
    (_, height, width, _), (rows, columns, channels, num_outputs) = images.shape, kernel.shape
    padded = jnp.pad(images, ((0, 0), _same(rows), _same(columns), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    copies = jnp.concatenate(shifted, axis=-1).reshape(-1, rows * columns * channels)  # with four axes, its gradient is slow
    return (copies @ kernel.reshape(-1, num_outputs)).reshape(-1, height, width, num_outputs)


def cnn(image_shape: Sequence[int], num_outputs: int | None = None, channels: Sequence[int] = (16, 32)) -> Model:
    """A small convolutional network: for each of ``channels``, a 3x3 convolution, ReLU and 2x2 max pooling; then a linear layer.

    Args:
        image_shape: ``(h, w)`` or ``(h, w, c)``. Inputs are ``[n, h, w]``, ``[n, h, w, c]`` or flattened, ``[n, h * w * c]``.
        num_outputs: Scores per example: k gives ``[n, k]``, ``None`` gives one, ``[n]``.
        channels: Channels of each convolution. Pooling halves the image after each and drops an odd last row or column.

    Returns:
        A ``Model`` with parameters ``{"hidden": [{"kernel": [3, 3, c, k], "bias": [k]}, ...], "output": {"weight", "bias"}}``.

    Raises:
        ValueError: If a size is not positive, or the image is too small to be halved that often.

    >>> model = cnn((8, 8), 10)
    >>> params = model.init(jax.random.key(0))
    >>> model.apply(params, jnp.ones((5, 64))).shape
    (5, 10)
    """
    height, width, depth = _check_image(image_shape, channels)
    check_sizes("num_outputs", () if num_outputs is None else (num_outputs,))
    depths = (depth, *channels)
    num_features = (height >> len(channels)) * (width >> len(channels)) * depths[-1]

    def init(key: jax.Array) -> Any:
        *keys, last = jax.random.split(key, len(depths))
        hidden = [_init_convolution(*each) for each in zip(keys, depths[:-1], depths[1:])]
        return {"hidden": hidden, "output": layers.init_output(last, num_features, num_outputs)}

    def apply(params: Any, inputs: Inputs) -> Scores:
        images = shape_examples(inputs, (height, width, depth))
        whole = len(images) // BLOCK * BLOCK
        rest = score(params, images[whole:])
        if whole == 0:
            return rest
        blocks = jax.lax.map(lambda block: score(params, block), images[:whole].reshape(-1, BLOCK, height, width, depth))
        return jnp.concatenate([blocks.reshape(whole, *rest.shape[1:]), rest])

    def score(params, images):
        maps = images.transpose(3, 1, 2, 0)
        for layer in params["hidden"]:
            maps = jax.nn.relu(_convolve_and_pool(maps, layer["kernel"]) + jnp.reshape(layer["bias"], (-1, 1, 1, 1)))
        features = maps.transpose(1, 2, 0, 3).reshape(num_features, len(images))
        return layers.output(params["output"], features.T, num_outputs)

    return Model(init, apply)


def _same(size: int) -> tuple[int, int]:
    return (size - 1) // 2, size // 2


def _init_convolution(key: jax.Array, num_inputs: int, num_outputs: int) -> dict[str, jax.Array]:
    return {"kernel": layers.init_weight(key, (3, 3, num_inputs, num_outputs), layers.HE), "bias": jnp.zeros(num_outputs)}


def _convolve_and_pool(maps: jax.Array, kernel: ArrayLike) -> jax.Array:
    """The largest score of each 2x2 window of the scores of a 3x3 convolution: ``[c, h, w, n]`` to ``[k, h // 2, w // 2, n]``."""
    (channels, height, width, n), num_outputs = maps.shape, kernel.shape[-1]
    y, x = height // 2, width // 2
    padded = jnp.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, : 2 * y + 2, : 2 * x + 2]
    halves = padded.reshape(channels, y + 1, 2, x + 1, 2, n)
    shifted = [halves[:, i // 2 : i // 2 + y, i % 2, j // 2 : j // 2 + x, j % 2] for i in range(4) for j in range(4)]
    copies = jnp.concatenate(shifted).reshape(16 * channels, y * x * n)
    corners = [jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0))) for i in (0, 1) for j in (0, 1)]
    wide = jnp.concatenate([corner.reshape(16 * channels, num_outputs) for corner in corners], axis=1)
    return _largest((wide.T @ copies).reshape(4, num_outputs, y * x * n)).reshape(num_outputs, y, x, n)


@jax.custom_jvp
def _largest(scores: jax.Array) -> jax.Array:
    """The largest along the first axis; of equal ones, the first takes the whole gradient, as in PyTorch."""
    return functools.reduce(jnp.maximum, scores)  # on CPU faster than `scores.max(axis=0)`, which wins beside an argmax


@_largest.defjvp
def _largest_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (scores,), (change,) = primals, tangents
    is_winner = jnp.argmax(scores, axis=0)[None] == jnp.arange(len(scores))[:, None, None]
    return scores.max(axis=0), jnp.where(is_winner, change, 0).sum(axis=0)


def _check_image(image_shape, channels) -> tuple[int, int, int]:
    shape = tuple(image_shape)
    checks.require(len(shape) in (2, 3), "image_shape", "be (height, width) or (height, width, channels)", shape,
                   "Leave out the axis of examples.")  # fmt: skip
    check_sizes("image_shape", shape)
    check_sizes("channels", tuple(channels))
    checks.require(min(shape[:2]) >> len(channels) > 0, "image_shape", f"be at least {2 ** len(channels)} high and wide",
                   shape, "Each of `channels` halves the image: give fewer.")  # fmt: skip
    return shape if len(shape) == 3 else (*shape, 1)
