"""Flax nnx modules as models: a module flows in, pure functions flow out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradkit import checks, trees
from gradkit.descents import Stateful
from gradkit.models.base import Model


def from_nnx(module: Any) -> Model:
    """Turn a flax nnx module into a ``Model``.

    ``train`` runs the module as after ``module.train()``, with random streams made anew from its ``key``; ``apply`` runs it as
    after ``module.eval()``: no dropout, running averages. The module itself is left as it is. Its ``nnx.Param`` are trained,
    its other variables (``nnx.BatchStat``...) are the state, without random streams and sown intermediates. Both are nested
    dicts of arrays, and ``nnx.update(module, fit.params.params, fit.params.state)`` loads them into a module.

    Args:
        module: An ``nnx.Module`` that maps inputs to scores; or ``key -> module``, so that each seed starts from other weights.
            Attributes of the module may be traced where its code accepts that. ``nnx.Dropout`` branches on its rate: sweep it
            along a ``static`` axis.

    Returns:
        A ``Model`` whose params are ``Stateful(params, state)``.

    Raises:
        TypeError: If ``module`` is neither, or makes something else.

    >>> from flax import nnx
    >>> model = from_nnx(lambda key: nnx.Linear(4, 2, rngs=nnx.Rngs(key)))
    >>> start = model.init(jax.random.key(0))
    >>> jax.tree.map(jnp.shape, start)
    Stateful(params={'bias': (2,), 'kernel': (4, 2)}, state={})
    >>> model.apply(start, jnp.ones((3, 4))).shape
    (3, 2)
    """
    from flax import nnx  # costs a tenth of the import of jax, optax and flax

    make = _factory(module, nnx.Module)
    example = nnx.clone(make(jax.random.key(0)))
    example.train()
    training, params, streams, _, state = _split(nnx, example)
    params_structure, state_structure = jax.tree.structure(params), jax.tree.structure(state)
    example.eval()
    evaluating, *_ = _split(nnx, example)

    def start_of(module: Any) -> Stateful:
        _, params, _, _, state = _split(nnx, module)
        return Stateful(nnx.to_pure_dict(params), nnx.to_pure_dict(state))

    def run(graph: Any, params: Any, state: Any, streams: Any, inputs: Any) -> tuple[Any, Any]:
        parts = _refill(params_structure, params), streams, _refill(state_structure, state)
        module = nnx.merge(graph, *parts, copy=True)  # else a module that draws would change our streams
        return module(inputs), start_of(module).state

    def apply(params: Stateful, inputs: Any) -> Any:
        return run(evaluating, params.params, params.state, streams, inputs)[0]

    def train(params: Any, state: Any, inputs: Any, key: jax.Array) -> tuple[Any, Any]:
        scores, new_state = run(training, params, state, _reseed(streams, key), inputs)
        return scores, jax.tree.map(_keep_dtype, state, new_state)

    return Model(lambda key: start_of(make(key)), apply, train)


def _factory(module: Any, nnx_module: type) -> Callable[[jax.Array], Any]:
    def make(key):
        made = module(key)
        checks.require(isinstance(made, nnx_module), "module", "make a flax nnx module from a key", made,
                       "Return the module, as in `lambda key: Net(rngs=nnx.Rngs(key))`.", error=TypeError)  # fmt: skip
        return made

    if isinstance(module, nnx_module):
        return lambda key: module
    is_linen = hasattr(module, "apply")
    checks.require(callable(module) and not is_linen, "module",
                   "be a gradkit Model, a flax nnx module or a function key -> nnx module", module,
                   "For any other, write gk.descent(gk.objective(loss, apply), init, optimizer) with its functions "
                   "apply(params, inputs) and init(key).", error=TypeError)  # fmt: skip
    return make


def _split(nnx, module: Any) -> tuple[Any, ...]:
    return nnx.split(module, nnx.Param, nnx.RngState, nnx.Intermediate, ...)


def _refill(structure: Any, values: Any) -> Any:
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in jax.tree.leaves(values)])


def _reseed(streams: Any, key: jax.Array) -> Any:
    leaves, structure = jax.tree.flatten(streams)
    fresh = [
        jax.random.split(jax.random.fold_in(key, index), leaf.shape) if trees.is_key(leaf) else jnp.zeros_like(leaf)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, fresh)


def _keep_dtype(old: Any, new: Any) -> jax.Array:
    return new.astype(old.dtype) if trees.is_inexact(old) else new
