"""What is wrong with the values of a batch: a batch and the rule for its targets flow in, a refusal or its words flow out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gradkit.checks import Described, require
from gradkit.contracts import Rule
from gradkit.data.arrays import places
from gradkit.trees import is_inexact, is_key


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
    for fault in _target_faults(argument, batch, rule):
        require(False, fault.place, fault.rule, Described(fault.found), fault.remedy)


def find_fault(argument: str, batch: Any, rule: Rule | None) -> Fault | None:
    """The first thing that is wrong with the values of a batch: targets against their rule, or what is not finite."""
    for place, leaf in places(argument, batch):
        if not is_key(leaf) and is_inexact(leaf) and not np.isfinite(leaf).all():
            is_bad = ~np.isfinite(np.asarray(leaf))
            return Fault(place, "be finite", _found(leaf, is_bad, "values"), "Remove these examples or fill the values in.")
    return next(_target_faults(argument, batch, rule), None)


def _target_faults(argument: str, batch: Any, rule: Rule | None) -> Iterator[Fault]:
    if rule is None or not (isinstance(batch, tuple) and len(batch) >= 2):
        return
    weights = batch[2] if len(batch) > 2 else None
    for place, targets in places(f"{argument}[1]", batch[1]):
        is_bad = ~np.asarray(rule.is_met(targets))
        if weights is not None and np.shape(weights) == is_bad.shape[:1]:
            is_bad = is_bad & (np.asarray(weights) != 0).reshape(-1, *[1] * (is_bad.ndim - 1))
        if is_bad.any():
            yield Fault(place, rule.words, _found(targets, is_bad, "targets"), rule.remedy)


def _found(leaf: Any, is_bad: np.ndarray, what: str) -> str:
    first = tuple(np.argwhere(is_bad)[0].tolist())
    value = jax.device_get(leaf)[first] if first else leaf
    return f"{is_bad.sum()} of {is_bad.size} {what} that are not so (the first: {value} at {list(first)})"
