"""Models of trees as XGBoost's JSON: an ensemble and the cuts of its features flow in, text flows out, and back.

XGBoost loads the text and predicts what we predict; its SHAP values and plots then serve. XGBoost asks ``x < condition`` in
float32 where we ask ``x <= cut``, so a condition is the float32 after the cut.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gradkit.boosting import Binned, Ensemble
from gradkit.boosting.binning import Cuts
from gradkit.boosting.growing import Tree
from gradkit.checks import Described, require

NO_PARENT = 2147483647


def _logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability / (1 - probability))


def _identity(base: np.ndarray) -> np.ndarray:
    return base


LINKS = {  # objective: from what XGBoost calls the base score to a score
    **dict.fromkeys(("binary:logistic", "reg:logistic"), _logit),
    **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie", "survival:aft", "survival:cox"), np.log),
    **dict.fromkeys((
        "reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "reg:quantileerror",
        "binary:logitraw", "binary:hinge", "multi:softmax", "multi:softprob", "rank:ndcg", "rank:map", "rank:pairwise",
    ), _identity),
}  # fmt: skip
INVERSE_LINKS = {  # objective: from a score to what XGBoost calls the base score
    "reg:squarederror": lambda score: score,
    "multi:softprob": lambda score: score,
    "binary:logistic": lambda score: 1 / (1 + np.exp(-score)),
    "count:poisson": np.exp,
}
PARAMETERS = {
    "reg:squarederror": {"reg_loss_param": {"scale_pos_weight": "1"}},
    "binary:logistic": {"reg_loss_param": {"scale_pos_weight": "1"}},
    "multi:softprob": {"softmax_multiclass_param": {"num_class": "0"}},
    "count:poisson": {"poisson_regression_param": {"max_delta_step": "0.7"}},
}


def to_json(ensemble: Ensemble, binned: Binned, *, objective: str = "reg:squarederror") -> str:
    """The model as XGBoost's JSON, for ``xgboost.Booster(model_file=...)`` or ``load_model(bytearray(text, "utf-8"))``.

    Args:
        ensemble: The model.
        binned: What it was fitted to, or anything binned alike: it knows the cuts.
        objective: What XGBoost is to make of the scores: ``"binary:logistic"`` for the logistic loss, ``"multi:softprob"`` for
            the softmax, ``"count:poisson"``, or ``"reg:squarederror"``, which leaves them as they are, for any other loss.

    Raises:
        ValueError: If the objective is another one, or a category is no whole number of at least 0.

    References:
        https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html
    """
    require(objective in INVERSE_LINKS, "objective", f"be one of {', '.join(INVERSE_LINKS)}", objective,
            "Any other loss exports its scores as reg:squarederror.")  # fmt: skip
    cuts, trees = binned.cuts, Tree(*(None if part is None else np.asarray(part) for part in ensemble.trees))
    require(
        cuts is not None, "binned", "know its cuts", Described("one from inside a program"), "Pass what gk.boosting.bin gave."
    )
    intercept, coefficient = np.asarray(ensemble.intercept, float), np.asarray(ensemble.coefficient, float)
    num_outputs, used = trees.value.shape[-1], np.flatnonzero(coefficient)
    written = [
        _tree(trees, int(t), output, coefficient[t], binned, number)
        for number, (t, output) in enumerate((t, output) for t in used for output in range(num_outputs))
    ]
    base = ",".join(f"{value:.9E}" for value in np.atleast_1d(INVERSE_LINKS[objective](intercept)))
    parameters = json.loads(json.dumps(PARAMETERS[objective]).replace('"num_class": "0"', f'"num_class": "{num_outputs}"'))
    return json.dumps({
        "version": [3, 1, 0],
        "learner": {
            "attributes": {},
            "feature_names": list(cuts.names or ()),
            "feature_types": ["c" if f in binned.categorical else "float" for f in range(len(cuts.edges))] if cuts.names else [],
            "learner_model_param": {
                "base_score": f"[{base}]", "boost_from_average": "0", "num_feature": str(len(cuts.edges)),
                "num_class": str(num_outputs if num_outputs > 1 else 0), "num_target": "1",
            },
            "objective": {"name": objective, **parameters},
            "gradient_booster": {"name": "gbtree", "model": {
                "gbtree_model_param": {"num_trees": str(len(written)), "num_parallel_tree": "1"},
                "iteration_indptr": list(range(0, len(written) + 1, num_outputs)),
                "tree_info": [number % num_outputs for number in range(len(written))],
                "trees": written,
            }},
        },
    })  # fmt: skip


def _tree(trees: Tree, t: int, output: int, coefficient: float, binned: Binned, number: int) -> dict[str, Any]:
    """One tree for one output, without the nodes that do not split; siblings stand side by side, as XGBoost's SHAP values ask."""
    kinds: dict[str, list[int]] = {"categories": [], "categories_nodes": [], "categories_segments": [], "categories_sizes": []}
    num_nodes, rows, places = trees.feature.shape[1], [_blank_row(NO_PARENT)], [0]
    for own, node in enumerate(places):  # which grows meanwhile
        row = rows[own]
        row["cover"] = float(trees.cover[t, node])
        if node >= num_nodes or not trees.is_split[t, node]:
            while node < num_nodes:
                node = 2 * node + 1
            row["condition"] = row["weight"] = float(coefficient * trees.value[t, node - num_nodes, output])
            continue
        feature, children = int(trees.feature[t, node]), [2 * node + 1, 2 * node + 2]
        row |= {"feature": feature, "gain": float(trees.gain[t, node]), "left": len(rows), "right": len(rows) + 1}
        if feature in binned.categorical:
            sent_right, is_swapped = _categories(trees, t, node, binned)
            kinds["categories_nodes"].append(own)
            kinds["categories_segments"].append(len(kinds["categories"]))
            kinds["categories_sizes"].append(len(sent_right))
            kinds["categories"] += sent_right
            row |= {"kind": 1, "default_left": 1}
            children = children[::-1] if is_swapped else children
        else:
            row["default_left"] = int(trees.is_missing_left[t, node])
            row["condition"] = _condition(binned, feature, int(trees.cut[t, node]))
        rows += [_blank_row(own), _blank_row(own)]
        places += children
    column = lambda name: [row[name] for row in rows]  # noqa: E731
    return {
        "id": number,
        "tree_param": {
            "num_nodes": str(len(rows)), "num_feature": str(len(binned.cuts.edges)), "num_deleted": "0", "size_leaf_vector": "1",
        },
        "left_children": column("left"), "right_children": column("right"), "parents": column("parent"),
        "split_indices": column("feature"), "split_conditions": column("condition"),
        "default_left": column("default_left"), "split_type": column("kind"), "base_weights": column("weight"),
        "loss_changes": column("gain"), "sum_hessian": column("cover"), **kinds,
    }  # fmt: skip


