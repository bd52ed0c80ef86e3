"""The guard: what it looks at, what it undoes, its policies, and how a fit takes a step that was undone."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import init_net, net_loss, regression_data, same_bits

import gradkit as gk
from gradkit import schedules
from gradkit.transforms import guard

NAN = np.nan
RATE = schedules.linear(0.5, 0.1, 4)


def unroll(optimizer, params, grads, values=None):
    """The parameters after each step, and the last state."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry, inputs):
        params, state = carry
        grads, value = inputs
        updates, state = optimizer.update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    grads = jnp.asarray(grads, jnp.float32)
    values = jnp.ones(len(grads)) if values is None else jnp.asarray(values, jnp.float32)
    params = jnp.asarray(params, jnp.float32)
    (_, state), path = jax.lax.scan(step, (params, optimizer.init(params)), (grads, values))
    return np.asarray(path), state


# what goes wrong -> optimizer, parameter, gradient, loss
FAILURES = {
    "the loss": (optax.sgd(0.1), 1.0, 1.0, NAN),
    "a gradient that is infinite": (optax.scale(0.0), 1.0, np.inf, 1.0),
    "a gradient that is lost": (optax.set_to_zero(), 1.0, NAN, 1.0),
    "an update": (optax.scale(1e30), 1.0, 1e30, 1.0),
    "a new parameter": (optax.scale(1.0), 3e38, 3e38, 1.0),
    "the state": (optax.scale_by_adam(), 1.0, 1e30, 1.0),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_is_not_finite_undoes_the_whole_step(failure):
    optimizer, param, grad, value = FAILURES[failure]
    guarded, params = guard(optimizer), {"bad": jnp.float32(param), "good": jnp.ones(2)}
    state = guarded.init(params)
    grads = {"bad": jnp.float32(grad), "good": jnp.ones(2)}
    updates, after = guarded.update(grads, state, params, value=jnp.float32(value))
    chex.assert_trees_all_equal(updates, optax.tree.zeros_like(params))
    chex.assert_trees_all_equal(after.inner, state.inner)
    assert (after.skips.total, after.skips.in_a_row) == (1, 1)
    ones = optax.tree.ones_like(params)
    updates, after = guarded.update(ones, after, ones, value=jnp.float32(7.0))
    chex.assert_trees_all_close(updates, optimizer.update(ones, optimizer.init(params), ones)[0])
    assert (after.skips.total, after.skips.in_a_row, after.skips.loss) == (1, 0, 7.0)


def test_a_guarded_path_is_that_of_the_good_steps_alone_schedules_included():
    grads, bad = np.array([1.0, NAN, 2.0, np.inf, NAN, -1.0, 0.5])[:, None], [1, 3, 4]
    path, state = unroll(guard(optax.adam(RATE)), np.ones(1), grads)
    truth, inner = unroll(optax.adam(RATE), np.ones(1), np.delete(grads, bad, 0))
    np.testing.assert_allclose(np.delete(path, bad, 0), truth, rtol=1e-5)
    chex.assert_trees_all_close(state.inner, inner, rtol=1e-6)
    np.testing.assert_array_equal(path[bad], path[[0, 2, 2]])
    assert (state.skips.total, state.skips.in_a_row) == (3, 0)


def test_a_state_that_began_infinite_is_no_failure():
    optimizer = guard(optax.chain(optax.sgd(0.5), gk.transforms.reduce_on_plateau(0.5, 2)))
    assert unroll(optimizer, np.ones(1), np.ones((3, 1)))[1].skips.total == 0


def test_random_keys_in_a_state_are_undone_as_well():
    noise = guard(optax.add_noise(1.0, 0.5, jax.random.key(3)))
    path, _ = unroll(noise, np.zeros(1), [[NAN], [0.0], [0.0]])
    truth, _ = unroll(optax.add_noise(1.0, 0.5, jax.random.key(3)), np.zeros(1), [[0.0], [0.0]])
    np.testing.assert_array_equal(path[1:], truth)
    assert noise.update(jnp.zeros(1), noise.init(jnp.zeros(1)), jnp.zeros(1))[1].skips.total == 0  # and outside of jit


def test_raise_rests_for_ever_and_says_diverged():
    path, state = unroll(guard(optax.adam(0.5), policy="raise"), np.ones(1), [[1.0], [1.0], [NAN], [1.0], [1.0]])
    assert path[0] != path[1]
    np.testing.assert_array_equal(path[2:], [path[1]] * 3)
    assert (state.status, state.status.dtype, state.skips.total) == (gk.Status.DIVERGED, jnp.int32, 3)
    assert optax.tree.get(state.inner[0], "count") == 2


def test_restore_goes_back_to_the_last_good_point_and_on_from_there():
    grads = [[1.0], [2.0], [3.0], [4.0], [NAN], [4.0], [NAN], [NAN], [5.0]]
    optimizer = optax.adam(RATE)
    path, state = unroll(guard(optimizer, policy="restore", every=2), np.ones(1), grads)
    truth, _ = unroll(optimizer, np.ones(1), grads[:4])
    np.testing.assert_allclose(path[:4], truth, rtol=1e-6)
    kept = path[1]  # points are kept where the third and the fifth good step begin: the fifth fails
    np.testing.assert_array_equal(path[4], kept)
    again, _ = unroll(optimizer, np.ones(1), [[1.0], [2.0], [4.0]])
    np.testing.assert_allclose(path[5], again[-1], rtol=1e-6)
    np.testing.assert_array_equal(path[6:8], [kept] * 2)
    again, inner = unroll(optimizer, np.ones(1), [[1.0], [2.0], [5.0]])
    np.testing.assert_allclose(path[8], again[-1], rtol=1e-6)
    chex.assert_trees_all_close(state.inner, inner, rtol=1e-6)


@pytest.mark.parametrize("size", [0.37, 1e3, 1e30])
def test_restore_reaches_the_very_bits_from_however_far(size):
    start = np.float32([0.1, 1e-3, -7.7])
    grads = np.concatenate([np.full((1, 3), -size), np.full((4, 3), NAN)])
    path, _ = unroll(guard(optax.sgd(1.0), policy="restore"), start, grads)
    assert np.abs(path[0]).max() > 0.3 * size
    assert same_bits(path[-1], start)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"policy": "ignore"}, ValueError, "`policy` must be one of skip, raise, restore, got 'ignore'"),
        ({"every": 0}, ValueError, "`every` must be a whole number of at least 1, got 0"),
        ({"every": 1.5}, TypeError, "`every` must be a whole number of at least 1, got 1.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        guard(optax.sgd(0.1), **arguments)


def test_parameters_must_be_told():
    optimizer = guard(optax.sgd(0.1))
    with pytest.raises(TypeError, match="`params` must be given to `update`"):
        optimizer.update(1.0, optimizer.init(jnp.ones(())))


# fits

INPUTS, TARGETS = regression_data()
BATCHES = [(INPUTS[start : start + 16], TARGETS[start : start + 16]) for start in range(0, 96, 16)] * 2
fit = functools.partial(gk.fit, progress=False)


def stream(bad):
    """Twelve batches; the targets of those at ``bad`` are NaN, or in the first, where a fit refuses it, too large to square."""
    batches = [(x, np.where(index in bad, np.float32(NAN if index else 1e30), y)) for index, (x, y) in enumerate(BATCHES)]
    return gk.stream(lambda start: iter(batches[start:]))


def unrolled(descent, batches):
    """The last state and the infos of a descent over stacked batches."""
    run = jax.jit(lambda batches: gk.unroll(descent, descent.init(gk.keys.as_key(0), None, None), batches)[:2])
    return run(jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches))


