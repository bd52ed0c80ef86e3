"""Growing a tree by a kernel of our own, on CPUs: the C++ beside this file, built once by the system's compiler.

Bins and slopes flow in, what :func:`gradkit.boosting.growing.grow` makes of them flows out, ten times sooner. Where there is no
compiler, no folder to keep what it made, or a form of tree that the kernel does not know, everything works without.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import tempfile

import jax
import jax.numpy as jnp
import jaxlib

from gradkit import folders
from gradkit.boosting.growing import Growth, Shape, Slopes, Tree
from gradkit.boosting.splits import Bounds, Penalties

SOURCE = pathlib.Path(__file__).with_name("growing.cc")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-w")
SECONDS = 120  # that a compiler may take


def grow(codes: jax.Array, slopes: Slopes, shape: Shape, penalties: Penalties, *, allowed: jax.Array | None = None) -> Growth:
    """A tree from the bins (n, d); see :func:`gradkit.boosting.growing.grow`."""
    num_examples, num_features = codes.shape
    num_nodes, number = 2**shape.depth - 1, jnp.float32
    of = jax.ShapeDtypeStruct
    by_node, by_leaf = (num_nodes,), (num_nodes + 1,)
    results = (
        of(by_node, jnp.int32), of(by_node, jnp.int32), of(by_node, bool), of(by_node, bool), of(by_node, number),
        of((2 * num_nodes + 1,), number), of(by_leaf, number), of(by_leaf, number), of((num_examples,), jnp.int32),
    )  # fmt: skip
    call = jax.ffi.ffi_call(target(), results, vmap_method="sequential")
    feature, cut, is_missing_left, is_split, gain, cover, low, high, leaf = call(
        codes, *slopes, jnp.stack([jnp.asarray(penalty, number) for penalty in penalties]),
        jnp.ones((shape.depth, num_features), bool) if allowed is None else allowed,
        jnp.asarray(shape.monotone or (0,) * num_features, jnp.int32),
        bins=shape.num_bins, has_missing=shape.has_missing,
    )  # fmt: skip
    tree = Tree(feature, cut, is_missing_left, is_split, None, gain, cover, None)
    return Growth(tree, leaf, None if shape.monotone is None else Bounds(low, high))


def knows(shape: Shape) -> bool:
    """Whether the kernel grows trees of that form, and is there."""
    return not (shape.categorical or shape.is_oblivious or shape.is_exact) and target() is not None


@functools.cache
def target() -> str | None:
    """The name under which the kernel is registered, built if need be; ``None`` if it cannot be had.

    ``GRADKIT_NATIVE=off`` does without it.
    """
    if os.environ.get("GRADKIT_NATIVE", "").lower() == "off" or jax.default_backend() != "cpu":
        return None
    told = SOURCE.read_bytes() + repr((jaxlib.__version__, platform.machine(), platform.system(), FLAGS)).encode()
    name = f"gradkit_grow_tree_{hashlib.sha256(told).hexdigest()[:16]}"
    folder = folders.cache_folder()
    built = None if folder is None else _built(folder / "kernels" / f"{name}.so")
    if built is None:
        return None
    try:
        handler = ctypes.CDLL(str(built)).gradkit_grow_tree
    except OSError:
        return None
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return name


def _built(path: pathlib.Path) -> pathlib.Path | None:
    """The library at that path, compiled if it is not there."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if path.exists() or compiler is None:
        return path if path.exists() else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = pathlib.Path(scratch) / path.name
            command = [compiler, *FLAGS, f"-I{jax.ffi.include_dir()}", str(SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
            made.replace(path)
    except (OSError, subprocess.SubprocessError):
        return None
    return path
