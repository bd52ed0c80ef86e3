"""The types that flow between the rooms. Nothing here computes; everything here is named once.

A ``Descent`` says how to start, how to take one step and how to read where it stands; a ``Source`` says where the batch of
each step comes from; a ``Hyper`` carries the values of one member of a sweep; a ``Status`` says how a member ended.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

State = Any
Growth = Any
Params = Any
Batch = Any
Loss = Callable[[Any, Any], jax.Array]


class Info(NamedTuple):
    """What one step tells the human: the loss it saw before its update, and any named scalars besides."""

    loss: jax.Array
    metrics: dict[str, jax.Array]


class Rule(NamedTuple):
    """What the targets of a loss must be.

    Attributes:
        words: What they must do: ``"lie between 0 and 1"``.
        is_met: ``targets -> booleans`` of the same shape, both of numpy.
        remedy: What to do about others.
    """

    words: str
    is_met: Callable[[Any], Any]
    remedy: str


class Descent(NamedTuple):
    """A gradient descent: how to start, how to take one step, and how to read where it stands. All pure.

    Structure, shapes and dtypes of the state, the info and the growth never change between steps.

    Attributes:
        init: ``(key, data, validation) -> State``. ``data`` are the training arrays, or the first batch of a stream;
            ``validation`` is ``None`` if there is none.
        step: ``(State, batch) -> (State, Info, Growth)``. ``Growth`` is what a step adds for ever (a tree); ``()`` for a network.
        params: ``(State, growths) -> Params``, what is evaluated, saved and returned. ``growths`` are the growths of all steps
            of the run, stacked along a leading axis; the rows of steps not made are zeros and must contribute nothing.
        loss: ``(Params, batch) -> scalar``, in evaluation mode: for validation and for probes.
        parts: ``(State, batch) -> {"loss": ..., "gradients": ..., ...}``: what a step makes on its way from that state, in order,
            as named trees. Asked once a member has failed, for what was not finite first, or did not move, for what is zero.
            ``None`` where a maker does not tell; a descent with another ``step`` gets ``parts=None`` or parts of its own.
        rule: ``(Params, batch) -> Rule``, known from shapes: what the targets (``batch[1]``) must be; ``None`` if the loss does
            not say.
    """

    init: Callable[[jax.Array, Batch, Batch | None], State]
    step: Callable[[State, Batch], tuple[State, Info, Growth]]
    params: Callable[[State, Growth], Params]
    loss: Callable[[Params, Batch], jax.Array]
    parts: Callable[[State, Batch], dict[str, Any]] | None = None
    rule: Callable[[Params, Batch], Rule | None] | None = None


class Source(NamedTuple):
    """Where batches come from: what stays on the device, what each step needs besides, and how both make a batch.

    Attributes:
        resident: Pytree of arrays handed to the compiled program once (the data), or ``()``.
        tickets: ``(seed, start, count) -> pytree`` with leading axis ``count`` (fewer when a stream ends): what steps ``start``
            to ``start + count`` need, made on the host. ``seed`` is ``None`` where all members share one order.
        batch: ``(resident, ticket) -> batch``. Pure and traced; the same object for every source of its kind, so that it keys the
            compiled program.
        example: ``() -> batch``: one batch (or its shapes), for tracing.
        start: What ``Descent.init`` receives as ``data``.
        is_lockstep: Whether the tickets can be drawn only once and in order (a stream), so that all members advance together.
        is_replayable: Whether asking for the same steps again gives the same tickets.
        is_ordered: Whether a seed changes the tickets.
        note: ``() -> str``: why the source ended early, or ``""``.
    """

    resident: Any
    tickets: Callable[[int | None, int, int], Any]
    batch: Callable[[Any, Any], Batch]
    example: Callable[[], Batch]
    start: Batch
    is_lockstep: bool = False
    is_replayable: bool = True
    is_ordered: bool = False
    note: Callable[[], str] = str


class Status(enum.IntEnum):
    """How a member stands.

    A member has diverged at the first step whose loss is not finite, or where its state is looked at and a leaf of it is not
    finite that was so at the start. It is looked at where the arguments say, never where the clock does: at evaluations, at the
    rungs of a halving, where it ends, and after 1,024, 2,048, 4,096, 8,192 and every 16,384 steps (over a stream of large
    batches more often). What no loss reads, and is finite again at the next look, is no failure. The member rests in the last
    state before that place in which all is finite.
    """

    RUNNING = 0
    FINISHED = 1
    DIVERGED = 2
    STOPPED = 3
    PRUNED = 4
    CONVERGED = 5

    @property
    def message(self) -> str:
        """The status in words."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "has steps left to make",
    Status.FINISHED: "made all its steps",
    Status.DIVERGED: "met a value that is not finite; rests at its last finite state",
    Status.STOPPED: "was stopped before its last step: interrupted, or the stream ended",
    Status.PRUNED: "was dropped at a rung: others with as many steps did better",
    Status.CONVERGED: "stopped at a rung: its metric no longer changed",
}


@jax.tree_util.register_pytree_with_keys_class
class Hyper:
    """The hyper-parameters of one member: a pytree of scalars with attribute access.

    Numbers are leaves and may be traced; everything else is static. A traced number is weakly typed: like a constant, it takes
    the dtype of the arrays it meets. ``on_read`` is told each name that is read and is not part of the pytree.

    >>> h = Hyper({"learning_rate": 0.1, "optimizer": "adam"})
    >>> h.learning_rate, h.optimizer
    (0.1, 'adam')
    >>> h.momentum
    Traceback (most recent call last):
        ...
    AttributeError: unknown hyper-parameter `momentum`; known: learning_rate, optimizer. Add it as an axis, or use a constant.
    """

    __slots__ = ("_on_read", "_values")

    def __init__(self, values: dict[str, Any], on_read: Callable[[str], Any] | None = None):
        object.__setattr__(self, "_values", dict(values))
        object.__setattr__(self, "_on_read", on_read)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._values:
            known = ", ".join(self._values) or "none"
            raise AttributeError(f"unknown hyper-parameter `{name}`; known: {known}. Add it as an axis, or use a constant.")
        if self._on_read is not None:
            self._on_read(name)
        return self._values[name]

    def __setattr__(self, name: str, value: Any):
        raise AttributeError(f"a Hyper does not change: cannot set `{name}`")

    def __dir__(self):
        return list(self._values)

    def __repr__(self) -> str:
        return f"Hyper({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def tree_flatten_with_keys(self):
        """Numbers and arrays are leaves; the other values go into the structure."""
        traced = [name for name, value in self._values.items() if is_number(value)]
        static = tuple((name, value) for name, value in self._values.items() if name not in traced)
        keyed = [(jax.tree_util.GetAttrKey(name), self._values[name]) for name in traced]
        return keyed, (tuple(self._values), tuple(traced), static)

    @classmethod
    def tree_unflatten(cls, structure, leaves):
        """The inverse, in the original order of names."""
        names, traced, static = structure
        values = dict(zip(traced, leaves)) | dict(static)
        return cls({name: values[name] for name in names})


def is_number(value: Any) -> bool:
    """Whether a value can be traced: an int, a float or an array; not a bool, which people branch on."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or hasattr(value, "dtype")
