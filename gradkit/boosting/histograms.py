"""Sums per node, feature and bin: bins, nodes and channels of all examples flow in, a histogram flows out.

Every backend has the signature of :func:`histogram`. On a CPU the channels of an example are scattered together, feature by
feature; under ``vmap`` one member after the other, for a scatter with a lane axis takes eight times as long. A GPU scatters, a
TPU multiplies with one-hot matrices, a block of examples at a time.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp

BLOCK = 512  # examples whose one-hot rows exist at a time


def histogram(codes: jax.Array, nodes: jax.Array, channels: jax.Array, *, num_nodes: int, num_bins: int) -> jax.Array:
    """Add up the channels of the examples in each bin of each feature at each node.

    Args:
        codes: The bins, uint8 (d, n), features first.
        nodes: Where each example is, int32 (n,), below ``num_nodes``.
        channels: What is added up, (n, c); float32, or int32 where the order of the sums must not matter.

    Returns:
        Shape (num_nodes, d, c, num_bins), of the channels' dtype.

    >>> codes, nodes = jnp.array([[0, 1, 1]], jnp.uint8), jnp.array([0, 0, 1])
    >>> histogram(codes, nodes, jnp.ones((3, 1)), num_nodes=2, num_bins=2)[:, 0, 0].tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    sizes = {"num_nodes": num_nodes, "num_bins": num_bins}
    return jax.lax.platform_dependent(
        codes, nodes, channels, cpu=jax.custom_batching.sequential_vmap(functools.partial(scatter, **sizes)),
        tpu=functools.partial(multiply, **sizes), default=functools.partial(scatter, **sizes),
    )  # fmt: skip


def scatter(codes: jax.Array, nodes: jax.Array, channels: jax.Array, *, num_nodes: int, num_bins: int) -> jax.Array:
    """The histogram by one scatter per feature."""
    start = nodes * num_bins

    def of_feature(own):
        blank = jnp.zeros((num_nodes * num_bins, channels.shape[1]), channels.dtype)
        return blank.at[start + own].add(channels, mode="promise_in_bounds")

    sums = jax.lax.map(of_feature, codes)
    return sums.reshape(len(codes), num_nodes, num_bins, -1).transpose(1, 0, 3, 2)


def multiply(codes: jax.Array, nodes: jax.Array, channels: jax.Array, *, num_nodes: int, num_bins: int) -> jax.Array:
    """The histogram by products of one-hot matrices, over blocks of examples."""
    (num_features, n), num_channels = codes.shape, channels.shape[1]
    padding = -n % BLOCK
    blocks = (
        jnp.pad(codes, ((0, 0), (0, padding))).reshape(num_features, -1, BLOCK).swapaxes(0, 1),
        jnp.pad(nodes, (0, padding)).reshape(-1, BLOCK),
        jnp.pad(channels, ((0, padding), (0, 0))).reshape(-1, BLOCK, num_channels),
    )

    def add(total, block):
        codes, nodes, channels = block
        in_bin = jax.nn.one_hot(codes, num_bins, dtype=channels.dtype)
        at_node = jax.nn.one_hot(nodes, num_nodes, dtype=channels.dtype)[:, :, None] * channels[:, None, :]
        return total + jnp.einsum("dib,ijc->jdcb", in_bin, at_node, precision=jax.lax.Precision.HIGHEST), None

    blank = jnp.zeros((num_nodes, num_features, num_channels, num_bins), channels.dtype)
    return jax.lax.scan(add, blank, blocks)[0]


def fixed_point(channels: jax.Array, num_examples: int, *, over: tuple[str, ...] = ()) -> tuple[jax.Array, jax.Array]:
    """Channels as whole numbers whose sums cannot overflow, and the unit of each: sums in any order are equal to the bit.

        unit = sum(|channel|) / (2**31 - 1 - n)

    The sum of absolute values is itself taken in whole numbers, rounded up: a unit that depended on the order would spoil it all.

    Args:
        channels: What is to be added up, (n, c).
        num_examples: How many there are, on all devices.
        over: Axes of devices over which the examples are spread.

    >>> whole, unit = fixed_point(jnp.array([[1.0], [-3.0]]), 2)
    >>> [round(float(value), 4) for value in (whole * unit[None])[:, 0]]
    [1.0, -3.0]
    """
    largest = jax.lax.pmax(jnp.abs(channels).max(0), over)
    coarse = jnp.where(largest > 0, largest, 1) * 2.0 ** (math.ceil(math.log2(num_examples + 1)) - 30)
    total = jax.lax.psum(jnp.ceil(jnp.abs(channels) / coarse[None]).astype(jnp.int32).sum(0), over) * coarse
    unit = jnp.where(total > 0, total, 1) / (2.0**31 - 1 - num_examples) * (1 + 1e-6)  # for what float32 rounds
    return jnp.round(channels / unit[None]).astype(jnp.int32), unit
