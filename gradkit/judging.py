"""What the members of a sweep are judged by: what was prepared flows in; out flows a word where it is not one loss for all."""

from __future__ import annotations

from collections.abc import Sequence

from gradkit.engine.runs import Run
from gradkit.questions import BEST_LOSS, FINAL_LOSS, VALIDATION_LOSS, is_loss
from gradkit.requests import Prepared
from gradkit.spaces import Space


def unlike_losses(space: Space, prepared: Prepared) -> list[str]:
    """Say it where members are judged by losses that are not one and the same."""
    has_validation = VALIDATION_LOSS in prepared.reported.of_evaluation
    metric = prepared.question.metric
    if metric != VALIDATION_LOSS if has_validation else not (is_loss(metric) or metric in (FINAL_LOSS, BEST_LOSS)):
        return []
    read = frozenset().union(*(run.outline.read_by_loss for run in prepared.runs))
    differing = [name for name in space.axes if name in read and len({member.get(name) for member in space}) > 1]
    differing += [name for name in space.axes if name not in space.traced and _has_several_losses(space, prepared.runs, name)]
    if not differing:
        return []
    which = "loss in evaluation mode" if has_validation else "training loss"
    remedy = "Pass validation= (an objective is evaluated without its penalty)"
    remedy = "Pass validation_loss= to gk.descent" if has_validation else remedy
    return [
        f"the {which} reads {', '.join(differing)} itself, not through the parameters: members that differ in it are ranked by "
        f"different losses. {remedy}, or rank by a metric of evaluate="
    ]


def _has_several_losses(space: Space, runs: Sequence[Run], name: str) -> bool:
    """Whether members that differ along a static axis are judged by different losses of one example."""
    losses: dict[str, frozenset] = {}
    for run in runs:
        value = repr(space[int(run.members.positions[0])].get(name))
        losses[value] = losses.get(value, frozenset()) | run.outline.losses
    return len(set(losses.values())) > 1
