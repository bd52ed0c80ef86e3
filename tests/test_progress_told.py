"""What a fit says of its own progress: the losses of start and end are those of the same batch, wherever it ran."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import init_net, net_loss, regression_data, same_bits

import gradkit as gk
from gradkit.data.orders import shuffled_epochs

DATA = regression_data()
QUIET = {"progress": False}


def net(h):
    return gk.descent(net_loss, init_net, gk.optimizers.adam(h.learning_rate))


def loss_of(params, rows):
    return float(net_loss(params, jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], DATA)))


@pytest.mark.parametrize("order", ["shared", "per_seed"])
@pytest.mark.parametrize(("steps", "count"), [(50, 1), (1000, 5)])
def test_start_and_end_are_looked_at_on_the_batches_of_the_first_steps(order, steps, count):
    space = gk.grid(learning_rate=[1e-3, 1e-2], seed=[0, 3])
    sweep = gk.sweep(net, DATA, space, steps=steps, batch_size=8, order=order, plan=gk.Plan(width=3), **QUIET)
    rows = shuffled_epochs(len(DATA[1]), batch_size=8, key=0)
    for fit, hyper in zip(sweep, space):
        first = rows(hyper["seed"] if order == "per_seed" else None, 0, count).ravel()
        start = init_net(gk.keys.member_key(jax.random.key(0), hyper["seed"]))
        assert fit.num_compared == count and (count > 1 or fit.start_loss == fit.history["loss"][0])
        np.testing.assert_allclose(fit.start_loss, loss_of(start, first), rtol=1e-5)
        np.testing.assert_allclose(fit.end_loss, loss_of(fit.params, first), rtol=1e-5)


@pytest.mark.long
def test_streams_draws_and_all_examples_are_looked_at_alike():
    rate = gk.Hyper({"learning_rate": 1e-2})
    batches = list(zip(*(np.split(np.asarray(leaf)[:40], 5) for leaf in DATA)))
    draw = lambda key: jax.tree.map(lambda leaf: jnp.asarray(leaf)[jax.random.randint(key, (8,), 0, 64)], DATA)  # noqa: E731
    whole = gk.fit(net(rate), DATA, steps=40, **QUIET)
    np.testing.assert_allclose(whole.end_loss, net_loss(whole.params, DATA), rtol=1e-5)
    for data in (iter(batches), gk.stream(lambda start: iter(batches[start:]))):
        streamed = gk.fit(net(rate), data, steps=5, **QUIET)
        np.testing.assert_allclose(streamed.end_loss, net_loss(streamed.params, batches[0]), rtol=1e-5)
    drawn = gk.fit(net(rate), gk.drawn(draw), steps=40, **QUIET)
    again = gk.fit(net(rate)._replace(init=lambda *_: drawn.state), gk.drawn(draw), steps=1, **QUIET)
    assert (again.start_loss, again.steps) == (drawn.end_loss, 1)


def test_members_that_left_early_have_their_end_too():
    space = gk.grid(learning_rate=[1e-3, 1e-2, 3e-2, 1e9])
    halving = gk.Halving(eta=2, min_steps=10)
    sweep = gk.sweep(net, DATA, space, steps=40, halving=halving, plan=gk.Plan(width=2), **QUIET)
    assert {fit.status.name for fit in sweep} >= {"PRUNED", "FINISHED"}
    for member, fit in enumerate(sweep):
        np.testing.assert_allclose(fit.end_loss, net_loss(fit.params, DATA), rtol=1e-4)
        assert same_bits(sweep.replay(member).end_loss, fit.end_loss)


def test_looking_once_more_leaves_the_result_and_compiles_nothing():
    traces = []

    def counted(params, batch):
        traces.append(1)
        return net_loss(params, batch)

    descent = gk.descent(counted, init_net, optax.adam(1e-2))
    fit = gk.fit(descent, DATA, steps=30, batch_size=8, **QUIET)
    seen = len(traces)
    longer = gk.fit(descent, DATA, steps=32, batch_size=8, **QUIET)
    assert len(traces) == seen
    assert same_bits(longer.history["loss"][:30], fit.history["loss"])


def test_a_gradient_that_is_zero_is_named():
    """All weights zero: nothing goes through the hidden layer, either way; only the last bias moves, and the loss falls."""

    def loss(params, batch):
        hidden = jnp.tanh(batch[0] @ params["hidden"][0] + params["hidden"][1][None, :])
        return jnp.mean((hidden @ params["last"] + params["bias"] - batch[1]) ** 2)

    zeros = {"hidden": [jnp.zeros((4, 3)), jnp.zeros(3)], "last": jnp.zeros(3), "bias": jnp.zeros(())}
    descent = gk.descent(loss, zeros, optax.adam(1e-2))
    fit = gk.fit(descent, (np.ones((8, 4), np.float32), np.ones(8, np.float32)), steps=20, batch_size=4, **QUIET)
    assert fit.zero_gradients == ("hidden[0]", "hidden[1]", "last") and fit.has_moved
    assert repr(fit).endswith("; gradient is zero in hidden[0], hidden[1], last")
    assert fit.end_loss < fit.start_loss


@pytest.mark.parametrize("width", [1, 2])
def test_what_did_not_move_says_so_and_what_moved_does_not(width):
    space = gk.grid(learning_rate=[0.0, 1e-3, 1e-8], seed=[0, 1])
    plan = gk.Plan(width=width)
    sweep = gk.sweep(
        lambda h: gk.descent(net_loss, init_net, optax.sgd(h.learning_rate)), DATA, space, steps=9, plan=plan, **QUIET
    )
    assert [fit.remarks for fit in sweep.fits[:2]] == [("the parameters did not move",)] * 2
    assert [fit.has_moved for fit in sweep] == [False] * 2 + [True] * 4
    assert [fit.remarks for fit in sweep.fits[2:]] == [()] * 4


def test_a_frozen_layer_whose_gradient_is_not_zero_is_no_remark():
    labels = {name: "frozen" if name == "hidden" else "free" for name in init_net(jax.random.key(0))}
    optimizer = optax.multi_transform({"free": optax.sgd(1e-2), "frozen": optax.set_to_zero()}, labels)
    fit = gk.fit(gk.descent(net_loss, init_net, optimizer), DATA, steps=9, **QUIET)
    assert (fit.has_moved, fit.remarks) == (True, ())


def test_a_fit_that_ends_worse_than_it_began_says_so_but_not_for_noise():
    climbing = gk.fit(gk.descent(net_loss, init_net, optax.sgd(-1e-2)), DATA, steps=30, batch_size=16, **QUIET)
    assert climbing.status == gk.Status.FINISHED
    assert climbing.remarks == ("it ended worse than it began",)
    assert "loss " in repr(climbing) and "on the batch of its first step" in repr(climbing)
    rng = np.random.default_rng(0)
    around = rng.normal(size=(64, 1)).astype(np.float32)
    mean = lambda w, batch: jnp.mean((w - batch) ** 2)  # noqa: E731
    remarks = set()
    for key in range(8):
        fit = gk.fit(
            gk.descent(mean, jnp.asarray(around.mean()), optax.sgd(0.05)), around, steps=200, batch_size=4, key=key, **QUIET
        )
        remarks |= set(fit.remarks)
    assert not remarks


def test_the_luck_of_the_one_example_that_is_compared_makes_no_good_fit_worse():
    """An example that lies on the line of the start already can only get worse: of good fits some compare that one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 8)).astype(np.float32)
    data = x, (x.sum(1) + rng.normal(size=512)).astype(np.float32)
    line = lambda w, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)  # noqa: E731
    make = lambda h: gk.descent(line, jnp.zeros(8), optax.sgd(0.01))  # noqa: E731
    fits = gk.sweep(make, data, gk.grid(seed=range(100)), steps=300, batch_size=1, order="per_seed", key=0, **QUIET)
    worse = [fit.end_loss > fit.start_loss + 2 * fit.noise for fit in fits]
    assert any(worse) and not any(fit.remarks for fit in fits)


