"""What a result keeps of its data: the arrays as they were given, by reference, so that nothing of it lies on the device.

A run flows in when it has ended; for a replay it flows out again, its data put on the device anew if they are still the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gradkit import checks, trees
from gradkit.contracts import Source
from gradkit.data import check_arrays
from gradkit.engine.runs import Run, shared_tickets


class Given(NamedTuple):
    """Arrays as they were given, and what tells whether they were changed in place since."""

    arrays: Any
    digest: tuple


class Holding(NamedTuple):
    """A run without its arrays, and how they come back.

    Attributes:
        run: What members share.
        data: The data; ``None`` if they are no arrays, and stay with the run.
        source: ``data -> Source``.
        validation: The validation batch, or ``None``.
    """

    run: Run
    data: Given | None
    source: Callable[[Any], Source]
    validation: Given | None


def given(arrays: Any) -> Given:
    """Arrays as they are now. Those of jax cannot change; of the others a checksum is taken, about 1 second for a gigabyte."""
    return Given(arrays, _digest(arrays))


def _digest(arrays: Any) -> tuple:
    host = [np.asarray(leaf) for leaf in jax.tree.leaves(arrays) if not isinstance(leaf, jax.Array)]
    return tuple((leaf.shape, leaf.dtype, zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))) for leaf in host)


def let_go(run: Run, data: Given | None, source: Callable[[Any], Source], validation: Given | None) -> Holding:
    """The run without what lies on the device."""
    run = run._replace(validation=None)
    if data is not None:
        bare = run.source._replace(resident=None, start=None, tickets=None, example=None)
        run = run._replace(source=bare, shared_tickets=None)
    return Holding(run, data, source, validation)


def take_up(holding: Holding) -> Run:
    """The run with its arrays on the device again.

    Raises:
        ValueError: If the arrays were changed in place since.
    """
    run = holding.run
    if holding.validation is not None:
        run = run._replace(validation=check_arrays("validation", trees.at_home(_unchanged("validation", holding.validation))))
    if holding.data is None:
        return run
    source = holding.source(_unchanged("data", holding.data))
    return run._replace(source=source, shared_tickets=shared_tickets(source, run.capacity))


def _unchanged(argument: str, then: Given) -> Any:
    checks.require(_digest(then.arrays) == then.digest, argument, "be what the sweep ran on", checks.Described(
        "arrays that were changed in place since"), "Hand a copy to the sweep, or restore them.")  # fmt: skip
    return then.arrays
