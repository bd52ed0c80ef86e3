"""Programs as files that are verified when they are read: what jax hands over flows in, the same bytes or nothing flow out.

jax's own store writes in place and reads whatever it finds: a file cut short by a full disk is a warning in every run after.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import pathlib
import threading

from jax.experimental.compilation_cache import compilation_cache

SUFFIX = "-cache"
DIGEST_BYTES = 32


class Store:
    """A folder of programs; what jax calls a cache.

    Each file ends with a digest of what stands before. It appears whole or not at all, and a broken one is dropped.
    """

    def __init__(self, folder: pathlib.Path):
        self._path = folder

    def get(self, key: str) -> bytes | None:
        """What was stored under a key; ``None`` if nothing was, or nothing that is whole."""
        path = self._path / f"{key}{SUFFIX}"
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        value, digest = stored[:-DIGEST_BYTES], stored[-DIGEST_BYTES:]
        if hashlib.sha256(value).digest() == digest:
            return value
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def put(self, key: str, value: bytes):
        """Store a value; a disk that is full is no error."""
        path = self._path / f"{key}{SUFFIX}"
        scratch = path.with_name(f".{os.getpid()}.{threading.get_ident()}.{hash(key)}")
        try:
            scratch.write_bytes(value + hashlib.sha256(value).digest())
            scratch.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                scratch.unlink()


def install(folder: pathlib.Path):
    """Let jax read and write programs here, until its cache is reset; a jax that holds it elsewhere goes on with its own."""
    jaxs = importlib.import_module(compilation_cache.reset_cache.__module__)
    if hasattr(jaxs, "_cache") and hasattr(jaxs, "_get_cache"):
        jaxs._cache = Store(folder)
