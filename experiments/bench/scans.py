"""What people write without gradkit: the step, its scan, and three ways to run the scan for many members."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import cases
from experiments.bench.cases import Case

COMPARED = 5


class Outcome(NamedTuple):
    """One timed run: its wall time, and the losses of the first steps ``(COMPARED, members)``, where they can be compared."""

    seconds: float
    losses: np.ndarray | None = None


def begin(case: Case):
    """Parameters, state of the loss and state of the optimizer of one member."""
    params, state = cases.start(case)
    return params, state, case.optimizer(0.0).init(params)


def step(case: Case, carry, rate, batch):
    """One step of one member."""
    params, state, moments = carry
    differentiate = jax.value_and_grad(lambda params: cases.mean_loss(case, params, state, batch), has_aux=True)
    (loss, state), grads = differentiate(params)
    updates, moments = case.optimizer(rate).update(grads, moments, params)
    return (optax.apply_updates(params, updates), state, moments), loss


def scan(case: Case, carry, rate, data, order):
    """All steps of one member."""

    def body(carry, rows):
        return step(case, carry, rate, jax.tree.map(lambda leaf: leaf[rows], data))

    return jax.lax.scan(body, carry, order)


def stacked(carry, width: int):
    """The carry of that many members, all alike."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (width, *leaf.shape)), carry)


def brought(carry, losses):
    """What a run is for: the trained parameters, and the losses on the host."""
    return carry[0], np.asarray(losses)


def plain_vmap(case: Case):
    """``jit(vmap(scan))`` over all members: ``(rates, data, order) -> (params, losses)``."""
    train = jax.jit(jax.vmap(lambda *args: scan(case, *args), in_axes=(0, 0, None, None), out_axes=(0, 1)), donate_argnums=0)
    first = jax.jit(lambda: stacked(begin(case), case.members))
    return lambda rates, data, order: brought(*train(first(), jnp.asarray(rates), data, order))


def lane_map(case: Case):
    """``lax.map`` over the members of the scan: as :func:`plain_vmap`."""

    def train(carries, rates, data, order):
        carries, losses = jax.lax.map(lambda lane: scan(case, *lane, data, order), (carries, rates))
        return carries, losses.T

    train = jax.jit(train, donate_argnums=0)
    first = jax.jit(lambda: stacked(begin(case), case.members))
    return lambda rates, data, order: brought(*train(first(), jnp.asarray(rates), data, order))


def lane_loop(case: Case):
    """One compiled scan, called for one member after the other: as :func:`plain_vmap`, parameters in a list."""
    train = jax.jit(lambda *args: scan(case, *args), donate_argnums=0)
    first = jax.jit(lambda: begin(case))

    def run(rates, data, order):
        params, losses = zip(*(brought(*train(first(), jnp.asarray(rate), data, order)) for rate in rates))
        return params, np.stack(losses, axis=1)

    return run
