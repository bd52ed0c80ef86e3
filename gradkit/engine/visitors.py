"""How to look into an object: by its type. What :mod:`~gradkit.engine.fingerprints` walks with; a visitor writes tokens down."""

from __future__ import annotations

import collections
import contextvars
import functools
import hashlib
import logging
import operator
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gradkit.engine.kinds import IMMUTABLE, OF_CLASSES, Same, hides_nothing, is_wrapper, slots_of
from gradkit.engine.outside import reads_outside
from gradkit.engine.reads import is_installed, is_library, reads_of

EMPTY, MISSING = "<empty>", "<missing>"
DESCRIPTORS = (
    types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType, types.GetSetDescriptorType,
    types.MemberDescriptorType, types.MethodWrapperType,
)  # fmt: skip
FIELD = type(collections.namedtuple("Point", "x").x)  # what gets the field of a named tuple
LOCKS = (type(threading.Lock()), type(threading.RLock()))


@functools.lru_cache(maxsize=4096)
def visitor(kind: type) -> Callable[[Any, Any], None]:
    """How to look into objects of a type."""
    for family, visitor in VISITORS:
        if issubclass(kind, family):
            return visitor
    return _visit_object


def _visit_number(walk: Any, number: float | complex):
    walk.tokens += (float, repr(number))  # which tells 0.0 from -0.0, and in which a NaN equals itself
    _visit_subclass(walk, number, (float, complex))


def _visit_function(walk: Any, function: types.FunctionType):
    walk.tokens += (types.FunctionType, function.__code__)
    before, walk.reads = walk.reads, reads_of(function.__code__)
    walk.visit(function.__defaults__)
    walk.visit(function.__kwdefaults__)
    walk.visit_all(function.__closure__ or ())
    if vars(function):
        walk.visit(vars(function))
    if function is os.getenv:  # the only one of a library whose reads are known to change
        walk.visit(os.environ)
    if not is_library(function.__globals__) and not is_installed(function.__code__.co_filename):
        walk.visit_globals(function, walk.reads)
    elif reads_outside(function):
        walk.is_clear = False
    walk.reads = before


def _visit_cell(walk: Any, cell: types.CellType):
    try:
        walk.visit(cell.cell_contents)
    except ValueError:
        walk.tokens.append(EMPTY)


def _visit_module(walk: Any, module: types.ModuleType):
    """A user's module is left for the end, when all names are known; of a library's, what is named here counts by identity."""
    walk.tokens += (types.ModuleType, module.__name__)
    if not is_library(vars(module)):
        walk.modules[module.__name__] = module
        return
    for name in walk.reads.attributes if walk.reads else ():
        value = vars(module).get(name, MISSING)
        if isinstance(value, types.ModuleType) or _is_container(value) or value is os.getenv:
            walk.visit(value)
        elif value is not MISSING:
            walk.tokens += (name, Same(value))


def _is_container(value: Any) -> bool:
    """Whether a library's value is there to be changed, as ``os.environ`` is."""
    return hasattr(type(value), "__setitem__") and not isinstance(value, (np.ndarray, jax.Array))


def _visit_class(walk: Any, kind: type):
    """By identity, as results are made of it; and a user's class by what it holds."""
    walk.tokens.append(Same(kind))
    walk.visit(type(kind))
    module = sys.modules.get(kind.__module__)
    if module is not None and is_library(vars(module)):
        walk.is_clear &= not reads_outside(kind)
        return
    walk.visit_all(kind.__bases__)
    for name, value in list(vars(kind).items()):
        if name not in OF_CLASSES:
            walk.tokens.append(name)
            walk.visit(value)


def _visit_partial(walk: Any, partial: functools.partial):
    walk.tokens.append(type(partial))
    walk.visit_all((partial.func, partial.args, partial.keywords, vars(partial)))


def _visit_builtin(walk: Any, function: types.BuiltinFunctionType):
    walk.tokens += (types.BuiltinFunctionType, function.__qualname__)
    walk.is_clear &= not reads_outside(function)
    if not isinstance(function.__self__, types.ModuleType):
        walk.visit(function.__self__)
    else:
        walk.tokens.append(function)


def _visit_descriptor(walk: Any, descriptor: Any):
    walk.tokens.append(descriptor)


def _by_parts(*names: str) -> Callable[[Any, Any], None]:
    """Look into what an object consists of."""

    def visit(walk: Any, thing: Any):
        walk.tokens.append(type(thing))
        walk.visit_all([getattr(thing, name) for name in names])

    return visit


def _visit_field(walk: Any, field: Any):
    _, (index, _) = field.__reduce__()
    walk.tokens += (FIELD, index)


def _visit_reference(walk: Any, reference: weakref.ref):
    walk.tokens.append(weakref.ref)
    walk.visit(reference())


def _visit_getter(walk: Any, getter: Any):
    """What gets attributes or items by names that are no code."""
    kind, names, *_ = getter.__reduce__()
    walk.tokens.append(type(getter))
    walk.visit_all((kind, names))
    walk.names |= {part: None for name in names if isinstance(name, str) for part in name.split(".")}


