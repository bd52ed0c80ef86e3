"""Optimizers: the papers' formulas, optax's bits, and numbers that may be constants, traced values or schedules."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import OPTIMIZERS

from gradkit import optimizers, schedules
from gradkit.transforms import ScheduledState, scale_by_learning_rate, scheduled
from gradkit.transforms.adam import bias_correction

BY_NAME = {case.name: case for case in OPTIMIZERS}
KNOBS = [(case.name, knob) for case in OPTIMIZERS for knob in case.arguments]
NUM_STEPS = 60

each_optimizer = pytest.mark.parametrize("case", OPTIMIZERS, ids=lambda case: case.name)


def start():
    return {"kernel": np.array([[1.0, -2.0, 0.5], [3.0, -1.0, 0.25]])}


def harsh_gradients():
    """Gradients of all sizes: one coordinate begins with zeros, one is tiny, one stays zero, and all pause."""
    kernel = np.random.default_rng(0).normal(size=(NUM_STEPS, 2, 3))
    kernel[:8, 0, 0] = 0.0
    kernel[20:25] = 0.0
    kernel[:, 1, 1] *= 1e-9
    kernel[:, 1, 2] = 0.0
    return {"kernel": kernel}


def descend(optimizer, params, gradients, curvature=0.0):
    """All steps in one scan, which refuses a change of structure or dtype; ``curvature * params`` is added to the gradients."""

    def step(carry, gradient):
        params, state = carry
        grads = jax.tree.map(lambda param, g: curvature * param + g.astype(param.dtype), params, gradient)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, updates)

    (_, state), (path, updates) = jax.lax.scan(step, (params, optimizer.init(params)), gradients)
    return path, updates, state


def true_path(case, arguments_at):
    """The path of the paper's formula in float64, with the arguments ``arguments_at(step)``."""

    def of_leaf(theta, gradients):
        slots, path = [np.zeros_like(theta)] * 3, []
        for step, g in enumerate(gradients):
            arguments = arguments_at(step)
            learning_rate = arguments.pop("learning_rate")
            d, slots = case.direction(theta, g, step + 1, slots, **arguments)
            theta = theta - learning_rate * d
            path.append(theta)
        return np.stack(path)

    return jax.tree.map(of_leaf, start(), harsh_gradients())


def single(tree):
    return jax.tree.map(jnp.float32, tree)


def member(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@functools.cache
def of_constants(name):
    """Path, updates and state with arguments that are Python numbers."""
    case = BY_NAME[name]
    run = jax.jit(lambda params, gradients: descend(case.make(**case.arguments), params, gradients))
    return run(single(start()), single(harsh_gradients()))


def descend_with(arguments, params, gradients, curvature, name):
    return descend(BY_NAME[name].make(**arguments), params, gradients, curvature)


@functools.cache
def traced(name):
    """:func:`descend_with`, compiled once with all arguments traced."""
    chex.clear_trace_counter()  # chex counts by source line, which all rows share
    return jax.jit(chex.assert_max_traces(descend_with, n=1), static_argnames="name")


def with_rate(case, scale):
    """The arguments as arrays, the learning rate scaled."""
    return single({**case.arguments, "learning_rate": case.arguments["learning_rate"] * scale})


def run_traced(case, *, scale=1.0, curvature=0.0, noise=1.0):
    gradients = single(jax.tree.map(lambda g: noise * g, harsh_gradients()))
    return traced(case.name)(with_rate(case, scale), single(start()), gradients, jnp.float32(curvature), name=case.name)


EXACT = ("adam", "adamw", "nadam", "adamax", "amsgrad")  # whose bias corrections are better than optax's


@pytest.mark.parametrize("case", [case for case in OPTIMIZERS if case.name not in EXACT], ids=lambda case: case.name)
def test_constants_make_the_program_that_optax_makes(case):
    # the same program has the same bits
    def program(optimizer):
        run = functools.partial(descend, optimizer)
        return str(jax.make_jaxpr(run)(single(start()), single(harsh_gradients())))

    required = {"momentum": 0.9} if "momentum" in case.arguments else {}
    assert program(case.make(**case.arguments)) == program(case.alias(**case.arguments))
    assert program(case.make(0.1)) == program(case.alias(0.1, **required))


@pytest.mark.parametrize("name", EXACT)
def test_adams_agree_with_optax_to_rounding(name):
    case = BY_NAME[name]
    theirs = jax.jit(lambda: descend(case.alias(**case.arguments), single(start()), single(harsh_gradients()))[0])()
    chex.assert_trees_all_close(of_constants(name)[0], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [float, jnp.float32], ids=["constant", "traced"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999, 0.9999, 0.99999])
def test_bias_corrections_keep_their_digits(decay, kind):
    counts = np.unique(np.geomspace(1, 10**6, 200).astype(np.int32))
    truth = 1 - np.longdouble(decay if kind is float else np.float32(decay)) ** counts.astype(np.longdouble)
    found = jax.jit(jax.vmap(lambda count: bias_correction(kind(decay), count)))(counts)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(found, np.longdouble), truth, rtol=2e-7)


