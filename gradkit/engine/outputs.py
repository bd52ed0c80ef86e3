"""What steps and evaluations return, checked by its shapes before anything compiles."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gradkit import checks, trees
from gradkit.contracts import Info


def check_step(state: Any, new_state: Any, info: Any):
    """Refuse a step that changes the form of its state or tells something else than scalars."""
    checks.require(isinstance(info, Info), "Descent.step", "return (State, Info, Growth)", info,
                   "The second part is gk.Info(loss, metrics).", error=TypeError)  # fmt: skip
    checks.require(isinstance(info.metrics, dict), "Info.metrics", "be a dict of named scalars", info.metrics,
                   "Give {} if there are none.", error=TypeError)  # fmt: skip
    remedy = "A step keeps structure, shapes and dtypes of its state; cast what it computes (gk.optimizers do)."
    before, after = jax.tree.structure(state), jax.tree.structure(new_state)
    checks.require(before == after, "Descent.step", f"return a state of structure {before}", checks.Described(after),
                   remedy, error=TypeError)  # fmt: skip
    for name, old, new in zip(trees.leaf_names(state, root="state"), jax.tree.leaves(state), jax.tree.leaves(new_state)):
        checks.require((old.shape, old.dtype) == (new.shape, new.dtype), f"Descent.step: {name}",
                       f"stay {_describe(old)}", checks.Described(_describe(new)), remedy, error=TypeError)  # fmt: skip
    scalars = {"loss": info.loss} | {f"metrics.{name}": leaf for name, leaf in info.metrics.items()}
    for name, leaf in scalars.items():
        _check_number(f"Info.{name}", leaf)


def check_metrics(named: dict[str, Any]):
    """Refuse metrics that are no scalars."""
    for name, leaf in named.items():
        what = "the loss in evaluation mode" if name == "validation_loss" else f"evaluate[{name!r}]"
        _check_number(what, leaf)


def _check_number(what: str, leaf: Any):
    is_scalar = getattr(leaf, "shape", None) == ()
    is_number = is_scalar and (jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool)
    given = checks.Described(_describe(leaf)) if hasattr(leaf, "shape") else leaf
    remedy = "Take the mean over the examples."
    checks.require(is_number, what, "be a scalar", given, remedy, error=TypeError)


def _describe(leaf) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