def test_a_last_update_after_which_the_loss_is_not_finite_is_told():
    fit = gk.fit(gk.descent(lambda w, b: jnp.log(w) + 0 * jnp.sum(b), jnp.ones(()), optax.sgd(1.0)), DATA[0], steps=1, **QUIET)
    assert fit.status == gk.Status.FINISHED
    assert fit.remarks == ("the loss is not finite where it ended",)


def test_no_more_is_grown_and_nothing_said_where_steps_add_for_ever():
    def step(weight, batch):
        return weight * 2.0, gk.Info(weight, {}), weight

    growing = gk.Descent(lambda *_: jnp.ones(()), step, lambda state, growths: growths, lambda params, batch: jnp.sum(params))
    fit = gk.fit(growing, jnp.zeros(1), steps=5, **QUIET)
    assert np.isnan(fit.end_loss) and fit.has_moved and fit.remarks == ()


@pytest.mark.long
def test_trees_that_end_worse_than_they_began_say_so_but_not_if_those_are_dropped():
    data = gk.boosting.Examples(gk.boosting.bin(np.arange(64.0)[:, None]), np.arange(64.0), fold=np.arange(64) % 4)

    def grown(rate, every=1, **fold):
        booster = gk.boosting.descent(gk.losses.squared, learning_rate=rate, depth=2, l2=0.0, **fold)
        return gk.fit(booster, data, steps=9, history_every=every, **QUIET)

    for every in (1, 100):
        climbing = grown(2.5, every)
        assert climbing.status == gk.Status.FINISHED and climbing.remarks == ("it ended worse than it began",)
        assert grown(0.3, every).remarks == ()
    assert grown(1e-9).remarks == ()
    assert "it ended worse than it began" not in grown(2.5, fold=0, patience=9).remarks


