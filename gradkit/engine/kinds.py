"""What the class of an object says of it: whether its attributes are all that it holds, and where they are."""

from __future__ import annotations

import datetime
import decimal
import functools
import re
import types
import weakref
from typing import Any

HEAP_TYPE = 1 << 9  # the flag of classes that are written in Python, and of some that are not
POINTER = tuple.__itemsize__  # bytes
IMMUTABLE = (  # written in C, but of a value that does not change
    datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal, re.Pattern,
    types.GenericAlias, types.UnionType,
)  # fmt: skip
OF_CLASSES = {  # that say nothing of what a class does
    "__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate_func__", "__annotations_cache__",
    "__static_attributes__", "__firstlineno__", "__orig_bases__", "__parameters__", "__match_args__", "__abstractmethods__",
    "_abc_impl", "__slots__", "__dataclass_fields__", "__dataclass_params__",
}  # fmt: skip


@functools.lru_cache(maxsize=4096)
def slots_of(kind: type) -> tuple[tuple[str, Any], ...]:
    """The slots of a class that is written in Python, its own and those of the classes above."""
    members = (pair for base in kind.__mro__ if base.__flags__ & HEAP_TYPE for pair in vars(base).items())
    return tuple((name, value) for name, value in members if isinstance(value, types.MemberDescriptorType))


@functools.lru_cache(maxsize=4096)
def hides_nothing(kind: type) -> bool:
    """Whether all that its objects hold are attributes, as those of a class written in Python."""
    return all(base in (object, types.SimpleNamespace) or _has_attributes_only(base) for base in kind.__mro__)


def _has_attributes_only(kind: type) -> bool:
    """Whether the size of a class is that of the class it extends, its slots, its dictionary and its weak references."""
    own = vars(kind)
    known = sum(isinstance(value, types.MemberDescriptorType) for value in own.values())
    known += ("__dict__" in own) + ("__weakref__" in own)
    is_larger = kind.__basicsize__ - kind.__base__.__basicsize__ > POINTER * known
    return bool(kind.__flags__ & HEAP_TYPE) and not is_larger


@functools.lru_cache(maxsize=4096)
def is_wrapper(kind: type) -> bool:
    """Whether a class is that of functions under ``jax.jit`` or with a cache."""
    is_known = kind.__module__.split(".")[0] in ("jax", "jaxlib", "functools")
    return is_known and (hasattr(kind, "clear_cache") or hasattr(kind, "cache_clear"))


class Same:
    """An object by identity, without keeping it alive where that can be helped; equal to nothing once it is gone."""

    __slots__ = ("_number", "_object")

    def __init__(self, thing: Any):
        self._number = id(thing)
        try:
            self._object = weakref.ref(thing)
        except TypeError:
            self._object = lambda: thing

    def __eq__(self, other):
        if self is other:
            return True
        return isinstance(other, Same) and self._number == other._number and self._object() is other._object() is not None

    def __hash__(self):
        return self._number
