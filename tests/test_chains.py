"""Accumulation, observation and mixed precision: by hand, beside optax, and in whole fits."""

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
from gradkit.transforms import accumulate, clip_by_global_norm, guard, mixed_precision, observe, reported

NAN = np.nan
INPUTS, TARGETS = regression_data()
RATE = schedules.linear(0.05, 0.0, 12)
fit = functools.partial(gk.fit, progress=False)


def stream(batches):
    return gk.stream(lambda start: iter(batches[start:]))


def cut(sizes):
    """Batches of these sizes, one after another."""
    ends = np.cumsum(sizes)
    return [(INPUTS[end - size : end], TARGETS[end - size : end]) for end, size in zip(ends, sizes)]


def unrolled(descent, batches):
    """The last state and the infos of a descent over batches of one size."""
    run = jax.jit(lambda batches: gk.unroll(descent, descent.init(gk.keys.as_key(0), None, None), batches)[:2])
    return run(jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches))


def updates_of(optimizer, grads, **told):
    """The updates of a scalar, and the last state; ``told`` are arrays over the steps."""

    def step(state, inputs):
        grad, told = inputs
        updates, state = optimizer.update(grad, state, jnp.zeros(()), **told)
        return state, updates

    told = {name: jnp.asarray(values, jnp.float32) for name, values in told.items()}
    state, updates = jax.lax.scan(step, optimizer.init(jnp.zeros(())), (jnp.asarray(grads, jnp.float32), told))
    return np.asarray(updates), state


def test_accumulation_is_a_mean_with_weights_and_rests_in_between():
    updates, state = updates_of(accumulate(optax.sgd(1.0), 2), [4.0, 2.5, 1.0, 1.0, 7.0], weight=[4, 2, 1, 3, 1])
    np.testing.assert_allclose(updates, [0, -3.5, 0, -1, 0], rtol=1e-6)
    assert (state.num_updates, state.mini_step, state.weight) == (2, 1, 1)


def test_one_nan_leaves_the_other_micro_batches_and_all_later_updates_where_it_poisons_those_of_optax():
    grads = [1.0, NAN, 3.0, 5.0, 5.0, 5.0, NAN, NAN, np.inf, 2.0, 2.0, 2.0]
    updates, state = updates_of(accumulate(optax.sgd(lambda count: 1.0 + count), 3), grads)
    np.testing.assert_allclose(updates[2::3], [-2.0, -10.0, 0.0, -6.0])
    assert (state.skips.total, state.num_updates) == (4, 3)
    multi = optax.MultiSteps(optax.sgd(1.0), 3)
    assert np.isnan(updates_of(multi, grads)[0][2::3]).all()


def test_a_micro_batch_with_a_bad_weight_or_loss_is_left_out():
    grads, weights, values = [1.0, 2.0, 3.0], [1.0, NAN, 1.0], [1.0, 1.0, np.inf]
    updates, state = updates_of(accumulate(optax.sgd(1.0), 3), grads, weight=weights, value=values)
    np.testing.assert_allclose(updates, [0, 0, -1])
    assert (state.skips.total, state.skips.in_a_row, state.skips.loss) == (2, 2, 1.0)


def test_means_that_overflow_make_no_update_and_are_counted():
    weights = [10, 10, 1, 1, 1e38, 3e38, 1, 1]
    updates, state = updates_of(accumulate(optax.sgd(1.0), 2), [3e38, -3e38, 1, 1, 1e-20, 1e-20, 2, 2], weight=weights)
    np.testing.assert_allclose(updates, [0, 0, 0, -1, 0, 0, 0, -2])
    assert (state.skips.total, state.skips.in_a_row, state.num_updates) == (2, 0, 2)


def test_an_accumulation_inside_another_is_told_the_weights():
    updates, _ = updates_of(accumulate(accumulate(optax.sgd(1.0), 2), 2), [4.0, 2.5, 1.0, 3.0], weight=[4, 2, 1, 1])
    np.testing.assert_allclose(updates, [0, 0, 0, -(16 + 5 + 1 + 3) / 8], rtol=1e-6)


def test_an_accumulation_refuses_gradients_that_would_be_broadcast():
    optimizer = accumulate(optax.sgd(1.0), 2)
    with pytest.raises(ValueError, match=r"`grads` must have the shapes of `params`, got \(2,\) where"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones((3, 2))))


