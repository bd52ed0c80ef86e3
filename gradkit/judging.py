"""Whether members can be compared: what was prepared flows in; out flows a word where it is not one loss for all, or where each
program has random numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from gradkit.engine.outline import Outline, identity_now
from gradkit.engine.runs import Run
from gradkit.questions import BEST_LOSS, FINAL_LOSS, VALIDATION_LOSS, is_loss
from gradkit.requests import Prepared
from gradkit.results import words
from gradkit.spaces import Space

_First = tuple[dict[str, Any], Outline]  # the first member of a program, and what its program is


def unlike_losses(space: Space, prepared: Prepared) -> list[str]:
    """Say it where members are judged by losses that are not one and the same."""
    has_validation = VALIDATION_LOSS in prepared.reported.of_evaluation
    metric = prepared.question.metric
    if metric != VALIDATION_LOSS if has_validation else not (is_loss(metric) or metric in (FINAL_LOSS, BEST_LOSS)):
        return []
    read = frozenset().union(*(run.outline.judged.read for run in prepared.runs))
    differing = [name for name in space.axes if name in read and len({member.get(name) for member in space}) > 1]
    static = [name for name in space.axes if name not in space.traced]
    firsts = [(space[int(run.members.positions[0])], run.outline) for run in prepared.runs]
    differing += [name for name in static if _has_several_losses(firsts, name) or _has_several_numbers(firsts, static, name)]
    if not differing:
        return []
    which = "loss in evaluation mode" if has_validation else "training loss"
    remedy = "Pass validation= (an objective is evaluated without its penalty), or rank by a metric of evaluate="
    if has_validation:
        remedy = "Pass validation_loss= to gk.descent, or rank by a metric of evaluate="
    if any(jax.tree.leaves(run.outline.growth) for run in prepared.runs):
        remedy = "Rank by a metric of evaluate=, on validation="
    return [
        f"the {which} reads {', '.join(differing)} itself, not through the parameters: members that differ in it are ranked by "
        f"different losses. {remedy}"
    ]


def unlike_traces(prepared: Prepared) -> list[str]:
    """Say it where functions draw numbers while they are traced: each program then has its own, and a refit yet others."""
    if not any(run.program.kept.is_opaque and _is_another(run) for run in prepared.runs):
        return []
    return [
        "make, init or the loss gives other numbers each time it is traced: members may not start alike, and no refit repeats "
        "them. Draw from the key, or before the sweep"
    ]


def _is_another(run: Run) -> bool:
    """Whether a program, traced once more, is another one."""
    try:
        return identity_now(run.program, run.outline) != run.outline.identity
    except Exception:  # whatever a function raises that has nothing more to give
        return True


def _has_several_losses(firsts: Sequence[_First], name: str) -> bool:
    """Whether members that differ along a static axis are judged by different losses of one example."""
    losses: dict[str, frozenset] = {}
    for member, outline in firsts:
        value = repr(member.get(name))
        losses[value] = losses.get(value, frozenset()) | outline.losses
    return len(set(losses.values())) > 1


def _has_several_numbers(firsts: Sequence[_First], static: Sequence[str], name: str) -> bool:
    """Whether numbers of a static axis stand in the loss: programs alike but for their numbers, of members alike but for it."""
    numbers: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for member, outline in firsts:
        if words.is_number(member.get(name)):
            alike = (outline.judged.skeleton, *(repr(member.get(other)) for other in static if other != name))
            numbers.setdefault(alike, set()).add(outline.judged.numbers)
    return any(len(each) > 1 for each in numbers.values())
