"""What the targets of a loss must be, written beside the loss: its rule flows in and is found again, out of a ``partial`` too."""

from __future__ import annotations

import functools
from collections.abc import Callable

from gradkit.contracts import Rule

ROUNDING = 1e-5  # by which a probability may miss its range


def with_targets(rule: Callable[[tuple[int, ...]], Rule]) -> Callable[[Callable], Callable]:
    """Mark a loss with what its targets must be, given the shape of a score."""

    def mark(loss):
        loss.rule_of_targets = rule
        return loss

    return mark


def rule_of(loss: Callable, score_shape: tuple[int, ...]) -> Rule | None:
    """What the targets of a loss must be beside scores of that shape; ``None`` if it does not say."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    rule = getattr(loss, "rule_of_targets", None)
    return None if rule is None else rule(score_shape)


def classes(score_shape: tuple[int, ...]) -> Rule:
    """One of as many classes as there are scores.

    >>> classes((10,)).words
    'hold classes from 0 to 9, as there are 10 scores'
    """
    k = score_shape[0] if score_shape else 1
    return Rule(
        f"hold classes from 0 to {k - 1}, as there are {k} scores",
        lambda targets: (targets >= 0) & (targets < k),
        f"Number the classes from 0 (from labels 1 to {k} subtract 1), let the model return a score for each class, or give "
        "examples that are to be left out the weight 0.",
    )


def probabilities(score_shape: tuple[int, ...]) -> Rule:
    """0, 1, or a probability."""
    return Rule(
        "lie between 0 and 1",
        lambda targets: (targets >= -ROUNDING) & (targets <= 1 + ROUNDING),
        "Write the two classes as 0 and 1; gk.losses.hinge takes -1 and +1 as well.",
    )


def signs(score_shape: tuple[int, ...]) -> Rule:
    """0 and 1, or -1 and +1."""
    return Rule(
        "be 1 for one class, 0 or -1 for the other",
        lambda targets: (targets == 1) | (targets == 0) | (targets == -1),
        "Write the two classes as 0 and 1, or as -1 and +1.",
    )


def counts(score_shape: tuple[int, ...]) -> Rule:
    """A count or a rate."""
    return Rule(
        "be counts or rates, at least 0",
        lambda targets: targets >= 0,
        "For targets of both signs take gk.losses.squared or gk.losses.gaussian.",
    )