def test_schedules_count_updates_and_the_optimizer_is_told_means():
    def update(updates, state, params=None, *, value, grad, **extra_args):
        assert extra_args.keys() == {"weight"}
        return value + 10 * grad + 100 * updates, state

    told = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    optimizer = optax.chain(accumulate(optax.chain(told, optax.scale_by_schedule(lambda count: count + 1.0)), 2))
    told = {"value": [1, 5, 2, 4], "grad": [1, 2, 3, 4], "weight": [1, 3, 1, 1], "value_fn": [0, 0, 0, 0]}
    found, _ = updates_of(optimizer, [1, 2, 3, 4], **told)
    np.testing.assert_allclose(found, [0, 4 + 17.5 + 175, 0, 2 * (3 + 35 + 350)])


def test_half_precision_is_summed_in_float32():
    params, grads = jnp.zeros((), jnp.bfloat16), jnp.ones(300, jnp.bfloat16)  # 256 + 1 is 256 in bfloat16
    optimizer = accumulate(optax.sgd(1.0), 300)

    def step(state, grad):
        updates, state = optimizer.update(grad, state, params)
        return state, updates

    updates = jax.lax.scan(step, optimizer.init(params), grads)[1]
    assert (updates.dtype, float(updates[-1])) == (jnp.bfloat16, -1.0)


def test_a_fit_over_ragged_micro_batches_equals_one_over_large_batches():
    def loss(params, batch):  # mean over the examples that are not padding
        inputs, targets, mask = batch
        errors = jax.vmap(lambda x, y: net_loss(params, (x[None], y[None])))(inputs, targets)
        return jnp.sum(mask * errors) / jnp.sum(mask), {"weight": jnp.sum(mask)}

    def padded(inputs, targets):
        missing = 16 - len(targets)
        return np.pad(inputs, ((0, missing), (0, 0))), np.pad(targets, (0, missing)), np.arange(16) < len(targets)

    optimizer = optax.chain(clip_by_global_norm(0.5), optax.adamw(RATE))
    micro = stream([padded(*batch) for batch in cut([16, 8] * 4)])
    small = fit(gk.descent(loss, init_net, accumulate(optimizer, 2)), micro, steps=8)
    large = fit(gk.descent(net_loss, init_net, optimizer), stream(cut([24] * 4)), steps=4)
    chex.assert_trees_all_close(small.params, large.params, rtol=2e-5, atol=2e-6)


def with_bad(batches, index):
    batches[index] = (batches[index][0], batches[index][1] + np.float32(NAN))
    return batches


def test_a_bad_micro_batch_is_told_and_is_no_failure():
    descent = gk.descent(net_loss, init_net, accumulate(guard(optax.adam(0.01)), 2))
    state, infos = unrolled(descent, with_bad(cut([16] * 6), 2))
    assert infos.metrics["skipped"].tolist() == [0, 0, 1, 1, 1, 1]
    assert infos.loss[2] == infos.loss[1]
    chex.assert_tree_all_finite((state, infos))


@pytest.mark.parametrize(("num_steps", "error"), [(0, ValueError), (1.5, TypeError)])
def test_a_number_of_micro_batches_that_is_none_is_refused(num_steps, error):
    with pytest.raises(error, match=f"`num_steps` must be a whole number of at least 1, got {num_steps}"):
        accumulate(optax.sgd(0.1), num_steps)


# observe


def test_figures_are_those_of_the_formulas():
    optimizer = observe(optax.sgd(RATE), clip=clip_by_global_norm(1.0), learning_rate=RATE)
    params = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    state = optimizer.init(params)
    assert np.isinf(state.metrics["grad_norm"])
    for step, size in enumerate((2.0, 0.1, 1e25, np.inf)):
        grads = jax.tree.map(lambda leaf: size / 5 * leaf, params)  # noqa: B023
        _, state = optimizer.update(grads, state, params)
        truth = {"grad_norm": size, "clipped_grad_norm": min(size, 1), "is_clipped": size > 1, "is_finite": True,
                 "used_rate": RATE(step), "update_ratio": RATE(step) * min(size, 1) / 5}  # fmt: skip
        if np.isfinite(size):
            chex.assert_trees_all_close(state.metrics, truth, rtol=1e-5)
    assert not state.metrics["is_finite"]


def test_a_ratio_to_parameters_that_are_zero_is_zero():
    optimizer = observe(optax.sgd(1.0))
    state = optimizer.update(jnp.ones(2), optimizer.init(jnp.zeros(2)), jnp.zeros(2))[1]
    assert (sorted(state.metrics), state.metrics["update_ratio"]) == (["grad_norm", "is_finite", "update_ratio"], 0.0)


