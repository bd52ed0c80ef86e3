"""What the house promises about numbers: bits, neighbors, lanes, devices, closed forms."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    EIGENVALUES,
    adam_net,
    apply_net,
    descend_quadratic,
    init_net,
    net_loss,
    quadratic,
    regression_data,
    same_bits,
    sgd_net,
)

import gradkit as gk

SPACE = gk.grid(learning_rate=gk.geomspace(1e-3, 0.3, 3), seed=range(3))
RUN = {"steps": 130, "batch_size": 16, "progress": False}  # two segments, the second ragged


def run(make=adam_net, space=SPACE, *, width, threads=2, **changes):
    return gk.sweep(make, regression_data(), space, plan=gk.Plan(width=width, threads=threads), **(RUN | changes))


@pytest.fixture(scope="module")
def by_width():
    """The same sweep at several widths: one lane, padded chunks, one chunk of all."""
    return {width: run(width=width) for width in (1, 2, 4, 9)}


def test_a_sweep_of_a_quadratic_converges_at_the_predicted_rate_or_diverges_at_the_predicted_side():
    limit = 2 / EIGENVALUES.max()
    factors = [0.05, 0.5, 0.9, 0.99, 1.5, 2.0, 10.0]
    space = gk.grid(learning_rate=[factor * limit for factor in factors])
    sweep = gk.sweep(descend_quadratic, jnp.zeros(1), space, steps=400, plan=gk.Plan(width=7), progress=False)
    statuses = [fit.status for fit in sweep]
    assert statuses == [gk.Status.FINISHED if factor < 1 else gk.Status.DIVERGED for factor in factors]
    for member, factor in enumerate(factors[:4]):
        expected = (1 - factor * limit * EIGENVALUES) ** 400
        np.testing.assert_allclose(sweep.params(member), expected, rtol=400 * 2e-7, atol=1e-30)
    rates = [np.exp(np.diff(np.log(fit.losses[-5:]))).mean() for fit in sweep.fits[4:]]
    np.testing.assert_allclose(rates, [(1 - factor * limit * EIGENVALUES.max()) ** 2 for factor in factors[4:]], rtol=1e-3)


def test_a_lone_descent_follows_a_hand_written_scan_over_optax_to_the_bit():
    x, y = map(jnp.asarray, regression_data())
    optimizer = optax.adam(0.01)
    source = gk.data.source((x, y), batch_size=16, key=jax.random.key(0), per_seed=False)
    order = source.tickets(None, 0, 130)

    @jax.jit
    def by_hand(order):
        def step(carry, rows):
            params, state = carry
            loss, grads = jax.value_and_grad(net_loss)(params, (x[rows], y[rows]))
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        params = init_net(jax.random.key(0))
        return jax.lax.scan(step, (params, optimizer.init(params)), order)

    (params, _), losses = by_hand(order)
    fit = gk.fit(gk.descent(net_loss, init_net, optax.adam(0.01)), (x, y), **RUN)
    assert same_bits(fit.params, params)
    assert same_bits(fit.history["loss"], losses)


def test_at_width_one_every_member_equals_the_fit_of_that_member_to_the_bit(by_width):
    for member in (0, 4, 8):
        hyper, swept = SPACE[member], by_width[1][member]
        lone = gk.descent(net_loss, init_net, optax.adam(hyper["learning_rate"]))
        seed_key = gk.keys.member_key(jax.random.key(0), hyper["seed"])
        seeded = lone._replace(init=lambda key, *rest, lone=lone, seed_key=seed_key: lone.init(seed_key, *rest))
        fit = gk.fit(seeded, regression_data(), **RUN)
        assert same_bits(fit.params, by_width[1].params(member))
        assert same_bits(fit.history, swept.history)


@pytest.mark.parametrize("width", [1, 2, 4, 9])
def test_a_replay_repeats_the_member_to_the_bit(by_width, width):
    for member in (0, 4, 8):
        fit = by_width[width].replay(member)
        assert same_bits(fit.params, by_width[width].params(member))
        assert same_bits(fit.history, by_width[width][member].history)
        assert same_bits(fit.state.params, fit.params)


@pytest.mark.parametrize("width", [1, 4])
def test_threads_change_no_bit(by_width, width):
    alone = run(width=width, threads=1)
    assert same_bits([fit.params for fit in alone], [fit.params for fit in by_width[width]])


@pytest.mark.parametrize("width", [2, 4, 9])
def test_other_neighbors_change_no_bit(by_width, width):
    """The first two members keep their lanes; all others get other rates."""
    rates = [member["learning_rate"] for member in SPACE]
    other = gk.zipped(learning_rate=rates[:2] + [rate * 3 for rate in rates[2:]], seed=[member["seed"] for member in SPACE])
    changed = run(space=other, width=width)
    assert same_bits([fit.params for fit in changed.fits[:2]], [fit.params for fit in by_width[width].fits[:2]])
    assert not same_bits(changed.params(8), by_width[width].params(8))


@pytest.mark.parametrize("width", [2, 4, 9])
def test_another_width_agrees_within_rounding_at_the_first_step(by_width, width):
    first = [[fit.history["loss"][0] for fit in by_width[w]] for w in (1, width)]
    np.testing.assert_allclose(first[1], first[0], rtol=1e-6)


@pytest.mark.long
def test_another_width_agrees_in_float64_after_a_hundred_steps_of_plain_descent(x64):
    space = gk.grid(learning_rate=[0.01, 0.03, 0.1], seed=range(3))
    losses = [[fit.history["loss"] for fit in run(sgd_net, space, width=width, steps=100)] for width in (1, 3, 9)]
    assert losses[0][0].dtype == np.float64
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-9)


def poisoned(h):
    """A NaN enters the gradient of one leaf at the step that the poison says, if it is positive."""
    base = gk.descent(net_loss, init_net, optax.adam(h.learning_rate))

    def step(state, batch):
        new, info, growth = base.step(state, batch)
        is_hit = (h.poison > 0) & (new.optimizer[0].count >= h.poison)
        params = new.params | {"bias": jnp.where(is_hit, jnp.nan, new.params["bias"])}
        return new._replace(params=params), info, growth

    return base._replace(step=step)


def poison_space(steps_of_poison):
    rates = np.geomspace(1e-3, 0.1, 64)
    return gk.zipped(learning_rate=rates, seed=range(64), poison=steps_of_poison)


@pytest.fixture(scope="module")
def healthy():
    return run(poisoned, poison_space([0] * 64), width=32)


@pytest.mark.few(1)
@pytest.mark.parametrize("num_poisoned", [1, 8, 63])
def test_poisoned_members_leave_the_others_to_the_bit(healthy, num_poisoned):
    """The poison strikes in both segments, at different steps."""
    poison = [0] * (64 - num_poisoned) + [2 + (7 * i) % 120 for i in range(num_poisoned)]
    sweep = run(poisoned, poison_space(poison), width=32)
    for member, struck_at in enumerate(poison):
        fit, free = sweep[member], healthy[member]
        if struck_at == 0:
            assert fit.status == gk.Status.FINISHED
            assert same_bits(fit.params, free.params)
            assert same_bits(fit.history, free.history)
        else:
            assert (fit.status, fit.steps, fit.bad_leaf) == (gk.Status.DIVERGED, struck_at - 1, "state.params.bias")
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.params))
            assert same_bits(fit.history["loss"][:struck_at], free.history["loss"][:struck_at])
            assert np.isnan(fit.history["loss"][struck_at:]).all()


def test_a_diverged_member_rests_at_the_state_of_the_same_run_stopped_there(healthy):
    sweep = run(poisoned, poison_space([0] * 63 + [45]), width=32)
    stopped = run(poisoned, poison_space([0] * 64), width=32, steps=44)
    assert same_bits(sweep[63].params, stopped[63].params)


def test_apply_agrees_with_the_loss():
    params, (x, y) = init_net(jax.random.key(1)), regression_data()
    np.testing.assert_allclose(net_loss(params, (x, y)), np.mean((np.asarray(apply_net(params, x)) - y) ** 2), rtol=1e-6)
    assert quadratic(jnp.ones(5), None) == pytest.approx(EIGENVALUES.sum() / 2, rel=1e-6)


DEVICES_SCRIPT = """
import jax, numpy as np
import gradkit as gk
from problems import adam_net, regression_data, same_bits
assert len(jax.devices()) == 2
space = gk.grid(learning_rate=gk.geomspace(1e-3, 0.3, 3), seed=range(3))
def run(width, devices, spans=None):
    plan = gk.Plan(width=width, devices=devices, spans=spans)
    return gk.sweep(adam_net, regression_data(), space, steps=130, batch_size=16, plan=plan, progress=False)
for width in (1, 2):
    one, two, second = (run(width, devices) for devices in (jax.devices()[:1], jax.devices(), jax.devices()[1:]))
    for other in (two, second):
        assert same_bits([fit.params for fit in one], [fit.params for fit in other]), width
        assert same_bits([fit.history for fit in one], [fit.history for fit in other]), width
    assert same_bits(two.replay(4).params, two.params(4))
spanning = run(2, jax.devices(), spans=True)
first = [[fit.history["loss"][0] for fit in sweep] for sweep in (one, spanning)]
np.testing.assert_allclose(first[1], first[0], rtol=1e-6)
assert same_bits(spanning.replay(5).params, spanning.params(5))
print("equal")
"""


@pytest.mark.long
def test_the_number_of_devices_changes_no_bit_and_a_spanning_chunk_agrees_within_rounding():
    path = os.pathsep.join([str(pathlib.Path(gk.__file__).parents[1]), str(pathlib.Path(__file__).parent)])
    settings = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    script = [sys.executable, "-c", DEVICES_SCRIPT]
    done = subprocess.run(script, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr
