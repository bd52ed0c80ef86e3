"""The programs of this process: what is traced flows in, what was compiled of it flows out, kept for the next run of its kind.

What is kept, how long, how it is released:

- A program is kept by what it was traced from: ``make`` and all that it reads, see :mod:`~gradkit.engine.fingerprints`. Equal
  functions share it, however often they are defined; after an edit there is another one.
- The last ``MOST_KEPT`` are kept, and all those of the sweeps whose results are still in use, which may be more.
- The constants compiled into a program (arrays that ``make`` reads) lie on the device with it. One that holds more than
  ``LIGHT_BYTES`` of them is let go together with its ``make``.
- ``jax.clear_caches()`` frees all that was compiled, as it does for other functions of jax.
- Data lie on the device during a run. A result keeps them as they were given, see :mod:`~gradkit.engine.holdings`.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import itertools
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from gradkit import checks
from gradkit.contracts import Descent, Hyper
from gradkit.engine.fingerprints import fingerprint, forget_changed

MOST_KEPT = 128
LIGHT_BYTES = 2**20

# jax keeps what it traced of a function (under jit or checkpoint, of the body of a scan, of branches), whatever that reads by
# then. It takes only traces of the same context: after an edit it makes another one, after going back it finds the first.
_edition = jax.make_user_context(None)
_numbers = itertools.count()
_check_opaque = contextvars.ContextVar("check_opaque", default=None)  # set while a run is repeated


class Static:
    """Static hyper-parameters: equal if the values are equal, by identity if they have no hash."""

    def __init__(self, values: dict[str, Any]):
        self.values = dict(values)
        self._key = tuple((name, type(value), _hashable(value), repr(value)) for name, value in self.values.items())

    def __eq__(self, other):
        return isinstance(other, Static) and self._key == other._key

    def __hash__(self):
        return hash(self._key)


def _hashable(value):
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


@dataclass(frozen=True, eq=False)
class Traced:
    """What is called inside a traced program.

    Attributes:
        make: ``Hyper -> Descent``.
        static: The hyper-parameters that are Python objects, by name; without those of ``Program.split``.
        batch: ``(resident, ticket) -> batch`` of the source.
        evaluate: ``(params, batch) -> {name: scalar}`` or ``None``.
    """

    make: Callable[[Hyper], Descent]
    static: dict[str, Any]
    batch: Callable[[Any, Any], Any]
    evaluate: Callable | None


class Kept:
    """What was made of equal ``Traced``; it keeps none of them alive.

    Attributes:
        traced: The last of them that was brought; it is what a program is traced from.
        anchor: The life of its ``make``, if this is to go with it.
        number: Its edition, under which all of it is traced.
        is_opaque: Whether something that it was traced from cannot be seen through, so that no key finds it again.
    """

    def __init__(self, *, is_opaque: bool = False):
        self.number, self.is_opaque = next(_numbers), is_opaque
        self.traced: Callable[[], Traced | None] = lambda: None
        self.anchor: Any = None
        self._values: dict[Any, Any] = {}
        self._making = threading.RLock()

    def once(self, key: Any, make_value: Callable[[], Any]) -> Any:
        """What is kept under a key, made when first asked for."""
        if key not in self._values:
            with self._making:
                if key not in self._values:
                    self._values[key] = make_value()
        return self._values[key]


class Program(NamedTuple):
    """What the compiled code depends on besides shapes.

    Attributes:
        traced: What is called inside.
        kept: What was made of it, in this run or before.
        is_ordered: Whether each lane has its own tickets.
        split: Static hyper-parameters that the engine reads itself; they change what is compiled only if ``make`` reads them too.
        width: Lanes per device.
        mesh: The devices a chunk spans, or ``None`` for one.
    """

    traced: Traced
    kept: Kept
    is_ordered: bool
    split: Static
    width: int
    mesh: Mesh | None


class _Shelf:
    """All that is kept in this process, by fingerprint: what runs hold anyway, and the last of the others."""

    def __init__(self):
        self._known: weakref.WeakValueDictionary[tuple, Kept] = weakref.WeakValueDictionary()
        self._recent: collections.OrderedDict[Kept, None] = collections.OrderedDict()
        self._lock = threading.RLock()
        self.present: weakref.WeakKeyDictionary[Traced, tuple[Kept, bool]] = weakref.WeakKeyDictionary()

    def find(self, key: tuple) -> Kept:
        """What is kept under a key, or something new; it is now the most recent."""
        with self._lock:
            kept = self._known.setdefault(key, Kept())
            self._recent[kept] = None
            self._recent.move_to_end(kept)
            while len(self._recent) > MOST_KEPT:
                self._recent.popitem(last=False)
            return kept

    def knows(self, key: tuple, kept: Kept) -> bool:
        """Whether something is kept under a key."""
        return self._known.get(key) is kept

    def add_key(self, key: tuple, kept: Kept):
        """Keep something under another key as well."""
        with self._lock:
            self._known[key] = kept

    def drop(self, kept: Kept | None):
        """Let go of something."""
        with self._lock:
            self._recent.pop(kept, None)


_shelf = _Shelf()


def program(make, static: dict[str, Any], split: dict[str, Any], batch, evaluate, *, is_ordered: bool) -> Program:
    """The program of what is to be traced, of a single lane. What was kept of an equal one comes with it."""
    traced = Traced(make, dict(static), batch, evaluate)
    found = _fingerprint(traced, is_ordered)
    forget_changed(found.arrays)
    kept = _shelf.find(found.tokens) if found.is_clear else Kept(is_opaque=True)
    if found.is_clear:
        _shelf.present[traced] = kept, is_ordered
    return recall(Program(traced, kept, is_ordered, Static(split), 1, None))


def begin():
    """Before the programs of a run are asked for."""
    _shelf.present.clear()


def recall(program: Program) -> Program:
    """The program, ready to be traced from its own functions, not from equal ones that may be gone by now."""
    program.kept.traced = weakref.ref(program.traced)
    if program.kept.anchor is not None:
        let_go_with_make(program)
    return program


def _fingerprint(traced: Traced, is_ordered: bool):
    return fingerprint(traced.make, traced.static, traced.batch, traced.evaluate, is_ordered)


@contextlib.contextmanager
def repeating(check_opaque: Callable[[], Any] | None) -> Iterator[None]:
    """Whatever is traced inside is to be what was traced before, or is refused; ``check_opaque`` does so where no key can."""
    token = _check_opaque.set(check_opaque)
    try:
        yield
    finally:
        _check_opaque.reset(token)


@contextlib.contextmanager
def tracing(kept: Kept, is_ordered: bool) -> Iterator[Traced]:
    """What to trace. What changes meanwhile is no edit: a list of calls that grows, a counter, a cache that fills."""
    traced = kept.traced()
    before = _fingerprint(traced, is_ordered)
    is_known = before.is_clear and _shelf.knows(before.tokens, kept)
    if (check_opaque := _check_opaque.get()) is not None:
        if before.is_clear and not kept.is_opaque:
            given = checks.Described("functions that read something else by now")
            remedy = "Undo the edit, or sweep again. What is still compiled is replayed as it was, whatever was edited."
            checks.require(is_known, "sweep", "be run again by the functions that it ran", given, remedy)
        else:
            with repeating(None):
                check_opaque()
    with _edition(kept.number):
        yield traced
    if not is_known:
        return
    if _fingerprint(traced, is_ordered) == before:
        return
    for each, (its_own, is_its_ordered) in list(_shelf.present.items()):  # the programs of a run may read the same list
        after = _fingerprint(each, is_its_ordered)
        if after.is_clear:
            _shelf.add_key(after.tokens, its_own)


def let_go_with_make(program: Program):
    """Let a program with large constants live no longer than its ``make``."""
    of_kept = weakref.ref(program.kept)
    with contextlib.suppress(TypeError):  # what has no weak references goes as the others do
        program.kept.anchor = weakref.ref(_anchor(program.traced.make), lambda _: _shelf.drop(of_kept()))


def _anchor(make: Any) -> Any:
    """The object whose life is that of ``make``, which may be made on the fly."""
    match make:
        case types.MethodType():
            return make.__self__
        case tuple():  # the descent of a lone fit
            return next(filter(callable, jax.tree.leaves(make)), make)
        case _:
            return make


def tracer(program: Program) -> Callable[[Callable], Callable]:
    """``function(program, *args) -> (*args -> result)`` for ``jax.jit``, keeping nothing alive that it is traced from."""
    of_kept, bare = weakref.ref(program.kept), program._replace(traced=None, kept=None)

    def traced(function: Callable) -> Callable:
        def call(*args):
            kept = of_kept()
            with tracing(kept, bare.is_ordered) as traced:
                return function(bare._replace(traced=traced, kept=kept), *args)

        return call

    return traced


class Keyed(NamedTuple):
    """Functions as a static argument of ``jax.jit``: equal to those that read the same."""

    kept: Kept
    functions: tuple

    def __eq__(self, other):
        return isinstance(other, Keyed) and self.kept is other.kept

    def __hash__(self):
        return hash(self.kept)


@contextlib.contextmanager
def keyed(*functions: Any) -> Iterator[Keyed]:
    """The key of functions, to trace them within; what that changes itself is no edit, as in :func:`tracing`."""
    before = fingerprint(functions)
    forget_changed(before.arrays)
    kept = _shelf.find(before.tokens) if before.is_clear else Kept()
    with _edition(kept.number):
        yield Keyed(kept, functions)
    if before.is_clear:
        _shelf.add_key(fingerprint(functions).tokens, kept)
