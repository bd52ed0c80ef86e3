"""Readers: files become arrays.

In flows the path of an IDX, NPZ or CSV file, out flow numpy arrays. Files are data, never code: nothing is unpickled.
"""

import gzip
import os
import pathlib
import zipfile
import zlib

import numpy as np
from jaxtyping import Float32, Shaped

from gradkit.checks import Described, require

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_INPUTS, _TARGETS = ("x", "inputs"), ("y", "targets")


def read_idx(path: str | os.PathLike) -> Shaped[np.ndarray, "..."]:
    """Read an IDX file, the format of MNIST, gzipped or not.

    Args:
        path: The file.

    Returns:
        An array of the shape and type that the file states, in the machine's byte order.

    Raises:
        ValueError: The file is no IDX file, or is cut off or damaged.

    References:
        LeCun, Cortes and Burges, The MNIST database of handwritten digits, "file formats".

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels.idx"
    >>> path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    11
    >>> read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    content = _unzipped(path)
    is_idx = len(content) >= 4 and content[:2] == b"\0\0" and content[2] in _IDX_DTYPES
    _demand(is_idx, path, "begin with the magic number of IDX", content[:4].hex(" ") or "nothing")
    dtype, offset = np.dtype(_IDX_DTYPES[content[2]]), 4 + 4 * content[3]
    _demand(len(content) >= offset, path, f"have an IDX header of {offset} bytes", f"{len(content)} bytes")
    shape = [int.from_bytes(content[i : i + 4]) for i in range(4, offset, 4)]
    expected = offset + dtype.itemsize * int(np.prod(shape, dtype=object))
    _demand(len(content) == expected, path, f"have {expected} bytes for its shape {shape}", f"{len(content)} bytes")
    return np.frombuffer(content, dtype, offset=offset).reshape(shape).astype(dtype.newbyteorder("="))


def read_npz(path: str | os.PathLike) -> tuple[Shaped[np.ndarray, "n ..."], Shaped[np.ndarray, "n ..."]]:
    """Read inputs and targets from an NPZ file with arrays named ``x`` and ``y``, or ``inputs`` and ``targets``.

    Capitals are the same; other arrays are left alone. Objects that need unpickling are refused.

    Args:
        path: The file, as written by ``np.savez``.

    Returns:
        ``(inputs, targets)``, of one length.

    Raises:
        ValueError: The file is damaged, an array is missing or there twice, or the lengths differ.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "points.npz"
    >>> np.savez(path, x=np.zeros((3, 2)), y=np.arange(3))
    >>> inputs, targets = read_npz(path)
    >>> inputs.shape, targets.shape
    ((3, 2), (3,))
    """
    with open(path, "rb") as file:
        _demand(zipfile.is_zipfile(file), path, "be an NPZ file", "something else, or a file cut off")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name.lower() in _INPUTS + _TARGETS}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        _demand(False, path, "hold arrays that can be read as they are", str(error))
    inputs, targets = _the_one(path, found, _INPUTS), _the_one(path, found, _TARGETS)
    shapes = f"{inputs.shape} and {targets.shape}"
    _demand(inputs.shape[:1] == targets.shape[:1] != (), path, "have a target for each input", shapes)
    return inputs, targets


def read_csv(path: str | os.PathLike, *, target: str) -> tuple[Float32[np.ndarray, "n d"], Shaped[np.ndarray, " n"]]:
    """Read inputs and targets from a CSV file with a line of column names.

    Args:
        path: The file; it may be compressed.
        target: The column to predict. All others are inputs.

    Returns:
        ``(inputs, targets)``. Targets that are floats become float32 and whole numbers int32; strings and booleans
        become classes 0, 1, ... in sorted order.

    Raises:
        ValueError: There is no such column, a value is missing, an input is not a number, or the file is damaged.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "iris.csv"
    >>> _ = path.write_text("length,width,name\\n5.1,3.5,setosa\\n6.3,3.3,virginica\\n4.9,3,setosa\\n")
    >>> inputs, targets = read_csv(path, target="name")
    >>> inputs.shape, targets.tolist()
    ((3, 2), [0, 1, 0])
    """
    table = _read_table(path)
    columns = ", ".join(map(str, table.columns))
    require(target in table, "target", f"be a column of {path} ({columns})", target, "Name one of its columns.")
    missing = ", ".join(f"{name}: {num} of {len(table)} rows" for name, num in table.isna().sum().items() if num)
    _demand(not missing, path, "have no missing values", missing, "Drop these rows or columns, or fill them in.")
    inputs = table.drop(columns=target)
    words = ", ".join(name for name in inputs if inputs[name].dtype.kind not in "biuf")
    _demand(not words, path, "have numbers in every input column", words, "Encode these columns as numbers, or drop them.")
    _demand(inputs.size > 0, path, "have rows and a column besides the target", f"shape {table.shape}")
    with np.errstate(over="ignore"):
        return inputs.to_numpy(np.float32), _targets(path, table[target])


def _read_table(path):
    import pandas as pd

    try:
        return pd.read_csv(path, low_memory=False)
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        _demand(False, path, "be a whole CSV file", str(error))


def _targets(path, column) -> np.ndarray:
    if column.dtype.kind not in "iuf":
        return np.unique(column.to_numpy().astype(str), return_inverse=True)[1].astype(np.int32)
    values = column.to_numpy()
    if column.dtype.kind == "f":
        return values.astype(np.float32)
    targets = values.astype(np.int32)
    _demand(np.array_equal(targets, values), path, "have integer targets of 32 bits", f"up to {values.max()}")
    return targets


def _unzipped(path) -> bytes:
    content = pathlib.Path(path).read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        _demand(False, path, "be a whole gzip file", str(error))


def _the_one(path, arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    found = [name for name in arrays if name.lower() in names]
    remedy = "Write it with np.savez(path, x=inputs, y=targets)."
    _demand(len(found) == 1, path, f"have one array named {' or '.join(names)}", ", ".join(found) or "none", remedy)
    return arrays[found[0]]


def _demand(condition: bool, path, rule: str, found: str, remedy: str = "Fetch or write the file again."):
    """``require``, with the file in the place of the argument."""
    require(bool(condition), os.fspath(path), rule, Described(found), remedy)
