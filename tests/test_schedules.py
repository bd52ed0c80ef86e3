"""Schedules: equal to optax's, exact near their end, and the same whether their arguments are constants or traced."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import SCHEDULES

from gradkit import schedules

STEPS = np.arange(60, dtype=np.int32)
BY_NAME = {case.name: case for case in SCHEDULES}

each_schedule = pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: case.name)
assert_close = functools.partial(np.testing.assert_allclose, rtol=0, atol=5e-7)


def values(make, arguments):
    """The schedule at all steps."""
    return jax.vmap(make(**arguments))(jnp.asarray(STEPS))


@functools.cache
def traced(name):
    """``arguments -> values``, compiled once with all arguments traced."""

    def run(arguments):
        return values(BY_NAME[name].make, arguments)

    chex.clear_trace_counter()  # chex counts by source line, which all rows share
    return jax.jit(chex.assert_max_traces(run, n=1))


@functools.cache
def of_constants(name):
    return jax.jit(lambda: values(BY_NAME[name].make, BY_NAME[name].arguments))()


def scaled(case):
    """Other arguments: horizons doubled, the rest half as large again."""
    return jax.tree.map(lambda value: value * 2 if isinstance(value, int) else value * 1.5, case.arguments)


@functools.cache
def truth(name):
    """The other hand's values in float64, for the arguments of the table and for the scaled ones."""
    case, before = BY_NAME[name], jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        steps = jnp.asarray(STEPS, float)
        return [np.asarray(jax.vmap(case.truth(**given))(steps)) for given in (case.arguments, scaled(case))]
    finally:
        jax.config.update("jax_enable_x64", before)


def as_arrays(arguments, dtype=None):
    return jax.tree.map(lambda value: jnp.asarray(value, dtype), arguments)


@pytest.mark.few(8)
@each_schedule
def test_a_schedule_of_constants_equals_the_truth(case):
    assert_close(of_constants(case.name), truth(case.name)[0])


@pytest.mark.few(8)
@pytest.mark.usefixtures("x64")
@each_schedule
def test_a_schedule_of_traced_values_equals_the_truth_in_float64(case):
    run = jax.jit(functools.partial(values, case.make))
    for given, expected in zip((case.arguments, scaled(case)), truth(case.name)):
        assert run(given).dtype == np.float64
        assert_close(run(given), expected, atol=1e-14)


@each_schedule
def test_all_arguments_traced_equal_the_truth_without_compiling_again(case):
    for given, expected in zip((case.arguments, scaled(case)), truth(case.name)):
        assert_close(traced(case.name)(as_arrays(given)), expected)


@pytest.mark.few(6)
@each_schedule
def test_each_argument_alone_can_be_mapped_over(case):
    leaves, structure = jax.tree.flatten(case.arguments)

    def with_leaf(index, leaf):
        return jax.tree.unflatten(structure, [*leaves[:index], leaf, *leaves[index + 1 :]])

    @jax.jit
    def run(members):
        by_index = enumerate(members)
        return [jax.vmap(lambda leaf: values(case.make, with_leaf(index, leaf)))(pair) for index, pair in by_index]  # noqa: B023

    for index, (first, second) in enumerate(run([jnp.asarray([leaf, leaf * 2]) for leaf in leaves])):
        assert_close(first, of_constants(case.name), err_msg=f"leaf {index}")
        assert_close(second, traced(case.name)(as_arrays(with_leaf(index, leaves[index] * 2))), err_msg=f"leaf {index}")


@each_schedule
def test_a_step_may_be_a_python_int_or_a_numpy_int(case):
    schedule = case.make(**case.arguments)
    for value in jax.jit(lambda: [schedule(9), schedule(np.int64(9))])():
        assert_close(value, of_constants(case.name)[9])


@pytest.mark.few(6)
@each_schedule
def test_horizons_may_be_floats_and_gradients_are_finite_at_every_joint(case):
    # a horizon swept over a continuous range is a float; zero is the hardest
    horizons = as_arrays(case.arguments, jnp.float32)
    none = as_arrays(jax.tree.map(lambda value: 0.0 if isinstance(value, int) else value, case.arguments), jnp.float32)

    @jax.jit
    def run(arguments):
        result, pullback = jax.vjp(functools.partial(values, case.make), arguments)
        return result, pullback(jnp.ones_like(result))

    assert_close(run(horizons)[0], of_constants(case.name))
    chex.assert_tree_all_finite((run(horizons), run(none)))


