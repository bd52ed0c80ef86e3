"""Which hyper-parameters reach what: traced programs of ``(first, lane, last)`` flow in, the names that matter flow out."""

from __future__ import annotations

import functools
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from gradkit import flows, trees
from gradkit.engine.segment import Lanes
from gradkit.losses import watched
from gradkit.losses.calls import Call

ADDRESS = re.compile(r"0x[0-9a-f]+")
NUMBER = re.compile(r"(?<![\w.])-?\d[\w.+-]*(?=:[a-z]+\d*\[\])")  # a literal in a program as jax prints it: 0.5:f32[]


class Judged(NamedTuple):
    """What a loss that members are judged by depends on, apart from the parameters.

    Attributes:
        read: The traced hyper-parameters that reach it.
        skeleton: The digest of its program without the numbers written in it.
        numbers: Those, as they print: what is static in ``make`` stands there.
        losses: The losses of one example in it, as far as objectives tell: their code.
    """

    read: frozenset[str] = frozenset()
    skeleton: str = ""
    numbers: tuple[str, ...] = ()
    losses: frozenset[Any] = frozenset()


def of_evaluation(make: Callable, params: Any, lane: Lanes, batch: Any) -> Judged:
    """What the loss of parameters on a batch depends on: on validation data, and for trees."""
    return _judged(lambda params, lane, batch: make(lane).loss(params, batch), params, lane, batch)


def of_training(make: Callable, state: Any, lane: Lanes, batch: Any) -> Judged:
    """What the loss of a step depends on before its optimizer has a say, as far as the descent tells its parts."""
    try:
        return _judged(lambda state, lane, batch: make(lane).parts(state, batch)["loss"], state, lane, batch)
    except Exception:  # no parts, or those of a descent with another step, whose state they do not know
        return Judged()


def _judged(loss_fn: Callable, first: Any, lane: Lanes, last: Any) -> Judged:
    arguments = (first, lane, last)
    with watched() as calls:
        program = jax.make_jaxpr(loss_fn)(*arguments)
    read = frozenset(name for name in lane.hyper if is_used(name, program, arguments))
    own = flows.needed(program)
    text, scalars = str(own.jaxpr), [str(each) for each in own.consts if np.ndim(each) == 0]
    return Judged(read, digest(NUMBER.sub("", text)), (*NUMBER.findall(text), *scalars), losses_of(calls))


def losses_of(calls: Sequence[Call]) -> frozenset[Any]:
    """The losses of one example that were called."""
    return frozenset(_code_of(call.objective.loss) for call in calls)


def _code_of(loss: Any) -> Any:
    """What a loss of one example is known by: functions made anew each time have name and code in common."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return (loss.__module__, loss.__qualname__, loss.__code__) if hasattr(loss, "__code__") else loss


def digest(text: str) -> str:
    """Of a program as it prints, but for addresses, which change from process to process."""
    return hashlib.sha256(ADDRESS.sub("", text).encode()).hexdigest()


def identity(programs: Iterable[ClosedJaxpr]) -> str:
    """Of programs as they print, and of the values of their constants: equal in every process of one version of jax."""
    told = [(str(program), [_told(each) for each in constants(program)]) for program in programs]
    return digest(repr(told))


def constants(program: ClosedJaxpr) -> list[Any]:
    """The constants in a program and the programs it calls."""
    parts = (part for equation in program.jaxpr.eqns for value in equation.params.values() for part in jax.tree.leaves(value))
    return [*program.consts, *(each for part in parts if isinstance(part, ClosedJaxpr) for each in constants(part))]


def _told(constant: Any) -> Any:
    if not hasattr(constant, "dtype"):
        return repr(constant)
    return checksum(np.asarray(jax.random.key_data(constant) if trees.is_key(constant) else constant))


def checksum(array: np.ndarray) -> tuple:
    """What tells an array on the host from others: shape, type, and a checksum of its bytes, about 1 second for a gigabyte."""
    return array.shape, str(array.dtype), zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def is_used(name: str, program: ClosedJaxpr, arguments: tuple) -> bool:
    """Whether a hyper-parameter reaches an output of a program, by the lane among its arguments."""
    return any(flows.reached(program, _marked(name, arguments)))


def _marked(name: str, arguments: tuple) -> list[bool]:
    """Which leaves of a program's arguments are that hyper-parameter."""
    none = jax.tree.map(lambda leaf: False, arguments)
    lanes = lambda part: part._replace(hyper={**part.hyper, name: True}) if isinstance(part, Lanes) else part  # noqa: E731
    return jax.tree.leaves(tuple(map(lanes, none)))
