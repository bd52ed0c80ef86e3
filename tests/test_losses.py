"""Losses against closed forms in NumPy, finite differences and algebra; objective and metrics against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradkit import losses


def oracle_log_cosh(score, target):
    return np.logaddexp(score - target, target - score) - np.log(2)


def oracle_logistic(score, target):
    return target * np.logaddexp(0, -score) + (1 - target) * np.logaddexp(0, score)


def oracle_focal(score, target, gamma=2.0):
    p = 1 / (1 + np.exp(-score))
    return -target * (1 - p) ** gamma * np.log(p) - (1 - target) * p**gamma * np.log1p(-p)


def oracle_huber(score, target, delta=1.0):
    r = abs(score - target)
    return r**2 / 2 if r <= delta else delta * r - delta**2 / 2


REAL, COUNT, BINARY, SOFT = (-1.7, 0.0, 2.3), (0, 1, 5), (0, 1), (0.0, 0.3, 1.0)

# name: (loss of one number, closed form, targets)
LOSSES = {
    "squared": (losses.squared, lambda s, t: (s - t) ** 2, REAL),
    "absolute": (losses.absolute, lambda s, t: abs(s - t), REAL),
    "huber": (losses.huber, oracle_huber, REAL),
    "huber(delta=2)": (functools.partial(losses.huber, delta=2.0), functools.partial(oracle_huber, delta=2.0), REAL),
    "log_cosh": (losses.log_cosh, oracle_log_cosh, REAL),
    "quantile": (losses.quantile, lambda s, t: abs(s - t) / 2, REAL),
    "quantile(level=.9)": (functools.partial(losses.quantile, level=0.9), lambda s, t: max(0.9 * (t - s), 0.1 * (s - t)), REAL),
    "poisson": (losses.poisson, lambda s, t: np.exp(s) - t * s, COUNT),
    "logistic": (losses.logistic, oracle_logistic, SOFT),
    "hinge": (losses.hinge, lambda s, t: max(0, 1 - s if t > 0 else 1 + s), (*BINARY, -1)),
    "focal": (losses.focal, oracle_focal, SOFT),
    "focal(gamma=.5)": (functools.partial(losses.focal, gamma=0.5), functools.partial(oracle_focal, gamma=0.5), BINARY),
    "focal(gamma=0)": (functools.partial(losses.focal, gamma=0), oracle_logistic, BINARY),
}
SCORES = np.array([-6.1, -1.2, -0.37, 0.11, 0.93, 2.9, 7.4])
EXTREME_SCORES = np.array([-1e4, -300, -80, 80, 300, 1e4])
every_loss = pytest.mark.parametrize("name", LOSSES)


def curvature(loss):
    return jax.grad(jax.grad(loss))


def table(fn, scores, targets):
    """All scores against all targets, shape (scores, targets)."""
    return jax.vmap(jax.vmap(fn, (None, 0)), (0, None))(scores, targets)


def exact(oracle, scores, targets):
    with np.errstate(all="ignore"):
        return np.vectorize(oracle, otypes=[float])(np.asarray(scores, float)[:, None], np.asarray(targets, float))


@functools.cache
def derivatives(scores: tuple[float, ...], dtype: str):
    """Value, gradient and curvature of every loss: one program for all."""

    @jax.jit
    def run(scores):
        return {
            name: [table(fn, scores, jnp.array(targets, dtype)) for fn in (loss, jax.grad(loss), curvature(loss))]
            for name, (loss, _, targets) in LOSSES.items()
        }

    return run(jnp.array(scores, dtype))


@every_loss
def test_value_gradient_and_curvature_are_those_of_the_closed_form(name, x64):
    _, oracle, targets = LOSSES[name]
    value, grad, second = derivatives(tuple(SCORES), "float64")[name]
    h = 1e-2  # smaller than the distance of every score from a joint
    f = {step: exact(oracle, SCORES + step * h, targets) for step in (-2, -1, 0, 1, 2)}
    np.testing.assert_allclose(value, f[0], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(grad, (f[-2] - 8 * f[-1] + 8 * f[1] - f[2]) / (12 * h), rtol=1e-7, atol=1e-8)
    differences = (-f[-2] + 16 * f[-1] - 30 * f[0] + 16 * f[1] - f[2]) / (12 * h**2)
    np.testing.assert_allclose(second, differences, rtol=1e-7, atol=1e-7)


@every_loss
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_extreme_scores_give_the_exact_value_and_finite_derivatives(name, dtype):
    _, oracle, targets = LOSSES[name]
    got = derivatives(tuple(EXTREME_SCORES), dtype)[name]
    for derivative in got:
        assert derivative.dtype == dtype
        assert not jnp.isnan(derivative).any()
        assert jnp.isfinite(derivative).all() or name in ("poisson", "squared")  # which overflow
    if "focal" not in name:  # whose textbook form is 0 * inf here
        with np.errstate(over="ignore"):
            wanted = exact(oracle, jnp.array(EXTREME_SCORES, dtype), jnp.array(targets, dtype)).astype(dtype).astype(float)
        eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).tiny)
        np.testing.assert_allclose(np.asarray(got[0], float), wanted, rtol=2 * eps, atol=tiny)


JOINTS = {  # loss, score, target, gradient, curvature
    "squared at 0": (losses.squared, 1.0, 1.0, 0, 2),
    "absolute at its kink": (losses.absolute, 1.0, 1.0, 0, 0),
    "huber at 0": (losses.huber, 2.0, 2.0, 0, 1),
    "huber at +delta": (losses.huber, 3.0, 2.0, 1, 1),
    "huber at -delta": (losses.huber, 1.0, 2.0, -1, 1),
    "huber beyond delta": (losses.huber, 3.5, 2.0, 1, 0),
    "log_cosh at 0": (losses.log_cosh, 2.0, 2.0, 0, 1),
    "log_cosh far away": (losses.log_cosh, 1e4, 0.0, 1, 0),
    "log_cosh where its formulas meet": (losses.log_cosh, 1.0, 0.0, np.tanh(1), 1 - np.tanh(1) ** 2),
    "quantile at its kink": (functools.partial(losses.quantile, level=0.9), 1.0, 1.0, 0.5 - 0.9, 0),
    "poisson at 0": (losses.poisson, 0.0, 1, 0, 1),
    "logistic at 0, class 0": (losses.logistic, 0.0, 0, 0.5, 0.25),
    "logistic at 0, class 1": (losses.logistic, 0.0, 1, -0.5, 0.25),
    "hinge at its margin": (losses.hinge, 1.0, 1, 0, 0),
    "hinge at 0": (losses.hinge, 0.0, 0, 1, 0),
    "focal with gamma 0 at 0": (functools.partial(losses.focal, gamma=0.0), 0.0, 1, -0.5, 0.25),
}


@pytest.mark.parametrize("name", JOINTS)
def test_gradient_and_curvature_at_the_joints(name):
    loss, score, target, grad, second = JOINTS[name]
    got = jax.jit(lambda score: (jax.grad(loss)(score, target), curvature(loss)(score, target)))(score)
    np.testing.assert_allclose(got, (grad, second), atol=1e-6)


def test_losses_near_zero_keep_their_relative_accuracy():
    tiny = jnp.array([1e-6, 1e-4, 1e-2, 0.5], jnp.float32)
    exact = np.log1p(2 * np.sinh(np.asarray(tiny, float) / 2) ** 2)
    np.testing.assert_allclose(jax.vmap(losses.log_cosh)(tiny, jnp.zeros(4)), exact, rtol=1e-6)
    np.testing.assert_allclose(losses.logistic(20.0, 1), np.log1p(np.exp(-20.0)), rtol=1e-6)


@every_loss
def test_over_several_outputs_a_loss_is_the_mean(name):
    loss, _, targets = LOSSES[name]
    scores, targets = jnp.array([[-0.4, 1.5, 0.2]]), jnp.resize(jnp.array(targets), (1, 3))
    whole, each = jax.jit(lambda scores, targets: (loss(scores, targets), jax.vmap(loss)(scores[0], targets[0])))(scores, targets)
    np.testing.assert_allclose(whole, each.mean(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("target_dtype", ["int32", "uint8", "bool", "float16"])
def test_the_dtype_of_the_score_is_kept_and_never_weak(dtype, target_dtype):
    for loss in (losses.squared, losses.logistic, losses.hinge):
        value = jax.eval_shape(loss, jnp.ones((), dtype), jnp.ones((), target_dtype))
        assert value.dtype == jnp.result_type(dtype, target_dtype)
        assert not value.weak_type
        assert not jax.eval_shape(loss, 1.0, 2).weak_type
    assert jax.eval_shape(losses.softmax, jnp.ones(3, dtype), 1).dtype == dtype


def test_half_precision_is_computed_in_float32():
    scores = jnp.full(4096, 0.1, jnp.bfloat16)
    assert losses.absolute(scores, jnp.zeros(4096, jnp.bfloat16)) == scores[0]
    assert losses.squared(jnp.array([300, 0, 0, 0], jnp.float16), jnp.zeros(4, jnp.float16)) == 22500  # 300**2 overflows
    logits = jnp.zeros(4096, jnp.bfloat16)
    assert losses.softmax(logits, 5) == jnp.log(4096.0).astype(jnp.bfloat16)


@pytest.mark.parametrize("loss, parameter, value", [
    (losses.huber, "delta", 0.7), (losses.quantile, "level", 0.2), (losses.focal, "gamma", 1.5)
])  # fmt: skip
def test_parameters_may_be_traced_swept_and_differentiated(loss, parameter, value):
    fn = lambda value: loss(2.0, 0.4, **{parameter: value})  # noqa: E731
    below, middle, above = map(fn, (value - 1e-2, value, value + 1e-2))
    swept, slopes = jax.jit(jax.vmap(jax.value_and_grad(fn)))(jnp.array([value, value + 1e-2]))
    np.testing.assert_allclose(swept, [middle, above], rtol=1e-6)
    np.testing.assert_allclose(slopes[0], (above - below) / 2e-2, rtol=1e-3, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=2), st.integers(0, 1), st.floats(-1e3, 1e3, width=32))
def test_two_class_softmax_is_logistic_and_ignores_a_shift(scores, target, shift):
    scores = jnp.array(scores)
    binary = losses.logistic(scores[1] - scores[0], target)
    np.testing.assert_allclose(losses.softmax(scores, target), binary, rtol=1e-5, atol=1e-6)
    atol = 1e-6 + 4 * 2e4 * jnp.finfo(jnp.float32).eps  # the shift itself is rounded
    np.testing.assert_allclose(losses.softmax(scores + shift, target), binary, rtol=1e-5, atol=atol)


@jax.jit
def softmax_derivatives(score, target):
    return [fn(score, target) for fn in (losses.softmax, jax.grad(losses.softmax), jax.hessian(losses.softmax))]


def test_softmax_is_the_closed_form_with_gradient_and_curvature(x64):
    score = np.random.default_rng(0).normal(size=5)
    p = np.exp(score) / np.exp(score).sum()
    value, grad, hessian = softmax_derivatives(score, 3)
    np.testing.assert_allclose(value, -np.log(p[3]), rtol=1e-14)
    np.testing.assert_allclose(grad, p - np.eye(5)[3], atol=1e-15)
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-15)


def test_softmax_at_extreme_scores_is_exact_and_masked_classes_do_not_count():
    score = jnp.array([1e4, 1e4, -1e4, -jnp.inf])
    value, grad, hessian = softmax_derivatives(score, 0)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(grad, [-0.5, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hessian, np.pad([[0.25, -0.25], [-0.25, 0.25]], (0, 2)), atol=1e-6)
    np.testing.assert_allclose(softmax_derivatives(score, 2)[0], 2e4 + np.log(2), rtol=1e-6)
    value, grad, _ = softmax_derivatives(score, 3)  # an example of a class that is masked out
    assert value == np.inf
    np.testing.assert_allclose(grad, [0.5, 0.5, 0, -1], atol=1e-6)


@pytest.mark.parametrize("target", [-1, 3, 255])
def test_a_class_that_does_not_exist_has_no_loss(target):
    assert jnp.isnan(jax.jit(losses.softmax)(jnp.zeros(3), target))


@pytest.mark.parametrize(("target", "num_classes"), [(np.uint8(200), 256), (np.uint8(7), 1000), (np.int8(100), 300)])
def test_a_target_may_be_of_a_type_that_cannot_hold_the_number_of_classes(target, num_classes):
    np.testing.assert_allclose(losses.softmax(jnp.zeros(num_classes), target), np.log(num_classes), rtol=1e-6)


def test_losses_equal_those_of_optax_where_it_has_them():
    scores, targets = jnp.array([-3.0, 0.2, 5.0]), jnp.array([1.0, 0.0, 1.0])
    for ours, theirs in [
        (losses.huber, optax.huber_loss),
        (losses.log_cosh, optax.log_cosh),
        (losses.logistic, optax.sigmoid_binary_cross_entropy),
        (losses.focal, optax.sigmoid_focal_loss),
    ]:
        got, wanted = jax.jit(lambda s, t, ours=ours, theirs=theirs: (jax.vmap(ours)(s, t), theirs(s, t)))(scores, targets)
        np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-6)
    theirs = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.array(2))
    np.testing.assert_allclose(losses.softmax(scores, 2), theirs, rtol=1e-6)


def test_minimizers_are_what_the_docstrings_say():
    targets = jnp.array([0.0, 1.0, 2.0, 3.0, 10.0])
    grad = lambda loss, score: jax.vmap(jax.grad(loss), (None, 0))(score, targets).sum()  # noqa: E731
    assert abs(grad(losses.squared, targets.mean())) < 1e-5
    assert abs(grad(losses.poisson, jnp.log(targets.mean()))) < 1e-5
    for level in (0.3, 0.5, 0.9):
        loss, at = functools.partial(losses.quantile, level=level), np.quantile(targets, level, method="inverted_cdf")
        assert grad(loss, at - 0.5) < 0 < grad(loss, at + 0.5)


@pytest.mark.parametrize("call, match", [
    (lambda: losses.squared(jnp.ones(1), 1.0), r"`score` must have the shape of the target, \(\), got \(1,\).*never broadcast"),
    (lambda: losses.logistic(jnp.ones((2, 3)), jnp.ones(3)), r"the shape of the target, \(3,\), got \(2, 3\)"),
    (lambda: losses.softmax(1.0, 0), r"one entry per class, shape \(k,\) with k > 1, got \(\).*use `logistic`"),
    (lambda: losses.softmax(jnp.ones(1), 0), r"shape \(k,\) with k > 1, got \(1,\)"),
    (lambda: losses.softmax(jnp.ones(3), jnp.array([0.0, 1.0, 0.0])), r"one integer class, got float32 of shape \(3,\).*argmax"),
    (lambda: losses.softmax(jnp.ones(3), 1.0), r"one integer class, got float32 of shape \(\)"),
    (lambda: losses.huber(1.0, 0.0, delta=0.0), r"`delta` must be above 0, got 0.0"),
    (lambda: losses.quantile(1.0, 0.0, level=1.0), r"`level` must lie between 0 and 1, got 1.0"),
    (lambda: losses.focal(1.0, 0.0, gamma=-1), r"`gamma` must be at least 0, got -1"),
])  # fmt: skip
def test_bad_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("loss", [losses.squared, losses.softmax])
def test_a_score_that_is_not_floating_is_refused(loss):
    with pytest.raises(TypeError, match=r"`score` must be floating, got .*int32.*the target comes second"):
        loss(jnp.array([1, 2]), jnp.array([1, 2]))


# --- the objective ------------------------------------------------------------------------------------------------------------


def apply(params, inputs):
    return inputs @ params["w"] + params["b"]


PARAMS = {"w": jnp.array([0.5, -1.0]), "b": jnp.array(0.3)}
INPUTS = jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)), jnp.float32)
TARGETS = jnp.asarray(np.random.default_rng(2).normal(size=6), jnp.float32)
WEIGHTS = jnp.array([1.0, 2.0, 1.0, 3.0, 1.0, 2.0])
mean_squared = losses.objective(losses.squared, apply)


def value_and_grad(objective, batch, params=PARAMS):
    return jax.jit(jax.value_and_grad(objective))(params, batch)


def assert_close(got, wanted, rtol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), got, wanted)


def test_the_objective_is_the_mean_over_examples():
    scores = np.asarray(INPUTS) @ np.array([0.5, -1.0]) + 0.3
    np.testing.assert_allclose(mean_squared(PARAMS, (INPUTS, TARGETS)), np.mean((scores - TARGETS) ** 2), rtol=1e-6)


def test_a_whole_weight_is_a_repeated_example():
    repeated = jnp.repeat(jnp.arange(6), WEIGHTS.astype(int))
    wanted = value_and_grad(mean_squared, (INPUTS[repeated], TARGETS[repeated]))
    assert_close(value_and_grad(mean_squared, (INPUTS, TARGETS, WEIGHTS)), wanted)
    assert_close(value_and_grad(mean_squared, (INPUTS, TARGETS, WEIGHTS.astype(int))), wanted)
    assert_close(value_and_grad(mean_squared, (INPUTS, TARGETS, 1000 * WEIGHTS)), wanted)


@pytest.mark.parametrize("poison", ["inputs", "targets", "loss"])
def test_an_example_of_weight_zero_contributes_nothing_even_if_it_is_nan(poison):
    mask = jnp.array([False, True, True, False, True, True])
    wanted = value_and_grad(mean_squared, (INPUTS[mask], TARGETS[mask]))
    inputs = jnp.where(mask[:, None], INPUTS, jnp.nan if poison == "inputs" else 1e30 if poison == "loss" else INPUTS)
    targets = jnp.where(mask, TARGETS, jnp.inf) if poison == "targets" else TARGETS
    assert_close(value_and_grad(mean_squared, (inputs, targets, mask)), wanted)


def test_a_model_that_is_undefined_at_zero_still_skips_examples_of_weight_zero():
    normalized = losses.objective(losses.squared, lambda params, x: apply(params, x / jnp.linalg.norm(x, axis=1, keepdims=True)))
    mask = jnp.arange(6) < 4
    wanted = value_and_grad(normalized, (INPUTS[:4], TARGETS[:4]))
    assert_close(value_and_grad(normalized, (jnp.where(mask[:, None], INPUTS, 0), TARGETS, mask)), wanted)


def test_padding_with_class_minus_one_and_weight_zero_is_left_out():
    cross_entropy = losses.objective(losses.softmax, lambda params, x: x @ params)
    params, classes = jnp.eye(2, 3), jnp.array([0, 2, 1, -1, -1, -1])
    padded = value_and_grad(cross_entropy, (INPUTS, classes, classes >= 0), params)
    assert_close(padded, value_and_grad(cross_entropy, (INPUTS[:3], classes[:3]), params))
    assert jnp.isnan(cross_entropy(params, (INPUTS, classes)))


def test_a_batch_without_weight_is_no_loss_and_no_gradient():
    loss, grads = value_and_grad(mean_squared, (INPUTS * jnp.nan, TARGETS, 0 * WEIGHTS))
    assert loss == 0
    assert_close(grads, jax.tree.map(jnp.zeros_like, PARAMS))


@pytest.mark.parametrize("batch", [(INPUTS, TARGETS), (INPUTS, TARGETS, WEIGHTS)])
def test_the_penalty_is_added_and_not_weighted(batch):
    ridge = losses.objective(losses.squared, apply, penalty=lambda params: 0.1 * jnp.sum(params["w"] ** 2))
    np.testing.assert_allclose(ridge(PARAMS, batch), mean_squared(PARAMS, batch) + 0.1 * 1.25, rtol=1e-6)


def test_scores_and_targets_may_be_pytrees():
    two_heads = losses.objective(
        lambda score, target: losses.squared(score["a"], target["a"]) + losses.absolute(score["b"], target["b"]),
        lambda params, x: {"a": x[:, 0] * params, "b": x[:, 1]},
    )
    batch = (INPUTS, {"a": TARGETS, "b": TARGETS})
    wanted = jnp.mean((2 * INPUTS[:, 0] - TARGETS) ** 2 + abs(INPUTS[:, 1] - TARGETS))
    np.testing.assert_allclose(two_heads(2.0, batch), wanted, rtol=1e-6)
    assert_close(two_heads(2.0, (*batch, jnp.ones(6))), wanted)


def test_equal_objectives_are_recognized_by_jit():
    traces = []
    evaluate = jax.jit(lambda objective, params, batch: objective(params, batch), static_argnums=0)

    def traced_apply(params, inputs):
        traces.append(1)
        return apply(params, inputs)

    for _ in range(3):
        same = losses.objective(losses.squared, traced_apply)
        evaluate(same, PARAMS, (INPUTS, TARGETS))
    assert len(traces) == 1
    assert same == losses.objective(losses.squared, traced_apply)
    assert same != losses.objective(losses.absolute, traced_apply)


def test_half_precision_losses_are_averaged_in_float32():
    zero = losses.objective(losses.absolute, lambda params, x: x)
    inputs = jnp.full(4096, 0.1, jnp.bfloat16)
    for batch in [(inputs, 0 * inputs), (inputs, 0 * inputs, jnp.ones(4096, jnp.bfloat16))]:
        loss = zero(None, batch)
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, float(inputs[0]), rtol=1e-5)


@pytest.mark.parametrize("objective, batch, error, match", [
    (mean_squared, [INPUTS, TARGETS], TypeError, r"`batch` must be a tuple \(inputs, targets\) or .* got a list of 2"),
    (mean_squared, (INPUTS,), TypeError, r"`batch` must be a tuple .* got a tuple of 1"),
    (mean_squared, INPUTS, TypeError, r"`batch` must be a tuple .* got a \w+\. Put the arrays"),
    (mean_squared, (INPUTS, TARGETS[:5]), ValueError, r"`apply` must return one score per target, 5 .* got shape \(6,\)"),
    (mean_squared, (INPUTS, TARGETS[:, None]), ValueError, r"`score` must have the shape of the target, \(1,\), got \(\)"),
    (mean_squared, (INPUTS, 1.0), ValueError, r"`targets` must lead with one axis of examples in every leaf, got \[\(\)\]"),
    (mean_squared, (INPUTS, TARGETS, WEIGHTS[:5]), ValueError, r"`weights` must have one number .* shape \(6,\), got \(5,\)"),
    (mean_squared, (INPUTS, TARGETS, WEIGHTS[:, None]), ValueError, r"`weights` must .* got \(6, 1\)\. Weigh examples"),
    (losses.objective(lambda s, t: s * jnp.ones(2), apply), (INPUTS, TARGETS), ValueError,
     r"`loss` must return a scalar for one example, got shape \(2,\)"),
    (losses.objective(losses.squared, apply, penalty=lambda params: params["w"]), (INPUTS, TARGETS), ValueError,
     r"`penalty` must return a scalar, got shape \(2,\)"),
])  # fmt: skip
def test_bad_batches_are_refused_while_tracing(objective, batch, error, match):
    with pytest.raises(error, match=match):
        jax.eval_shape(objective, PARAMS, batch)


# --- metrics ------------------------------------------------------------------------------------------------------------------


def test_accuracy_is_the_share_of_right_classes():
    scores = jnp.array([[0.1, 0.9, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.5]])
    assert losses.accuracy(scores, jnp.array([1, 0, 1, 1])) == 0.75
    assert losses.accuracy(np.array([-1.0, 2.0, 0.5, -3.0]), np.array([0, 1, 0, 0])) == 0.75
    assert losses.accuracy(jnp.array([-1.0, 2.0]), jnp.array([-1.0, 1.0])) == 1


@pytest.mark.parametrize("scores_shape", [(4,), (4, 1)])
@pytest.mark.parametrize("targets_shape", [(4,), (4, 1)])
def test_a_column_of_scores_or_targets_is_one_for_each_example(scores_shape, targets_shape):
    scores, targets = np.array([-1.0, 2.0, 3.0, -1.0], np.float32), np.array([0, 1, 1, 1])
    assert losses.accuracy(scores.reshape(scores_shape), targets.reshape(targets_shape)) == 0.75
    assert losses.accuracy(jnp.asarray(scores).reshape(scores_shape), jnp.asarray(targets).reshape(targets_shape)) == 0.75


def test_an_example_with_a_nan_score_is_wrong():
    assert losses.accuracy(jnp.array([jnp.nan, -1.0]), jnp.array([0, 0])) == 0.5
    assert losses.accuracy(jnp.array([[jnp.nan, 0.0], [1.0, 0.0]]), jnp.array([0, 0])) == 0.5


def test_r2_is_one_for_the_truth_zero_for_the_mean_and_averaged_over_outputs():
    targets = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    scores = targets.copy()
    scores[:, 1] = targets[:, 1].mean()
    np.testing.assert_allclose(losses.r2(targets, targets), 1)
    np.testing.assert_allclose(losses.r2(scores, targets), 0.5, atol=1e-6)
    one = scores[:, 0] + 0.3
    np.testing.assert_allclose(losses.r2(one, targets[:, 0]), 1 - 0.09 / targets[:, 0].var(), rtol=1e-5)


@pytest.mark.parametrize("call, match", [
    (lambda: losses.accuracy(jnp.ones((2, 3, 4)), jnp.ones(2, int)), r"`scores` must have shape \(n,\) or .* got \(2, 3, 4\)"),
    (lambda: losses.accuracy(jnp.ones(()), jnp.ones((), int)), r"`scores` must have shape \(n,\) or .* got \(\)"),
    (lambda: losses.accuracy(jnp.ones(2), jnp.ones(1, int)), r"`targets` must have shape \(2,\) or \(2, 1\), as .* got \(1,\)"),
    (lambda: losses.accuracy(jnp.ones((2, 1)), jnp.ones((2, 2))), r"`targets` must have shape \(2,\) or \(2, 1\), .*\(2, 2\)"),
    (lambda: losses.accuracy(jnp.ones((3, 3)), jnp.ones((3, 1), int)), r"`targets` must have shape \(3,\), as .*\(3, 1\)"),
    (lambda: losses.accuracy(jnp.ones((3, 3)), jnp.eye(3)), r"`targets` must have shape \(3,\), as .* by `argmax"),
    (lambda: losses.r2(jnp.ones((3, 1)), jnp.ones(3)), r"`scores` must have the shape of the targets, \(3,\), got \(3, 1\)"),
    (lambda: losses.accuracy(jnp.ones((2, 3)), jnp.ones(2)), r"`targets` must be integer classes, got float32"),
])  # fmt: skip
def test_bad_arguments_of_metrics_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
