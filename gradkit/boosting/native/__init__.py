"""Kernels of our own for CPUs: the C++ beside this file, built once by the system's compiler.

Bins and slopes flow in, what :func:`gradkit.boosting.growing.grow` makes of them flows out, several times sooner; and what the
examples of each leaf add up to. Where there is no compiler or no folder to keep what it made, and for forms of tree that the
kernel does not know, everything works without.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import jaxlib

from gradkit import folders
from gradkit.boosting.growing import Growth, Shape, Slopes, Tree
from gradkit.boosting.splits import Bounds, Penalties

FOLDER = pathlib.Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O2", "-ftree-vectorize", "-funswitch-loops", "-fPIC", "-w", "-ffp-contract=off", "-fno-trapping-math",
         "-fno-math-errno")  # fmt: skip
KERNELS = ("grow_tree", "sum_leaves", "move", "transpose")
DIGEST = ".sha256"
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
    call = jax.ffi.ffi_call(_name("grow_tree"), results, vmap_method="expand_dims")
    feature, cut, is_missing_left, is_split, gain, cover, low, high, leaf = call(
        codes, columns(codes), *slopes, jnp.stack([jnp.asarray(penalty, number) for penalty in penalties]),
        jnp.ones((shape.depth, num_features), bool) if allowed is None else allowed,
        jnp.asarray(shape.monotone or (0,) * num_features, jnp.int32),
        bins=shape.num_bins, has_missing=shape.has_missing,
    )  # fmt: skip
    tree = Tree(feature, cut, is_missing_left, is_split, None, gain, cover, None)
    return Growth(tree, leaf, None if shape.monotone is None else Bounds(low, high))


def columns(codes: jax.Array) -> jax.Array:
    """The bins (n, d) feature by feature, (d, n): once, where a loop over trees would transpose them at each."""
    result = jax.ShapeDtypeStruct(codes.shape[::-1], codes.dtype)
    return jax.ffi.ffi_call(_name("transpose"), result, vmap_method="sequential")(codes)


def sum_leaves(leaf: jax.Array, weights: jax.Array, values: Sequence[jax.Array], num_leaves: int) -> list[jax.Array]:
    """The weighted sums of each array of values (n, c) per leaf, shape (leaves, c); in double precision on the way."""
    results = [jax.ShapeDtypeStruct((num_leaves, each.shape[1]), jnp.float32) for each in values]
    return jax.ffi.ffi_call(_name("sum_leaves"), results, vmap_method="expand_dims")(leaf, weights, *values)


def move(scores: jax.Array, value: jax.Array, leaf: jax.Array) -> jax.Array:
    """The scores (n, k) with the value (leaves, k) of each example's leaf added."""
    result = jax.ShapeDtypeStruct(scores.shape, scores.dtype)
    return jax.ffi.ffi_call(_name("move"), result, vmap_method="expand_dims")(scores, value, leaf)


def knows(shape: Shape) -> bool:
    """Whether the kernel grows trees of that form, and is there."""
    return not (shape.categorical or shape.is_oblivious) and is_there()


def is_there() -> bool:
    """Whether there are kernels. ``GRADKIT_NATIVE=off`` does without them."""
    return jax.default_backend() == "cpu" and os.environ.get("GRADKIT_NATIVE", "").lower() != "off" and _registered()


def _name(kernel: str) -> str:
    """What a kernel is registered as."""
    assert _registered(), "who calls a kernel has asked whether it is there"
    return f"gradkit_{kernel}_{_digest()}"


@functools.cache
def _digest() -> str:
    """Of all that what was built depends on."""
    told = [path.read_bytes() for suffix in (".cc", ".h") for path in sorted(FOLDER.glob(f"*{suffix}"))]
    told.append(repr((jaxlib.__version__, platform.machine(), platform.system(), FLAGS, _instructions())).encode())
    return hashlib.sha256(b"".join(told)).hexdigest()[:16]


def _instructions() -> str:
    """What this processor can do, where the system says so; a folder may be shared by several kinds."""
    try:
        told = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((line for line in told.splitlines() if line.startswith("flags")), "")


@functools.cache
def _registered() -> bool:
    """Build the kernels if need be and make them known to jax; whether they can be had."""
    folder = folders.cache_folder()
    built = None if folder is None else _built(folder / "kernels" / f"{_digest()}.so")
    if built is None:
        return False
    try:
        library = ctypes.CDLL(str(built))
    except OSError:
        return False
    for kernel in KERNELS:
        jax.ffi.register_ffi_target(
            f"gradkit_{kernel}_{_digest()}", jax.ffi.pycapsule(getattr(library, f"gradkit_{kernel}")), platform="cpu"
        )
    return True


def _built(path: pathlib.Path) -> pathlib.Path | None:
    """The library at that path, compiled if it is not there whole."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if _is_whole(path):
        return path
    if compiler is None:
        return None
    flags = [*FLAGS, f"-I{jax.ffi.include_dir()}", *(["-march=native"] if _instructions() else [])]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            made = {source: pathlib.Path(scratch) / f"{source.stem}.o" for source in FOLDER.glob("*.cc")}
            with ThreadPoolExecutor() as pool:  # all files at a time
                list(pool.map(lambda source: _run(compiler, *flags, "-c", source, "-o", made[source]), made))
            library = pathlib.Path(scratch) / path.name
            _run(compiler, "-shared", *made.values(), "-o", library)
            told = library.with_suffix(DIGEST)
            told.write_text(hashlib.sha256(library.read_bytes()).hexdigest())
            library.replace(path)  # who has loaded the old one keeps it
            told.replace(path.with_suffix(DIGEST))
    except (OSError, subprocess.SubprocessError):
        return None
    return path


def _is_whole(path: pathlib.Path) -> bool:
    """Whether a library is what was built: loading one that was cut short kills the process."""
    try:
        return path.with_suffix(DIGEST).read_text() == hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return False


def _run(*command: object):
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=SECONDS)
