"""The compiled programs of a run: begin, advance by a segment of bare steps, evaluate, read, explain.

Members lie in lanes: the leading axis of states, the second axis (after time) of infos and growths. One lane per device is
the plain loop without ``vmap``; more are mapped; several devices share the lanes by ``shard_map`` and never communicate. All
five functions are compiled once for a ``Program`` and the shapes they meet, and shared by every sweep that brings the same.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gradkit import decompositions, settings, trees
from gradkit.contracts import Descent, Hyper
from gradkit.engine import programs
from gradkit.engine.programs import Program


class Lanes(NamedTuple):
    """What distinguishes members: traced hyper-parameters ``{name: [m]}`` and a typed random key each ``[m]``."""

    hyper: dict[str, jax.Array]
    key: jax.Array


class Blocks(NamedTuple):
    """What a segment hands out, time first: infos and growths, leaves of shape ``[t, m, ...]``."""

    infos: Any
    growths: Any


def descent_of(program: Program, lane: Lanes, on_read=None):
    """The descent of one lane, made inside the traced program."""
    hyper = {name: trees.weak(value) for name, value in lane.hyper.items()}
    return program.traced.make(Hyper({**hyper, **program.traced.static, **program.split.values}, on_read))


def _begin(program: Program, lanes: Lanes, data, validation):
    """The first state of every lane, and which of its leaves are finite ``[m, leaves]``."""

    def begin_lane(lane, data, validation):
        state = trees.strong(descent_of(program, lane).init(lane.key, data, validation))
        return state, trees.finite_leaves(state)

    def begin_in_turn(lanes, data, validation):
        return jax.lax.map(lambda lane: begin_lane(lane, data, validation), lanes)

    mapped = _over_lanes(program, begin_lane, (0, None, None))
    # orthogonal weights come from a decomposition, and on a CPU several layers' at a time may wait for each other for ever
    if program.width > 1 and _may_wait(begin_lane, lanes, data, validation):
        mapped = begin_in_turn
    return _over_devices(program, mapped, "lss", "ll")(lanes, data, validation)


def _may_wait(begin_lane: Callable, lanes: Lanes, data, validation) -> bool:
    traced = jax.make_jaxpr(begin_lane)(trees.take_lane(lanes, 0), data, validation)
    return decompositions.may_wait_for_each_other(traced)


def _advance(program: Program, resident, lanes: Lanes, state, blank: Blocks, tickets, first, last):
    """Make the steps ``first`` to ``last - 1`` of a segment; both are traced.

    Returns:
        The state, the blocks with the rows of these steps filled in, and which leaves of the state are finite ``[m, leaves]``.
    """

    def step_lane(lane, state, resident, ticket):
        return descent_of(program, lane).step(state, program.traced.batch(resident, ticket))

    def step_lane_shared(lane, state, batch):
        return descent_of(program, lane).step(state, batch)

    def step(lanes, state, resident, ticket):
        if program.width == 1:
            return step_lane(lanes, state, resident, ticket)
        if program.is_ordered:
            return jax.vmap(step_lane, (0, 0, None, 0))(lanes, state, resident, ticket)
        return jax.vmap(step_lane_shared, (0, 0, None))(lanes, state, program.traced.batch(resident, ticket))

    def loop(resident, lanes, state, blank, tickets, first, last):
        if program.width == 1:  # without an axis of one, XLA updates the state in place instead of copying it each step
            lanes, state, blank = _squeeze(lanes, 0), _squeeze(state, 0), _squeeze(blank, 1)
            tickets = _squeeze(tickets, 1) if program.is_ordered else tickets

        def body(index, carry):
            state, blocks = carry
            ticket = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), tickets)
            state, info, growth = step(lanes, state, resident, ticket)
            write = lambda block, row: jax.lax.dynamic_update_index_in_dim(block, row, index, 0)  # noqa: E731
            return state, jax.tree.map(write, blocks, Blocks(info, growth))

        state, blocks = jax.lax.fori_loop(first, last, body, (state, blank))
        if program.width == 1:
            state, blocks = _expand(state, 0), _expand(blocks, 1)
        return state, blocks, trees.finite_leaves(state, lane_axes=1)

    spread = _over_devices(program, loop, "sllt" + ("t" if program.is_ordered else "s") + "ss", "ltl")
    return spread(resident, lanes, state, blank, tickets, first, last)


def _evaluate(program: Program, lanes: Lanes, state, growths, validation) -> dict[str, jax.Array]:
    """The loss in evaluation mode and what ``evaluate`` reports, per lane ``{name: [m]}``."""

    def evaluate_lane(lane, state, growths, validation):
        descent = descent_of(program, lane)
        params = descent.params(state, growths)
        named = {} if program.traced.evaluate is None else program.traced.evaluate(params, validation)
        return {"validation_loss": descent.loss(params, validation), **named}

    mapped = _over_lanes(program, evaluate_lane, (0, 0, 1, None))
    return _over_devices(program, mapped, "llts", "l")(lanes, state, growths, validation)


def _read(program: Program, lanes: Lanes, state, growths):
    """What the descents return: their parameters, lanes first."""

    def read_lane(lane, state, growths):
        return descent_of(program, lane).params(state, growths)

    return _over_devices(program, _over_lanes(program, read_lane, (0, 0, 1)), "llt", "l")(lanes, state, growths)


def _explain(program: Program, lanes: Lanes, state, resident, tickets):
    """Of the parts of one step of every lane, each on a ticket of its own: which leaves are finite, and which are all zero.

    The batch is the first part. Trees of flags ``[m]``, in the order of the parts.
    """

    def explain_lane(lane, state, resident, ticket):
        descent, batch = descent_of(program, lane), program.traced.batch(resident, ticket)
        parts = collections.OrderedDict({"batch": batch, **_parts(descent, state, batch)})
        finite = lambda leaf: jnp.all(jnp.isfinite(leaf)) if trees.is_inexact(leaf) else jnp.asarray(True)  # noqa: E731
        zero = lambda leaf: jnp.all(leaf == 0) if trees.is_inexact(leaf) else jnp.asarray(False)  # noqa: E731
        return jax.tree.map(finite, parts), jax.tree.map(zero, parts)

    mapped = _over_lanes(program, explain_lane, (0, 0, None, 0))
    return _over_devices(program, mapped, "llsl", "ll")(lanes, state, resident, tickets)


def _parts(descent: Descent, state, batch) -> dict:
    if descent.parts is None:
        return {}
    try:
        return descent.parts(state, batch)
    except Exception:  # a descent with another step, whose state these parts do not know
        return {}


@functools.partial(jax.jit, donate_argnums=0)
def append(growths, block, made, start):
    """Write a segment's growths at row ``start`` of the run's; zeros once a lane had made its last step (``made``: ``[m]``)."""

    def write(all_rows, rows):
        row = start + jnp.arange(len(rows))
        counts = (row[:, None] < made[None, :]).reshape(rows.shape[:2] + (1,) * (rows.ndim - 2))
        return all_rows.at[row].set(jnp.where(counts, rows, jnp.zeros_like(rows)), mode="drop")

    return jax.tree.map(write, growths, block)


@functools.partial(jax.jit, donate_argnums=0)
def cut(growths, made):
    """Zeros in the rows of the steps that a lane did not make (``made``: ``[m]``)."""

    def write(rows):
        counts = jnp.arange(len(rows))[:, None] < made[None, :]
        return jnp.where(counts.reshape(rows.shape[:2] + (1,) * (rows.ndim - 2)), rows, jnp.zeros_like(rows))

    return jax.tree.map(write, growths)


class Compiled(NamedTuple):
    """The programs of a ``Program``, compiled when first called: see the functions of these names.

    ``advance`` takes a number and gives one of several equal executables: on a CPU two calls at a time of the same one slow
    each other down.
    """

    begin: Callable
    advance: Callable[[int], Callable]
    evaluate: Callable
    read: Callable
    explain: Callable


def compiled(program: Program) -> Compiled:
    """The compiled functions of a program under the settings in force; jax itself looks at some of those only once."""
    programs.recall(program)
    key = ("compiled", program.split, program.width, program.mesh, settings.current())
    return program.kept.once(key, lambda: _compiled(program))


def _compiled(program: Program) -> Compiled:
    traced = programs.tracer(program)
    begin, evaluate, read, explain = (jax.jit(traced(function)) for function in (_begin, _evaluate, _read, _explain))
    advance = functools.cache(lambda copy: jax.jit(traced(_advance)))
    return Compiled(begin, advance, evaluate, read, explain)


select = jax.jit(trees.select_lanes)


def _over_lanes(program: Program, fn: Callable, in_axes: tuple) -> Callable:
    """Map a function of one lane over lanes: ``vmap``, or for a single lane the function itself."""
    if program.width > 1:
        return jax.vmap(fn, in_axes)

    return lambda *args: _expand(fn(*map(_squeeze, args, in_axes)), 0)


def _squeeze(tree, axis):
    return tree if axis is None else jax.tree.map(lambda leaf: jax.lax.index_in_dim(leaf, 0, axis, keepdims=False), tree)


def _expand(tree, axis):
    return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, axis), tree)


def _over_devices(program: Program, fn: Callable, ins: str, outs: str) -> Callable:
    """Spread lanes over the devices: arguments and results are ``l``: lanes first, ``t``: time then lanes, ``s``: shared."""
    if program.mesh is None:
        return fn
    spec = {"l": PartitionSpec("members"), "t": PartitionSpec(None, "members"), "s": PartitionSpec()}
    out_specs = tuple(spec[kind] for kind in outs)
    return jax.shard_map(
        fn,
        mesh=program.mesh,
        in_specs=tuple(spec[kind] for kind in ins),
        out_specs=out_specs if len(outs) > 1 else out_specs[0],
        check_vma=False,
    )


@jax.jit
def gather(tree, lanes):
    """The lanes named, in that order, of a tree that leads with lanes."""
    return jax.tree.map(lambda leaf: leaf[lanes], tree)


@functools.partial(jax.jit, donate_argnums=0)
def merge(target, source, lanes, mask):
    """``target`` with the lanes of ``mask`` taken from the lanes of ``source`` that ``lanes`` names."""
    return trees.select_lanes(mask, jax.tree.map(lambda leaf: leaf[lanes], source), target)


@jax.jit
def swap(tree):
    """A tree with its first two axes exchanged: growths with lanes leading, or back."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)
