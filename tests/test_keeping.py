"""What is kept between runs, how long, and how it is released: programs, their constants, the data."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import same_bits
from test_sweeps import compilations

import gradkit as gk
from gradkit.data import source
from gradkit.engine import programs

X = np.linspace(-1, 1, 64).astype(np.float32)
LARGE = 300_000  # numbers, above the bytes that a program may keep beyond its make


def live_bytes():
    """Of all arrays on the device."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


def sweep(make, data=X, **settings):
    """One member, two steps."""
    space = settings.pop("space", gk.grid(learning_rate=[0.1]))
    return gk.sweep(make, data, space, steps=2, plan=gk.Plan(width=1), progress=False, **settings)


def make_of(constant):
    """A make whose loss reads an array."""
    return lambda h: gk.descent(lambda w, batch: jnp.mean((w * constant - 1) ** 2), jnp.zeros(()), optax.sgd(h.learning_rate))


def plain(h):
    """A make without constants."""
    return gk.descent(lambda w, batch: jnp.mean((w - batch) ** 2), jnp.zeros(()), optax.sgd(h.learning_rate))


def find(make, **static):
    """The program of a make."""
    feed = source(X, batch_size=None, key=0, per_seed=False)
    return programs.program(make, static, {}, feed.batch, None, is_ordered=False)


def test_twenty_static_programs_are_all_kept():
    once = [find(plain, depth=depth).kept for depth in range(20)]
    again = [find(plain, depth=depth).kept for depth in range(20)]
    assert all(one is other for one, other in zip(once, again)) and len(set(map(id, once))) == 20


@pytest.mark.long
def test_a_second_sweep_of_twenty_static_programs_compiles_nothing():
    space = gk.grid(learning_rate=[0.1], depth=gk.static(range(20)))
    make = lambda h: gk.descent(lambda w, batch: (w - h.depth) ** 2, jnp.zeros(()), optax.sgd(h.learning_rate))  # noqa: E731
    sweep(make, space=space)
    assert compilations(lambda: sweep(make, space=space)) == 0


def test_the_last_are_kept_and_those_that_are_in_use(monkeypatch):
    monkeypatch.setattr(programs, "MOST_KEPT", 3)
    held = find(plain, depth="held")
    dropped = weakref.ref(find(plain, depth="dropped").kept)
    for depth in range(3):
        find(plain, depth=depth)
    gc.collect()
    assert dropped() is None
    assert find(plain, depth="held").kept is held.kept


def test_finished_fits_leave_nothing_on_the_device():
    before = live_bytes()

    def fit(number):
        bowl = gk.descent(lambda w, batch: jnp.mean((w - 1) ** 2), jnp.full((LARGE,), number), optax.sgd(0.1))
        return gk.fit(bowl, X, steps=2, progress=False)

    fits = [fit(number) for number in (1.0, 2.0, 3.0)]
    assert live_bytes() > before
    del fits
    assert live_bytes() - before < 4 * LARGE


def test_a_program_with_large_constants_lives_as_long_as_its_make():
    constant = jnp.ones(LARGE)
    make = make_of(constant)
    sweep(make)
    assert compilations(functools.partial(sweep, make)) == 0
    kept = weakref.ref(find(make).kept)
    gc.collect()
    assert kept() is not None
    del make
    gc.collect()
    assert kept() is None


def test_a_small_program_outlives_its_make():
    def fresh():
        scale = 2.0
        return lambda h: gk.descent(lambda w, batch: (scale * w - 1) ** 2, lambda key: jnp.zeros(()), optax.sgd(h.learning_rate))

    sweep(fresh())
    gc.collect()
    assert compilations(lambda: sweep(fresh())) == 0


def test_clearing_the_caches_of_jax_frees_what_was_compiled():
    before = live_bytes()
    make = make_of(np.ones(LARGE, np.float32))
    sweep(make)
    jax.clear_caches()
    assert live_bytes() - before < 4 * LARGE
    assert float(sweep(make).params(0)) > 0


def test_a_sweep_keeps_data_as_they_were_given_and_replays_to_the_bit():
    data, held_out = np.ones(LARGE, np.float32), np.zeros(LARGE, np.float32)
    before = live_bytes()
    sweeps = [sweep(plain, data, validation=held_out) for _ in range(2)]
    assert live_bytes() - before < 4 * LARGE
    again = sweeps[0].replay(0)
    assert same_bits((again.params, again.history), (sweeps[0].params(0), sweeps[0][0].history))
    assert live_bytes() - before < 4 * LARGE


@pytest.mark.parametrize("name", ["data", "validation"])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_arrays_that_changed_in_place_are_not_replayed(name, batch_size):
    arrays = {"data": np.arange(4, dtype=np.float32), "validation": np.arange(4, dtype=np.float32)}
    found = sweep(plain, arrays["data"], validation=arrays["validation"], batch_size=batch_size)
    expected = found.replay(0).params
    arrays[name][:] = arrays[name][::-1].copy()
    with pytest.raises(ValueError, match=f"`{name}` must be what the sweep ran on"):
        found.replay(0)
    arrays[name].sort()
    assert same_bits(found.replay(0).params, expected)


def test_a_bound_make_and_a_partial_can_be_let_go_too():
    class Maker:
        def __init__(self):
            self.constant = jnp.ones(LARGE)

        def make(self, h):
            return make_of(self.constant)(h)

        def scaled(self, scale, h):
            return make_of(scale * self.constant)(h)

    for pick in (lambda maker: maker.make, lambda maker: functools.partial(maker.scaled, 2.0)):
        maker = Maker()
        sweep(pick(maker))
        gone = weakref.ref(maker)
        del maker
        gc.collect()
        assert gone() is None