def _visit_variable(walk: Any, variable: contextvars.ContextVar):
    walk.tokens.append(Same(variable))
    walk.visit(variable.get(MISSING))


def _visit_identity(walk: Any, thing: Any):
    walk.tokens += (type(thing), Same(thing))


def _visit_numpy_array(walk: Any, array: np.ndarray):
    walk.tokens += (type(array), array.dtype, array.shape)
    if array.dtype.hasobject:
        walk.visit_all(array.ravel().tolist())
    else:
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
        walk.tokens.append(digest)
        walk.arrays.append((array, digest))
    walk.visit(getattr(array, "__dict__", None))


def _visit_numpy_scalar(walk: Any, scalar: np.generic):
    walk.tokens += (type(scalar), scalar.dtype, scalar.tobytes())


def _visit_mapping(walk: Any, mapping: Any):
    walk.tokens += (dict, len(mapping))
    for key, value in list(mapping.items()):
        walk.visit(key)
        walk.visit(value)
    if isinstance(mapping, collections.defaultdict):
        walk.visit(mapping.default_factory)
    _visit_subclass(walk, mapping, (dict, types.MappingProxyType))


def _visit_sequence(walk: Any, sequence: Any):
    kind = list if isinstance(sequence, list) else tuple
    walk.tokens += (kind, len(sequence))
    walk.visit_all(list(sequence))
    _visit_subclass(walk, sequence, (list, tuple))


def _visit_set(walk: Any, found: set | frozenset):
    parts = []
    for each in list(found):  # in any order
        start = len(walk.tokens)
        walk.visit(each)
        parts.append(tuple(walk.tokens[start:]))
        del walk.tokens[start:]
    walk.tokens += (set, frozenset(parts))
    _visit_subclass(walk, found, (set, frozenset))


def _visit_value(walk: Any, value: Any):
    """Of a class that adds to a plain one: an enumeration of whole numbers, a text with attributes."""
    plain = next(kind for kind in (int, float, complex, str, bytes) if isinstance(value, kind))
    walk.tokens += (plain, repr(plain(value)))
    _visit_subclass(walk, value, ())


def _visit_subclass(walk: Any, thing: Any, plain: tuple[type, ...]):
    if type(thing) not in plain:
        walk.visit(type(thing))
        _visit_state(walk, thing)


def _visit_wrapped(walk: Any, wrapper: Any):
    """What jax or a cache wraps around a function says nothing of what it computes."""
    walk.tokens.append(type(wrapper))
    walk.visit(wrapper.__wrapped__)


def _visit_object(walk: Any, thing: Any):
    """By class and state. What keeps state that Python cannot see cannot be seen through, unless that never changes."""
    kind = type(thing)
    if is_wrapper(kind) and hasattr(thing, "__wrapped__"):
        _visit_wrapped(walk, thing)
        return
    walk.visit(kind)
    _visit_state(walk, thing)
    if kind is object:
        walk.tokens.append(Same(thing))
    elif hides_nothing(kind):
        return
    elif issubclass(kind, IMMUTABLE):
        walk.tokens.append(thing)
    elif kind.__module__.split(".")[0] in ("jax", "jaxlib", "nanobind"):  # the last made what jaxlib is written in
        has_value = kind.__hash__ not in (None, object.__hash__)
        walk.tokens.append(thing if has_value else Same(thing))
    else:
        walk.is_clear = False


def _visit_state(walk: Any, thing: Any):
    """The attributes of an object."""
    state = getattr(thing, "__dict__", None)
    if state is not None:
        walk.visit(state)
    slots = slots_of(type(thing))
    for name, slot in slots:
        walk.tokens.append(name)
        try:
            walk.visit(slot.__get__(thing))
        except AttributeError:
            walk.tokens.append(EMPTY)


VISITORS = (
    (type, _visit_class),
    (types.FunctionType, _visit_function),
    (types.CellType, _visit_cell),
    (types.ModuleType, _visit_module),
    (types.MethodType, _by_parts("__func__", "__self__")),
    (types.BuiltinFunctionType, _visit_builtin),
    (DESCRIPTORS, _visit_descriptor),
    (functools.partial, _visit_partial),
    (property, _by_parts("fget", "fset", "fdel")),
    (FIELD, _visit_field),
    (slice, _by_parts("start", "stop", "step")),
    (weakref.ref, _visit_reference),
    ((operator.attrgetter, operator.itemgetter, operator.methodcaller), _visit_getter),
    (contextvars.ContextVar, _visit_variable),
    ((staticmethod, classmethod), _by_parts("__func__")),
    ((float, complex), _visit_number),
    ((jax.core.Tracer, jax.Array, logging.Logger, *LOCKS), _visit_identity),
    (np.ndarray, _visit_numpy_array),
    (np.generic, _visit_numpy_scalar),
    ((np.dtype, np.ufunc), _visit_descriptor),
    ((dict, types.MappingProxyType), _visit_mapping),
    ((list, tuple, collections.deque), _visit_sequence),
    ((set, frozenset), _visit_set),
    ((int, str, bytes), _visit_value),
)