@pytest.mark.usefixtures("x64")
@each_optimizer
def test_constants_follow_the_formula_in_float64(case):
    run = jax.jit(lambda params, gradients: descend(case.make(**case.arguments), params, gradients)[0])
    path = run(start(), harsh_gradients())
    chex.assert_trees_all_close(path, true_path(case, lambda step: dict(case.arguments)), rtol=1e-12, atol=1e-13)


@pytest.mark.few(6)
@pytest.mark.usefixtures("x64")
@each_optimizer
def test_schedules_of_all_arguments_follow_the_formula_in_float64(case):
    def fall(value, slope, step):
        return value * (1 - slope * step)

    @jax.jit
    def run(slope, params, gradients):
        falling = {knob: functools.partial(fall, value, slope) for knob, value in case.arguments.items()}
        return descend(case.make(**falling), params, gradients)[0]

    for slope in (0.0, 0.01):  # a schedule that is constant, and one that is not
        truth = true_path(case, lambda step: {knob: fall(value, slope, step) for knob, value in case.arguments.items()})  # noqa: B023
        chex.assert_trees_all_close(run(slope, start(), harsh_gradients()), truth, rtol=1e-12, atol=1e-13)


@pytest.mark.few(6)
@each_optimizer
def test_traced_arguments_follow_constants_without_compiling_again(case):
    run_traced(case, scale=0.5)
    # 1 - b is rounded in float32 if b is traced
    chex.assert_trees_all_close(run_traced(case)[0], of_constants(case.name)[0], rtol=2e-5, atol=2e-5)


@each_optimizer
def test_every_optimizer_descends(case):
    path, _, _ = run_traced(case, curvature=1.0, noise=0.0)
    chex.assert_tree_all_finite(path)
    assert optax.tree.norm(member(path, -1)) < 0.7 * optax.tree.norm(start())


@pytest.mark.few(6)
@each_optimizer
def test_a_map_equals_a_loop_and_one_nan_leaves_the_others(case):
    gradients = single(harsh_gradients())

    @jax.jit
    @jax.vmap
    def mapped(arguments, params):
        return descend_with(arguments, params, gradients, 0.0, case.name)[:2]

    members = [(with_rate(case, scale), single(start())) for scale in (1.0, 0.5, 0.25)]
    poison = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), members[1])
    healthy = mapped(*stack(members))
    poisoned = mapped(*stack([members[0], poison, members[2]]))
    for index, scale in enumerate((1.0, 0.5, 0.25)):
        chex.assert_trees_all_close(member(healthy, index), run_traced(case, scale=scale)[:2], rtol=2e-5, atol=2e-5)
    assert np.isnan(poisoned[0]["kernel"][1]).all()
    others = np.array([0, 2])
    chex.assert_trees_all_equal(member(poisoned, others), member(healthy, others))


@each_optimizer
def test_jit_equals_eager(case):
    first = jax.tree.map(lambda g: g[:2], single(harsh_gradients()))
    with jax.disable_jit():
        path, updates, _ = descend(case.make(**case.arguments), single(start()), first)
    jitted = jax.tree.map(lambda leaf: leaf[:2], of_constants(case.name)[:2])
    chex.assert_trees_all_close((path, updates), jitted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name, knob", KNOBS)
def test_each_argument_of_any_kind_keeps_structure_and_dtype(name, knob):
    case, value = BY_NAME[name], BY_NAME[name].arguments[knob]
    params = {"w": jnp.ones(2, jnp.bfloat16), "layers": [jnp.ones((), jnp.float32)]}
    gradients = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), params)
    for kind in (np.float64(value), jnp.float32(value), lambda step: value * jnp.float32(step + 1)):
        optimizer = case.make(**{**case.arguments, knob: kind})
        path, updates, state = jax.eval_shape(functools.partial(descend, optimizer), params, gradients)
        chex.assert_trees_all_equal_shapes_and_dtypes(path, updates, gradients)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(optimizer.init, params))