def test_to_be_observed_changes_no_bit_of_a_fit_and_fills_its_history():
    clip, optimizer = optax.clip_by_global_norm(0.5), optax.adamw(RATE)
    data = stream(cut([8] * 12))
    plain = fit(gk.descent(net_loss, init_net, optax.chain(clip, optimizer)), data, steps=12)
    seen = fit(gk.descent(net_loss, init_net, observe(optimizer, clip=clip, learning_rate=RATE)), data, steps=12)
    assert same_bits(seen.params, plain.params)
    assert same_bits(seen.history["loss"], plain.history["loss"])
    np.testing.assert_allclose(seen.history["used_rate"], [RATE(step) for step in range(12)], rtol=1e-6)
    np.testing.assert_allclose(seen.history["clipped_grad_norm"], np.minimum(seen.history["grad_norm"], 0.5), rtol=1e-5)
    assert seen.history["is_finite"].all()
    np.testing.assert_array_equal(seen.history["is_clipped"], seen.history["grad_norm"] >= 0.5)


def test_rates_are_those_of_the_updates_made_inside_accumulation_and_guard():
    optimizer = observe(guard(accumulate(optax.adam(RATE), 2)), learning_rate=RATE)
    _, (_, metrics) = unrolled(gk.descent(net_loss, init_net, optimizer), with_bad(cut([8] * 9), 1))
    rates = [RATE(step) for step in (0, 0, 0, 1, 1, 2, 2, 3, 3)]
    np.testing.assert_allclose(metrics["used_rate"], rates, rtol=1e-6)
    assert metrics["is_finite"].tolist() == [1, 0, 1, 1, 1, 1, 1, 1, 1]
    assert np.isnan(metrics["grad_norm"][1])
    assert np.flatnonzero(metrics["update_ratio"]).tolist() == [2, 4, 6, 8]


# optimizer -> the updates it has made when 1, 1, NaN and 1 have come; one that goes back counts again
COUNTED = {
    "behind a schedule of the clip": (optax.chain(clip_by_global_norm(RATE), accumulate(optax.sgd(RATE), 2)), 2),
    "before a count of all steps": (optax.chain(guard(optax.sgd(RATE)), optax.ema(0.0)), 3),
    "beside a kept point": (guard(optax.sgd(RATE), policy="restore", every=1), 2),
    "in a rule": (optax.chain(guard(gk.as_torch.rprop(RATE)), optax.ema(0.0)), 3),
    "in no state that is known": (optax.chain(guard(optax.scale_by_adam()), optax.ema(0.0)), 3),
    "beside a parameter of that name": (optax.sgd(RATE, momentum=0.5), 4),
}


@pytest.mark.parametrize(("optimizer", "count"), COUNTED.values(), ids=COUNTED)
def test_the_rate_told_is_that_of_the_count_of_the_rate(optimizer, count):
    observed, params = observe(optimizer, learning_rate=RATE, prefix="all_"), {"count": jnp.ones(())}
    state = observed.init(params)
    for grad in (1.0, 1.0, NAN, 1.0, 1.0):
        _, state = observed.update({"count": jnp.array(grad)}, state, params)
    np.testing.assert_allclose(state.metrics["all_used_rate"], RATE(count), rtol=1e-6)


