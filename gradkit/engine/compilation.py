"""Compiled programs on disk: the second run of a script compiles nothing anew. By jax's own persistent compilation cache.

The environment variable ``GRADKIT_CACHE_DIR`` names the folder, or turns this off (``off``). Who sets jax's own cache, or
disables it, keeps exactly that.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pathlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jaxlib.version
from jax.experimental.compilation_cache import compilation_cache

from gradkit import folders, settings
from gradkit.engine import stores

MAX_BYTES = 2**29
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,  # dozens of small programs around a sweep: 20 ms each, 1 ms to load
    "jax_persistent_cache_enable_xla_caches": "none",  # files of XLA's own, whose results a stored program already holds
}

_changing = threading.Lock()


@contextlib.contextmanager
def persistent() -> Iterator[None]:
    """Load what compiles in here, in any thread, from disk if it is there, and else store it; then restore all settings.

    Within another ``persistent()``, in this thread or beside it, nothing changes. Programs with host callbacks are not stored.
    """
    with _changing:
        before = _set(_wanted())
    try:
        yield
    finally:
        with _changing:
            _set(before)


def _wanted() -> dict[str, Any]:
    """The settings of jax that make it keep programs in our folder; none if the user has settled it, or it cannot be."""
    is_settled = jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache
    base = None if is_settled or not _loads_well() else folders.cache_folder()
    folder = base and folders.writable(base / "programs")
    if folder is None:
        return {}
    _trim(folder)
    return {"jax_compilation_cache_dir": str(folder), **SETTINGS}


def _loads_well() -> bool:
    """Whether this jaxlib loads programs for a CPU in silence, and on a Mac without a crash.

    References:
        https://github.com/jax-ml/jax/issues/38445: from 0.8.1 two long lines on stderr per program, in error.
        https://github.com/uwplasma/vmex/pull/142: before 0.10 a Mac runs out of stack over programs of thousands of kernels.
    """
    version = jaxlib.version.__version_info__
    if jax.default_backend() != "cpu" or version >= (0, 10, 2):
        return True
    return version < (0, 8, 1) and sys.platform != "darwin"


def _set(values: dict[str, Any]) -> dict[str, Any]:
    """Set jax's settings; return what they were."""
    before = settings.change(values)
    if values:
        compilation_cache.reset_cache()  # jax opens one cache per process and looks at its settings no more
    if (folder := values.get("jax_compilation_cache_dir")) is not None:
        stores.install(pathlib.Path(folder))
    return before


@functools.cache
def _trim(folder: pathlib.Path):
    """Forget what was used longest ago, beyond ``MAX_BYTES``; once per process."""
    with contextlib.suppress(OSError):  # another process may be trimming too
        files = [(entry.path, entry.stat()) for entry in os.scandir(folder)]
        files.sort(key=lambda file: max(file[1].st_atime, file[1].st_mtime), reverse=True)
        for (path, _), total in zip(files, itertools.accumulate(stat.st_size for _, stat in files)):
            if total > MAX_BYTES:
                os.unlink(path)
