"""What is read from outside while a program is traced: functions flow in, out flows whether they read there.

A file, a clock, the generator of NumPy or Python that all share: what is read there stands in no code and no closure, so that
equal functions may give different numbers, and no key can tell.
"""

from __future__ import annotations

import builtins
import random
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gradkit.engine.reads import BARE_CALL, Reads, is_library

FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)
GENERATORS = (random.Random, np.random.RandomState, np.random.Generator)
SEEDED = (random.Random, np.random.RandomState, np.random.default_rng, np.random.SeedSequence)  # where they are
MODULES = {"time", "secrets", "uuid", "posix", "nt", "genericpath"}
READERS = {
    "open", "input", "load", "loadtxt", "genfromtxt", "fromfile", "fromregex", "memmap", "open_memmap", "File", "FileIO",
    "safe_load", "load_file", "load_npz", "loadmat", "imread", "urlopen", "now", "today", "utcnow",
}  # fmt: skip


def reads_outside(thing: Any) -> bool:
    """Whether a function or class of a library reads a file, a clock or a generator that all share."""
    if not isinstance(thing, FUNCTIONS):
        return False
    owner = getattr(thing, "__self__", None)
    if isinstance(owner, GENERATORS):
        return True
    name, module = thing.__name__, getattr(owner if isinstance(owner, type) else thing, "__module__", None) or ""
    if module in MODULES:
        return True
    is_reader = name in READERS or name.startswith("read_")
    return is_reader and "pallas" not in module and is_library(vars(sys.modules.get(module, builtins)))


def any_outside(function: types.FunctionType, reads: Reads) -> bool:
    """Whether a function names something that reads outside, by itself or by way of modules: ``np.load``."""
    enclosed, aliases = dict(_enclosed(function)), dict(reads.aliases)

    def stands_for(name: str) -> Any:
        if name in aliases:
            module, *names = aliases[name]
            return _at(sys.modules.get(module), names)
        return next((names[name] for names in (enclosed, function.__globals__, vars(builtins)) if name in names), None)

    return any(_is_outside(stands_for(root), names) for root, *names in reads.chains)


def _enclosed(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it is empty
            continue


def _is_outside(root: Any, names: list[str]) -> bool:
    is_bare = names[-1:] == [BARE_CALL]
    thing = _at(root, names[:-1] if is_bare else names)
    return reads_outside(thing) or (is_bare and any(thing is each for each in SEEDED))


def _at(value: Any, names: Sequence[str]) -> Any:
    """What is found by attributes, as far as they are asked of modules and classes."""
    for name in names:
        if not isinstance(value, (types.ModuleType, type)):
            return value
        value = vars(value).get(name) if isinstance(value, types.ModuleType) else getattr(value, name, None)
    return value
