"""PyTorch's and Keras's schedules: equal to the installed ones over three periods, for the table and for random settings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_schedules import RANGES, ROWS, STEPS, WHOLE

from gradkit import as_keras, as_torch

each_row = pytest.mark.parametrize("index", range(len(ROWS)), ids=[str(row).split(" make")[0] for row in ROWS])


@functools.cache
def compiled(index, dtype):
    """``numbers -> values at all steps``, one program for all numbers."""
    row, traces = ROWS[index], []

    def run(numbers):
        traces.append(1)
        assert len(traces) == 1, "a new value compiled anew"
        static = dict(row.static)
        make = static.pop("make", None) or getattr(row.room, row.name)
        return jax.vmap(make(**numbers, **static))(jnp.asarray(STEPS, jnp.int32))

    jitted = jax.jit(run)
    return lambda numbers: np.asarray(jitted(as_arrays(numbers, dtype)))


def as_arrays(numbers, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.int32 if isinstance(x, int) else dtype), numbers)


@pytest.mark.usefixtures("x64")
@each_row
def test_the_table_equals_the_library(index):
    row = ROWS[index]
    np.testing.assert_allclose(
        compiled(index, float)(row.numbers), row.truth(**row.numbers, **without(row)), rtol=1e-12, atol=1e-12
    )


@pytest.mark.usefixtures("x64")
@each_row
def test_random_settings_equal_the_library(index):
    row = ROWS[index]

    @settings(max_examples=20, derandomize=True, database=None, deadline=None)
    @given(st.fixed_dictionaries({name: RANGES.get(name, WHOLE) for name in row.numbers}))
    def check(numbers):
        truth = row.truth(**numbers, **without(row))
        np.testing.assert_allclose(compiled(index, float)(numbers), truth, rtol=1e-12, atol=1e-12)

    check()


def without(row):
    """The arguments of a row that the library takes too."""
    return {name: value for name, value in row.static.items() if name != "make"}


@each_row
def test_float32_keeps_its_digits_and_numbers_can_be_mapped_over(index):
    row = ROWS[index]
    static = dict(row.static)
    make = static.pop("make", None) or getattr(row.room, row.name)
    doubled = jax.tree.map(
        lambda x: jnp.stack([jnp.asarray(x, jnp.int32 if isinstance(x, int) else jnp.float32)] * 2), row.numbers
    )
    run = jax.jit(jax.vmap(lambda numbers: jax.vmap(make(**numbers, **static))(jnp.asarray(STEPS, jnp.int32))))
    found = run(doubled)
    assert found.dtype == jnp.float32
    truth = row.truth(**row.numbers, **without(row))
    np.testing.assert_allclose(found, np.stack([truth] * 2), rtol=2e-5, atol=1e-7 * truth.max())


def test_a_plateau_lowers_the_rate_when_torch_does():
    torch = pytest.importorskip("torch")
    values = np.concatenate(
        [np.linspace(1, 0.5, 10), np.full(20, 0.5), np.linspace(0.5, -0.2, 10), np.full(15, -0.2), [-5.0] * 8]
    )
    for arguments in ({"patience": 3, "factor": 0.5}, {"patience": 2, "cooldown": 4, "min_lr": 0.02},
                      {"mode": "max", "patience": 5}, {"threshold_mode": "abs", "threshold": 0.05, "patience": 1}):  # fmt: skip
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.3)
        scheduler, rates = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **arguments), []
        plateau = as_torch.reduce_lr_on_plateau(**arguments, lr=0.3, steps_per_epoch=2)
        chain = optax.chain(optax.sgd(0.3), plateau)

        def step(state, value, chain=chain):
            updates, state = chain.update(jnp.ones(()), state, jnp.zeros(()), value=value)
            return state, -updates

        for value in values.astype(np.float32):
            rates.extend([optimizer.param_groups[0]["lr"]] * 2)
            scheduler.step(float(value))
        _, found = jax.lax.scan(step, chain.init(jnp.zeros(())), jnp.repeat(jnp.asarray(values, jnp.float32), 2))
        np.testing.assert_allclose(found, rates, rtol=1e-6)
        assert len(set(rates)) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_torch.step_lr(0, lr=0.1), "`step_size` must be finite and above 0, got 0"),
        (lambda: as_torch.step_lr(5, lr=-0.1), "`lr` must be finite and at least 0, got -0.1"),
        (lambda: as_torch.one_cycle_lr(0.1), "`total_steps` must be given, or both `epochs` and `steps_per_epoch`, got None"),
        (lambda: as_torch.one_cycle_lr(0.1, 10, pct_start=1.5), "`pct_start` must lie between 0 and 1, got 1.5"),
        (
            lambda: as_torch.one_cycle_lr(0.1, 10, anneal_strategy="cosine"),
            "`anneal_strategy` must be one of cos, linear, got 'cosine'",
        ),
        (
            lambda: as_torch.cyclic_lr(0.1, 1.0, mode="sine"),
            "`mode` must be one of triangular, triangular2, exp_range, got 'sine'",
        ),
        (lambda: as_torch.sequential_lr([as_torch.step_lr(5, lr=0.1)], [3]), "`schedulers` must be one more than the milestones"),
        (lambda: as_torch.cosine_annealing_warm_restarts(5, 0, lr=0.1), "`T_mult` must be at least 1, got 0"),
        (lambda: as_torch.reduce_lr_on_plateau(factor=1.0, lr=0.1), "`factor` must be at least 0 and below 1, got 1.0"),
        (lambda: as_keras.exponential_decay(0.1, 0, 0.5), "`decay_steps` must be finite and above 0, got 0"),
        (lambda: as_keras.cosine_decay(float("nan"), 10), "`initial_learning_rate` must be finite and at least 0, got nan"),
        (lambda: as_keras.piecewise_constant_decay([5], [0.1]), "`values` must be one more than the boundaries"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_schedules_of_the_room_can_be_chained():
    with pytest.raises(TypeError, match=r"`schedulers` must be schedules of gradkit\.as_torch"):
        as_torch.chained_scheduler([lambda step: 0.1])