def test_a_nan_that_a_clip_leaves_alone_is_not_clipped_and_groups_have_their_own_figures():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    groups = {name: observe(optax.sgd(0.1), clip=optax.clip(1.0), prefix=f"{name}_") for name in params}
    optimizer = optax.partition(groups, {"a": "a", "b": "b"})
    grads = {"a": jnp.array([0.5, NAN]), "b": jnp.array([2.0, NAN])}
    metrics = reported(gk.Info(jnp.zeros(()), {}), optimizer.update(grads, optimizer.init(params), params)[1]).metrics
    assert (metrics["a_is_clipped"], metrics["b_is_clipped"], metrics["a_is_finite"]) == (False, True, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -1.0}, "`learning_rate` must be finite and at least 0, got -1.0"),
        ({"learning_rate": NAN}, "`learning_rate` must be finite and at least 0, got nan"),
        ({"learning_rate": "0.1"}, "`learning_rate` must be a number, a traced value or a schedule, got '0.1'"),
        ({"learning_rate": np.ones(2)}, r"`learning_rate` must be a scalar, got an array of shape \(2,\)"),
        ({"clip": 1.0}, "`clip` must be an optax gradient transformation, got 1.0. Pass for example gk.transforms.clip_by_glo"),
    ],
)
def test_figures_of_what_makes_no_sense_are_refused(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        observe(optax.sgd(0.1), **arguments)


def test_a_fit_shows_figures_that_are_not_finite_of_a_step_that_is_undone():
    # the state holds them, and is not to be taken for one that diverged
    optimizer = observe(guard(optax.adam(RATE)), clip=clip_by_global_norm(1.0), learning_rate=RATE)
    found = fit(gk.descent(net_loss, init_net, optimizer), stream(with_bad(cut([8] * 9), 8)), steps=9)
    assert found.status == gk.Status.FINISHED
    assert np.isnan(found.history["grad_norm"]).tolist() == [False] * 8 + [True]
    assert found.history["skipped"].tolist() == [0] * 8 + [1]


def test_what_a_guard_keeps_to_go_back_to_is_not_told():
    optimizer = guard(observe(accumulate(optax.sgd(0.1), 2)), policy="restore")
    info = jax.eval_shape(lambda: reported(gk.Info(jnp.zeros(()), {}), optimizer.init(jnp.zeros(()))))
    assert sorted(info.metrics) == ["grad_norm", "is_finite", "skipped", "skipped_in_a_row", "update_ratio"]


def test_two_figures_of_one_name_are_refused():
    def loss(params, batch):
        return net_loss(params, batch), {"grad_norm": jnp.zeros(())}

    for loss_fn, optimizer in [(loss, observe(optax.sgd(0.1))), (net_loss, observe(observe(optax.sgd(0.1))))]:
        with pytest.raises(ValueError, match="`metrics` must have names of their own, got twice grad_norm"):
            unrolled(gk.descent(loss_fn, init_net, optimizer), cut([8]))


def test_a_schedule_that_no_count_answers_is_refused():
    with pytest.raises(ValueError, match="`learning_rate` must be a number, as the optimizer's state has no count"):
        observe(optax.sgd(0.1), learning_rate=RATE).init(jnp.ones(()))
    with pytest.raises(TypeError, match="`params` must be given to `update`"):
        observe(optax.sgd(0.1)).update(jnp.ones(()), observe(optax.sgd(0.1)).init(jnp.ones(())))


# mixed precision


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def half(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), tree)


def test_mixed_precision_computes_in_half_and_keeps_float32_outside():
    seen = []

    def loss(params, batch):
        seen.extend(leaf.dtype for leaf in jax.tree.leaves((params, batch)))
        value = jnp.mean(params["w"] * batch[0])
        return value, {"mean": value, "count": batch[1]}

    params, batch = {"w": jnp.float32(1 / 3)}, (jnp.ones(2), jnp.arange(2)[0])
    (value, metrics), grads = jax.value_and_grad(mixed_precision(loss), has_aux=True)(params, batch)
    assert seen == [jnp.bfloat16, jnp.bfloat16, jnp.int32]
    assert (value.dtype, metrics["mean"].dtype, metrics["count"].dtype, grads["w"].dtype) == ("f4", "f4", "i4", "f4")
    assert value == jnp.bfloat16(1 / 3)


def test_weights_in_float32_learn_where_weights_in_bfloat16_stall():
    data, optimizer, steps = (INPUTS, TARGETS), optax.sgd(3e-4), 400
    mixed = fit(gk.descent(mixed_precision(net_loss), init_net, optimizer), data, steps=steps)
    assert {leaf.dtype for leaf in jax.tree.leaves(mixed.params)} == {np.dtype("float32")}
    lost = gk.descent(lambda params, _: net_loss(params, half(data)), lambda key: half(init_net(key)), optimizer)
    stalled = unrolled(lost, list(np.zeros(steps)))[0].params
    losses = [float(net_loss(single(params), data)) for params in (init_net(gk.keys.as_key(0)), mixed.params, stalled)]
    gains = losses[0] - np.array(losses[1:])
    assert gains[0] > 5 * max(gains[1], 1e-3)


def test_mixed_precision_of_a_loss_with_a_state_keeps_the_dtypes_of_the_state():
    def loss(params, state, batch, key):
        assert (params.dtype, state.dtype, batch.dtype) == (jnp.bfloat16, jnp.float32, jnp.bfloat16)
        return jnp.mean((params - batch) ** 2), (0.9 * batch[0], {"mean": jnp.mean(batch)})

    descent = gk.descent(mixed_precision(loss), jnp.zeros(()), optax.sgd(0.1), state=jnp.zeros(()))
    state, infos = unrolled(descent, list(np.ones((3, 4), np.float32)))
    assert (state.params.dtype, state.state.dtype, infos.metrics["mean"].dtype) == ("f4", "f4", "f4")


def test_mixed_precision_refuses_what_it_cannot_use():
    with pytest.raises(TypeError, match="`loss_fn` must be a function"):
        mixed_precision(3.0)
    with pytest.raises(TypeError, match="`compute_dtype` must be a floating dtype"):
        mixed_precision(net_loss, jnp.int8)
