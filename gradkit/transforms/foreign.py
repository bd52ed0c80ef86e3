"""States of optax's own wrappers: where they keep what is to be evaluated, and which of them no descent can run."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradkit.checks import Described, refuse
from gradkit.transforms.guarding import GuardState, found

AVERAGING = (optax.contrib.ScheduleFreeState, optax.contrib.SAMState)
REFUSED = {
    optax.LookaheadState: (
        "take the parameters as they are",
        "optax.lookahead, which takes pairs of them",
        "Use gk.transforms.lookahead(fast_optimizer, sync_steps=6, slow_step=0.5).",
    ),
    optax.transforms.MonitorState: (
        "keep the structure of its state",
        "optax.monitor, whose state grows at the first step",
        "Use gk.transforms.observe(optimizer), or optax.snapshot(name, measure).",
    ),
    optax.contrib.DifferentiallyPrivateAggregateState: (
        "take the mean gradient of a batch",
        "optax.contrib.differentially_private_aggregate, which takes one for each example",
        "Feed it gk.gradients.per_example(loss_fn)(params, batch) in a loop of your own.",
    ),
}


def refuse_foreign(state: Any):
    """Refuse an optimizer of optax's that would go wrong in a descent, with the line that does not; known by its state.

    Raises:
        TypeError: The optimizer, or one inside it, is among these.
    """
    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, tuple(REFUSED))):
        for kind, (rule, given, remedy) in REFUSED.items():
            if isinstance(node, kind):
                refuse("optimizer", rule, Described(given), remedy, error=TypeError)


def skipping_wrapper(state: Any) -> str:
    """The wrapper of optax's that leaves bad updates out, unless a guard is there too; ``""`` if there is none.

    It keeps a step that is not finite from the parameters only: its loss still ends a descent.
    """
    kinds = (optax.ApplyIfFiniteState, optax.MultiStepsState)
    if next(found(state, GuardState), None) is not None:
        return ""
    for node in found(state, kinds):
        if isinstance(node, optax.ApplyIfFiniteState):
            return "optax.apply_if_finite"
        if jax.tree.leaves(node.skip_state):
            return "optax.MultiSteps(should_skip_update_fn=...)"
    return ""


def foreign_evaluation(node: Any, params: Any) -> Any:
    """What is to be evaluated where the parameters are ``params``; a leaf that ``optax.masked`` hides stays hidden.

    The average of schedule-free, as ``optax.contrib.schedule_free_eval_params`` gives it; of sharpness-aware minimization the
    point that its adversary left, and comes back to.
    """
    if isinstance(node, optax.contrib.ScheduleFreeState):
        b1 = node.b1
        return _where_kept(lambda z, y: (y - (1.0 - b1) * z) / b1, node.z, params)
    is_back = node.steps_since_sync == 0
    return _where_kept(lambda outer, now: jnp.where(is_back, now, outer), node.cache, params)


def _where_kept(change, kept, params):
    is_masked = lambda leaf: isinstance(leaf, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(lambda a, b: a if is_masked(a) else change(a, b), kept, params, is_leaf=is_masked)
