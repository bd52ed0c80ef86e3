"""Models of trees as files: an ensemble and the cuts of its features flow in, a safetensors file flows out, and back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gradkit import checks
from gradkit.boosting.binning import Binned, Cuts
from gradkit.boosting.growing import Tree
from gradkit.boosting.prediction import Ensemble

FORMAT = "gradkit.boosting/1"


def save(path: Any, ensemble: Ensemble, binned: Binned) -> None:
    """Write a model to a file, all at once: who reads it finds the old one or the new one.

    Args:
        path: Where to; ``.safetensors`` by custom. The folder must exist.
        ensemble: The model.
        binned: What it was fitted to, or anything binned alike: it knows the cuts.

    >>> import pathlib, tempfile
    >>> import gradkit as gk
    >>> x, y = np.arange(8.0)[:, None], np.arange(8.0)
    >>> data = gk.boosting.bin(x), y
    >>> model = gk.fit(gk.boosting.descent(gk.losses.squared, learning_rate=0.5), data, steps=9).params
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save(path, model, data[0])
    >>> same, binned = load(path)
    >>> bool((gk.boosting.predict(same, binned.like(x)) == gk.boosting.predict(model, data[0])).all())
    True
    """
    checks.require(binned.cuts is not None, "binned", "know its cuts", checks.Described("one from inside a program"),
                   "Pass what gk.boosting.bin gave.")  # fmt: skip
    arrays = {f"trees.{name}": part for name, part in ensemble.trees._asdict().items() if part is not None}
    arrays |= {"coefficient": ensemble.coefficient, "intercept": ensemble.intercept}
    arrays |= {f"edges.{feature}": edges for feature, edges in enumerate(binned.cuts.edges)}
    told = {"num_bins": binned.num_bins, "categorical": binned.categorical, "names": binned.cuts.names}
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: np.array(array, order="C") for name, array in arrays.items()}, scratch,
                  {"format": FORMAT, "binned": json.dumps(told)})  # fmt: skip
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def load(path: Any) -> tuple[Ensemble, Binned]:
    """The model in a file, and an empty ``Binned`` whose ``like`` bins features for it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no model of trees.
    """
    try:
        with safe_open(path, "numpy") as file:
            told, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        told, arrays = {"format": f"unreadable: {error}"}, {}
    found = checks.Described(told.get("format", "none"))
    checks.require(told.get("format") == FORMAT, "path", f"be a file of format {FORMAT}", found, "Write it by gk.boosting.save.")
    try:
        return _read(told, arrays)
    except (KeyError, TypeError, ValueError) as error:
        checks.require(False, "path", "hold all parts of a model", checks.Described(f"a file without {error}"), "Write it anew.")


def _read(told: dict[str, str], arrays: dict[str, np.ndarray]) -> tuple[Ensemble, Binned]:
    form = json.loads(told["binned"])
    edges = tuple(arrays[f"edges.{feature}"] for feature in range(sum(name.startswith("edges.") for name in arrays)))
    names = None if form["names"] is None else tuple(form["names"])
    binned = Binned(np.zeros((0, len(edges)), np.uint8), form["num_bins"], tuple(form["categorical"]), False, Cuts(edges, names))
    parts = {name: arrays[f"trees.{name}"] for name in Tree._fields if name != "categories"}
    trees = Tree(**parts, categories=arrays.get("trees.categories"))
    return Ensemble(trees, arrays["coefficient"], arrays["intercept"]), binned
