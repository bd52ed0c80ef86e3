"""Whether members can be compared: what was prepared flows in; out flows a word where it is not one loss for all, or where each
program has random numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from gradkit.engine.dependencies import Judged
from gradkit.engine.outline import identity_now
from gradkit.engine.runs import Run
from gradkit.questions import BEST_LOSS, FINAL_LOSS, VALIDATION_LOSS, Reported, is_loss
from gradkit.requests import Prepared
from gradkit.results import words
from gradkit.spaces import Space

_First = tuple[dict[str, Any], Judged]  # the first member of a program, and what its loss depends on


def unlike_losses(space: Space, prepared: Prepared) -> list[str]:
    """Say it where members are judged by losses that are not one and the same."""
    metric, outlines = prepared.question.metric, [run.outline for run in prepared.runs]
    is_evaluated = metric == VALIDATION_LOSS
    of_training = (FINAL_LOSS, BEST_LOSS, *prepared.reported.step_columns.values())
    if not is_evaluated and not (is_loss(metric) and metric in of_training):
        return []
    judged = [outline.of_evaluation if is_evaluated else outline.of_training for outline in outlines]
    firsts = [(space[int(run.members.positions[0])], each) for run, each in zip(prepared.runs, judged)]
    static = [name for name in space.axes if name not in space.traced]
    read = frozenset().union(*(each.read for each in judged))
    compared = [name for name in space.axes if name != prepared.question.over]
    differing = [name for name in compared if name in read and len({member.get(name) for member in space}) > 1]
    differing += [name for name in compared if name in static and _has_several(firsts, static, name)]
    if not differing:
        return []
    which = "loss in evaluation mode" if is_evaluated else "training loss"
    return [
        f"the {which} reads {', '.join(differing)} itself, not through the parameters: by it members are ranked by different "
        f"losses. {_remedy(is_evaluated, prepared.reported, any(jax.tree.leaves(each.growth) for each in outlines))}"
    ]


def _remedy(is_evaluated: bool, reported: Reported, grows: bool) -> str:
    if grows:
        return "Rank by a metric of evaluate=, on validation="
    if is_evaluated:
        return "Pass gk.descent a validation_loss= that does not, or rank by a metric of evaluate="
    if VALIDATION_LOSS in reported.of_evaluation:
        return "Rank by metric='validation_loss', or by one of evaluate="
    return "Pass validation= (an objective is evaluated without its penalty), or rank by a metric of evaluate="


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


def _has_several(firsts: Sequence[_First], static: Sequence[str], name: str) -> bool:
    """Whether members that differ along a static axis are judged by different losses of one example, or other numbers in one."""
    losses: dict[str, frozenset] = {}
    numbers: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for member, judged in firsts:
        value = repr(member.get(name))
        losses[value] = losses.get(value, frozenset()) | judged.losses
        if words.is_number(member.get(name)):  # programs alike but for their numbers, of members alike but for it
            alike = (judged.skeleton, *(repr(member.get(other)) for other in static if other != name))
            numbers.setdefault(alike, set()).add(judged.numbers)
    return len(set(losses.values())) > 1 or any(len(each) > 1 for each in numbers.values())