@functools.cache
def fitted(policy, bad):
    optimizer = optax.adam(schedules.linear(0.05, 0.0, 12))
    return fit(gk.descent(net_loss, init_net, guard(optimizer, policy=policy, every=2)), stream(bad), steps=12)


def test_a_fit_goes_on_over_bad_batches_even_the_first():
    bad = (0, 4, 5)
    found = fitted("skip", bad)
    assert (found.status, found.steps) == (gk.Status.FINISHED, 12)
    assert found.history["skipped"].tolist() == [1, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert found.history["skipped_in_a_row"].tolist() == [1, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0]
    losses = found.history["loss"]
    assert losses[0] == 2.0**64
    assert losses[4] == losses[5] == losses[3]
    state = found.state.optimizer.inner
    assert optax.tree.get_all_with_path(state, "count")[-1][1] == 9
    good = [batch for index, batch in enumerate(BATCHES) if index not in bad]
    state, infos = unrolled(gk.descent(net_loss, init_net, optax.adam(schedules.linear(0.05, 0.0, 12))), good)
    chex.assert_trees_all_close(found.params, state.params, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.delete(losses, bad), infos.loss, rtol=1e-5)


def test_a_sweep_is_judged_from_the_first_loss_there_is_and_by_the_last_count():
    def make(h):
        observed = gk.transforms.observe(guard(optax.sgd(h.learning_rate)), learning_rate=h.learning_rate)
        return gk.descent(net_loss, init_net, observed)

    sweep = gk.sweep(make, stream((0, 11)), gk.grid(learning_rate=[1e-6, 0.03]), steps=12, progress=False)
    table = sweep.table()
    losses = sweep[0].history["loss"]
    np.testing.assert_allclose(table.initial_loss, losses[1], rtol=1e-5)
    assert (losses[0], table.skipped.tolist(), table.skipped_in_a_row.tolist()) == (2.0**64, [2, 2], [1, 1])
    np.testing.assert_allclose(table.used_rate, table.learning_rate, rtol=1e-6)
    # two values of one seed, whose first batch has no loss, are too little to say that a rate works
    assert sweep.best().hyper == {"learning_rate": 0.03}
    assert sweep.summary().axes[0].low is None
    assert "e+19" not in repr(sweep[0])


def test_a_fit_under_raise_ends_diverged_with_its_last_parameters():
    found = fitted("raise", (4,))
    assert (found.status, found.steps) == (gk.Status.DIVERGED, 4)
    assert np.isfinite(found.params["hidden"]).all()


def test_under_raise_the_loss_says_so_where_only_a_gradient_fails():
    def loss(x, batch):  # finite at 0, its slope is not
        return jnp.sqrt(jnp.abs(x)) * batch

    for policy, is_bad in (("raise", True), ("skip", False)):
        _, infos = unrolled(gk.descent(loss, jnp.zeros(()), guard(optax.sgd(0.1), policy=policy)), np.ones(3))
        assert np.isnan(infos.loss).tolist() == [is_bad] * 3


@pytest.mark.long
def test_members_of_a_sweep_that_skip_leave_the_others_alone():
    def make(h):
        def loss(params, batch):
            return net_loss(params, batch) + jnp.where((h.bad > 0) & (batch[1][0] == TARGETS[0]), NAN, 0.0)

        return gk.descent(loss, init_net, guard(optax.adam(0.01), policy="restore", every=2))

    sweeps = [gk.sweep(make, stream(()), gk.grid(bad=bad), steps=12, plan=gk.Plan(width=3), progress=False)
              for bad in ([0.0, 1.0, 0.5], [0.0, 1e-9, 0.0])]  # fmt: skip
    assert [member.status for member in sweeps[0]] == [gk.Status.FINISHED] * 3
    assert [member.history["skipped"][-1] > 0 for member in sweeps[0]] == [False, True, True]
    assert same_bits(sweeps[0].params(0), sweeps[1].params(0))


@pytest.mark.parametrize(("policy", "truth"), [("skip", 1 + 3**4 + 2**4), ("restore", 1 + 2**4)])
def test_batch_statistics_of_a_step_are_taken_and_undone_with_it(policy, truth):
    def loss(params, seen, batch, key):
        return jnp.mean((params - batch) ** 2), (seen + jnp.mean(batch) ** 4, {})

    batches = [np.full(2, value, np.float32) for value in (1.0, 3.0, NAN, 1e10, NAN, 2.0)]  # the loss of 1e10 is finite
    optimizer = guard(optax.sgd(0.1), policy=policy, every=1)
    state, infos = unrolled(gk.descent(loss, jnp.zeros(()), optimizer, state=jnp.zeros(())), batches)
    assert (state.state, infos.metrics["skipped"][-1]) == (truth, 3)
