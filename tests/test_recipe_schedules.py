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
from recipes import log_uniform, rounded

from gradkit import as_keras, as_torch

each_row = pytest.mark.parametrize("index", range(len(ROWS)), ids=map(str, ROWS))
KINDS = list({(str(row), *row.numbers): index for index, row in reversed(list(enumerate(ROWS)))}.values())
MOST_UNITS = {
    "multiplicative_lr": 24,  # sixty products of a function whose own values are rounded
    # near its end a phase is the square of the distance to it, and the place of the end, 0.3 * 61 - 1 or twice that, is rounded
    "one_cycle_lr": 6,
    "one_cycle_lr three_phase=True": 10,
    # torch's recursion divides by the height above eta_min, and multiplies what the lowest lost by 160 on the way up
    "chained_scheduler of linear cosine exponential": 40,
}


@functools.cache
def compiled(index, dtype):
    """``numbers -> values at all steps``, one program for all numbers."""
    row, traces = ROWS[index], []

    def run(numbers):
        traces.append(1)
        assert len(traces) == 1, "a new value compiled anew"
        return values(row, numbers)

    jitted = jax.jit(run)
    return lambda numbers: np.asarray(jitted(as_arrays(numbers, dtype)))


def values(row, numbers):
    """Our schedule at all steps."""
    make = row.static.get("make") or getattr(row.room, row.name)
    return jax.vmap(make(**numbers, **without(row)))(jnp.asarray(STEPS, jnp.int32))


def as_arrays(numbers, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.int32 if isinstance(x, int) else dtype), numbers)


@pytest.mark.few(15)
@pytest.mark.usefixtures("x64")
@each_row
def test_the_table_equals_the_library(index):
    row = ROWS[index]
    np.testing.assert_allclose(
        compiled(index, float)(row.numbers), row.truth(**row.numbers, **without(row)), rtol=1e-12, atol=1e-12
    )


@pytest.mark.few(12)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("index", KINDS, ids=[str(ROWS[index]) for index in KINDS])
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


@pytest.mark.few(10)
@each_row
def test_float32_keeps_its_digits_and_numbers_can_be_mapped_over(index):
    row = ROWS[index]
    doubled = jax.tree.map(lambda x: jnp.stack([x] * 2), as_arrays(row.numbers, jnp.float32))
    run = jax.jit(lambda doubled: (values(row, row.numbers), jax.vmap(lambda numbers: values(row, numbers))(doubled)))
    constant, traced = run(doubled)
    for found, numbers in ((constant, row.numbers), *((lane, rounded(row.numbers)) for lane in traced)):
        assert found.dtype == jnp.float32
        truth = row.truth(**numbers, **without(row))
        gap = np.abs(np.asarray(found, np.float64) - truth)
        assert (gap / np.spacing(truth.astype(np.float32))).max() <= most_units(row)


def most_units(row):
    # the start of a cycle between two steps is rounded, and near its end the rate is the square of the distance to the next
    is_between = row.numbers.get("first_decay_steps", 0) % 1 > 0
    return 40 if is_between else MOST_UNITS.get(str(row), 4)


def test_powers_of_a_constant_keep_their_digits_at_any_step():
    steps = np.arange(0, 100_000, 97)
    found = jax.jit(jax.vmap(as_torch.exponential_lr(0.9995, lr=0.3)))(jnp.asarray(steps, jnp.int32))
    np.testing.assert_allclose(found, 0.3 * 0.9995**steps, rtol=5e-7)


VALUES = np.concatenate([np.linspace(1, 0.5, 10), np.full(20, 0.5), np.linspace(0.5, -0.2, 10), np.full(15, -0.2), [-5.0] * 8])