@pytest.mark.parametrize("steps", [1000, 100_000])
@pytest.mark.parametrize("left", [1, 10, 100])
def test_the_cosine_keeps_its_digits_near_the_end(steps, left):
    exact = np.sin(np.pi / 2 * np.float64(left) / steps) ** 2
    step = jnp.int32(steps - left)
    at = jax.jit(lambda horizons: [schedules.cosine(1.0, horizon)(step) for horizon in (steps, *horizons)])
    np.testing.assert_allclose(at([jnp.int32(steps), jnp.float32(steps)]), exact, rtol=4e-7)


ENDS = {
    "linear": (schedules.linear(0.3, 0.02, 30), 30, 0.02),
    "polynomial": (schedules.polynomial(0.3, 0.02, 30, power=2), 30, 0.02),
    "cosine": (schedules.cosine(0.3, 30, end=0.02), 30, 0.02),
    "warmup": (schedules.warmup(schedules.constant(0.3), 30), 30, 0.3),
    "warmup_cosine": (schedules.warmup_cosine(0.3, 10, 30, end=0.02), 30, 0.02),
    "warmup_stable_decay": (
        schedules.warmup_stable_decay(0.3, warmup_steps=5, stable_steps=10, decay_steps=15, end=0.02),
        30,
        0.02,
    ),
    "one_cycle": (schedules.one_cycle(0.3, 30, div_factor=10, final_div_factor=5), 30, 0.006),
    "piecewise": (schedules.piecewise([0.3, 0.1, 0.02], [10, 30]), 30, 0.02),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_schedule_reaches_its_end_at_its_last_step_and_stays(name):
    schedule, steps, end = ENDS[name]
    last, *after = jax.jit(jax.vmap(schedule))(steps + jnp.array([-1, 0, 1, 999 * steps]))
    assert abs(last - end) > 1e-4
    np.testing.assert_allclose(after, end, rtol=2e-7)


def test_a_swept_warmup_may_have_no_steps():
    at = jax.jit(jax.vmap(lambda steps, step: schedules.warmup_cosine(1.0, steps, 40)(step), (0, None)))
    lengths = jnp.array([0, 1, 4])
    assert_close(at(lengths, 0), [1.0, 0.0, 0.0])
    assert_close(at(lengths, 1)[1:], [1.0, 0.25])


def test_linear_of_no_steps_is_at_its_end_where_optax_never_leaves_its_start():
    assert schedules.linear(0.3, 0.1, 0)(5) == np.float32(0.1)
    assert optax.linear_schedule(0.3, 0.1, 0)(5) == 0.3


@pytest.mark.parametrize("steps", [41, 47, 55])
def test_stairs_are_never_late(steps):
    # under jit XLA multiplies by the inverse of a constant, and 41 * float32(1 / 41) < 1
    schedule = schedules.exponential(1.0, steps, 0.5, staircase=True)
    assert_close(jax.jit(jax.vmap(schedule))(steps * jnp.arange(4)), [1.0, 0.5, 0.25, 0.125])


@pytest.mark.parametrize("steps, mult", [(10, 1), (997, 1), (1, 2), (1000, 2), (7, 3)])
def test_warm_restarts_never_miss_a_restart_in_float32(steps, mult):
    last = 100_000
    restarts, length = [0], steps
    while restarts[-1] + length <= last:
        restarts, length = [*restarts, restarts[-1] + length], length * mult
    at = jax.jit(jax.vmap(schedules.warm_restarts(1.0, jnp.int32(steps), mult=jnp.int32(mult))))
    np.testing.assert_allclose(at(jnp.asarray(restarts)), 1.0, rtol=1e-5)
    if steps > 1:
        assert np.all(np.asarray(at(jnp.asarray(restarts[1:]) - 1)) < 0.1)


def test_cycles_do_not_get_shorter():
    with pytest.raises(ValueError, match=r"`mult` must be finite and at least 1, got 0\.5"):
        schedules.warm_restarts(1.0, 10, mult=0.5)


def test_piecewise_wants_a_value_for_every_piece():
    with pytest.raises(ValueError, match="`values` must be one more than the boundaries, got 2 values and 2 boundaries"):
        schedules.piecewise([0.1, 0.2], [5, 10])
