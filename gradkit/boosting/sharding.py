"""A tree grows on several devices: bins and slopes of all examples flow in, what one device would grow flows out.

By rows each device holds some of the examples, and the histograms of all are added up. By features each holds some of the
columns: it says its best split of each node, the best of those is everyone's, and who holds its feature says who goes left.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gradkit import checks
from gradkit.boosting import growing
from gradkit.boosting.growing import Growth, Shape, Share, Slopes, Tree
from gradkit.boosting.splits import Penalties, Split

AXIS = "shares"
WAYS = ("rows", "features")


def grow(
    codes: jax.Array, slopes: Slopes, shape: Shape, penalties: Penalties, *, allowed: jax.Array | None = None, by: str
) -> Growth:
    """Grow a tree on all local devices; see :func:`gradkit.boosting.growing.grow`.

    Args:
        codes: The bins, uint8 (n, d).
        slopes: Of the examples.
        shape: The form of the tree.
        penalties: What holds it back.
        allowed: Features that each level may use, bool (depth, d).
        by: What the devices share: ``"rows"`` or ``"features"``.

    Returns:
        The growth, whole on every device.
    """
    num_devices = len(jax.local_devices())
    if num_devices == 1:
        return growing.grow(codes, slopes, shape, penalties, allowed=allowed)
    return (_by_rows if by == "rows" else _by_features)(codes, slopes, shape, penalties, allowed, num_devices)


def everywhere(tree):
    """A tree of arrays, whole on every local device; where there is but one, as it is.

    What is computed from them outside of :func:`grow` is then computed by each device as one alone would do it.
    """
    if len(jax.local_devices()) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(_mesh(), PartitionSpec()))


def _by_rows(
    codes: jax.Array, slopes: Slopes, shape: Shape, penalties: Penalties, allowed: jax.Array | None, num_devices: int
) -> Growth:
    """With examples of no weight at the end, so that all devices hold as many."""
    num_examples = len(codes)
    share = Share(rows=(AXIS,), num_examples=num_examples)
    slopes = slopes._replace(weights=jnp.broadcast_to(slopes.weights, (num_examples,)))
    codes, *slopes = (jnp.pad(each, _padding(each, 0, num_devices)) for each in (codes, *everywhere(slopes)))
    ours, all_ours = PartitionSpec(AXIS), PartitionSpec()

    def of_device(codes, slopes, penalties, allowed):
        return growing.grow(codes, slopes, shape, penalties, allowed=allowed, share=share)

    spread = jax.shard_map(
        of_device, mesh=_mesh(), in_specs=(ours, ours, all_ours, all_ours), out_specs=Growth(all_ours, ours, all_ours),
        check_vma=False,
    )  # fmt: skip
    grown = spread(codes, Slopes(*slopes), penalties, allowed)
    return grown._replace(leaf=everywhere(grown.leaf)[:num_examples])


def _by_features(
    codes: jax.Array, slopes: Slopes, shape: Shape, penalties: Penalties, allowed: jax.Array | None, num_devices: int
) -> Growth:
    """With features at the end that may not be used, so that all devices hold as many."""
    num_features = codes.shape[1]
    allowed = jnp.ones((shape.depth, num_features), bool) if allowed is None else allowed
    codes, allowed = (jnp.pad(each, _padding(each, 1, num_devices)) for each in (codes, allowed))
    width = codes.shape[1] // num_devices
    ours, all_ours = PartitionSpec(None, AXIS), PartitionSpec()

    def of_device(codes, slopes, penalties, allowed):
        share = _columns(jax.lax.axis_index(AXIS) * width, width, num_devices)
        return growing.grow(codes, slopes, shape, penalties, allowed=allowed, share=share)

    spread = jax.shard_map(
        of_device, mesh=_mesh(), in_specs=(ours, all_ours, all_ours, ours), out_specs=all_ours, check_vma=False
    )  # fmt: skip
    return everywhere(spread(codes, everywhere(slopes), penalties, allowed))


def _columns(first: jax.Array, width: int, num_devices: int) -> Share:
    """The share of the device that holds so many features from that one on."""

    def limits(shape: Shape):
        return _within(shape.categorical, first, width, num_devices), _signs(shape.monotone, first, width, num_devices)

    def best(split: Split, strength: jax.Array) -> Split:
        splits, strengths = jax.lax.all_gather((split._replace(feature=split.feature + first), strength), AXIS)
        device, node = jnp.argmax(strengths, 0), jnp.arange(len(strength))  # the first of equals: the lowest feature
        return jax.tree.map(lambda leaf: leaf[device, node], splits)

    def goes_left(tree: Tree, node: jax.Array, codes: jax.Array, rows: jax.Array, num_bins: int) -> jax.Array:
        column = tree.feature - first
        is_own = (column >= 0) & (column < width)
        is_left = growing.goes_left(tree._replace(feature=jnp.where(is_own, column, 0)), node, codes, rows, num_bins)
        return jax.lax.psum((is_left & is_own[node]).astype(jnp.uint8), AXIS) > 0

    return Share(limits=limits, whole=lambda sums: jax.lax.all_gather(sums, AXIS)[0], best=best, goes_left=goes_left)


def _within(categorical: tuple[int, ...], first: jax.Array, width: int, num_devices: int) -> jax.Array:
    """The categorical columns of a device, as many for each: those it lacks are columns that are not there."""
    own = [[column - start for column in categorical if start <= column < start + width]
           for start in range(0, num_devices * width, width)]  # fmt: skip
    most = max(map(len, own))
    table = [columns + [width] * (most - len(columns)) for columns in own]
    return jnp.asarray(table, jnp.int32).reshape(num_devices, most)[first // width]


def _signs(monotone: tuple[int, ...] | None, first: jax.Array, width: int, num_devices: int) -> jax.Array | None:
    if monotone is None:
        return None
    padded = jnp.pad(jnp.asarray(monotone, jnp.int32), (0, num_devices * width - len(monotone)))
    return jax.lax.dynamic_slice_in_dim(padded, first, width)


def _padding(array: jax.Array, axis: int, num_devices: int) -> list[tuple[int, int]]:
    """What an axis lacks to be shared evenly."""
    return [(0, -array.shape[each] % num_devices if each == axis else 0) for each in range(array.ndim)]


def _mesh() -> Mesh:
    """All local devices, unless the program shares them out already."""
    taken = jax.sharding.get_abstract_mesh().manual_axes
    checks.require(not taken, "shard", "be None where the devices share other work", checks.Described(f"axes {taken}"),
                   "Give a sweep plan=gk.Plan(width=1, threads=1, devices=jax.local_devices()[:1]).")  # fmt: skip
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
