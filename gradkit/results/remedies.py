"""What to try where no member of a sweep finished: the first failure, by what was not finite first, in words."""

from __future__ import annotations

from collections.abc import Sequence

from gradkit.contracts import Status
from gradkit.results.fit import Fit

SMALLER = "Take smaller steps: lower the learning rates."


def remedy(fits: Sequence[Fit], notes: Sequence[str]) -> str:
    """What the member says that failed first; if none failed, why they stopped.

    Args:
        fits: The members, none of which finished.
        notes: Of the sweep.
    """
    failed = [fit for fit in fits if fit.status == Status.DIVERGED]
    if not failed:
        return " ".join(["Let them make their steps.", *notes])
    first = min(failed, key=lambda fit: fit.steps)
    if first.bad_leaf.endswith("at the start"):
        return "It was so before the first step: look at the initialization."
    if first.skipper:
        return f"Leave bad steps out by gk.transforms.guard(optimizer): {first.skipper} leaves out the updates, not their losses."
    part = first.bad_leaf.split(" of ")[0].split("[")[0]
    if part == "batch":
        return "Look at the data."
    if part in ("updates", "params"):
        return SMALLER
    if part not in ("loss", "gradients"):
        return f"Look at what keeps {first.bad_leaf}, or lower the learning rates."
    thing = "The loss" if part == "loss" else "The gradient of the loss"
    if first.steps == 0:
        return f"{thing} is not finite where it begins: look at targets, data and initialization, and where it is not defined."
    return f"{SMALLER} If that does not help, look at where {thing[0].lower()}{thing[1:]} is not defined."
