"""Weights of examples: what is minimized does not depend on how the data are cut into batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk
from gradkit import gradients, losses, models, transforms

RNG = np.random.default_rng(0)
N, D = 8, 2
INPUTS = RNG.normal(size=(N, D)).astype(np.float32)
TARGETS = RNG.normal(size=N).astype(np.float32)
WEIGHTS = np.array([1, 5, 0.5, 2, 3, 1, 0.1, 4], np.float32)
PADDED = np.where(np.arange(N) % 4 == 1, 0, WEIGHTS).astype(np.float32)
LINE = gk.objective(gk.losses.squared, lambda p, x: x @ p)
HOLES = np.where(PADDED[:, None] == 0, np.nan, INPUTS).astype(np.float32)


def linear(params, inputs):
    return inputs @ params


def ridge(l2):
    return losses.objective(losses.squared, linear, penalty=lambda params: l2 * jnp.sum(params**2))


def closed_form(weights, l2):
    """Of ``sum(w * (x @ p - y)**2) / sum(w) + l2 * p @ p``."""
    share = weights.astype(float) / weights.sum()
    x, y = INPUTS.astype(float), TARGETS.astype(float)
    return np.linalg.solve((x.T * share) @ x + l2 * np.eye(D), (x.T * share) @ y)


def batches_of(data, size):
    """All batches of an epoch, stacked."""
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, (-1, size, *leaf.shape[1:])), data)


def mean_gradient(descent, data, batches):
    """Over the batches, at the start of a descent by ``sgd(1)``."""
    state = descent.init(jax.random.key(0), data, None)
    params = descent.params(state, ())
    after = jax.vmap(lambda batch: descent.params(descent.step(state, batch)[0], ()))(batches)
    return jax.tree.map(lambda before, after: before - after.mean(0), params, after)


WRAPS = {
    "objective": lambda objective: objective,
    "wrapped": lambda objective: lambda params, batch: objective(params, batch),
    "with metrics": lambda objective: lambda params, batch: (objective(params, batch), {"rows": jnp.sum(batch[2])}),
    "jitted": lambda objective: jax.jit(lambda params, batch: objective(params, batch)),
    "sliced": lambda objective: lambda params, batch: objective(params, jax.tree.map(lambda leaf: leaf[::-1], batch)),
    "rematerialized": lambda objective: jax.checkpoint(lambda params, batch: objective(params, batch)),
}


@pytest.mark.parametrize("size", [1, 2, 4, N])
@pytest.mark.parametrize("data", [(INPUTS, TARGETS, WEIGHTS), (HOLES, TARGETS, PADDED)], ids=["weighted", "padded"])
def test_batches_of_every_size_stand_still_at_the_minimum_of_the_weighted_problem(data, size):
    @jax.jit
    def at_rest(minimum, l2):
        return mean_gradient(gk.descent(ridge(l2), minimum, optax.sgd(1.0)), data, batches_of(data, size))

    for l2 in (0.0, 0.5):
        minimum = jnp.asarray(closed_form(data[2], l2), jnp.float32)
        np.testing.assert_allclose(at_rest(minimum, l2), np.zeros(D), atol=2e-6)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", WRAPS)
def test_functions_that_wrap_an_objective_weigh_as_it_does(name):
    data, minimum = (HOLES, TARGETS, PADDED), jnp.asarray(closed_form(PADDED, 0.5), jnp.float32)
    descent = gk.descent(WRAPS[name](ridge(0.5)), minimum, optax.sgd(1.0))
    np.testing.assert_allclose(mean_gradient(descent, data, batches_of(data, 2)), np.zeros(D), atol=2e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_model_with_a_state_weighs_as_one_without(size):
    def train(params, state, inputs, key):
        return inputs @ params, state + 1

    plain = models.Model(lambda key: jnp.ones(D), linear)
    stateful = models.Model(lambda key: gk.Stateful(jnp.ones(D), jnp.zeros(())), lambda both, x: x @ both.params, train)
    data = (HOLES, TARGETS, PADDED)
    wanted = mean_gradient(models.descent(plain, losses.squared, optax.sgd(1.0)), data, batches_of(data, N))
    got = mean_gradient(models.descent(stateful, losses.squared, optax.sgd(1.0)), data, batches_of(data, size))
    np.testing.assert_allclose(got.params, wanted, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 2, 1])
def test_a_run_ends_at_the_weighted_mean_whatever_its_batches(batch_size):
    data = np.ones(4), np.array([0, 0, 0, 1.0]), np.array([1, 1, 1, 3.0])
    descent = gk.descent(gk.objective(losses.squared, lambda p, i: p * i), jnp.zeros(()), optax.sgd(3e-3))
    result = gk.fit(descent, data, steps=20_000, batch_size=batch_size, history_every=100, progress=False)
    np.testing.assert_allclose(result.params, 0.5, atol=0.01)


def test_an_order_per_seed_weighs_alike():
    make = lambda h: gk.descent(ridge(h.l2), jnp.zeros(D), optax.sgd(gk.schedules.linear(0.1, 0.0, 2000)))  # noqa: E731
    data = (np.nan_to_num(HOLES), TARGETS, PADDED)
    space = gk.grid(l2=[0.0, 0.5], seed=range(2))
    result = gk.sweep(make, data, space, steps=2000, batch_size=2, order="per_seed", history_every=10, progress=False)
    for hyper, fit in zip(result.hyper, result):
        np.testing.assert_allclose(fit.params, closed_form(PADDED, hyper["l2"]), atol=0.02)


def test_micro_batches_gathered_in_the_chain_weigh_as_the_whole():
    data = (HOLES, TARGETS, PADDED)
    descent = gk.descent(ridge(0.5), jnp.ones(D), transforms.accumulate(optax.sgd(1.0), 4))
    state = descent.init(jax.random.key(0), data, None)
    state, _, _ = gk.unroll(descent, state, batches_of(data, 2))
    np.testing.assert_allclose(1 - state.params, jax.grad(ridge(0.5))(jnp.ones(D), data), rtol=1e-5)


@pytest.mark.parametrize("first, mean", [([3.0, 1.0], 2.0), ([0.0, 0.0], 1.0)], ids=["weighted", "empty"])
def test_batches_of_a_stream_count_in_units_of_the_first_one(first, mean):
    weights = np.array([first, [4.0, 2.0], [0.0, 1.0]], np.float32)
    batches = [(np.ones(2, np.float32), np.zeros(2, np.float32), each) for each in weights]
    descent = gk.descent(gk.objective(losses.squared, lambda p, x: p * x), jnp.ones(()), optax.sgd(0.0))
    result = gk.fit(descent, iter(batches), steps=3, progress=False)
    np.testing.assert_allclose(result.history["loss"], weights.mean(1) / mean)


@pytest.mark.parametrize("loss", [lambda score, target: jnp.log(target) + score**0.5, losses.squared], ids=["log", "squared"])
def test_a_batch_without_any_weight_has_the_loss_0_and_the_gradient_0(loss):
    """The stand-ins are zeros, where that logarithm and that root are not finite."""
    data = (jnp.arange(1.0, 5), jnp.arange(1.0, 5), jnp.array([1.0, 1.0, 0.0, 0.0]))
    descent = gk.descent(gk.objective(loss, lambda p, x: p * x), jnp.ones(()), optax.sgd(1.0))
    state = descent.init(jax.random.key(0), data, None)
    empty = jax.tree.map(lambda leaf: leaf[2:], data)
    state, info, _ = descent.step(state, empty)
    assert (float(info.loss), float(state.params)) == (0, 1)
    assert [float(each) for each in jax.value_and_grad(gk.objective(loss, lambda p, x: p * x))(1.0, empty)] == [0, 0]
    tangents = jax.jvp(lambda p: gk.objective(loss, lambda p, x: p * x)(p, empty), (1.0,), (1.0,))
    assert [float(each) for each in tangents] == [0, 0]


def test_rows_of_per_example_gradients_average_to_the_weighted_gradient():
    objective = ridge(0.5)
    for weights in (WEIGHTS, PADDED):
        batch = (HOLES if weights is PADDED else INPUTS, TARGETS, weights)
        rows = gradients.per_example(objective)(jnp.ones(D), batch)
        np.testing.assert_allclose(rows.mean(0), jax.grad(objective)(jnp.ones(D), batch), rtol=1e-5)


def masked_mean(params, batch):
    values, mask = batch
    loss, mean = (jnp.sum(mask * each) / jnp.sum(mask) for each in ((params - values) ** 2, values))
    return loss, {"weight": jnp.sum(mask), "mean": mean}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_accumulation_honors_the_weight_that_a_loss_reports(size):
    batch = jnp.array([1.0, 1.0, 0.0, 5.0]), jnp.array([9.0, 0.0, 1.0, 0.0])
    got = gradients.accumulate(masked_mean, size=size)(jnp.zeros(()), batch)
    wanted = gradients.value_and_grad(masked_mean)(jnp.zeros(()), batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, wanted)
    assert float(got[0][0]) == pytest.approx(0.9)
    nothing = gradients.accumulate(masked_mean, size=size)(jnp.zeros(()), (batch[0], 0 * batch[1]))
    assert {float(leaf) for leaf in jax.tree.leaves(nothing)} == {0}


def test_both_accumulations_give_the_same():
    batch = jnp.array([1.0, 1.0, 0.0, 5.0]), jnp.array([9.0, 0.0, 1.0, 0.0])
    _, wanted = gradients.accumulate(masked_mean, size=1)(jnp.zeros(()), batch)
    descent = gk.descent(masked_mean, jnp.zeros(()), transforms.accumulate(optax.sgd(1.0), 4))
    state = descent.init(jax.random.key(0), batch, None)
    state, _, _ = gk.unroll(descent, state, batches_of(batch, 1))
    np.testing.assert_allclose(-state.params, wanted, rtol=1e-6)


def test_a_loss_that_takes_three_arrays_which_are_no_weights_gets_a_plain_tuple():
    def residuals(params, batch):
        assert type(batch) is tuple
        return jnp.mean(jax.vmap(lambda p, row: (p * row[0] + row[1] - row[2]) ** 2, (None, (0, 0, 0)))(params, batch))

    data = (TARGETS, TARGETS, WEIGHTS)
    state = gk.descent(residuals, jnp.ones(()), optax.sgd(0.1)).init(jax.random.key(0), data, None)
    assert state.mean_weight == ()


REBUILT = {
    "from its parts": (lambda p, batch: LINE(p, (2 * batch[0], *batch[1:])), (INPUTS, TARGETS, WEIGHTS)),
    "from a dictionary": (
        lambda p, batch: LINE(p, (batch["x"], batch["y"], batch["w"])),
        {"x": INPUTS, "y": TARGETS, "w": WEIGHTS},
    ),
}


@pytest.mark.parametrize("way", REBUILT)
def test_a_batch_put_together_anew_is_told_where_its_weights_count_in_units_of_their_own(way):
    loss, data = REBUILT[way]
    note = "weights count relative to the mean of each batch, so what is minimized depends on batch_size"
    descent = gk.descent(loss, jnp.zeros(D), optax.sgd(0.1))
    (told,) = gk.fit(descent, data, steps=3, batch_size=2, progress=False).notes
    assert told.startswith(note)
    sweep = gk.sweep(
        lambda h: gk.descent(loss, jnp.zeros(D), optax.sgd(h.rate)),
        data,
        gk.grid(rate=[0.1]),
        steps=3,
        batch_size=2,
        progress=False,
    )
    assert note in str(sweep)
    assert gk.fit(descent, data, steps=3, progress=False).notes == ()  # all the data are one batch


def test_a_batch_handed_on_as_it_is_needs_no_word():
    loss = lambda p, batch: LINE(p, jax.tree.map(lambda leaf: 2 * leaf, batch))  # noqa: E731
    fit = gk.fit(
        gk.descent(loss, jnp.zeros(D), optax.sgd(0.1)), (INPUTS, TARGETS, WEIGHTS), steps=3, batch_size=2, progress=False
    )
    assert fit.notes == ()