def plateau_in_torch(values, **arguments):
    """The rates at the epochs of these values."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.3)
    scheduler, rates = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **arguments), []
    for value in values:
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(value)
    return rates


@functools.partial(jax.jit, static_argnames=("mode", "threshold_mode", "steps_per_epoch"))
def plateau_of_ours(values, steps_per_epoch=1, **arguments):
    """The same of a chain, at each step."""
    chain = optax.chain(optax.sgd(0.3), as_torch.reduce_lr_on_plateau(**arguments, lr=0.3, steps_per_epoch=steps_per_epoch))

    def step(state, value):
        updates, state = chain.update(jnp.ones(()), state, jnp.zeros(()), value=value)
        return state, -updates

    return jax.lax.scan(step, chain.init(jnp.zeros(())), jnp.repeat(values, steps_per_epoch))[1]


@pytest.mark.usefixtures("x64")
def test_a_plateau_looks_once_an_epoch():
    arguments = {"patience": 2, "cooldown": 4, "min_lr": 0.02}
    rates = plateau_in_torch(VALUES, **arguments)
    np.testing.assert_allclose(plateau_of_ours(VALUES, steps_per_epoch=2, **arguments), np.repeat(rates, 2), rtol=1e-12)
    assert len(set(rates)) > 1


PLATEAUS = {
    "factor": st.floats(0.05, 0.95), "patience": st.integers(0, 4), "cooldown": st.integers(0, 4), "min_lr": st.floats(0, 0.2),
    "threshold": log_uniform(1e-6, 2) | st.just(0.0), "eps": log_uniform(1e-9, 1e-2),
}  # fmt: skip
METRICS = st.floats(-2, 2) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0, 1 - 1e-4])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_lowers_the_rate_when_torch_does(mode, threshold_mode):
    static = {"mode": mode, "threshold_mode": threshold_mode}

    @settings(max_examples=20, derandomize=True, database=None, deadline=None)
    @given(st.fixed_dictionaries(PLATEAUS), st.lists(METRICS, min_size=40, max_size=40))
    def check(numbers, values):
        rates = plateau_in_torch(values, **static, **numbers)
        np.testing.assert_allclose(plateau_of_ours(np.array(values), **static, **numbers), rates, rtol=1e-12)

    check()


CONSTANT = as_torch.constant_lr(lr=0.1)


def in_sequence(scheduler):
    return as_torch.sequential_lr([CONSTANT, scheduler], [3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_torch.step_lr(0, lr=0.1), "`step_size` must be a whole number above 0, got 0"),
        (lambda: as_torch.step_lr(2.5, lr=0.1), "`step_size` must be a whole number above 0, got 2.5"),
        (lambda: as_torch.step_lr(5, lr=[0.1, 0.2]), r"`lr` must be a scalar, got \[0.1, 0.2\]"),
        (lambda: as_torch.step_lr(5, lr=jnp.ones(2)), r"`lr` must be a scalar, got an array of shape \(2,\)"),
        (lambda: as_torch.linear_lr(0.0, lr=0.1), "`start_factor` must be above 0 and at most 1, got 0"),
        (lambda: as_torch.linear_lr(2.0, lr=0.1), "`start_factor` must be above 0 and at most 1, got 2"),
        (lambda: as_torch.linear_lr(end_factor=1.5, lr=0.1), "`end_factor` must be at least 0 and at most 1, got 1.5"),
        (lambda: as_torch.constant_lr(2.0, lr=0.1), "`factor` must be at least 0 and at most 1, got 2"),
        (lambda: as_torch.constant_lr(total_iters=7.5, lr=0.1), "`total_iters` must be a whole number above 0, got 7.5"),
        (lambda: as_torch.polynomial_lr(0, lr=0.1), "`total_iters` must be a whole number above 0, got 0"),
        (lambda: as_torch.linear_lr(total_iters=float("nan"), lr=0.1), "`total_iters` must be a whole number above 0, got nan"),
        (lambda: as_torch.lambda_lr(lambda step: 1.0, lr=float("nan")), "`lr` must be finite and at least 0, got nan"),
        (lambda: as_torch.multi_step_lr([3, 5.5], lr=0.1), r"`milestones\[1\]` must be a whole number at least 0, got 5.5"),
        (lambda: as_torch.chained_scheduler([]), r"`schedulers` must hold at least one, got \[\]"),
        (lambda: as_torch.sequential_lr([], []), r"`schedulers` must hold at least one, got \[\]"),
        (
            lambda: in_sequence(as_torch.multiplicative_lr(lambda step: 0.9, lr=0.1)),
            r"`schedulers\[1\]` must be a schedule that can stand in sequential_lr, got one for chained_scheduler\. torch",
        ),
        (lambda: in_sequence(in_sequence(CONSTANT)), "can stand in sequential_lr, got one for no other scheduler"),
        (lambda: in_sequence(as_torch.chained_scheduler([CONSTANT])), "stand in sequential_lr, got one for chained_scheduler"),
        (lambda: as_torch.chained_scheduler([in_sequence(CONSTANT)]), "can stand in chained_scheduler, got one for no other"),
        (lambda: as_torch.reduce_lr_on_plateau(lr=0.0), "`lr` must be finite and above 0, got 0.0"),
        (lambda: as_torch.reduce_lr_on_plateau(lr=0.1).update({}, None), "`value` must be given to `update`, got None"),
        (lambda: as_keras.cosine_decay_restarts(0.1, 5, 0.5), "`t_mul` must be finite and at least 1, got 0.5"),
        (lambda: as_keras.piecewise_constant_decay([5], [0.1, -0.1]), r"`values\[1\]` must be finite and at least 0, got -0.1"),
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
        (lambda: as_torch.cosine_annealing_warm_restarts(5, 0, lr=0.1), "`T_mult` must be finite and at least 1, got 0"),
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
