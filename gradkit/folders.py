"""Where gradkit keeps what outlives a process: compiled programs, measured rates, built kernels."""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile


def cache_folder() -> pathlib.Path | None:
    """The folder for what outlives a process, made if need be; ``None`` if it is turned off or cannot be written.

    It is ``$GRADKIT_CACHE_DIR``, or else ``gradkit`` in the system's folder for caches (``$XDG_CACHE_HOME``, ``~/.cache``).
    jax runs the programs it finds there: it must be nobody else's to write.
    """
    named = os.environ.get("GRADKIT_CACHE_DIR")
    if named is not None and named.lower() in ("", "off"):
        return None
    try:
        return writable(pathlib.Path(named).expanduser() if named else _system_caches() / "gradkit")
    except RuntimeError:  # nobody's home
        return None


def _system_caches() -> pathlib.Path:
    if sys.platform == "darwin":
        return pathlib.Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return pathlib.Path(os.environ.get("LOCALAPPDATA") or pathlib.Path.home() / "AppData" / "Local")
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")


def writable(folder: pathlib.Path) -> pathlib.Path | None:
    """The folder, made if need be; ``None`` if it cannot be written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None
