"""What a function reads besides its arguments: code flows in, the names of globals, attributes and imports flow out."""

from __future__ import annotations

import builtins
import dis
import functools
import os
import pathlib
import sys
import sysconfig
import types
from typing import NamedTuple

OWN = pathlib.Path(__file__).parents[1]
INSTALLED = tuple(
    f"{folder}{os.sep}" for folder in {OWN, *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))}
)
OPAQUE = {"eval", "exec", "globals", "vars", "__import__", "import_module"}  # they read what the code does not name
GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"}
CONSTANT = {"LOAD_CONST", "LOAD_SMALL_INT"}


class Reads(NamedTuple):
    """What code reads, the functions defined inside it included.

    Attributes:
        globals: Names of globals and builtins.
        attributes: Names of attributes, of whatever object.
        imports: ``(name, level)`` of the modules that it imports itself.
        is_dynamic: Whether it may read what it does not name.
    """

    globals: tuple[str, ...]
    attributes: tuple[str, ...]
    imports: tuple[tuple[str, int], ...]
    is_dynamic: bool


@functools.lru_cache(maxsize=4096)
def reads_of(code: types.CodeType) -> Reads:
    """The reads of a code object; kept, as disassembling takes longer than all that follows."""
    names, attributes, imports, constants = [], [], [], []
    for instruction in dis.get_instructions(code):
        if instruction.opname in GLOBAL:
            names.append(instruction.argval)
        elif instruction.opname in ATTRIBUTE:
            attributes.append(instruction.argval)
        elif instruction.opname in CONSTANT:
            constants.append(instruction.argval)
        elif instruction.opname == "IMPORT_NAME":
            imports.append((instruction.argval, constants[-2]))  # its level and the names it takes come before it
    inner = [reads_of(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    own = Reads(tuple(names), tuple(attributes), tuple(imports), not OPAQUE.isdisjoint(names + attributes))
    return _union([own, *inner])


def _union(parts: list[Reads]) -> Reads:
    names, attributes, imports, is_dynamic = zip(*parts)
    joined = (tuple(dict.fromkeys(sum(kind, ()))) for kind in (names, attributes, imports))
    return Reads(*joined, any(is_dynamic))


@functools.lru_cache(maxsize=4096)
def is_installed(path: str) -> bool:
    """Whether a file belongs to an installed package, to Python or to gradkit."""
    if path.startswith(("<frozen ", *INSTALLED)):
        return True
    return not {"site-packages", "dist-packages"}.isdisjoint(pathlib.PurePath(path).parts)


def is_library(namespace: dict) -> bool:
    """Whether the globals of a function or module are a library's, whose code is taken not to change."""
    path = namespace.get("__file__")
    if path is not None:
        return is_installed(path)
    return namespace is vars(builtins) or namespace.get("__name__") in sys.builtin_module_names
