"""Which hyper-parameters reach what: traced programs of ``(first, lane, last)`` flow in, the names that matter flow out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr

from gradkit import flows
from gradkit.engine.segment import Lanes


def by_loss_of_trees(make: Callable, stand: tuple[Any, Any], lane: Lanes, batch: Any) -> frozenset[str]:
    """The names that reach the loss of trees; ``stand`` is the state and the parameters."""
    _, params = stand
    program = jax.make_jaxpr(lambda params, lane, batch: make(lane).loss(params, batch))(params, lane, batch)
    return read_by(program, 0, params, lane, batch)


def by_training_loss(make: Callable, stand: tuple[Any, Any], lane: Lanes, batch: Any) -> frozenset[str]:
    """The names that reach the loss of a step before its optimizer has a say, as far as the descent tells its parts."""
    state, _ = stand
    try:
        program = jax.make_jaxpr(lambda state, lane, batch: make(lane).parts(state, batch)["loss"])(state, lane, batch)
    except Exception:  # no parts, or those of a descent with another step, whose state they do not know
        return frozenset()
    return read_by(program, 0, state, lane, batch)


def read_by(program: ClosedJaxpr, output: int, first: Any, lane: Lanes, last: Any) -> frozenset[str]:
    """The hyper-parameters that reach an output of a program of ``(first, lane, last)`` by the lane."""
    arguments = (first, lane, last)
    return frozenset(name for name in lane.hyper if flows.reached(program, _marked(name, arguments))[output])


def is_used(name: str, program: ClosedJaxpr, arguments: tuple) -> bool:
    """Whether a hyper-parameter reaches an output of a program, by the lane among its arguments."""
    return any(flows.reached(program, _marked(name, arguments)))


def _marked(name: str, arguments: tuple) -> list[bool]:
    """Which leaves of a program's arguments are that hyper-parameter."""
    none = jax.tree.map(lambda leaf: False, arguments)
    lanes = lambda part: part._replace(hyper={**part.hyper, name: True}) if isinstance(part, Lanes) else part  # noqa: E731
    return jax.tree.leaves(tuple(map(lanes, none)))