@pytest.mark.usefixtures("x64")
@each_optimizer
def test_float32_parameters_stay_float32_under_x64(case):
    params, gradients = single(start()), single(harsh_gradients())
    run = jax.eval_shape(lambda arguments: descend(case.make(**arguments), params, gradients), case.arguments)
    chex.assert_trees_all_equal_dtypes(run[0], params)


@each_optimizer
def test_no_optimizer_goes_without_a_learning_rate(case):
    with pytest.raises(TypeError, match="learning_rate"):
        case.make()
    with pytest.raises(Exception, match="learning_rate"):
        case.make(None)


@pytest.mark.parametrize("value", [None, "0.1", True])
def test_a_learning_rate_that_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match=f"`learning_rate` must be a number, a traced value or a schedule, got {value!r}"):
        scale_by_learning_rate(value)


@pytest.mark.parametrize("make", [lambda d: optimizers.rmsprop(0.1, decay=d), lambda d: optimizers.adadelta(0.1, rho=d)])
@pytest.mark.parametrize("decay", [1.0, 1.5])
def test_a_mean_that_does_not_fade_is_refused(make, decay):
    with pytest.raises(ValueError, match=f"must be at least 0 and below 1, got {decay}"):
        make(decay)


def test_a_number_with_a_shape_is_refused():
    with pytest.raises(ValueError, match=r"`learning_rate` must be a scalar, got an array of shape \(3,\)"):
        optimizers.adam(jnp.ones(3))
    with pytest.raises(ValueError, match=r"`b1` must be a scalar, got an array of shape \(2,\)"):
        optimizers.adam(1e-3, b1=np.array([0.8, 0.9]))
    with pytest.raises(ValueError, match=r"`momentum` must be a scalar, got an array of shape \(1,\)"):
        optimizers.momentum(1e-3, momentum=lambda step: jnp.full(1, 0.9)).init(jnp.zeros(1))


def test_scheduled_hands_constants_to_the_factory_as_they_are():
    arguments = {"decay": 0.9, "nesterov": True, "accumulator_dtype": None}
    assert scheduled(dict)(**arguments) == arguments
    assert type(scheduled(dict)(decay=1)["decay"]) is int


def test_scheduled_counts_updates_and_asks_for_step_0_first():
    optimizer = scheduled(optax.scale)(step_size=lambda step: 10.0 + step)
    state = optimizer.init(jnp.zeros(()))
    for step in range(3):
        update, state = optimizer.update(jnp.ones(()), state)
        assert update == 10.0 + step
        assert isinstance(state, ScheduledState) and state.count == step + 1


def test_scheduled_passes_params_and_extra_arguments_on():
    def scale_by_value(factor):
        def update(updates, state, params=None, *, value):
            return factor * value * params, state

        return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)

    optimizer = optax.chain(scheduled(scale_by_value)(factor=lambda step: 2.0), optax.identity())
    params = jnp.array(3.0)
    assert optimizer.update(params, optimizer.init(params), params, value=5.0)[0] == 30.0


def test_scheduled_takes_a_mask_bound_by_partial():
    def is_kernel(params):
        return {name: name == "kernel" for name in params}

    factory = functools.partial(optax.add_decayed_weights, mask=is_kernel)
    optimizer, params = scheduled(factory)(weight_decay=lambda step: 0.5), {"kernel": jnp.ones(()), "bias": jnp.ones(())}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates == {"kernel": 1.5, "bias": 1.0}


def test_schedules_can_be_swept_through_an_optimizer():
    # peak, horizons, b1 and weight decay of one AdamW, mapped in one program
    def last(peak, warmup_steps, decay_steps, b1, weight_decay):
        rate = schedules.warmup_cosine(peak, warmup_steps, decay_steps)
        b1 = schedules.linear(b1, 0.9, decay_steps)
        optimizer = optimizers.adamw(rate, b1=b1, weight_decay=weight_decay)
        return member(descend(optimizer, single(start()), single(harsh_gradients()))[0], -1)

    rows = [(0.1, 5, 60, 0.5, 0.0), (0.2, 10, 40, 0.8, 0.1)]
    mapped = jax.jit(jax.vmap(last))(*(jnp.asarray(column) for column in zip(*rows)))
    for index, row in enumerate(rows):
        chex.assert_trees_all_close(member(mapped, index), jax.jit(lambda row=row: last(*row))(), rtol=2e-5, atol=2e-5)
