"""Trees grown slowly, in float64, one node and one cut at a time: what the compiled ones are held against."""

import dataclasses

import numpy as np

SMOOTHING = 10.0


@dataclasses.dataclass
class Node:
    """What became of a node: its examples, its split, or nothing."""

    rows: np.ndarray
    low: float = -np.inf
    high: float = np.inf
    gain: float = 0.0
    feature: int = -1
    is_left: np.ndarray | None = None  # by bin
    children: tuple = ()


def weight(gradient, curvature, penalties, low=-np.inf, high=np.inf):
    small = np.sign(gradient) * np.maximum(np.abs(gradient) - penalties.l1, 0)
    limit = penalties.max_delta_step
    return np.clip(np.clip(-small / (curvature + penalties.l2), -limit, limit), low, high)


def score(gradient, curvature, penalties, low, high):
    w = weight(gradient, curvature, penalties, low, high)
    return -np.sum(2 * gradient * w + (curvature + penalties.l2) * w**2 + 2 * penalties.l1 * np.abs(w))


def grow(codes, gradient, curvature, shape, penalties, allowed=None):
    """The root of a tree; gradient and curvature of shape (n, k), codes (n, d), ``allowed`` bool (depth, d)."""
    root = Node(np.arange(len(codes)))
    level = [root]
    for depth in range(shape.depth):
        mask = np.ones(codes.shape[1], bool) if allowed is None else allowed[depth]
        candidates = [_candidates(node, codes, gradient, curvature, shape, penalties, mask) for node in level]
        if shape.is_oblivious:
            total = {}
            for own in candidates:
                for key, (gain, *_) in own.items():
                    total[key] = total.get(key, 0) + gain
            best = min(total, key=lambda key: (-round(total[key], 9), key), default=None)
        following = []
        for node, own in zip(level, candidates):
            if shape.is_oblivious:
                key = best
                if key is not None and key not in own:  # it splits without a gain, for all nodes of a level do
                    own = {key: (0.0, next(other[key][1] for other in candidates if key in other))}
            else:
                key = min(own, key=lambda key: (-own[key][0], key), default=None)
            if key is not None:
                _split(node, key, own[key], codes, gradient, curvature, shape, penalties)
                following += node.children
        level = following
    return root


def _candidates(node, codes, gradient, curvature, shape, penalties, mask):
    """``{(feature, cut, direction): (gain, is_left)}`` of all splits that are allowed."""
    found = {}
    for feature in np.flatnonzero(mask):
        order = _order(node, codes, gradient, curvature, shape, feature)
        for cut in range(shape.num_bins - 1):
            for direction in (0, 1) if shape.has_missing else (0,):
                split = _cut(node, codes, gradient, curvature, shape, penalties, feature, cut, direction, order)
                if split is not None:
                    found[int(feature), cut, direction] = split
    return found


def _order(node, codes, gradient, curvature, shape, feature):
    numbers = np.arange(shape.num_bins - 1)
    if feature not in shape.categorical:
        return numbers
    own, pull = codes[node.rows, feature], np.full(len(numbers), np.inf)
    known = curvature[node.rows[own < len(numbers)], 0]
    mean = known.sum() / max(len(known), 1)
    for code in np.unique(own[own < len(numbers)]):
        rows = node.rows[own == code]
        if len(rows) >= 10:
            pull[code] = gradient[rows, 0].sum() / (curvature[rows, 0].sum() + SMOOTHING * mean)
    return np.argsort(pull, kind="stable")


def _cut(node, codes, gradient, curvature, shape, penalties, feature, cut, direction, order):
    order = np.arange(shape.num_bins - 1) if order is None else order
    is_left = np.zeros(shape.num_bins, bool)
    is_left[order[: cut + 1]] = True
    is_left[-1] = direction == 1
    goes = is_left[codes[node.rows, feature]]
    sides = [node.rows[goes], node.rows[~goes]]
    sums = [(gradient[rows].sum(0), curvature[rows].sum(0)) for rows in sides]
    least = max(penalties.min_child_samples, 1)
    if any(len(rows) < least or h.mean() < penalties.min_child_weight for rows, (_, h) in zip(sides, sums)):
        return None
    bounds = penalties, node.low, node.high
    if shape.monotone is not None and shape.monotone[feature]:
        left, right = (weight(g[0], h[0], *bounds) for g, h in sums)
        if shape.monotone[feature] * (right - left) < 0:
            return None
    whole = score(gradient[node.rows].sum(0), curvature[node.rows].sum(0), *bounds)
    gain = sum(score(g, h, *bounds) for g, h in sums) - whole
    if not gain > max(penalties.gamma, 1e-6 * (gain + whole)):
        return None
    return gain, is_left


def _split(node, key, split, codes, gradient, curvature, shape, penalties):
    feature, *_ = key
    node.gain, node.is_left = split
    node.feature = feature
    if not (codes[node.rows, feature] == shape.num_bins - 1).any():
        numbers, load = node.is_left[codes[node.rows, feature]], curvature[node.rows].mean(1)
        node.is_left[-1] = load[numbers].sum() >= load[~numbers].sum()
    goes = node.is_left[codes[node.rows, feature]]
    left, right = Node(node.rows[goes], node.low, node.high), Node(node.rows[~goes], node.low, node.high)
    sign = 0 if shape.monotone is None else shape.monotone[feature]
    if sign:
        sums = [(gradient[child.rows, 0].sum(), curvature[child.rows, 0].sum()) for child in (left, right)]
        middle = np.mean([weight(*pair, penalties, node.low, node.high) for pair in sums])
        (left.high, right.low) = (middle, middle) if sign > 0 else (left.high, right.low)
        (left.low, right.high) = (middle, middle) if sign < 0 else (left.low, right.high)
    node.children = (left, right)


def leaves(node, depth, position=0):
    """``{leaf number: node}``, counted from the left as in a complete tree of that depth."""
    if not node.children:
        return {position << depth: node}
    left, right = (leaves(child, depth - 1, 2 * position + side) for side, child in enumerate(node.children))
    return left | right