def _blank_row(parent: int) -> dict[str, Any]:
    return {
        "left": -1, "right": -1, "parent": parent, "feature": 0, "default_left": 0, "kind": 0, "gain": 0.0, "cover": 0.0,
        "condition": 0.0, "weight": 0.0,
    }  # fmt: skip


def _condition(binned: Binned, feature: int, cut: int) -> float:
    """The float32 ``c`` with ``x < c`` just where the bin of x is at most the cut."""
    edges = np.asarray(binned.cuts.edges[feature], np.float64)
    if cut >= len(edges):  # all that is a number goes left
        return float(np.finfo(np.float32).max)
    below = np.float32(edges[cut])
    if float(below) > edges[cut]:
        below = np.nextafter(below, np.float32(-np.inf))
    return float(np.nextafter(below, np.float32(np.inf)))


def _categories(trees: Tree, t: int, node: int, binned: Binned) -> tuple[list[int], bool]:
    """The categories that XGBoost sends right, and whether its children are ours swapped: what it does not know goes left."""
    feature = int(trees.feature[t, node])
    values = np.asarray(binned.cuts.edges[feature])
    is_whole = (values == np.round(values)).all() and (values >= 0).all()
    require(is_whole, f"features[:, {feature}]", "have whole numbers of at least 0 for categories", values, "Encode them anew.")
    bits = trees.categories[t, node][np.arange(len(values)) // 32] >> (np.arange(len(values)) % 32).astype(np.uint32) & 1
    is_swapped = not trees.is_missing_left[t, node]
    return values[bits.astype(bool) == is_swapped].astype(int).tolist(), bool(is_swapped)


def from_json(text: str) -> tuple[Ensemble, Binned]:
    """A model from XGBoost's JSON, and empty bins whose ``like(features)`` makes what it predicts from.

    Trees with categories and with vectors in their leaves are not read, nor are models of several targets, of trees that are
    dropped (``dart``), without trees (``gblinear``), or of an objective that is not known here.

    Raises:
        ValueError: For those, for trees deeper than 10 levels, and where a feature has more than 254 conditions.
    """
    objective, model, param, names = _parts(text)
    require(objective in LINKS, "text", f"have one of the objectives {', '.join(LINKS)}", objective,
            "Predict with XGBoost itself.")  # fmt: skip
    targets = int(param.get("num_target", 1))
    require(targets <= 1, "text", "be a model of one target", targets, "Fit one for each target, or predict with XGBoost itself.")
    trees, outputs = model["trees"], max(int(param["num_class"]), 1)
    plain = all(not any(tree["split_type"]) and tree["tree_param"].get("size_leaf_vector", "1") in ("0", "1") for tree in trees)
    require(plain, "text", "hold trees of numbers with scalar leaves", Described("others"), "Predict with XGBoost itself.")
    depth = max((_depth(tree) for tree in trees), default=1)
    require(depth <= 10, "text", "hold trees of at most 10 levels", depth, "Predict with XGBoost itself.")
    edges = tuple(_edges(trees, feature) for feature in range(int(param["num_feature"])))
    most = max(map(len, edges), default=0)
    require(most <= 254, "text", "ask at most 254 conditions of a feature", most, "Predict with XGBoost itself.")
    read = [_read(tree, info, depth, outputs, edges) for tree, info in zip(trees, model["tree_info"])]
    stacked = Tree(*(None if parts[0] is None else np.stack(parts) for parts in zip(*read)))
    base = np.array(
        json.loads(param["base_score"].replace("E", "e")) if "[" in param["base_score"] else [float(param["base_score"])]
    )
    intercept = LINKS[objective](np.broadcast_to(base, outputs))
    blank = np.zeros((0, len(edges)), np.uint8)
    intercept = np.asarray(intercept if outputs > 1 else intercept[0], np.float32)
    return Ensemble(stacked, np.ones(len(trees), np.float32), intercept), Binned(blank, 256, (), True, Cuts(edges, names))


def _parts(text: str) -> tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...] | None]:
    """The objective of what XGBoost wrote, its trees, what all of it shares, and the names of the features."""
    try:
        learner = json.loads(text)["learner"]
        booster, objective = learner["gradient_booster"], learner["objective"]["name"]
        kind, model, param = booster["name"], booster.get("model"), learner["learner_model_param"]
    except (ValueError, KeyError, TypeError) as error:
        found = Described(f"something else ({type(error).__name__}: {error})")
        require(False, "text", "be XGBoost's JSON of a model of trees", found, "Write it by save_raw('json').")
    require(kind == "gbtree" and model, "text", "be a model of the booster gbtree", kind, "Predict with XGBoost itself.")
    return objective, model, param, tuple(learner.get("feature_names") or ()) or None


