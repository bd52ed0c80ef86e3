"""One step of boosting, as pure functions of the settings: examples and a state flow in, the next state and a tree flow out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradkit import checks
from gradkit.boosting import intercepts, leaves, native, orderings, packing, prediction, sampling, sharding
from gradkit.boosting.curvatures import Local
from gradkit.boosting.growing import Growth, Shape, Slopes, Tree, grow
from gradkit.boosting.prediction import Ensemble, predict
from gradkit.boosting.problems import Problem, Settings, pose, scores_of, shape_of
from gradkit.boosting.splits import Penalties
from gradkit.contracts import Info


class BoostingState(NamedTuple):
    """Where a model of trees stands.

    Attributes:
        scores: Where the gradient is taken, shape (n, k).
        model: The scores of the model itself, where Nesterov's acceleration looks ahead of them; else ``None``.
        intercept: Shape (k,).
        key: Of the member; each tree folds its number in.
        count: Trees grown.
        best_loss, best_count: The least loss of held-out examples so far, and after how many trees.
    """

    scores: jax.Array
    model: jax.Array | None
    intercept: jax.Array
    key: jax.Array
    count: jax.Array
    best_loss: jax.Array
    best_count: jax.Array


def begin(settings: Settings, key: jax.Array, data: Any) -> BoostingState:
    """The state before the first tree: all scores at the intercept, the constant of least loss."""
    problem = pose(settings, data)
    n, k = len(problem.binned), problem.num_outputs
    start = jnp.zeros((n, k), jnp.float32) if problem.offset is None else problem.offset
    if settings.start is None:
        one_leaf = leaves.Rows(start, problem.targets, problem.weights, jnp.zeros(n, jnp.int32), 1)
        intercept = intercepts.intercept(one_leaf, problem.derivatives)
    else:
        intercept = jnp.atleast_1d(jnp.asarray(settings.start.intercept, jnp.float32))
    intercept = jnp.where(_are_weights_sound(problem), intercept, jnp.nan)  # a failure is a value: no score is finite then
    scores = start + intercept[None]
    scores = scores if settings.start is None else prediction.added(settings.start, problem.binned, scores)
    count = jnp.int32(_num_before(settings))
    state = BoostingState(
        scores, scores if settings.is_accelerated else None, intercept, key, count, _held_out_loss(problem, scores), count
    )
    return state if settings.shard is None else sharding.everywhere(state)


def _are_weights_sound(problem: Problem) -> jax.Array:
    held_out = problem.weights if problem.held_out is None else problem.held_out
    return (problem.weights >= 0).all() & (held_out >= 0).all()


def _num_before(settings: Settings) -> int:
    """Trees of the model that the descent goes on from."""
    return 0 if settings.start is None else len(settings.start.coefficient)


def advance(settings: Settings, state: BoostingState, batch: Any) -> tuple[BoostingState, Info, packing.Packed]:
    """Grow one tree, unless the held-out loss has not fallen for as long as there is patience."""
    problem = pose(settings, batch)
    is_whole = len(problem.binned) == len(state.scores)
    checks.require(is_whole, "data", f"be the {len(state.scores)} examples that the model began with", len(problem.binned),
                   "Leave `batch_size` out: a tree is grown on all examples; `subsample` draws a share of them.")  # fmt: skip

    def grow_one(state):
        tree, leaf = _fit_tree(settings, problem, state, local)
        model = leaves.moved(state.scores, tree.value, leaf)
        scores, kept = (model, None) if not settings.is_accelerated else (_look_ahead(state, model), model)
        held_out = _held_out_loss(problem, model)
        count = state.count + 1
        is_best = (held_out < state.best_loss) | ~_is_watched(problem)
        new = state._replace(
            scores=scores, model=kept, count=count, best_loss=jnp.where(is_best, held_out, state.best_loss),
            best_count=jnp.where(is_best, count, state.best_count),
        )  # fmt: skip
        return new, packing.pack(tree), held_out

    def rest(state):
        _, nothing, _ = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(grow_one, state))
        return state, nothing, state.best_loss

    local = problem.derivatives.at(state.scores, problem.targets)
    loss = _mean(local.value, problem.weights)
    if settings.patience is None:
        state, tree, held_out = grow_one(state)
    else:
        is_done = state.count - state.best_count >= settings.patience
        state, tree, held_out = jax.lax.cond(is_done, rest, grow_one, state)
    metrics = {} if problem.held_out is None else {"held_out_loss": held_out}
    return state, Info(loss, metrics), tree


def _fit_tree(settings: Settings, problem: Problem, state: BoostingState, local: Local) -> tuple[Tree, jax.Array]:
    """The next tree, shrunk, and the leaf of each example."""
    binned, key = problem.binned, jax.random.fold_in(state.key, state.count)
    weights = problem.weights
    if not sampling.is_all(settings.subsample):
        weights = weights * sampling.examples(key, settings.subsample, len(binned))
    allowed = sampling.features(key, settings.colsample_bytree, settings.colsample_bylevel, binned.codes.shape[1], settings.depth)
    gradient = local.gradient if problem.derivatives.has_curvature else _in_one_unit(local.gradient, weights)
    slopes = Slopes(*(part.astype(jnp.float32) for part in (gradient, local.curvature, weights)))
    shape, penalties = shape_of(settings, binned), Penalties(*(jnp.asarray(each, jnp.float32) for each in problem.penalties))
    grown = _grower(settings, shape)(binned.codes, slopes, shape, _for_splits(penalties, problem), allowed=allowed)
    rows = leaves.Rows(state.scores, problem.targets, weights, grown.leaf, 2**settings.depth)
    value = _values(settings, problem, rows, penalties, grown, local)
    shrunk = _rounded((_rate(settings, state.count) * value).astype(jnp.float32), state.count)
    return grown.tree._replace(value=shrunk), grown.leaf


def _for_splits(penalties: Penalties, problem: Problem) -> Penalties:
    """Without curvature, splits are judged by mean slopes, against which a limit in the units of values says nothing."""
    return penalties if problem.derivatives.has_curvature else penalties._replace(max_delta_step=jnp.float32(jnp.inf))


def _values(
    settings: Settings, problem: Problem, rows: leaves.Rows, penalties: Penalties, grown: Growth, local: Local
) -> jax.Array:
    """The weights of the tree's leaves; in order where the tree is to be monotone."""
    solve = functools.partial(leaves.solve, rows, problem.derivatives, penalties, local=local, steps=settings.newton_steps)
    if settings.monotone is None or problem.derivatives.has_curvature:
        return solve(bounds=grown.bounds)
    [size] = rows.sums(jnp.ones_like(rows.scores))
    return orderings.monotone(solve(), size, grown.tree, settings.monotone)


