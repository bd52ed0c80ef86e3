"""Averages of the parameters: closed forms, the authors' own schedule-free AdamW, and what a fit evaluates."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk
from gradkit import transforms

STEPS, START = 40, np.array([1.0, -2.0, 0.5])
GRADIENTS = np.random.default_rng(0).normal(size=(STEPS, 3))
SGD = functools.partial(optax.sgd, 0.1)
MAKERS = {
    "fading": lambda number: transforms.average(SGD(), transforms.fading(number)),
    "fading with a warm-up": lambda number: transforms.average(SGD(), transforms.fading(number, warmup=True)),
    "equal": lambda number: transforms.average(SGD(), transforms.equal(start=jnp.floor(10 * number), every=3)),
    "lookahead": lambda number: transforms.lookahead(SGD(), sync_steps=5, slow_step=number),
    "lookahead every few": lambda number: transforms.lookahead(SGD(), sync_steps=jnp.floor(8 * number), slow_step=0.5),
    "schedule-free": lambda number: transforms.schedule_free_adamw(0.1, b1=number, warmup_steps=10 * number, weight_decay=number),
}
each_maker = pytest.mark.parametrize("name", MAKERS)


def run(optimizer, theta, gradients):
    """All steps in one scan: the parameters after each and what would be evaluated there."""

    def step(carry, g):
        theta, state = carry
        updates, state = optimizer.update(g.astype(theta.dtype), state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), (theta, transforms.evaluation_params(state, theta))

    return jax.lax.scan(step, (theta, optimizer.init(theta)), gradients)[1]


@functools.cache
def traced(name):
    return jax.jit(chex.assert_max_traces(lambda number: run(MAKERS[name](number), jnp.asarray(START), GRADIENTS), n=1))


@functools.cache
def plain():
    return np.asarray(run(SGD(), jnp.asarray(START), GRADIENTS)[0], np.float64)


def means(weights_of_step):
    """The weighted means of the plain path, for each step the weights of all parameters so far."""
    rows = [weights_of_step(t) for t in range(1, STEPS + 1)]
    return np.stack([np.average(plain()[: len(row)], axis=0, weights=row) for row in rows])


@pytest.mark.usefixtures("x64")
def test_a_fading_average_is_the_mean_with_fading_weights():
    plain.cache_clear()
    path, found = run(MAKERS["fading"](0.9), jnp.asarray(START), GRADIENTS)
    np.testing.assert_array_equal(path, plain())
    np.testing.assert_allclose(found, means(lambda t: 0.9 ** np.arange(t)[::-1]), rtol=1e-12)
    with_warmup = run(MAKERS["fading with a warm-up"](0.9), jnp.asarray(START), GRADIENTS)[1]
    expected = [plain()[0]]
    for t in range(2, STEPS + 1):
        decay = min(0.9, t / (t + 9))
        expected.append(decay * expected[-1] + (1 - decay) * plain()[t - 1])
    np.testing.assert_allclose(with_warmup, expected, rtol=1e-12)
    plain.cache_clear()


@pytest.mark.usefixtures("x64")
def test_a_plain_mean_is_that_of_the_snapshots():
    plain.cache_clear()
    found = run(transforms.average(SGD(), transforms.equal(start=10, every=3)), jnp.asarray(START), GRADIENTS)[1]
    np.testing.assert_array_equal(found[:10], plain()[:10])
    for t in range(11, STEPS + 1):
        np.testing.assert_allclose(found[t - 1], plain()[10:t:3].mean(axis=0), rtol=1e-12)
    plain.cache_clear()


@pytest.mark.usefixtures("x64")
def test_lookahead_goes_part_of_the_way_and_starts_again_from_there():
    path, slow_path = run(MAKERS["lookahead"](0.3), jnp.asarray(START), GRADIENTS)
    fast, slow = START.copy(), START.copy()
    for t, g in enumerate(GRADIENTS, start=1):
        fast = fast - 0.1 * g
        if t % 5 == 0:
            fast = slow = slow + 0.3 * (fast - slow)
        np.testing.assert_allclose(path[t - 1], fast, rtol=1e-12)
        np.testing.assert_allclose(slow_path[t - 1], slow, rtol=1e-12)


SETTINGS = [
    {}, {"warmup_steps": 10}, {"warmup_steps": 10, "weight_decay": 0.1, "b1": 0.95, "step_power": 1.0, "weight_power": 1.0},
]  # fmt: skip


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_schedule_free_adamw_goes_where_its_authors_go(settings):
    torch, schedulefree = pytest.importorskip("torch"), pytest.importorskip("schedulefree")
    b1 = settings.get("b1", 0.9)
    theirs = {
        "warmup_steps": "warmup_steps",
        "weight_decay": "weight_decay",
        "step_power": "r",
        "weight_power": "weight_lr_power",
    }
    arguments = {theirs[name]: value for name, value in settings.items() if name in theirs}
    theta = torch.nn.Parameter(torch.tensor(START))
    optimizer = schedulefree.AdamWScheduleFree([theta], lr=0.1, betas=(b1, 0.999), foreach=False, **arguments)
    path, found = run(transforms.schedule_free_adamw(0.1, **settings), jnp.asarray(START), GRADIENTS)
    for t, g in enumerate(torch.tensor(GRADIENTS)):
        optimizer.train()
        theta.grad = g.clone()
        optimizer.step()
        np.testing.assert_allclose(path[t], theta.detach().numpy(), rtol=1e-12, atol=1e-12)
        optimizer.eval()
        np.testing.assert_allclose(found[t], theta.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_schedule_free_adamw_follows_its_formula_where_optax_goes_elsewhere():
    rates = 0.1 * np.minimum(1, np.arange(1, STEPS + 1) / 10)
    y, z, x, n, total = START.copy(), START.copy(), START.copy(), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(GRADIENTS, rates), start=1):
        total += rate**2
        n = 0.999 * n + 0.001 * g**2
        z = z - rate * g / (np.sqrt(n / (1 - 0.999**t)) + 1e-8)
        x = x + rate**2 / total * (z - x)
        y = 0.1 * z + 0.9 * x
    path, found = run(transforms.schedule_free_adamw(0.1, warmup_steps=10), jnp.asarray(START), GRADIENTS)
    np.testing.assert_allclose(path[-1], y, rtol=1e-11)
    np.testing.assert_allclose(found[-1], x, rtol=1e-11)
    theirs = optax.contrib.schedule_free_adamw(0.1, warmup_steps=10)
    assert np.abs(run(theirs, jnp.asarray(START), GRADIENTS)[0][-1] - y).max() > 1e-3


@each_maker
def test_a_map_over_a_number_equals_a_loop_and_compiles_once(name):
    chex.clear_trace_counter()
    traced.cache_clear()
    numbers = jnp.array([0.25, 0.5, 0.875])
    make = MAKERS[name]
    mapped = jax.jit(jax.vmap(lambda number, theta: run(make(number), theta, GRADIENTS), (0, 0)))
    starts = jnp.tile(jnp.asarray(START), (3, 1))
    healthy = mapped(numbers, starts)
    for index, number in enumerate(numbers):
        chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[index], healthy), traced(name)(number), rtol=2e-5, atol=2e-5)  # noqa: B023
    poisoned = mapped(numbers, starts.at[1].set(jnp.nan))
    chex.assert_trees_all_equal(*(jax.tree.map(lambda leaf: leaf[::2], tree) for tree in (healthy, poisoned)))
    assert np.isnan(poisoned[1][1]).all()


@each_maker
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_averaged_in_float32_and_evaluated_in_its_own(name, dtype):
    optimizer, params = MAKERS[name](0.5), {"w": jnp.ones(3, dtype)}
    state = optimizer.init(params)
    updates, after = jax.eval_shape(optimizer.update, params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (params, state))
    kept = state.z if name == "schedule-free" else state.slow if "lookahead" in name else state.average
    assert kept["w"].dtype == jnp.float32
    assert transforms.evaluation_params(state, params)["w"].dtype == dtype


def one_update(optimizer, params):
    updates, state = optimizer.update(params, optimizer.init(params), params)
    return optax.apply_updates(params, updates), state


AVERAGES = {
    "average": transforms.average(SGD(), lambda count: 0.25),
    "lookahead": transforms.lookahead(SGD(), sync_steps=2),
    "schedule-free": transforms.schedule_free_adamw(0.1, b1=0.5),
}


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_an_average_is_found_anywhere_and_for_its_own_leaves_only(average):
    params = {"w": {"deep": jnp.ones(2)}, "b": jnp.ones(())}
    optimizer = optax.chain(optax.identity(), optax.partition({"a": average, "o": SGD()}, {"w": "a", "b": "o"}))
    after, state = one_update(optimizer, params)
    own, own_state = one_update(average, params["w"])
    truth = {"w": transforms.evaluation_params(own_state, own), "b": after["b"]}
    chex.assert_trees_all_close(transforms.evaluation_params(state, after), truth)
    masked, state = one_update(optax.masked(average, {"w": True, "b": False}), params)
    chex.assert_trees_all_close(transforms.evaluation_params(state, masked)["w"], truth["w"])
    assert average is not AVERAGES["average"] or truth["w"]["deep"][0] == np.float32(1 - 0.1 * 0.25)


def test_what_a_guard_keeps_to_go_back_to_is_not_evaluated():
    for average in AVERAGES.values():
        after, state = one_update(transforms.guard(average, policy="restore"), jnp.ones(2))
        truth = transforms.evaluation_params(state.inner, after)
        np.testing.assert_array_equal(transforms.evaluation_params(state, after), truth)


def test_the_weights_of_a_long_run_keep_their_digits():
    optimizer, y, num = transforms.schedule_free_adamw(0.1), jnp.zeros(()), 10**6
    state = optimizer.init(y)._replace(count=jnp.int32(num), largest_rate=jnp.float32(0.1), relative_total=jnp.float32(num))
    for t in range(num + 1, num + 4):  # without a gradient, all that moves y is its share of the way to z
        updates, state = optimizer.update(jnp.zeros(()), state._replace(z=jnp.ones(())), y)
        assert (updates, state.relative_total) == (np.float32(1 / t), t)


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_an_average_refuses_gradients_that_do_not_fit_and_updates_without_parameters(average):
    params, state = jnp.ones((3, 2)), average.init(jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"`grads` must have the shapes of `params`, got \(2,\) where"):
        average.update(jnp.ones(2), state, params)
    with pytest.raises(TypeError, match="`params` must be given to `update`"):
        average.update(params, state)


def test_a_fit_trains_the_parameters_and_evaluates_their_average():
    noise = np.random.default_rng(0).normal(size=(512, 1)).astype(np.float32)
    loss = lambda theta, batch: jnp.mean((theta - batch) ** 2)  # noqa: E731
    optimizer = transforms.average(optax.sgd(0.4), transforms.equal(start=20))
    fit = gk.fit(gk.descent(loss, jnp.ones(()), optimizer), noise, steps=400, batch_size=1, validation=noise, progress=False)
    np.testing.assert_allclose(fit.params, fit.state.optimizer.average)
    assert fit.params != fit.state.params
    # the last parameters vary by 0.4 / (2 - 0.8) of the noise's variance; the mean of 380 of them by about 1 / 380 of it
    assert abs(fit.params - noise.mean()) < 4 / np.sqrt(380)
    assert fit.metrics["validation_loss"] == pytest.approx(float(loss(fit.params, noise)), rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transforms.fading(1.0), "`decay` must be at least 0 and below 1, got 1.0"),
        (lambda: transforms.equal(every=0), "`every` must be a whole number of at least 1, got 0"),
        (lambda: transforms.lookahead(SGD(), sync_steps=0), "`sync_steps` must be a whole number of at least 1, got 0"),
        (lambda: transforms.lookahead(SGD(), slow_step=-0.5), "`slow_step` must be finite and at least 0, got -0.5"),
        (lambda: transforms.schedule_free_adamw(b1=0.0), "`b1` must be above 0 and below 1, got 0.0"),
        (lambda: transforms.equal(start=1.5), "`start` must be a whole number of at least 0, got 1.5"),
        (lambda: transforms.equal(every=0.5), "`every` must be a whole number of at least 1, got 0.5"),
        (lambda: transforms.lookahead(SGD(), sync_steps=2.5), "`sync_steps` must be a whole number of at least 1, got 2.5"),
        (lambda: transforms.average(SGD(), 0.9), r"`weight` must be a function of .*, got 0.9. Call average\(optimizer, fading"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
