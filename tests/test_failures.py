"""Where failed members come to rest: first bad step, first bad leaf, whatever went wrong and wherever in a segment."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import init_net, net_loss, regression_data, same_bits

import gradkit as gk
from gradkit.engine import failure, plan

DATA = regression_data()
SOUND, UNSEEN_LEAF, PARAMETER, LOSS_ONLY, START, INFINITE_STATE = range(6)


def failing(h):
    """One way of failing per member; ``spare`` is a leaf that no loss depends on."""
    base = gk.descent(net_loss, lambda key: init_net(key) | {"spare": jnp.ones(2)}, optax.adam(0.01))

    def init(key, data, validation):
        state = base.init(key, data, validation)
        bias = jnp.where(h.failure == START, jnp.nan, state.params["bias"])
        return state._replace(params=state.params | {"bias": bias}), jnp.full((), jnp.inf)

    def step(carried, batch):
        state, lowest = carried
        new, info, growth = base.step(state, batch)
        is_hit = lambda failure: (h.failure == failure) & (new.optimizer[0].count == h.step)  # noqa: E731
        spare = jnp.where(is_hit(UNSEEN_LEAF), jnp.nan, new.params["spare"])
        bias = jnp.where(is_hit(PARAMETER), jnp.nan, new.params["bias"])
        bias = jnp.where(is_hit(INFINITE_STATE), jnp.inf, bias)
        loss = jnp.where(is_hit(LOSS_ONLY), jnp.inf, info.loss)
        new = new._replace(params=new.params | {"spare": spare, "bias": bias})
        return (new, jnp.minimum(lowest, info.loss)), info._replace(loss=loss), growth

    return gk.Descent(init, step, lambda carried, growths: carried[0].params, base.loss)


STEPS = [1, 2, 100, 101, 137, 220]
WAYS = [SOUND, *[way for way in (UNSEEN_LEAF, PARAMETER, LOSS_ONLY, INFINITE_STATE) for _ in STEPS], START]
AT = [0, *STEPS * 4, 0]


@pytest.fixture(scope="module", params=[1, 5, 26])
def swept(request):
    space = gk.zipped(failure=WAYS, step=AT)
    return gk.sweep(failing, DATA, space, steps=220, batch_size=16, plan=gk.Plan(width=request.param), progress=False)


@pytest.mark.few(1)
def test_every_failure_is_found_with_its_step_and_leaf(swept):
    leaves = {UNSEEN_LEAF: "state[0].params.spare", PARAMETER: "state[0].params.bias", INFINITE_STATE: "state[0].params.bias"}
    for fit, way, step in zip(swept, WAYS, AT):
        if way == SOUND:
            assert (fit.status, fit.steps, fit.bad_leaf) == (gk.Status.FINISHED, 220, None)
        elif way == START:
            assert (fit.status, fit.steps, fit.bad_leaf) == (gk.Status.DIVERGED, 0, "state[0].params.bias at the start")
        else:
            assert (fit.status, fit.steps, fit.bad_leaf) == (gk.Status.DIVERGED, step - 1, leaves.get(way, "loss")), (way, step)


@pytest.mark.few(1)
def test_parameters_at_rest_are_those_of_the_sound_run_after_as_many_steps(swept):
    """All members share key and order, so that the sound one passes through every resting place."""
    hidden = {0: init_net(jax.random.key(0))["hidden"]}
    for fit, way in zip(swept, WAYS):
        if way not in (SOUND, START):
            hidden.setdefault(fit.steps, fit.params["hidden"])
            np.testing.assert_allclose(fit.params["hidden"], hidden[fit.steps], rtol=2e-6, atol=1e-7)
    lone = gk.fit(failing(gk.Hyper({"failure": SOUND, "step": 0})), DATA, steps=136, batch_size=16, progress=False)
    np.testing.assert_allclose(hidden[136], lone.params["hidden"], rtol=1e-4, atol=1e-6)


def test_an_infinity_that_was_there_from_the_start_is_no_failure(swept):
    """The lowest loss so far starts at infinity, as the state of many transformations does."""
    assert swept[0].status == gk.Status.FINISHED


def test_a_fit_that_fails_returns_its_last_finite_state():
    overflow = gk.descent(lambda x, batch: jnp.sum(x**2), jnp.ones(2), optax.sgd(100.0))
    fit = gk.fit(overflow, jnp.zeros(1), steps=50, progress=False)
    assert fit.status == gk.Status.DIVERGED
    assert np.isfinite(fit.params).all()
    np.testing.assert_allclose(fit.params, (-199.0) ** fit.steps * np.ones(2), rtol=1e-5)
    assert "DIVERGED" in repr(fit)


def test_a_loss_with_a_state_and_keys_fails_like_any_other():
    """Random keys are part of the state that is brought to rest."""

    def loss(params, seen, batch, key):
        noise = jax.random.normal(key, params.shape)
        return jnp.sum((params - noise) ** 2), (seen + 1, {})

    make = lambda h: gk.descent(loss, jnp.ones(3), optax.sgd(h.learning_rate), state=jnp.zeros(()))  # noqa: E731
    space = gk.grid(learning_rate=[0.1, 100.0], seed=range(2))
    sweep = gk.sweep(make, jnp.zeros(1), space, steps=110, plan=gk.Plan(width=4), progress=False)
    assert [fit.status.name for fit in sweep] == ["FINISHED"] * 2 + ["DIVERGED"] * 2
    assert [float(fit.params.state) for fit in sweep] == [110, 110, sweep[2].steps, sweep[3].steps]
    assert not same_bits(sweep.params(0), sweep.params(1))
    replayed = sweep.replay(3)
    assert same_bits(replayed.params, sweep.params(3))
    assert jax.dtypes.issubdtype(replayed.state.key.dtype, jax.dtypes.prng_key)


def test_half_precision_keeps_its_dtype_and_fails_like_any_other():
    half = lambda key: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init_net(key))  # noqa: E731
    data = tuple(jnp.asarray(leaf, jnp.bfloat16) for leaf in DATA)
    make = lambda h: gk.descent(net_loss, half, optax.sgd(h.learning_rate))  # noqa: E731
    sweep = gk.sweep(make, data, gk.grid(learning_rate=[0.01, 1e30]), steps=20, plan=gk.Plan(width=2), progress=False)
    assert [fit.status.name for fit in sweep] == ["FINISHED", "DIVERGED"]
    assert {leaf.dtype for leaf in jax.tree.leaves(sweep.params(0))} == {jnp.dtype(jnp.bfloat16)}
    assert np.isnan(sweep[1].history["loss"][-1].astype(float))
    assert sweep.table().final_loss.notna().all()


def test_find_names_the_first_bad_loss_or_the_end():
    losses = np.array([[1.0, 1.0, np.nan, 1.0], [1.0, np.inf, 1.0, 1.0]])
    is_sound = np.array([True, True, True, False])
    yes = np.ones(4, bool)
    assert failure.find(losses, is_sound, yes, yes) == {1: 1, 2: 0, 3: 2}
    assert failure.find(losses, is_sound, yes, ~yes) == {1: 1, 2: 0}
    assert failure.find(losses, is_sound, ~yes, yes) == {}


def test_a_plan_is_settled_for_members_and_machine():
    settled = plan.settle(gk.Plan(devices=tuple(jax.devices()[:1]), threads=2))
    assert plan.guess(settled, 1000, 10**4) == 64
    assert plan.guess(settled, 1000, 10**9) == 1
    assert plan.guess(settled, 6, 10**4) == 3
    assert settled.lanes(4) == 4
    make = lambda h: gk.descent(net_loss, init_net, optax.sgd(h.learning_rate))  # noqa: E731
    sweep = gk.sweep(
        make, DATA, gk.grid(learning_rate=gk.linspace(0.1, 0.2, 6)), steps=2, plan=gk.Plan(width=100), progress=False
    )
    assert (sweep.plan.programs[0].widths, sweep.plan.programs[0].num_chunks) == ((6,), 1)


def test_equal_static_values_share_a_program_and_unhashable_ones_are_told_apart():
    from gradkit.engine.programs import Static

    shapes = [8, 8]
    assert Static({"layers": (8, 8)}) == Static({"layers": (8, 8)})
    assert Static({"layers": shapes}) == Static({"layers": shapes}) != Static({"layers": [8, 8]})
    assert Static({"flag": True}) != Static({"flag": 1})


def test_rerunning_a_segment_repeats_its_bits():
    space = gk.zipped(failure=[SOUND] * 5, step=range(5))
    alone = gk.sweep(failing, DATA, space, steps=220, batch_size=16, plan=gk.Plan(width=5), progress=False)
    struck = gk.sweep(
        failing, DATA, gk.zipped(failure=[SOUND] * 4 + [PARAMETER], step=[0, 1, 2, 3, 137]), steps=220, batch_size=16,
        plan=gk.Plan(width=5), progress=False,
    )  # fmt: skip
    assert same_bits([fit.params for fit in alone.fits[:4]], [fit.params for fit in struck.fits[:4]])
    assert same_bits(alone[4].history["loss"][:137], struck[4].history["loss"][:137])


def test_losses_close_to_the_largest_number_are_told_without_a_warning():
    make = lambda h: gk.descent(lambda x, batch: 3e38 + 0 * x, jnp.zeros(()), optax.sgd(h.learning_rate))  # noqa: E731
    (fit,) = gk.sweep(make, jnp.zeros((4, 1)), gk.grid(learning_rate=[0.1]), steps=3, progress=False)
    assert fit.status == gk.Status.FINISHED and np.isfinite(fit.losses).all()
