"""Gradients against plain jax and closed forms; the gradient check against gradients that are known to be right or wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gradkit import gradients, keys, losses

RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32), "b": jnp.zeros(2)}
INPUTS = jnp.asarray(RNG.normal(size=(7, 3)), jnp.float32)
TARGETS = jnp.asarray(RNG.normal(size=(7, 2)), jnp.float32)
WEIGHTS = jnp.array([1.0, 2.0, 0.5, 3.0, 1.0, 0.0, 2.0])


def apply(params, inputs):
    return jnp.tanh(inputs @ params["w"] + params["b"][None])


mean_squared = losses.objective(losses.squared, apply)


def with_metrics(params, batch):
    loss = mean_squared(params, batch)
    return loss, {"rmse": jnp.sqrt(loss), "mean": jnp.mean(apply(params, batch[0])), "count": jnp.int32(3)}


def assert_close(got, wanted, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, wanted)


# --- value_and_grad -----------------------------------------------------------------------------------------------------------


def test_value_and_grad_adds_nothing_to_the_program_of_jax():
    plain = jax.make_jaxpr(jax.value_and_grad(with_metrics, has_aux=True))(PARAMS, (INPUTS, TARGETS))
    assert str(jax.make_jaxpr(gradients.value_and_grad(with_metrics))(PARAMS, (INPUTS, TARGETS))) == str(plain)


def test_value_and_grad_takes_a_scalar_metrics_and_a_state():
    for aux in ({}, {"a": jnp.ones(())}, ({"mean": jnp.zeros(3)}, {"a": 1.0})):
        (loss, got), grads = gradients.value_and_grad(lambda x, y, aux=aux: (x * y, aux))(3.0, 2.0)
        assert (float(loss), float(grads)) == (6.0, 2.0)
        assert jax.tree.structure(got) == jax.tree.structure(aux)
    (loss, metrics), grads = gradients.value_and_grad(lambda x: x**2)(3.0)
    assert (float(loss), metrics, float(grads)) == (9.0, {}, 6.0)


X = jnp.ones(3)


@pytest.mark.parametrize("loss_fn, params, match", [
    (lambda p: p["a"].sum(), {"a": X, "n": jnp.arange(2)}, r"`params\.n` must be floating.* got int32 of shape \(2,\)"),
    (lambda p: p[0].sum(), [X, True], r"`params\[1\]` must be floating.* got bool"),
    (lambda p: p[0].sum(), [X, jax.nn.relu], r"`params\[1\]` must be floating"),
    (lambda p: p[0].sum(), [X, jax.random.key(0)], r"`params\[1\]` must be floating.* got key<fry> of shape \(\)"),
    (lambda p: 1.0, 3, r"`params` must be floating.* got int"),
    (lambda p: p, X, r"`loss_fn` must return a floating scalar, got float32 of shape \(3,\)\. Take the mean"),
    (lambda p: p[:1], X, r"`loss_fn` must return a floating scalar, got float32 of shape \(1,\)"),
    (lambda p: jnp.argmax(p), X, r"`loss_fn` must return a floating scalar, got int32 of shape \(\)"),
    (lambda p: {"loss": p.sum()}, X, r"`loss_fn` must return a floating scalar, got dict"),
    (lambda p: (p.sum(), p.sum()), X, r"`loss_fn` must return its metrics as a dict of named .*Return `loss, "),
    (lambda p: (p.sum(), (None, p)), X, r"`loss_fn` must return its metrics as a dict of named scalars, got float32"),
    (lambda p: (p.sum(), {"a": p}), X, r"`metrics\['a'\]` must be a scalar, got float32 of shape \(3,\)\. Take the mean"),
    (lambda p: (p.sum(), {"a": "text"}), X, r"`metrics\['a'\]` must be a scalar, got str"),
])  # fmt: skip
def test_what_has_no_gradient_is_refused_by_name(loss_fn, params, match):
    with pytest.raises(TypeError, match=match):
        gradients.value_and_grad(loss_fn)(params)


def test_a_leaf_without_a_gradient_is_named():
    def loop(params):
        halved = jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, params["length"])
        return jnp.sum(params["w"] ** 2) + halved

    with pytest.raises(TypeError, match=r"`params\.length` must have a gradient, got Reverse-mode .*Use jax\.lax\.scan"):
        gradients.value_and_grad(loop)({"w": X, "length": 5.0})


# --- per_example --------------------------------------------------------------------------------------------------------------


grad = jax.jit(jax.grad(mean_squared))


@pytest.mark.few(3)
@pytest.mark.parametrize("chunk_size", [None, 3, 20])
@pytest.mark.parametrize("weights", [(), (WEIGHTS,)], ids=["plain", "weighted"])
def test_per_example_gradients_are_those_of_a_loop(chunk_size, weights):
    got = jax.jit(gradients.per_example(mean_squared, chunk_size=chunk_size))(PARAMS, (INPUTS, TARGETS, *weights))
    rows = [grad(PARAMS, (INPUTS[i : i + 1], TARGETS[i : i + 1])) for i in range(7)]
    if weights:
        rows = [jax.tree.map(lambda leaf, w=w: w * leaf, row) for row, w in zip(rows, WEIGHTS / WEIGHTS.mean())]
    assert_close(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows))


def test_per_example_gradients_average_to_the_gradient():
    got = jax.jit(gradients.per_example(with_metrics, chunk_size=2))(PARAMS, (INPUTS, TARGETS))
    assert_close(jax.tree.map(lambda leaf: leaf.mean(0), got), grad(PARAMS, (INPUTS, TARGETS)))


# --- accumulate ---------------------------------------------------------------------------------------------------------------


def assert_accumulates(loss_fn, batch, *, size):
    got = jax.jit(gradients.accumulate(loss_fn, size=size))(PARAMS, batch)
    assert_close(got, jax.jit(gradients.value_and_grad(loss_fn))(PARAMS, batch))


@pytest.mark.parametrize("size", [2, 7, 100])
@pytest.mark.parametrize("weights", [(), (WEIGHTS,)], ids=["plain", "weighted"])
def test_accumulation_equals_the_whole_batch(size, weights):
    batch = (INPUTS, TARGETS, *weights)
    assert_accumulates(mean_squared, batch, size=size)


def test_accumulation_equals_the_whole_batch_with_a_penalty_and_metrics_that_are_means():
    ridge = losses.objective(losses.squared, apply, penalty=lambda params: jnp.sum(params["w"] ** 2))
    loss_fn = lambda params, batch: (ridge(params, batch), {"mean": jnp.mean(apply(params, batch[0]))})  # noqa: E731
    assert_accumulates(loss_fn, (INPUTS, TARGETS), size=3)
    for weights in (WEIGHTS, 0 * WEIGHTS):  # a batch without any weight still has its penalty
        assert_accumulates(ridge, (INPUTS, TARGETS, weights), size=3)


def test_a_micro_batch_of_weight_zero_contributes_nothing_even_if_it_is_nan():
    careless = lambda params, batch: jnp.sum(batch[2] * (params * batch[0] - batch[1]) ** 2) / jnp.sum(batch[2])  # noqa: E731
    x, y, w = jnp.array([1.0, 2.0, jnp.nan, 4.0]), jnp.array([1.0, 1.0, 1.0, jnp.inf]), jnp.array([1.0, 3.0, 0.0, 0.0])
    got = jax.jit(gradients.accumulate(careless, size=1))(0.5, (x, y, w))
    assert_close(got, jax.jit(gradients.value_and_grad(careless))(0.5, (x[:2], y[:2], w[:2])))


def test_accumulation_sums_in_float32_and_returns_the_dtypes_of_the_parameters():
    """4096 gradients of 1 + 2**-8: a bfloat16 sum stops growing at 256."""
    loss_fn = lambda p, x: (jnp.mean(p * x), {"count": jnp.int32(2)})  # noqa: E731
    params, x = jnp.ones((), jnp.bfloat16), jnp.full(4096, 1.0078125, jnp.bfloat16)
    (loss, metrics), grad = gradients.accumulate(loss_fn, size=1)(params, x)
    assert (loss.dtype, grad.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert (float(loss), float(grad)) == (1.0078125, 1.0078125)
    np.testing.assert_allclose(metrics["count"], 2.0)


def test_accumulation_compiles_the_loss_for_full_micro_batches_and_the_rest_only():
    scans = str(jax.make_jaxpr(gradients.accumulate(mean_squared, size=2))(PARAMS, (INPUTS, TARGETS)))
    assert scans.count("scan[") == 1
    assert "length=3" in scans


@pytest.mark.parametrize("walk", [gradients.per_example(mean_squared), gradients.accumulate(mean_squared, size=2)])
@pytest.mark.parametrize("batch, match", [
    ((INPUTS, TARGETS[:5]), r"`batch` must lead with the same examples in every leaf.* got \[0\]\(7, 3\), \[1\]\(5, 2\)"),
    ({"x": INPUTS, "t": jnp.ones(())}, r"`batch` must lead with the same examples.* got t\(\), x\(7, 3\)"),
    ((INPUTS[:0], TARGETS[:0]), r"`batch` must lead with .* at least one, got \[0\]\(0, 3\)"),
    ((), r"`batch` must lead with .* got no arrays"),
])  # fmt: skip
def test_batches_without_a_common_axis_are_refused(walk, batch, match):
    with pytest.raises(ValueError, match=match):
        walk(PARAMS, batch)


@pytest.mark.parametrize("call, error, match", [
    (lambda: gradients.per_example(mean_squared, chunk_size=0), ValueError, r"`chunk_size` must be a whole number of at least 1"),
    (lambda: gradients.accumulate(mean_squared, size=0), ValueError, r"`size` must be a whole number of at least 1, got 0"),
    (lambda: gradients.accumulate(mean_squared, size=2)(PARAMS, (INPUTS, TARGETS, TARGETS)), ValueError,
     r"`batch\[2\]` must be weights of shape \(7,\), got \(7, 2\)\. A batch of three is \(inputs, targets, weights\)"),
    (lambda: gradients.accumulate(lambda p, x: (p * x.mean(), (x, {})), size=2)(1.0, X), TypeError,
     r"`loss_fn` must return a scalar or \(scalar, metrics\), got .* A state cannot be averaged"),
])  # fmt: skip
def test_bad_arguments_of_walks_are_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


# --- hvp ----------------------------------------------------------------------------------------------------------------------


def test_hvp_is_the_hessian_times_the_vector():
    vector = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape), leaf.dtype), PARAMS)
    flat, unravel = jax.flatten_util.ravel_pytree(PARAMS)
    hessian = jax.jit(jax.hessian(lambda flat: mean_squared(unravel(flat), (INPUTS, TARGETS))))(flat)
    wanted = unravel(hessian @ jax.flatten_util.ravel_pytree(vector)[0])
    for loss_fn in (mean_squared, with_metrics):
        assert_close(jax.jit(gradients.hvp(loss_fn))(PARAMS, (INPUTS, TARGETS), vector), wanted)


@pytest.mark.parametrize("vector, match", [
    ({"w": PARAMS["w"]}, r"`vector` must have the structure of the parameters"),
    ({"w": PARAMS["w"].T, "b": PARAMS["b"]}, r"`vector\.w` must be float32 of shape \(3, 2\).* got float32 of shape \(2, 3\)"),
    ({"w": PARAMS["w"], "b": jnp.arange(2)}, r"`vector\.b` must be float32 of shape \(2,\), .* got int32 of shape \(2,\)"),
])  # fmt: skip
def test_a_vector_unlike_the_parameters_is_refused(vector, match):
    with pytest.raises(ValueError, match=match):
        gradients.hvp(mean_squared)(PARAMS, (INPUTS, TARGETS), vector)


# --- check --------------------------------------------------------------------------------------------------------------------


def spoiled(change):
    """The identity, with a backward pass that changes the cotangent."""
    identity = jax.custom_vjp(lambda x: x)
    identity.defvjp(lambda x: (x, None), lambda _, cotangent: (change(cotangent),))
    return identity


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def verdicts(report):
    return [leaf.verdict for leaf in report.leaves]


@pytest.mark.parametrize("n", [1000, 100_000])
def test_correct_gradients_pass_where_jax_calls_them_wrong(n):
    x = normal(n)
    with pytest.raises(AssertionError):
        check_grads(lambda x: jnp.sum(x**2), (x,), order=1, modes=["rev"])
    report = gradients.check(lambda x: jnp.sum(x**2), x)
    assert report.ok
    assert str(report) == "GradientCheck: 1 of 1 leaves pass"


@pytest.mark.parametrize("n, factor", [(4, 0), (1000, 0), (100_000, 0), (100_000, 0.99)])
def test_one_wrong_entry_is_found_where_jax_lets_it_pass(n, factor):
    x, entry = jnp.abs(normal(n)), 2 * n // 3
    loss_fn = lambda x: jnp.mean(spoiled(lambda g: g.at[entry].multiply(factor))(x) ** 2)  # noqa: E731
    if n >= 1000:
        check_grads(loss_fn, (x,), order=1, modes=["rev"])
    report = gradients.check(loss_fn, x)
    (leaf,) = report.leaves
    assert not report.ok
    assert (leaf.verdict, leaf.entry) == (gradients.Verdict.WRONG, (entry,))
    np.testing.assert_allclose(leaf.measured, 2 * x[entry] / n, rtol=1e-6)
    np.testing.assert_allclose(leaf.given, factor * leaf.measured, rtol=1e-6)
    assert f"params: wrong at [{entry}]: given {leaf.given:.6g}, measured" in str(report)


def test_two_swapped_entries_never_cancel():
    """As they would in half of all directions of equal steps."""
    swapped = spoiled(lambda g: g.at[jnp.array([100, 200])].set(g[jnp.array([200, 100])]))
    for key in range(6):
        (leaf,) = gradients.check(lambda x: jnp.sum(swapped(x) ** 3), normal(300), key=key).leaves
        assert leaf.verdict == "wrong"
        assert leaf.entry in [(100,), (200,)]


CHANGES = {
    "negated": lambda g: -g,
    "1 % too large": lambda g: 1.01 * g,
    "one entry 0.1 % off": lambda g: g.at[4, 2].multiply(1.001),
    "two entries swapped": lambda g: g.at[1, 0].set(g[3, 2]).at[3, 2].set(g[1, 0]),
    "transposed": lambda g: jnp.transpose(g.reshape(3, 5)),
    "shifted by a constant": lambda g: g + 1e-3,
}


def net(params, x, y, change=lambda g: g):
    layers = params["layers"]
    hidden = jnp.tanh(x @ spoiled(change)(layers[0]["kernel"]) + layers[0]["bias"][None])
    return jnp.mean((hidden @ layers[1]["kernel"] + layers[1]["bias"][None] - y) ** 2)


NET = {"layers": [{"kernel": normal(5, 3), "bias": normal(3)}, {"kernel": normal(3, 2), "bias": jnp.zeros(2)}]}
DATA = normal(20, 5, seed=1), normal(20, 2, seed=2)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", CHANGES)
def test_exactly_the_faulty_leaf_is_named(name):
    report = gradients.check(lambda params, x, y: net(params, x, y, CHANGES[name]), NET, *DATA)
    wrong = [leaf.name for leaf in report.leaves if leaf.verdict == gradients.Verdict.WRONG]
    assert wrong == ["params.layers[0].kernel"]
    assert verdicts(report).count("right") == 3
    faulty = next(leaf for leaf in report.leaves if leaf.verdict == "wrong")
    if name == "one entry 0.1 % off":
        assert faulty.entry == (4, 2)
    np.testing.assert_allclose(faulty.measured, jax.grad(net)(NET, *DATA)["layers"][0]["kernel"][faulty.entry], rtol=1e-4)


CORRECT = {
    "network": (net, (NET, *DATA)),
    "float64 arguments": (net, (jax.tree.map(np.float64, NET), *DATA)),
    "metrics": (lambda x: (jnp.sum(x**3), {"a": x[0]}), (normal(5),)),
    "large offset": (lambda x: 1e6 + jnp.sum(jnp.tanh(x)), (normal(30),)),
    "tiny parameters": (lambda x: jnp.sum(jnp.sin(x)), (1e-6 * normal(30),)),
    "only defined nearby": (lambda x: jnp.sum(jnp.log(x)), (jnp.array([1e-3, 1.0, 5.0]),)),
    "only defined nearby, sizes differ": (lambda x: jnp.sum(jnp.log(x) ** 2), (jnp.array([4e-2, 1e4, 3e7]),)),
    "many kinks nearby": (lambda x: jnp.mean(jax.nn.relu(jnp.sin(3 * x))), (normal(3000),)),
    "sorting": (lambda x: jnp.sum(jnp.sort(x) * jnp.linspace(0, 1, x.size)), (0.01 * normal(3000),)),
    "random with a key": (lambda x, key: jnp.sum(x * jax.random.normal(key, (3,))), (normal(3), jax.random.key(0))),
    "float32 constants": (lambda x: jnp.sum((DATA[0] / 255) @ x), (normal(5),)),
    "unused, empty and scalar leaves": (lambda p: p["a"] ** 2, ({"a": 3.0, "b": jnp.ones(4), "c": jnp.ones((0, 2))},)),
}


@pytest.mark.few(6)
@pytest.mark.parametrize("name", CORRECT)
def test_no_false_alarm(name):
    loss_fn, args = CORRECT[name]
    report = gradients.check(loss_fn, *args, key=12)  # along whose directions the error of sorting is underestimated
    assert report.ok, report
    assert set(verdicts(report)) == {"right"}


KINKS = {  # loss, parameters, index of the kink, slopes on both sides
    "relu at 0": (lambda x: jnp.sum(jnp.array([1.0, 2.0, 3.0]) * jax.nn.relu(x)), jnp.array([1.0, 0.0, -1.0]), (1,), (0, 2)),
    "one of many": (lambda x: jnp.mean(jnp.abs(x)), normal(20_000).at[777].set(0), (777,), (-5e-5, 5e-5)),
    "a faint one on a steep bowl": (
        lambda x: jnp.sum(x**2) + 0.01 * jnp.abs(x[7]),
        normal(100_000).at[7].set(0),
        (7,),
        (-0.01, 0.01),
    ),
    "scalar": (lambda x: jnp.abs(x) + x, 0.0, (), (0, 2)),
}


@pytest.mark.parametrize("name", KINKS)
def test_a_kink_is_called_a_kink(name):
    loss_fn, params, entry, sides = KINKS[name]
    report = gradients.check(loss_fn, params, key=jax.random.key(3))
    (leaf,) = report.leaves
    assert report.ok
    assert (leaf.verdict, leaf.entry) == ("kink", entry)
    np.testing.assert_allclose(leaf.sides, sides, atol=1e-6)
    assert "kink" in str(report) and "lies between" in str(report)


def test_a_gradient_outside_the_slopes_at_a_kink_is_wrong():
    doubled = spoiled(lambda cotangent: 5 * cotangent)
    assert verdicts(gradients.check(lambda x: jax.nn.leaky_relu(doubled(x)), 0.0)) == ["wrong"]


def test_the_gradient_of_a_smooth_loss_written_with_kinks_is_wrong():
    report = gradients.check(lambda x: jax.nn.relu(x) - jax.nn.relu(-x), 0.0)
    assert (report.leaves[0].verdict, report.leaves[0].given) == ("wrong", 0)
    np.testing.assert_allclose(report.leaves[0].measured, 1)


def test_a_straight_through_gradient_is_wrong():
    assert verdicts(gradients.check(lambda x: jnp.round(spoiled(lambda g: g)(x) * 3).sum(), normal(3))) == ["right"]
    straight = lambda x: jnp.sum(x + jax.lax.stop_gradient(jnp.round(x) - x))  # noqa: E731
    assert verdicts(gradients.check(straight, normal(3))) == ["wrong"]


def test_a_gradient_that_is_not_finite_is_named():
    report = gradients.check(lambda p: jnp.sum(jnp.sqrt(p["a"])) + p["b"], {"a": jnp.array([1.0, 0.0]), "b": 1.0})
    assert verdicts(report) == ["not finite", "right"]
    assert "params.a: not finite at [1]: given inf" in str(report)


@pytest.mark.parametrize("loss_fn, params", [
    (lambda x: jnp.sum(jnp.round(x)), jnp.array([0.3, 0.5])),  # a step right here
    (lambda x: jnp.sum(jnp.cos(x)), 1e8 * jnp.ones(3)),  # turns many times within any step
])  # fmt: skip
def test_a_loss_without_a_measurable_slope_is_unclear(loss_fn, params):
    report = gradients.check(loss_fn, params)
    assert not report.ok
    assert verdicts(report) == ["unclear"]
    assert "no slope can be measured" in str(report)


def test_a_loss_that_is_finite_here_only_is_neither_a_step_nor_rough():
    report = gradients.check(lambda x: jnp.sum(jnp.where(x == 0.5, x, jnp.nan)), jnp.array([0.5, 0.5]))
    assert verdicts(report) == ["unclear"]
    assert str(report).endswith("the loss is not finite a little away from here")


def test_a_wrong_entry_is_named_though_sizes_differ():
    doubled = spoiled(lambda g: g.at[0].multiply(2))
    report = gradients.check(lambda x: jnp.sum(jnp.log(doubled(x)) ** 2), jnp.array([4e-2, 1e4, 3e7]))
    (leaf,) = report.leaves
    assert (leaf.verdict, leaf.entry) == ("wrong", (0,))
    np.testing.assert_allclose([leaf.measured, leaf.given / 2], 2 * np.log(4e-2) / 4e-2, rtol=1e-6)


@pytest.mark.parametrize("key", [np.int64(3), jnp.uint32(3), jax.random.key(3), jax.random.PRNGKey(3)])
def test_every_way_of_writing_a_key_chooses_the_same(key):
    measured = [gradients.check(lambda x: jnp.sum(x**3), normal(300), key=key).leaves for key in (3, key)]
    assert measured[0] == measured[1]
    assert keys.member_key(3, 1) == keys.member_key(key, 1)


@pytest.mark.parametrize("sizes", [[1.0, 1.0, 1.0], [4e-2, 1e4, 3e7]])
def test_forward_mode_that_differs_from_reverse_mode_is_reported(sizes):
    def transposes_right(x, right=2.0, wrong=3.0):
        linear = jax.custom_derivatives.linear_call
        return linear(lambda _, x: wrong * x, lambda _, g: right * g, (), x) + jax.lax.stop_gradient((right - wrong) * x)

    report = gradients.check(lambda x: jnp.sum(jnp.log(transposes_right(x)) ** 2), jnp.array(sizes))
    assert verdicts(report) == ["modes differ"]
    assert not report.ok
    assert "hvp will be wrong" in str(report)


def test_check_leaves_the_precision_of_jax_as_it_was():
    gradients.check(lambda x: x**2, 1.0)
    assert jnp.ones(()).dtype == jnp.float32


@pytest.mark.parametrize("loss_fn, params, error, match", [
    (lambda x: jnp.sum(x), jnp.arange(3), TypeError, r"`params` must be floating"),
    (lambda x: x, jnp.ones(3), TypeError, r"`loss_fn` must return a floating scalar, got float64 of shape \(3,\)"),
    (lambda x: jnp.sum(jnp.abs(x["a"])), {"a": jnp.ones(3, complex)}, TypeError, r"`params\.a` must be floating.*complex64"),
    (lambda x: jnp.sum(jnp.sin(x.astype(jnp.float32))), jnp.ones(3), TypeError,
     r"`loss_fn` must compute in float64 when its parameters are .* got a cast to float32\. Leave casts out"),
    (lambda x: jnp.sum(jnp.sin(x.astype(jnp.bfloat16)).astype(float)), jnp.ones(3), TypeError, "got a cast to bfloat16"),
    (lambda x: jnp.log(-x), 1.0, ValueError, r"`loss_fn` must be finite at `params`, got nan"),
])  # fmt: skip
def test_what_cannot_be_checked_is_refused(loss_fn, params, error, match):
    with pytest.raises(error, match=match):
        gradients.check(loss_fn, params)
