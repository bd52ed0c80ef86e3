"""What the result of a function depends on: functions and values flow in, a hashable key of all that they read flows out.

Two keys are equal if code, closures, defaults, globals, attributes and the contents of containers and objects are, however
deep, so that a program compiled for the one serves for the other. What a library's code reads itself is taken not to
change; its closures and arguments are looked at. Arrays of jax, which cannot change, count by identity and are not kept alive;
arrays of NumPy count by their bytes. Where something cannot be looked into, or a file, a clock or a shared generator is read,
the key equals nothing but itself.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from gradkit.engine import visitors
from gradkit.engine.outside import any_outside
from gradkit.engine.reads import Reads

MOST = 50_000  # tokens, about two for an object: what reaches more is not seen through
SEEN = "<seen>"
ANY_NAME = {"getattr", "attrgetter", "__dict__"}  # what asks for attributes by names that are not in the code
VALUES = {type(None), bool, int, str, bytes, type(Ellipsis), type(NotImplemented), types.CodeType, range}


@dataclass(frozen=True)
class Fingerprint:
    """What is read.

    Attributes:
        tokens: The key.
        is_clear: Whether it tells all: if not, what it was taken of must be traced anew each time.
        arrays: The arrays of NumPy that were met, each with its digest.
    """

    tokens: tuple
    is_clear: bool
    arrays: tuple[tuple[np.ndarray, bytes], ...] = field(default=(), compare=False)


def fingerprint(*things: Any) -> Fingerprint:
    """The key of some functions and values. Takes about a microsecond for each of the objects reached, hundreds as a rule."""
    walk = _Walk()
    try:
        for thing in things:
            walk.visit(thing)
        walk.visit_modules()
    except (RecursionError, RuntimeError, _TooMany):  # too deep, changed by another thread meanwhile, too much
        walk.is_clear = False
    return Fingerprint(tuple(walk.tokens), walk.is_clear, tuple(walk.arrays))


class _TooMany(Exception):
    pass


class _Walk:
    """A walk through all that is reached, which writes down what it meets in order.

    Attributes:
        tokens: What it met.
        is_clear: Whether it could look into everything.
        modules: The user's modules that it met; of these it looks at the attributes that any function met names.
        names: Those names, in order of appearance.
        arrays: The arrays of NumPy.
        has_any_name: Whether a function met may ask for an attribute by a name that is not in its code.
    """

    def __init__(self):
        self.tokens: list[Any] = []
        self.is_clear = True
        self.modules: dict[str, types.ModuleType] = {}
        self.names: dict[str, None] = {}
        self.has_any_name = False
        self.arrays: list[tuple[np.ndarray, bytes]] = []
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # or else an id may be given to another object
        self.reads: Reads | None = None  # of the function that is being looked into

    def visit(self, thing: Any):
        """Write down an object and all that it reaches; the second time, that it was met."""
        kind = type(thing)
        if len(self.tokens) > MOST:
            raise _TooMany
        if kind in VALUES:
            self.tokens += (kind, thing)
            return
        number = self._seen.setdefault(id(thing), len(self._alive))
        if number < len(self._alive):
            self.tokens += (SEEN, number)
            return
        self._alive.append(thing)
        visitors.visitor(kind)(self, thing)

    def visit_all(self, things: Iterable[Any]):
        """Visit one after the other."""
        for thing in things:
            self.visit(thing)

    def visit_modules(self):
        """Look at the attributes of the user's modules, and at what these reach, until there are no more."""
        done: set[tuple[str, str]] = set()
        while found := [
            (module, name)
            for module in self.modules.values()
            for name in (vars(module) if self.has_any_name else self.names)
            if (module.__name__, name) not in done and name in vars(module) and not name.startswith("__")
        ]:
            for module, name in found:
                done.add((module.__name__, name))
                self.tokens += (module.__name__, name)
                self.visit(vars(module)[name])

    def visit_globals(self, function: types.FunctionType, reads: Reads):
        """Look at the globals that a function of the user's names, and at the modules that it imports itself."""
        namespace = function.__globals__
        self.names |= dict.fromkeys(reads.attributes)
        self.is_clear &= not (reads.is_dynamic or any_outside(function, reads))
        self.has_any_name |= not ANY_NAME.isdisjoint((*reads.globals, *reads.attributes))
        for name in reads.globals:
            if name in namespace:
                self.tokens.append(name)
                self.visit(namespace[name])
        for name, level in reads.imports:
            self.visit_all(_imported(name, level, namespace))


def _imported(name: str, level: int, namespace: dict) -> Iterable[types.ModuleType]:
    """The modules that an import names, as far as they are loaded."""
    if level:
        package = namespace.get("__package__") or ""
        name = importlib.util.resolve_name("." * level + name, package) if package else name
    parts = name.split(".")
    paths = (".".join(parts[: count + 1]) for count in range(len(parts)))
    return [sys.modules[path] for path in paths if path in sys.modules]


_digests: dict[int, tuple[weakref.ref, bytes]] = {}  # of arrays, by id


def forget_changed(arrays: Iterable[tuple[np.ndarray, bytes]]):
    """Let jax forget what it made of an array that was changed in place.

    An array of a type that it converts (float64, int64) it converts once, and as long as any program holds what came out, it
    takes that for the array.
    """
    for array, digest in arrays:
        if jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype:
            continue
        number = id(array)
        reference, before = _digests.get(number, (lambda: None, digest))
        if reference() is array and before != digest:
            jax.clear_caches()
        _digests[number] = weakref.ref(array, lambda _, number=number: _digests.pop(number, None)), digest
