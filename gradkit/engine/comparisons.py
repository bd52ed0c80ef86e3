"""Start and end of members, compared: a chunk flows in, and what tells progress from the luck of a batch goes to the ledger.

Whether parameters moved, whether a gradient is zero where they did not, and the loss before the first step and after the last,
on the same data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from gradkit import trees
from gradkit.contracts import Status
from gradkit.engine import explanations, segment

if TYPE_CHECKING:
    from gradkit.engine.chunk import Chunk


def look_at_start(chunk: Chunk):
    """Keep digests of the first parameters, and enter their loss. Of trees nothing is kept: steps add to them for ever."""
    if jax.tree.leaves(chunk.growths):
        return
    digests = _digests(params_of(chunk))
    chunk.start = digests if digests.size else None
    if chunk.run.ledger.num_compared > 1:  # else the first step tells its loss itself
        real = ~chunk.is_padding
        chunk.run.ledger.start_loss[chunk.members[real]] = _losses(chunk)[real]


def look_at_end(chunk: Chunk, leaving: np.ndarray, params: Any):
    """Enter how the lanes in a mask ended."""
    if not chunk.has_run or jax.tree.leaves(chunk.growths):
        return
    losses = _losses(chunk)[leaving]
    chunk.run.ledger.end_loss[chunk.members[leaving]] = np.where(np.isnan(losses), np.inf, losses)
    if chunk.start is not None:
        _enter_stillness(chunk, leaving, params)


def params_of(chunk: Chunk) -> Any:
    """What the descents return where the lanes stand, on the host."""
    return trees.to_host(segment.compiled(chunk.run.program).read(chunk.lanes, chunk.state, chunk.growths))


def _losses(chunk: Chunk) -> np.ndarray:
    """The mean loss of each lane over the first batches, from where it stands.

    By steps of the segment's own program, whose new states are thrown away: by the same code as in training, and nothing is
    compiled for it.
    """
    run = chunk.run
    tickets, blank = run.first_tickets(chunk.seeds), run.blank(run.num_lanes)
    if run.ledger.num_compared > 1:  # brought to the device once for all of them
        tickets, blank = jax.device_put((tickets, blank), run.device)
    advance = segment.compiled(run.program).advance(chunk.copy)
    losses = []
    for index in range(run.ledger.num_compared):  # one after the other: each makes a state, for several there may be no room
        limits = np.int32(index), np.int32(index + 1)
        _, blocks, _ = advance(run.source.resident, chunk.lanes, chunk.state, blank, tickets, *limits)
        losses.append(np.asarray(blocks.infos.loss)[index].astype(float))
    return np.mean(losses, axis=0)


def _digests(params: Any) -> np.ndarray:
    """A whole number for each lane and floating leaf, which tells whether a bit of it changed."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if trees.is_inexact(leaf)]
    return np.array([[hash(np.asarray(lane).tobytes()) for lane in leaf] for leaf in leaves], np.int64).T


def _enter_stillness(chunk: Chunk, leaving: np.ndarray, params: Any):
    """Enter which members never moved, and where a leaf did not, whether its gradient is zero: only then it is asked for."""
    ledger, is_still = chunk.run.ledger, _digests(params) == chunk.start
    told = leaving & (ledger.status[chunk.members] != Status.DIVERGED)
    ledger.has_moved[chunk.members[told]] = ~is_still.all(1)[told]
    in_part = told & is_still.any(1)
    for lane, leaves in explanations.zero_gradients(chunk, in_part).items() if in_part.any() else ():
        ledger.zero_gradients[chunk.members[lane]] = leaves
