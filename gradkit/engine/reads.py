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
from collections.abc import Iterable
from typing import Any, NamedTuple

OWN = pathlib.Path(__file__).parents[1]
INSTALLED = tuple(
    f"{folder}{os.sep}" for folder in {OWN, *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))}
)
OPAQUE = {  # they read what the code does not name
    "eval", "exec", "globals", "vars", "__import__", "import_module", "read_text", "read_bytes",
}  # fmt: skip
GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"}
CONSTANT = {"LOAD_CONST", "LOAD_SMALL_INT"}
ENCLOSED = {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}
STORE = {"STORE_FAST", "STORE_DEREF", "STORE_NAME", "STORE_GLOBAL"}
BARE_CALL = "()"


class Reads(NamedTuple):
    """What code reads, the functions defined inside it included.

    Attributes:
        globals: Names of globals and builtins.
        attributes: Names of attributes, of whatever object.
        imports: ``(name, level)`` of the modules that it imports itself.
        is_dynamic: Whether it may read what it does not name.
        chains: Names with the attributes asked of them in one go, as ``("np", "random", "randn")``; the last part is
            ``BARE_CALL`` where that is called with nothing.
        aliases: The names it gives to what it imports itself, as ``("np", ("numpy",))``.
    """

    globals: tuple[str, ...]
    attributes: tuple[str, ...]
    imports: tuple[tuple[str, int], ...]
    is_dynamic: bool
    chains: tuple[tuple[str, ...], ...]
    aliases: tuple[tuple[str, tuple[str, ...]], ...]


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
    aliases = _aliases(code)
    chains = _chains(code, aliases)
    is_dynamic = _opens(code) or not OPAQUE.isdisjoint(names + attributes)
    return _union([Reads(tuple(names), tuple(attributes), tuple(imports), is_dynamic, chains, aliases), *inner])


def _aliases(code: types.CodeType) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The names that code gives to modules that it imports itself, and to what is in them."""
    found, constants, module, taken, path = [], [], "", None, ()
    for instruction in dis.get_instructions(code):
        kind, name = instruction.opname, instruction.argval
        if kind in CONSTANT:
            constants.append(name)
        elif kind == "IMPORT_NAME":
            level, taken = constants[-2:]
            module = "" if level else name  # a relative one is the user's
            path = () if taken or level else (name.split(".")[0],)
        elif kind == "IMPORT_FROM" and module:
            path = (module, name) if taken else (*path, name)
        elif kind in STORE and path:
            found.append((name, path))
            path = ()
    return tuple(found)


def _chains(code: types.CodeType, aliases: Iterable[tuple[str, Any]]) -> tuple[tuple[str, ...], ...]:
    found, chain, imported = [], None, dict(aliases)
    for instruction in dis.get_instructions(code):
        kind, name = instruction.opname, instruction.argval
        if kind in GLOBAL or kind in ENCLOSED or (kind.startswith("LOAD_FAST") and name in imported):
            found.append(chain := [name])
        elif kind in ("LOAD_ATTR", "LOAD_METHOD") and chain:
            chain.append(name)
        elif kind in ("PRECALL", "CALL") and instruction.arg == 0 and chain:
            chain.append(BARE_CALL)
            chain = None
        elif kind != "PUSH_NULL":
            chain = None
    return tuple(map(tuple, found))


def _opens(code: types.CodeType) -> bool:
    """Whether code calls a method ``open``, as paths have; an attribute of that name may be anything."""
    asked = (each for each in dis.get_instructions(code) if each.argval == "open")
    return any(each.opname == "LOAD_METHOD" or (each.opname == "LOAD_ATTR" and "NULL|self" in each.argrepr) for each in asked)


def _union(parts: list[Reads]) -> Reads:
    names, attributes, imports, is_dynamic, chains, aliases = zip(*parts)
    names, attributes, imports, chains, aliases = (
        tuple(dict.fromkeys(sum(kind, ()))) for kind in (names, attributes, imports, chains, aliases)
    )
    return Reads(names, attributes, imports, any(is_dynamic), chains, aliases)


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
