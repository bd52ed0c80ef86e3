"""What is wrong with the values of a batch: a batch and the rule for its targets flow in, a refusal or its words flow out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gradkit.checks import Described, require
from gradkit.contracts import Rule
from gradkit.data.arrays import places


class Fault(NamedTuple):
    """A leaf that breaks a rule, with what was found in it and what to do."""

    place: str
    rule: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place} must {self.rule}, got {self.found}"


def check_targets(argument: str, batch: Any, rule: Rule | None):
    """Refuse targets (the second part of a batch) that the loss has no meaning for."""
    fault = target_fault(argument, batch, rule)
    if fault is not None:
        require(False, fault.place, fault.rule, Described(fault.found), fault.remedy)


def target_fault(argument: str, batch: Any, rule: Rule | None) -> Fault | None:
    """What is wrong with the targets of a batch, or of several that are stacked; examples of weight zero hold what they like."""
    if rule is None or not (isinstance(batch, tuple) and len(batch) >= 2):
        return None
    weights = batch[2] if len(batch) > 2 and hasattr(batch[2], "shape") else None
    for place, targets in places(f"{argument}[1]", batch[1]):
        targets = np.asarray(targets)  # numpy compares an unsigned number with -1, or a byte with 256; jax wraps these around
        is_bad = ~np.asarray(rule.is_met(targets))
        if weights is not None and np.shape(weights) == is_bad.shape[: np.ndim(weights)]:
            is_bad = is_bad & (np.asarray(weights) != 0).reshape(*np.shape(weights), *[1] * (is_bad.ndim - np.ndim(weights)))
        if is_bad.any():
            return Fault(place, rule.words, _found(targets, is_bad), rule.remedy)
    return None


def _found(targets: np.ndarray, is_bad: np.ndarray) -> str:
    first = tuple(np.argwhere(is_bad)[0].tolist())
    return f"{is_bad.sum()} of {is_bad.size} targets that are not so (the first: {targets[first]} at {list(first)})"
