"""Real data by name: digits from scikit-learn, MNIST-like folders of IDX files, NPZ and CSV files; split and standardized."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np

from gradkit import checks, data

IDX_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")


class Parts(NamedTuple):
    """Training, validation and test parts, each ``(inputs, targets)``; inputs standardized on the training part alone."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def num_classes(self) -> int:
        """Classes, counted from 0."""
        return int(max(part[1].max() for part in self)) + 1


def load(name: str, *, data_dir: str | None = None, target: str | None = None, key: int = 0) -> Parts:
    """Load a data set for classification and split it 70/15/15.

    Args:
        name: ``digits``, ``mnist``, ``fashion-mnist``, or the path of an ``.npz`` or ``.csv`` file.
        data_dir: The folder that holds ``mnist/`` and ``fashion-mnist/``.
        target: The column of a CSV file to predict.
        key: Seeds the split.

    Raises:
        ValueError: If the data are not found or not fit for classification.
    """
    inputs, targets = _read(name, data_dir, target)
    is_whole = np.issubdtype(targets.dtype, np.integer) or np.array_equal(targets, np.round(targets))
    checks.require(is_whole and targets.min() >= 0, "data", "have class numbers 0, 1, ... for targets",
                   checks.Described(f"{targets.dtype} targets from {targets.min()} to {targets.max()}"),
                   "Choose another target column, or number the classes.")  # fmt: skip
    train, validation, test = data.split((inputs, targets.astype(np.int32)), (0.7, 0.15, 0.15), key=key)
    scaled = data.standardize(train[0], validation[0], test[0])
    return Parts(*[(np.asarray(x, np.float32), y) for x, (_, y) in zip(scaled, (train, validation, test))])


def _read(name, data_dir, target):
    if name == "digits":
        from sklearn.datasets import load_digits

        images = load_digits()
        return images.images.astype(np.float32), images.target
    if name in ("mnist", "fashion-mnist"):
        return _read_idx_folder(name, data_dir)
    path = pathlib.Path(name)
    checks.require(path.suffix in (".npz", ".csv"), "data", "be digits, mnist, fashion-mnist, FILE.npz or FILE.csv", name,
                   "Choose one of these.")  # fmt: skip
    checks.require(path.exists(), "data", "name a file that exists", name, "Check the path.")
    if path.suffix == ".npz":
        return data.read_npz(path)
    checks.require(target is not None, "target", "name the column to predict", target, "Add --target COLUMN.")
    return data.read_csv(path, target=target)


def _read_idx_folder(name, data_dir):
    checks.require(data_dir is not None, "data-dir", f"name the folder that holds {name}/", data_dir, "Add --data-dir FOLDER.")
    folder = pathlib.Path(data_dir) / name
    for file in IDX_FILES:
        checks.require((folder / file).exists(), "data-dir", f"hold {name}/{file}", str(data_dir), "Download it there.")
    images, labels = (data.read_idx(folder / file) for file in IDX_FILES)
    return images.astype(np.float32), labels.astype(np.int32)
