"""Sources: where the batch of each step comes from.

In flow arrays, a function of a key, or a stream, out flows a ``Source``: what stays on the device, what each step
needs besides (its ticket), and how both make a batch. The same batch functions serve all sources of a kind, so that
they share compiled programs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from gradkit.checks import require, whole_number
from gradkit.contracts import Batch, Source
from gradkit.data.arrays import check_arrays, check_finite, num_examples
from gradkit.data.orders import shuffled_epochs
from gradkit.data.streams import Reader
from gradkit.keys import DRAW, as_key, branch


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Batches made on the device from keys; made by :func:`drawn`."""

    draw: Callable[[jax.Array], Batch]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Batches from an iterable that can be opened at any step; made by :func:`stream`."""

    open: Callable[[int], Iterable]


def drawn(draw: Any) -> Drawn:
    """Make each batch on the device, inside the step: collocation points, synthetic tasks.

    Args:
        draw: ``key -> batch``, pure and traced; each step has its own key.

    >>> import jax
    >>> drawn(lambda key: jax.random.uniform(key, (32, 2)))
    Drawn(draw=<function <lambda> at ...>)
    """
    require(callable(draw), "draw", "be a function from a key to a batch", draw, "Write key -> batch.", error=TypeError)
    return Drawn(draw)


def stream(open: Any) -> Stream:
    """Read batches from outside, in a way that can be resumed and replayed.

    The run ends, with a note, where the iterable ends, raises, or yields a batch unlike the first (such as a short last
    one).

    Args:
        open: ``start_step -> iterable of batches``: those of steps ``start_step``, ``start_step + 1``, ...; opened again
            at the same step it yields the same. A batch is a pytree of arrays.

    >>> stream(lambda start: iter([]))
    Stream(open=<function <lambda> at ...>)
    """
    remedy = "Write start_step -> iterable of batches, or pass the iterable by itself."
    require(callable(open), "open", "be a function from a step to an iterable", open, remedy, error=TypeError)
    return Stream(open)


def source(data: Any, *, batch_size: Any = None, key: Any = 0, per_seed: bool = False) -> Source:
    """Recognize what was given as data.

    :func:`drawn` and :func:`stream` say what they are. An iterator, a generator and any other iterable that is no
    pytree of arrays (a data loader) is a stream that can be read once. The rest is a pytree of arrays; a list of
    batches is one, too, so pass ``iter(batches)``.

    Args:
        data: As above.
        batch_size: For arrays: ``None`` for all examples at once, else the examples of a step. Not for the others, whose
            batches are made outside.
        key: An int or a jax key: the order of the arrays, or what is drawn.
        per_seed: Whether each seed has its own order.

    Raises:
        ValueError: The data are empty, of unequal lengths or not finite, or smaller than a batch.
        TypeError: The data do not hold numbers.

    >>> import numpy as np
    >>> numbers = source(np.arange(6.0), batch_size=2, key=0)
    >>> numbers.tickets(None, 0, 3).shape
    (3, 2)
    """
    if not (isinstance(data, (Drawn, Stream)) or _is_plain_stream(data)):
        return from_arrays(data, batch_size=batch_size, key=key, per_seed=per_seed)
    remedy = "Leave it out; what makes the batches sets their size."
    require(batch_size is None, "batch_size", "be None where batches are drawn or streamed", batch_size, remedy)
    if isinstance(data, Drawn):
        return _from_draws(data.draw, key=key, per_seed=per_seed)
    remedy = "A stream has one order; pass arrays or gk.drawn for one per seed."
    require(not per_seed, "order", 'be "shared" with a stream', "per_seed", remedy)
    if isinstance(data, Stream):
        return _from_stream(data.open, is_replayable=True)
    return _from_stream(lambda start: _lent(data), is_replayable=False)


def from_arrays(data: Any, *, batch_size: Any, key: Any, per_seed: bool = False) -> Source:
    """Take batches from arrays that stay on the device.

    ``batch_size=None`` is batch gradient descent: each step sees all examples in their order. ``1`` is stochastic,
    ``k`` mini-batch. The examples are shuffled anew in each epoch, and the epochs stand in one line that is cut into
    batches: nothing is dropped, all batches are of one size, and a batch may reach from one epoch into the next.

    Args:
        data: Pytree of arrays with a common leading axis ``n``.
        batch_size: ``None``, or from 1 to ``n``.
        key: An int or a jax key.
        per_seed: Whether each seed has its own order.

    >>> import numpy as np
    >>> batches = from_arrays((np.eye(4), np.arange(4)), batch_size=4, key=0)
    >>> inputs, targets = batches.batch(batches.resident, batches.tickets(None, 0, 1)[0])
    >>> sorted(targets.tolist())
    [0, 1, 2, 3]
    """
    data = check_arrays("data", data)
    if batch_size is None:
        return Source(data, lambda seed, start, count: (), take_all, lambda: data, data)
    n = num_examples("data", data)
    remedy = "Use None for all examples at once."
    batch_size = whole_number("batch_size", batch_size, at_least=1, remedy=remedy)
    require(batch_size <= n, "batch_size", f"be at most {n}, the number of examples", batch_size, remedy)
    order = shuffled_epochs(n, batch_size=batch_size, key=key)

    def tickets(seed, start, count):
        return order(seed if per_seed else None, start, count)

    def example():
        return jax.eval_shape(take_rows, data, jax.ShapeDtypeStruct((batch_size,), np.int32))

    return Source(data, tickets, take_rows, example, data, is_ordered=per_seed)


def take_all(resident: Any, ticket: Any) -> Batch:
    """All examples."""
    return resident


def take_rows(resident: Any, ticket: Any) -> Batch:
    """The examples whose rows the ticket names."""
    return jax.tree.map(lambda leaf: leaf.at[ticket].get(mode="promise_in_bounds"), resident)


def take_ticket(resident: Any, ticket: Any) -> Batch:
    """The ticket itself, which is a batch that came from outside."""
    return ticket


@dataclasses.dataclass(frozen=True)
class TakeDraw:
    """Draw a batch with the key whose raw words are the ticket; two of the same draw are equal and share a program."""

    draw: Callable[[jax.Array], Batch]
    impl: Any

    def __call__(self, resident: Any, ticket: Any) -> Batch:
        """The batch of one step."""
        return self.draw(jax.random.wrap_key_data(ticket, impl=self.impl))


def _from_draws(draw: Callable, *, key: Any, per_seed: bool) -> Source:
    root = branch(as_key(key), DRAW)
    batch = TakeDraw(draw, jax.random.key_impl(root))

    def tickets(seed, start, count):
        order = root if seed is None or not per_seed else jax.random.fold_in(root, seed)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(order, np.arange(start, start + count, dtype=np.uint32))
        return np.asarray(jax.random.key_data(keys))

    first = batch((), tickets(None, 0, 1)[0])
    remedy = "Return (inputs, targets), or whatever the loss takes."
    require(len(jax.tree.leaves(first)) > 0, "draw", "return a batch of arrays", first, remedy)
    check_finite("batch", first)
    return Source((), tickets, batch, lambda: first, first, is_ordered=per_seed)


def _from_stream(open: Callable[[int], Iterable], *, is_replayable: bool) -> Source:
    reader = Reader(open, is_replayable=is_replayable)
    return Source(
        resident=(),
        tickets=lambda seed, start, count: reader.take(start, count),
        batch=take_ticket,
        example=lambda: reader.first,
        start=reader.first,
        is_lockstep=True,
        is_replayable=is_replayable,
        note=lambda: reader.note,
    )


def _lent(batches: Iterable) -> Iterator:
    """The batches of an iterable that stays the caller's, who may go on with it."""
    # `yield from` would close a generator of the caller's with this one
    for batch in batches:  # noqa: UP028
        yield batch


def _is_plain_stream(data: Any) -> bool:
    """Whether the data are an iterator, or an iterable that neither jax nor numpy takes for arrays."""
    is_iterable_leaf = jax.tree_util.all_leaves([data]) and hasattr(data, "__iter__")
    return hasattr(data, "__next__") or (is_iterable_leaf and not hasattr(data, "__array__"))
