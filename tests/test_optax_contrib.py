"""Every name of ``optax.contrib``, and what of optax needs more than gradients: as its own loop has it, or refused by name."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import gradkit as gk
from gradkit import transforms

STEPS, RATE = 3, 0.1
X = jnp.linspace(-1, 1, 32).reshape(8, 4)
DATA = (X, jnp.sin(X @ jnp.arange(1.0, 5.0)))
START = {"w": jnp.arange(16.0).reshape(4, 4) / 20 - 0.3, "b": jnp.zeros(4), "v": 0.3 * jnp.ones(4)}


def loss(params, batch):
    return jnp.mean((jnp.tanh(batch[0] @ params["w"] + params["b"][None]) @ params["v"] - batch[1]) ** 2)


def adversary():
    return optax.chain(contrib.normalize(), optax.sgd(0.1))


def _all_matrices(params):
    return jax.tree.map(lambda _: contrib.MuonDimensionNumbers(), params)


MAKERS = {
    "acprop": contrib.acprop,
    "scale_by_acprop": lambda rate: optax.chain(contrib.scale_by_acprop(), optax.sgd(rate)),
    "ademamix": contrib.ademamix,
    "scale_by_ademamix": lambda rate: optax.chain(contrib.scale_by_ademamix(), optax.sgd(rate)),
    "simplified_ademamix": contrib.simplified_ademamix,
    "scale_by_simplified_ademamix": lambda rate: optax.chain(contrib.scale_by_simplified_ademamix(), optax.sgd(rate)),
    "adopt": contrib.adopt,
    "scale_by_adopt": lambda rate: optax.chain(contrib.scale_by_adopt(), optax.sgd(rate)),
    "cocob": lambda rate: contrib.cocob(alpha=10 * rate),
    "scale_by_cocob": lambda rate: contrib.scale_by_cocob(alpha=10 * rate),
    "split_real_and_imaginary": lambda rate: contrib.split_real_and_imaginary(optax.adam(rate)),
    "dadapt_adamw": contrib.dadapt_adamw,
    "dog": contrib.dog,
    "dowg": contrib.dowg,
    "galore": lambda rate: contrib.galore(rate, rank=2),
    "scale_by_galore": lambda rate: optax.chain(contrib.scale_by_galore(rank=2), optax.sgd(rate)),
    "madgrad": contrib.madgrad,
    "scale_by_madgrad": lambda rate: contrib.scale_by_madgrad(rate),
    "mechanize": lambda rate: contrib.mechanize(optax.sgd(rate)),
    "momo": contrib.momo,
    "momo_adam": contrib.momo_adam,
    "muon": contrib.muon,
    "scale_by_muon": lambda rate: optax.masked(
        optax.chain(contrib.scale_by_muon(weight_dimension_numbers=_all_matrices), optax.sgd(rate)),
        {"w": True, "b": False, "v": False},
    ),
    "prodigy": contrib.prodigy,
    "reduce_on_plateau": lambda rate: optax.chain(optax.sgd(rate), contrib.reduce_on_plateau(patience=1)),
    "normalize": lambda rate: optax.chain(contrib.normalize(), optax.sgd(rate)),
    "sam": lambda rate: contrib.sam(optax.sgd(rate), adversary()),
    "schedule_free": lambda rate: contrib.schedule_free(optax.sgd(rate), rate),
    "schedule_free_sgd": contrib.schedule_free_sgd,
    "schedule_free_adamw": contrib.schedule_free_adamw,
    "hutchinson_estimator_diag_hessian": lambda rate: optax.chain(
        contrib.hutchinson_estimator_diag_hessian(), optax.scale(-rate)
    ),
    "sophia": contrib.sophia,
}
REFUSED = {
    "differentially_private_aggregate": lambda rate: contrib.differentially_private_aggregate(1.0, 0.1, 0),
    "dpsgd": lambda rate: contrib.dpsgd(rate, 1.0, 0.1, 0),
}
NO_OPTIMIZERS = {"schedule_free_eval_params", "GaLoreDimensionNumbers", "MuonDimensionNumbers"}
WRAPPED = {
    "sam of three steps": lambda rate: contrib.sam(optax.adam(rate), optax.sgd(0.1), sync_period=3, reset_state=False),
    "sam within": lambda rate: contrib.sam(optax.sgd(rate), adversary(), opaque_mode=True),
    "sam in a chain": lambda rate: transforms.optimizer(optax.clip(1.0), contrib.sam(optax.sgd(rate), adversary())),
    "sam in MultiSteps": lambda rate: optax.MultiSteps(transforms.optimizer(MAKERS["sam"](rate)), 2),
    "sam under a guard": lambda rate: transforms.guard(contrib.sam(optax.sgd(rate), adversary())),
    "sam of a schedule_free": lambda rate: contrib.sam(contrib.schedule_free_sgd(rate), adversary(), opaque_mode=True),
    "schedule_free in a chain": lambda rate: optax.chain(optax.clip(1.0), contrib.schedule_free_sgd(rate)),
    "schedule_free in MultiSteps": lambda rate: optax.MultiSteps(contrib.schedule_free_sgd(rate), 2),
    "schedule_free with injected numbers": lambda rate: optax.inject_hyperparams(contrib.schedule_free_sgd)(rate),
    "schedule_free, masked": lambda rate: optax.masked(contrib.schedule_free_sgd(rate), {"w": True, "b": False, "v": False}),
    "schedule_free in a partition": lambda rate: optax.partition(
        {"free": contrib.schedule_free_sgd(rate), "plain": optax.sgd(rate)}, {"w": "free", "b": "plain", "v": "free"}
    ),
    "schedule_free, flattened": lambda rate: optax.flatten(contrib.schedule_free_sgd(rate)),
    "schedule_free unless not finite": lambda rate: optax.apply_if_finite(contrib.schedule_free_sgd(rate), 3),
    "MultiSteps": lambda rate: optax.MultiSteps(optax.sgd(rate), 2),
    "apply_if_finite": lambda rate: optax.apply_if_finite(optax.sgd(rate), 3),
    "conditionally_transform": lambda rate: optax.conditionally_transform(optax.sgd(rate), lambda step, **_: step < 2),
    "conditionally_mask": lambda rate: optax.conditionally_mask(optax.sgd(rate), lambda step, **_: step < 2),
    "apply_every": lambda rate: optax.chain(optax.sgd(rate), optax.apply_every(2)),
    "snapshot": lambda rate: optax.chain(optax.snapshot("norm", optax.tree.norm), optax.sgd(rate)),
    "lbfgs": lambda rate: optax.lbfgs(10 * rate),
    "polyak_sgd": optax.polyak_sgd,
    "backtracking": lambda rate: optax.chain(optax.sgd(rate), optax.scale_by_backtracking_linesearch(10)),
    "zoom": lambda rate: optax.chain(optax.sgd(10 * rate), optax.scale_by_zoom_linesearch(10)),
    "noisy_sgd": lambda rate: optax.noisy_sgd(rate, key=0),
}
SEARCHES = (optax.ScaleByBacktrackingLinesearchState, optax.ScaleByZoomLinesearchState)
ALL = {**MAKERS, **WRAPPED}
QUICK = ("sam", "schedule_free_sgd", "sophia")
each = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in ALL]


def nodes(state, kind):
    return [node for node in jax.tree.leaves(state, is_leaf=lambda n: isinstance(n, kind)) if isinstance(node, kind)]


def told(optimizer, value, grads, value_fn):
    """What the documentation of each optimizer asks its own loop to tell; line searches refuse what the loss does not take."""
    if optimizer.update.__name__ in ("transparent_update_fn", "opaque_update_fn"):  # sharpness-aware
        return {"grad_fn": lambda params, _: jax.grad(value_fn)(params)}
    if not isinstance(optimizer, (optax.GradientTransformationExtraArgs, optax.MultiSteps)):
        return {}
    searching = {"value": value, "grad": grads, "value_fn": value_fn}
    if nodes(jax.eval_shape(optimizer.init, START), SEARCHES):
        return searching
    return {**searching, "obj_fn": value_fn, "grad_fn": lambda params, _: jax.grad(value_fn)(params)}


def by_hand(make, rate, steps=STEPS):
    """The parameters and the state after a loop over optax alone."""
    optimizer = make(rate)

    @jax.jit
    def step(params, state):
        value_fn = functools.partial(loss, batch=DATA)
        value, grads = jax.value_and_grad(value_fn)(params)
        updates, state = optimizer.update(grads, state, params, **told(optimizer, value, grads, value_fn))
        return optax.apply_updates(params, updates), state

    params, state = START, optimizer.init(START)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def evaluated(params, state):
    """Where optax's documentation says to evaluate, of states that are nowhere but under each other's outer keys."""
    for sam in nodes(state, contrib.SAMState):
        if sam.cache is not None and sam.steps_since_sync != 0:
            params = sam.cache
        state = sam.opt_state
    for free in nodes(state, contrib.ScheduleFreeState):
        hidden = lambda leaf: isinstance(leaf, optax.MaskedNode)  # noqa: E731
        if not isinstance(free.z, dict):
            flat, unravel = jax.flatten_util.ravel_pytree(params)
            return unravel(contrib.schedule_free_eval_params(free, flat))
        seen = {name: params[name] for name in params if not hidden(free.z[name])}
        own = free._replace(z={name: free.z[name] for name in seen})
        params = {**params, **contrib.schedule_free_eval_params(own, seen)}
    return params


def test_no_name_of_contrib_is_left_out():
    names = {name for name in dir(contrib) if not name.startswith("_") and callable(getattr(contrib, name))}
    states = {name for name in names if name.endswith("State")}
    assert names - states == set(MAKERS) | set(REFUSED) | NO_OPTIMIZERS


@pytest.mark.parametrize("name", each)
def test_a_fit_and_a_sweep_go_where_a_loop_over_optax_goes(name, request, monkeypatch):
    if "muon" in name:  # each of its five Newton-Schulz steps bends what is rounded otherwise by 3.4
        request.getfixturevalue("x64")
        for part in ("START", "DATA"):
            doubled = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), globals()[part])
            monkeypatch.setitem(globals(), part, doubled)
    make = ALL[name]
    params, state = by_hand(make, RATE)
    fit = gk.fit(gk.descent(loss, START, make(RATE)), DATA, steps=STEPS, progress=False)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
    jax.tree.map(close, fit.state.params, params)
    jax.tree.map(close, fit.params, evaluated(params, state))
    space, plan = gk.grid(rate=[RATE, RATE / 2]), gk.Plan(width=1 if "galore" in name else 2)  # which decomposes matrices
    sweep = gk.sweep(lambda h: gk.descent(loss, START, make(h.rate)), DATA, space, steps=STEPS, progress=False, plan=plan)
    jax.tree.map(close, sweep.params(0), fit.params)


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_goes_into_a_descent(name):
    # traced only: structure, shapes and dtypes of the state stay, and every extra argument is there
    descent = gk.descent(loss, START, ALL[name](RATE))
    state = jax.eval_shape(lambda: descent.init(jax.random.key(0), DATA, None))
    after, _, _ = jax.eval_shape(descent.step, state, DATA)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    found = jax.eval_shape(lambda state: descent.params(state, ()), after)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, START)


@pytest.mark.filterwarnings('ignore:"seed" is deprecated:DeprecationWarning')  # which optax's own dpsgd gives
@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((make, r"differentially_private_aggregate, .* Feed it gk.gradients.per_example") for make in REFUSED.values()),
        (lambda rate: optax.chain(optax.clip(1.0), REFUSED["dpsgd"](rate)), "Feed it gk.gradients.per_example"),
        (lambda rate: optax.lookahead(optax.sgd(rate), 3, 0.5), "optax.lookahead, .* Use gk.transforms.lookahead"),
        (
            lambda rate: optax.chain(optax.monitor({"n": optax.tree.norm}), optax.sgd(rate)),
            "optax.monitor, .* Use gk.transforms.ob",
        ),
        (
            lambda rate: optax.chain(optax.clip(1.0), MAKERS["sam"](rate)),
            r"Put the one that does not into gk.transforms.optimizer\(",
        ),
    ],
)
def test_what_no_descent_can_run_is_refused_with_the_line_that_runs(make, message):
    descent = gk.descent(loss, START, make(RATE))
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(lambda: descent.step(descent.init(jax.random.key(0), DATA, None), DATA))


def test_updates_of_other_shapes_are_refused():
    summed = optax.stateless(lambda updates, params: jax.tree.map(lambda g: g.sum(0), updates))
    descent = gk.descent(lambda p, batch: jnp.sum(p**2), jnp.ones((2, 2)), summed)
    with pytest.raises(ValueError, match=r"`updates` must have the shapes of `params`, got \(2,\) where `params` has \(2, 2\)"):
        descent.step(descent.init(jax.random.key(0), None, None), None)


def test_a_loss_with_a_state_tells_sam_its_gradient():
    def stateful(params, state, batch, key):
        return loss(params, batch), (state + 1, {})

    descent = gk.descent(stateful, START, WRAPPED["sam within"](RATE), state=jnp.zeros(()))
    state, _, _ = jax.jit(descent.step)(descent.init(jax.random.key(0), DATA, None), DATA)
    truth, _ = by_hand(WRAPPED["sam within"], RATE, steps=1)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6), state.params, truth)


def test_a_line_search_takes_a_loss_with_a_weight():
    descent = gk.descent(lambda p, batch: (jnp.sum(p**2), {"weight": jnp.float32(2.0)}), jnp.ones(2), optax.lbfgs())
    after = jax.jit(descent.step)(descent.init(jax.random.key(0), None, None), None)[0]
    assert jnp.abs(after.params).max() < 0.5
