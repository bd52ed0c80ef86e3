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
def test_start_and_end_are_looked_at_on_the_batch_of_the_first_step(order):
    space = gk.grid(learning_rate=[1e-3, 1e-2], seed=[0, 3])
    sweep = gk.sweep(net, DATA, space, steps=50, batch_size=8, order=order, plan=gk.Plan(width=3), **QUIET)
    rows = shuffled_epochs(len(DATA[1]), batch_size=8, key=0)
    for fit, hyper in zip(sweep, space):
        first = rows(hyper["seed"] if order == "per_seed" else None, 0, 1)[0]
        start = init_net(gk.keys.member_key(jax.random.key(0), hyper["seed"]))
        assert fit.start_loss == fit.history["loss"][0]
        np.testing.assert_allclose(fit.start_loss, loss_of(start, first), rtol=1e-5)
        np.testing.assert_allclose(fit.end_loss, loss_of(fit.params, first), rtol=1e-5)


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
