"""jax's settings that change numbers: carried to the threads of a run, kept with a sweep, restored by its replay."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import same_bits

import gradkit as gk
from gradkit import settings

X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(16, 4)
DATA = (X, 3 * X.sum(1))
RUN = {"steps": 5, "batch_size": 8, "progress": False}
SPACE = gk.grid(learning_rate=[0.01], seed=range(4))
OTHER_VALUES = {
    "jax_enable_x64": True,
    "jax_default_matmul_precision": "bfloat16",
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "warn",
    "jax_softmax_custom_jvp": True,
    "jax_debug_infs": True,
    "jax_allow_f16_reductions": False,
    "jax_random_seed_offset": 3,
    "jax_safer_randint": False,
    "jax_high_dynamic_range_gumbel": True,
    "jax_default_dtype_bits": "32",
    "jax_explicit_x64_dtypes": "allow",
    "jax_use_direct_linearize": False,
    "jax_optimization_level": "O1",
    "jax_exec_time_optimization_effort": -0.5,
    "jax_memory_fitting_level": "O1",
    "jax_memory_fitting_effort": 0.1,
    "jax_disable_most_optimizations": True,
    "eager_constant_folding": True,
}
KNOWN = [name for name in OTHER_VALUES if name in settings.kept()]


@contextlib.contextmanager
def globally(name, value):
    before = settings.change({name: value})
    try:
        yield
    finally:
        settings.change(before)


def locally(name, value):
    return settings.CONTEXTS[name](value)


def ways():
    for name in KNOWN:
        yield pytest.param(name, globally, id=f"{name}-globally")
        if name in settings.CONTEXTS:
            yield pytest.param(name, locally, id=f"{name}-locally")


def value_of(name):
    return settings.kept()[name]


def tell(name):
    """A ``make`` whose loss says whether the setting had its other value while the loss was traced."""

    def loss_fn(params, batch):
        is_other = value_of(name) != usual
        return jnp.mean((batch[0] @ params - batch[1]) ** 2) + (1000.0 if is_other else 0.0)

    usual = value_of(name)
    return lambda h: gk.descent(loss_fn, jnp.zeros(4, jnp.float32), optax.sgd(h.learning_rate))


def sweep(make, space=SPACE, **changes):
    return gk.sweep(make, DATA, space, plan=gk.Plan(width=1, threads=2), **(RUN | changes))


def test_all_settings_have_a_value_to_be_tried_with():
    assert {*settings.kept()} - {*OTHER_VALUES} == {"jax_default_device", "jax_debug_nans"}


@pytest.mark.parametrize(("name", "way"), list(ways()))
def test_a_setting_is_carried_to_other_threads_kept_and_restored(name, way):
    before = settings.kept()
    with way(name, OTHER_VALUES[name]):
        kept, told = settings.kept(), settings.current()
        carried = settings.carried(settings.kept)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(carried).result() == kept
    assert kept[name] != before[name] and hash(told) == hash(tuple(kept.values()))
    assert settings.kept() == before
    with settings.restored(kept):
        assert settings.kept() == kept
        assert settings.current() == told
    assert settings.kept() == before


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("name", "way"), [("jax_default_matmul_precision", locally), ("jax_use_direct_linearize", globally),
                      ("jax_disable_most_optimizations", globally)],
)  # fmt: skip
def test_a_replay_is_traced_anew_under_the_settings_of_the_sweep(name, way):
    make, space = tell(name), gk.grid(learning_rate=[0.01, 0.02])
    with way(name, OTHER_VALUES[name]):
        result = sweep(make, space)
    jax.clear_caches()
    again = result.replay(1)
    assert again.history["loss"][0] > 1000
    assert same_bits([again.params, again.history], [result[1].params, result[1].history])
    elsewhere = sweep(make, space)
    assert elsewhere[1].history["loss"][0] < 1000


def dropped_out(h):
    """Draws inside the loss, by a key that is made there."""

    def loss_fn(params, state, batch, key):
        inputs, targets = batch
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(3), 1), inputs.shape)
        return jnp.mean(((inputs + noise * jax.random.normal(key, (4,))[None]) @ params - targets) ** 2), (state, {})

    return gk.descent(loss_fn, lambda key: jax.random.normal(key, (4,)), optax.sgd(h.learning_rate), state=())


REAL = {
    "64 bits": lambda: settings.enable_x64(True),
    "generator": lambda: jax.default_prng_impl("rbg"),
    "partitionable draws": lambda: jax.threefry_partitionable(False),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("context", list(REAL.values()), ids=list(REAL))
def test_a_replay_outside_of_the_context_of_the_sweep_repeats_it_to_the_bit(context):
    with context():
        result = sweep(dropped_out)
        params = result.params(3)
    elsewhere = sweep(dropped_out)
    assert not same_bits(elsewhere[3].params, result[3].params)
    again = result.replay(3)
    assert same_bits([again.params, again.history], [result[3].params, result[3].history])
    assert same_bits(result.params(3), params)
    with context():
        assert same_bits(elsewhere.replay(3).params, elsewhere[3].params)


def test_a_plan_and_a_sweep_in_another_thread_keep_its_settings():
    found = []

    def run():
        with settings.enable_x64(True):
            found.append(sweep(dropped_out))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found[0][1].params.params.dtype == np.float64
    assert same_bits(found[0].replay(1).params, found[0][1].params)


def test_settings_are_put_back_where_what_runs_under_them_fails():
    before, wanted = settings.kept(), settings.kept() | {"jax_enable_x64": True, "jax_random_seed_offset": 7}

    def fail():
        assert (value_of("jax_enable_x64"), value_of("jax_random_seed_offset")) == (True, 7)
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"), settings.restored(wanted):
        fail()
    assert settings.kept() == before
