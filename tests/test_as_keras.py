"""Keras's recipes: the installed Keras's parameters, step for step, on a sequence of gradients under stress."""

import contextlib
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import KERAS, assert_same, compiled, falling, log_uniform, paths_without_x64, rounded, start, stress

from gradkit import as_keras

os.environ.setdefault("KERAS_BACKEND", "jax")  # TensorFlow's casts Python numbers through float32
keras = pytest.importorskip("keras")

RANGES = {
    "momentum": st.floats(0.1, 0.99), "rho": st.floats(0.8, 0.99), "epsilon": log_uniform(1e-10, 1e-4),
    "weight_decay": st.sampled_from([0.0, 1e-4, 1e-2]), "initial_accumulator_value": st.floats(0.01, 1),
    "beta_1": st.floats(0.01, 0.99), "beta_2": st.floats(0.9, 0.9999),
}  # fmt: skip
each_recipe = pytest.mark.parametrize("recipe", KERAS, ids=str)
pytestmark = pytest.mark.usefixtures("x64")


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """The schedule of the table."""

    def __init__(self, rate, slope):
        self.schedule = falling(rate, slope)

    def __call__(self, step):
        step = getattr(step, "value", step)
        return self.schedule(step if isinstance(step, jax.core.Tracer) else int(step))


@contextlib.contextmanager
def floats_of(dtype):
    """Keras's own floats as wide as the parameters."""
    before = keras.config.floatx()
    keras.config.set_floatx(np.dtype(dtype).name)
    yield
    keras.config.set_floatx(before)


def made(recipe, numbers, slope, dtype):
    """Keras's optimizer, and its parameters."""
    rate = Falling(numbers["learning_rate"], slope)
    optimizer = getattr(keras.optimizers, recipe.theirs)(**{**numbers, "learning_rate": rate}, **dict(recipe.static))
    theta = keras.Variable(start().astype(dtype), dtype=np.dtype(dtype).name)
    optimizer.build([theta])
    return optimizer, theta


def keras_path(recipe, numbers, slope, dtype):
    """The parameters of the installed Keras after each step, as it computes them one operation after the other."""
    with floats_of(dtype):
        optimizer, theta = made(recipe, numbers, slope, dtype)
        path = []
        for g in stress().astype(dtype):
            optimizer.apply([g])
            path.append(np.array(theta.value))
        return np.stack(path)


@functools.cache
def compiled_keras(row, dtype):
    """The same of a row of the table in one program for all values of the numbers."""
    recipe = KERAS[row]

    @jax.jit
    def run(numbers, slope):
        optimizer, _ = made(recipe, recipe.numbers, 0.0, dtype)
        for name, value in numbers.items():
            if name != "learning_rate":
                setattr(optimizer, name, value)
        optimizer._learning_rate = Falling(numbers["learning_rate"], slope)

        def step(carry, g):
            thetas, variables = optimizer.stateless_apply(carry[1], [g], carry[0])
            return (thetas, variables), thetas[0]

        begin = [jnp.asarray(start(), dtype)], [variable.value for variable in optimizer.variables]
        return jax.lax.scan(step, begin, jnp.asarray(stress(), dtype))[1]

    return run


def their_path(recipe, numbers, slope, dtype):
    """In float32 operation by operation, as a compiler would round otherwise; compiled where that takes too long or need not be.

    What Keras compares with zero, or reads only once, cannot be traced.
    """
    is_slow = "gradient_accumulation_steps" in str(recipe)
    if not is_slow and (dtype == np.float32 or {"momentum", "initial_accumulator_value"} & set(numbers)):
        return keras_path(recipe, numbers, slope, dtype)
    with floats_of(dtype):
        return np.asarray(compiled_keras(KERAS.index(recipe), dtype)(numbers, slope))


def compare(recipe, numbers, slope, dtype):
    factory = getattr(as_keras, recipe.name)
    ours = compiled(factory, tuple(sorted(numbers)), recipe.static, "learning_rate", dtype)(numbers, slope)
    assert_same(ours, their_path(recipe, numbers, slope, dtype), most_units(recipe))


def most_units(recipe):
    return 8 if "norm" in str(recipe) else 4  # where gradients are scaled by a norm, squares are summed in another order


@pytest.mark.few(5)
@pytest.mark.parametrize("slope", [0.0, 0.01], ids=["constant rate", "schedule"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@each_recipe
def test_every_optimizer_goes_where_keras_goes(recipe, dtype, slope):
    compare(recipe, recipe.numbers, slope, dtype)


@pytest.mark.long
def test_without_x64_constants_and_traced_numbers_go_where_keras_goes():
    for recipe, (constant, traced) in zip(KERAS, paths_without_x64(as_keras, KERAS)):
        if "accumulation" not in str(recipe):  # which takes Keras ten seconds unless it is compiled
            assert_same(constant, keras_path(recipe, recipe.numbers, 0.0, np.float32), most_units(recipe))
        assert_same(traced, their_path(recipe, rounded(recipe.numbers), 0.0, np.float32), most_units(recipe))


@pytest.mark.few(3)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@each_recipe
def test_random_settings_go_where_keras_goes(recipe, dtype):
    rate = recipe.numbers["learning_rate"]
    settings_of = st.fixed_dictionaries({name: RANGES.get(name, log_uniform(0.1 * rate, 10 * rate)) for name in recipe.numbers})

    @settings(max_examples=20, derandomize=True, database=None, deadline=None)
    @given(settings_of, st.sampled_from([0.0, 0.005, 0.016]))
    def check(numbers, slope):
        compare(recipe, numbers, slope, dtype)

    check()