def _in_one_unit(gradient: jax.Array, weights: jax.Array) -> jax.Array:
    """Gradients without curvature, each output's as large as the largest: their squares are added up to judge a split."""
    if gradient.shape[1] == 1:
        return gradient
    size = jnp.where(weights[:, None] > 0, weights[:, None] * jnp.abs(gradient), 0).sum(0)
    return gradient * jnp.where(size > 0, size.max() / jnp.where(size > 0, size, 1), 1)[None]


def _rounded(value: jax.Array, count: jax.Array) -> jax.Array:
    """The value itself, for a compiler that would add a product to the scores unrounded: what is kept is what was added.

    Only then does a model that goes on from kept trees grow those of one that never stopped.
    """
    nothing = jnp.minimum(count, 0)  # which the compiler does not know
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(value, jnp.int32) ^ nothing, jnp.float32)


def _grower(settings: Settings, shape: Shape) -> Callable:
    if settings.shard is not None:
        return functools.partial(sharding.grow, by=settings.shard)
    return native.grow if native.knows(shape) else grow


def _rate(settings: Settings, count: jax.Array) -> Any:
    return settings.learning_rate(count) if callable(settings.learning_rate) else settings.learning_rate


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """The mean of values that weigh something; NaN if none does, as nothing is known then."""
    weights = jnp.broadcast_to(weights, values.shape)
    total = weights.sum()
    return jnp.where(total > 0, jnp.where(weights > 0, weights * values, 0).sum() / jnp.where(total > 0, total, 1), jnp.nan)


def _held_out_loss(problem: Problem, scores: jax.Array) -> jax.Array:
    """The mean loss of the held-out examples: NaN if the fold has none; 0, which nobody reads, where no fold is named."""
    if problem.held_out is None:
        return jnp.zeros((), scores.dtype)
    return _mean(problem.derivatives.value(scores, problem.targets), problem.held_out)


def _is_watched(problem: Problem) -> Any:
    """Whether an example is held out that weighs something; else every tree counts, for nothing speaks against it."""
    return problem.held_out is None or (problem.held_out > 0).any()


def _look_ahead(state: BoostingState, model: jax.Array) -> jax.Array:
    """Nesterov's mixture of the model and the one before it."""
    ahead = _momenta(state.count + 1)
    return (1 - ahead) * model + ahead * state.model


def _momenta(count: jax.Array) -> jax.Array:
    """``(1 - l_t) / l_{t+1}`` after ``count`` trees, where ``l_0 = 0`` and ``l_t = (1 + sqrt(1 + 4 l_{t-1}**2)) / 2``."""
    grow_ = lambda _, last: (1 + jnp.sqrt(1 + 4 * last**2)) / 2  # noqa: E731
    current = jax.lax.fori_loop(0, count, grow_, jnp.float32(0))
    return (1 - current) / grow_(None, current)


def finish(settings: Settings, state: BoostingState, growths: packing.Packed) -> Ensemble:
    """The model: all trees of the run, those after the best one without weight where there is patience."""
    trees = packing.unpack(growths)
    number = state.count if settings.patience is None else state.best_count
    coefficient = _coefficients(settings, number - _num_before(settings), len(trees.gain))
    if settings.start is not None:
        join = lambda first, second: jnp.concatenate([first, second])  # noqa: E731
        trees, coefficient = jax.tree.map(join, (settings.start.trees, settings.start.coefficient), (trees, coefficient))
    return Ensemble(trees, coefficient, scores_of(settings, state.intercept))


def _coefficients(settings: Settings, number: jax.Array, num_trees: int) -> jax.Array:
    """How often each tree counts in the model after so many trees."""
    tree = jnp.arange(num_trees)
    if not settings.is_accelerated:
        return (tree < number).astype(jnp.float32)

    def add(count, carry):
        ahead, model = carry
        new = ahead + (tree == count)
        share = _momenta(count + 1)
        return (1 - share) * new + share * model, new

    blank = jnp.zeros(num_trees)
    return jax.lax.fori_loop(0, jnp.minimum(number, num_trees), add, (blank, blank))[1]


def loss(settings: Settings, ensemble: Ensemble, batch: Any) -> jax.Array:
    """The mean loss of a batch under a model, by the weights of its examples."""
    problem = pose(settings._replace(fold=None), batch)
    scores = predict(ensemble, problem.binned).reshape(len(problem.binned), problem.num_outputs)
    scores = scores if problem.offset is None else scores + problem.offset
    return _mean(problem.derivatives.value(scores, problem.targets), problem.weights)