def _depth(tree: dict[str, Any], node: int = 0) -> int:
    if tree["left_children"][node] < 0:
        return 0 if node else 1
    return 1 + max(_depth(tree, tree[side][node]) if tree["left_children"][tree[side][node]] >= 0 else 0
                   for side in ("left_children", "right_children"))  # fmt: skip


def _edges(trees: list[dict[str, Any]], feature: int) -> np.ndarray:
    """The cuts of a feature: the float32 before each condition."""
    told = {
        condition for tree in trees
        for left, own, condition in zip(tree["left_children"], tree["split_indices"], tree["split_conditions"])
        if left >= 0 and own == feature
    }  # fmt: skip
    return np.nextafter(np.array(sorted(told), np.float32), np.float32(-np.inf))


def _read(tree: dict[str, Any], info: int, depth: int, outputs: int, edges: tuple[np.ndarray, ...]) -> Tree:
    """A complete tree; below a leaf all goes left."""
    num_nodes = 2**depth - 1
    read = Tree(
        feature=np.zeros(num_nodes, np.int32), cut=np.full(num_nodes, 256, np.int32), is_missing_left=np.ones(num_nodes, bool),
        is_split=np.zeros(num_nodes, bool), categories=None, gain=np.zeros(num_nodes, np.float32),
        cover=np.zeros(2 * num_nodes + 1, np.float32), value=np.zeros((num_nodes + 1, outputs), np.float32),
    )  # fmt: skip
    queue = [(0, 0)]
    while queue:
        own, place = queue.pop()
        read.cover[place] = tree["sum_hessian"][own]
        if tree["left_children"][own] < 0:
            while place < num_nodes:
                place = 2 * place + 1
                read.cover[place] = tree["sum_hessian"][own]
            read.value[place - num_nodes, info] = tree["split_conditions"][own]
            continue
        feature = tree["split_indices"][own]
        cut = np.nextafter(np.float32(tree["split_conditions"][own]), np.float32(-np.inf))
        read.feature[place], read.cut[place] = feature, np.searchsorted(edges[feature], cut)
        read.is_missing_left[place], read.is_split[place] = tree["default_left"][own], True
        read.gain[place] = tree["loss_changes"][own]
        queue += [(tree["left_children"][own], 2 * place + 1), (tree["right_children"][own], 2 * place + 2)]
    return read
