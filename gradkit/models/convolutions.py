"""A small convolutional network: the shape of an image flows in, a ``Model`` flows out.

A convolution is one matrix product over shifted copies of the images: inside a compiled loop on CPU, XLA's own convolution
trains many times slower. Lanes of stacked kernels become a batched product, or one wide one where they share their images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(rows * columns * channels, num_outputs)


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
        if len(images) <= BLOCK:
            return score(params, images)
        return jax.lax.map(lambda image: score(params, image[None])[0], images, batch_size=BLOCK)

    def score(params, images):
        for layer in params["hidden"]:
            images = _max_pool(jax.nn.relu(layers.add_bias(convolve(images, layer["kernel"]), layer["bias"])))
        return layers.output(params["output"], images.reshape(len(images), -1), num_outputs)

    return Model(init, apply)


def _same(size: int) -> tuple[int, int]:
    return (size - 1) // 2, size // 2


def _init_convolution(key: jax.Array, num_inputs: int, num_outputs: int) -> dict[str, jax.Array]:
    return {"kernel": layers.init_weight(key, (3, 3, num_inputs, num_outputs), layers.HE), "bias": jnp.zeros(num_outputs)}


def _max_pool(images: jax.Array) -> jax.Array:
    n, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def _check_image(image_shape, channels) -> tuple[int, int, int]:
    shape = tuple(image_shape)
    checks.require(len(shape) in (2, 3), "image_shape", "be (height, width) or (height, width, channels)", shape,
                   "Leave out the axis of examples.")  # fmt: skip
    check_sizes("image_shape", shape)
    check_sizes("channels", tuple(channels))
    checks.require(min(shape[:2]) >> len(channels) > 0, "image_shape", f"be at least {2 ** len(channels)} high and wide",
                   shape, "Each of `channels` halves the image: give fewer.")  # fmt: skip
    return shape if len(shape) == 3 else (*shape, 1)