def test_trees_are_judged_by_the_loss_that_their_first_step_saw():
    data = (gk.boosting.bin(np.arange(64.0)[:, None]), np.arange(64.0))
    make = lambda h: gk.boosting.descent(gk.losses.squared, learning_rate=h.rate, depth=2)  # noqa: E731
    sweep = gk.sweep(make, data, gk.grid(rate=[1e-6, 0.1, 0.3]), steps=10, **QUIET)
    (axis,) = sweep.summary().axes
    assert (sweep.summary().has_gained, axis.barely_moved, axis.high) == (True, (1e-6,), pytest.approx(0.3))
    assert "unknown" not in repr(sweep)


def test_small_batches_are_not_taken_for_the_data():
    """One example of weight zero, or near its score by luck, says nothing of what a fit has learned."""
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(500, 5)).astype(np.float32)
    targets = (inputs @ np.array([1, 2, 0, 0, 1]) + rng.normal(size=500)).astype(np.float32)
    objective = gk.objective(gk.losses.squared, lambda params, x: x @ params)
    make = lambda h: gk.descent(objective, jnp.zeros(5), optax.sgd(h.learning_rate))  # noqa: E731
    space = gk.grid(learning_rate=gk.geomspace(1e-4, 1e-1, 7))
    for key in range(4):
        told = str(gk.sweep(make, (inputs, targets), space, steps=2000, batch_size=1, key=key, **QUIET))
        assert "learning_rate: works from" in told and "worse than they began" not in told


def test_a_weighted_mean_is_found_at_every_batch_size_and_said_so():
    data = np.ones(4, np.float32), np.array([0, 0, 0, 1], np.float32), np.array([1, 1, 1, 3], np.float32)
    objective = gk.objective(gk.losses.squared, lambda params, x: params * x)
    make = lambda h: gk.descent(objective, jnp.zeros(()), optax.sgd(h.learning_rate))  # noqa: E731
    sweep = gk.sweep(make, data, gk.grid(learning_rate=[3e-3], batch_size=[1, 2, 4]), steps=5000, **QUIET)
    assert "batch_size: works from 1 to 4" in str(sweep) and "no difference beyond noise from 1 to 4" in str(sweep)
    assert [fit.remarks for fit in sweep] == [(), (), ()]
