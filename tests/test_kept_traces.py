"""What jax keeps of a function, and objects that hide what they hold: an edit is seen all the same, and so is going back."""

import collections
import contextvars
import datetime
import functools
import importlib
import json
import operator
import os
import pathlib
import pickle
import random
import sys
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from test_edits import first_loss, towards
from test_sweeps import compilations

import gradkit as gk
from gradkit.engine.fingerprints import fingerprint

X = jnp.ones(4)
ONE = {"steps": 1, "progress": False}
FACTOR = 1.0


def scaled(w):
    """What the others call."""
    return w * FACTOR


def body(carry, w):
    """Of a scan."""
    return carry + scaled(w), None


def unscaled(w):
    """Another branch."""
    return w


jitted = jax.jit(scaled)
jitted_twice = jax.jit(lambda w: jitted(w))
checkpointed = jax.checkpoint(scaled)
with_rule = jax.custom_vjp(scaled)
with_rule.defvjp(lambda w: (scaled(w), None), lambda _, slope: (slope * FACTOR,))
WAYS = {
    "jit": lambda w: jitted(w).sum(),
    "jit in jit": lambda w: jitted_twice(w).sum(),
    "scan": lambda w: jax.lax.scan(body, 0.0, w)[0],
    "cond": lambda w: jax.lax.cond(w.sum() > -99, scaled, unscaled, w).sum(),
    "switch": lambda w: jax.lax.switch(jnp.int32(w.sum() > 99), [scaled, unscaled], w).sum(),
    "checkpoint": lambda w: checkpointed(w).sum(),
    "custom_vjp": lambda w: with_rule(w).sum(),
    "map": lambda w: jax.lax.map(scaled, w).sum(),
    "fori_loop": lambda w: jax.lax.fori_loop(0, 1, lambda _, w: scaled(w), w).sum(),
    "vmap": lambda w: jax.vmap(scaled)(w).sum(),
}


def factor_seen(way, width=1):
    """The loss at parameters of one, which is four times the factor; at a new width everything is traced anew."""
    make = lambda h: gk.descent(lambda w, batch: WAYS[way](w * batch), jnp.ones(4), optax.sgd(h.learning_rate))  # noqa: E731
    space, plan = gk.grid(learning_rate=[0.1 * (lane + 1) for lane in range(width)]), gk.Plan(width=width)
    sweep = gk.sweep(make, X, space, steps=1, plan=plan, progress=False)
    return float(sweep[0].history["loss"][0]) / 4


@pytest.mark.parametrize("way", WAYS)
def test_a_sweep_sees_an_edit_and_the_way_back_whatever_jax_kept(way, monkeypatch):
    assert factor_seen(way) == 1.0
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert factor_seen(way) == 2.0
    monkeypatch.setitem(globals(), "FACTOR", 1.0)
    assert compilations(lambda: factor_seen(way)) == 0
    assert factor_seen(way, width=2) == 1.0  # by way of what jax keeps


@pytest.mark.few(1)
@pytest.mark.parametrize("way", ["jit in jit", "scan", "checkpoint"])
def test_a_lone_fit_and_a_minimum_see_an_edit_whatever_jax_kept(way, monkeypatch):
    descent = gk.descent(lambda w, batch: WAYS[way](w), jnp.ones(4), optax.sgd(1.0))
    distance = lambda w: (WAYS[way](w[None]) - 4.0) ** 2  # noqa: E731
    fit = lambda: float(gk.fit(descent, X, steps=1, progress=False).params[0])  # noqa: E731
    found = lambda: float(gk.minimize(distance, jnp.zeros(())).params)  # noqa: E731
    assert fit() == 0.0 and found() == pytest.approx(4.0, rel=1e-4)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert fit() == -1.0 and found() == pytest.approx(2.0, rel=1e-4)


def test_a_function_of_the_users_keeps_what_jax_compiled_of_it(monkeypatch):
    count = []

    @jax.jit
    def own(w):
        count.append(w)
        return w * FACTOR

    own(X)
    gk.fit(gk.descent(lambda w, batch: own(w).sum(), jnp.ones(4), optax.sgd(1.0)), X, steps=1, progress=False)
    traced = len(count)
    own(X)
    assert len(count) == traced


def a_frame(monkeypatch):
    """Of pandas, with one number in it replaced."""
    frame = pd.DataFrame({"x": [3.0, 4.0], "name": ["a", "b"]})
    return lambda: frame["x"].to_numpy()[0], lambda: frame.isetitem(0, [5.0, 4.0])


def another_frame(monkeypatch):
    """In the place of the first, in a closure."""
    frames = [pd.DataFrame({"x": [3.0]})]
    return lambda: frames[0]["x"].to_numpy()[0], lambda: frames.__setitem__(0, pd.DataFrame({"x": [5.0]}))


def a_random_state(monkeypatch):
    """Of Python's generator, whose next number is another one then."""
    generator = random.Random(0)

    def read():
        before = generator.getstate()
        number = generator.choice([3.0, 3.0])
        generator.setstate(before)
        return number + 2 * (generator.getstate() != start)

    start = generator.getstate()
    return read, lambda: generator.seed(1)


def a_default_factory(monkeypatch):
    """Of a dictionary."""
    numbers = collections.defaultdict(lambda: 3.0)

    def edit():
        numbers.clear()
        numbers.default_factory = lambda: 5.0

    return lambda: numbers["any"], edit


def an_attribute_of_a_metaclass(monkeypatch):
    """Which classes have, too."""

    class Meta(type):
        number = 3.0

    class Kind(metaclass=Meta):
        pass

    return lambda: Kind.number, lambda: setattr(Meta, "number", 5.0)


def a_variable_of_the_environment(monkeypatch):
    """By the function that asks for it."""
    monkeypatch.setenv("GRADKIT_TEST_NUMBER", "3")
    return lambda: float(os.getenv("GRADKIT_TEST_NUMBER")), lambda: monkeypatch.setenv("GRADKIT_TEST_NUMBER", "5")


def a_context_variable(monkeypatch):
    """Set to another value."""
    variable = contextvars.ContextVar("number", default=3.0)
    return variable.get, lambda: variable.set(5.0)


def a_view_of_memory(monkeypatch):
    """Of an array of numbers."""
    numbers = np.array([3.0])
    view = memoryview(numbers)
    return lambda: view[0], lambda: numbers.__setitem__(0, 5.0)


def module_with(monkeypatch, read):
    """A module of the user's, and a way to read its number."""
    module = types.ModuleType("of_the_user")
    module.number = 3.0
    monkeypatch.setitem(sys.modules, "of_the_user", module)
    return lambda: read(module), lambda: setattr(module, "number", 5.0)


def the_dictionary_of_a_module(monkeypatch):
    """By name."""
    return module_with(monkeypatch, lambda module: module.__dict__["number"])


def a_getter(monkeypatch):
    """By an operator that knows the name."""
    return module_with(monkeypatch, operator.attrgetter("number"))


def an_imported_module(monkeypatch):
    """By a name that is no code."""
    return module_with(monkeypatch, lambda _: importlib.import_module("of_the_user").number)


EDITS = [
    a_frame, another_frame, a_random_state, a_default_factory, an_attribute_of_a_metaclass, a_variable_of_the_environment,
    a_context_variable, a_view_of_memory, the_dictionary_of_a_module, a_getter, an_imported_module,
]  # fmt: skip


@pytest.mark.parametrize("edited", EDITS, ids=lambda edited: edited.__name__)
def test_what_hides_what_it_holds_may_be_edited(edited, monkeypatch):
    read, edit = edited(monkeypatch)
    make = towards(read)
    assert first_loss(make) == 9.0
    edit()
    assert first_loss(make) == 25.0


PATH = pathlib.Path("anywhere")


def imports_inside():
    """A module under another name."""
    import numpy as other

    return other.load(PATH)


def imports_from_inside():
    """A function in a module in a module."""
    from numpy import random as other

    return [other.randn() for _ in range(2)]  # noqa: NPY002


OUTSIDE = {
    "np.load": lambda: np.load(PATH),
    "np.loadtxt": lambda: np.loadtxt(PATH),
    "np.memmap": lambda: np.memmap(PATH),
    "np.random": lambda: np.random.randn(),  # noqa: NPY002
    "a generator without a seed": lambda: np.random.default_rng().normal(),
    "random": lambda: random.gauss(0, 1),
    "open": lambda: open(PATH).read(),  # noqa: SIM115
    "os.open": lambda: os.open(PATH, 0),
    "a method of a path": lambda: PATH.open().read(),
    "read_text": lambda: PATH.read_text(),
    "pickle.load": lambda: pickle.load(PATH.open()),
    "json.load": lambda: json.load(PATH),
    "pd.read_csv": lambda: pd.read_csv(PATH),
    "time.time": lambda: time.time(),
    "a date": lambda: datetime.datetime.now(),
    "a partial": functools.partial(np.load, PATH),
    "an import": imports_inside,
    "an import from": imports_from_inside,
}
INSIDE = {
    "jax.random beside numpy": lambda: jax.random.normal(jax.random.key(0)) + np.float32(1),
    "a generator with a seed": lambda: np.random.default_rng(0).normal(),
    "an attribute named open": lambda prices: prices.open - prices.load,
    "a path": lambda: os.path.join("a", "b"),
    "json.loads": lambda: json.loads("1"),
}


@pytest.mark.parametrize(("name", "is_clear"), [(name, False) for name in OUTSIDE] + [(name, True) for name in INSIDE])
def test_what_is_read_from_outside_is_in_no_key(name, is_clear):
    assert fingerprint((OUTSIDE | INSIDE)[name]).is_clear == is_clear


def test_files_and_generators_that_all_share_are_read_anew(tmp_path):
    path = tmp_path / "number.npy"
    text = path.with_suffix(".txt")
    reads = [lambda: np.load(path), lambda: np.random.randn(), lambda: float(text.read_text())]  # noqa: NPY002
    seen = []
    for number in (3, 5):
        np.save(path, np.float32(number))
        text.write_text(str(number))
        np.random.seed(number)  # noqa: NPY002
        fits = [gk.fit(gk.descent(lambda w, b: w, lambda key, r=r: jnp.float32(r()), optax.sgd(0.1)), X, **ONE) for r in reads]
        seen.append([*(fit.history["loss"][0] for fit in fits), first_loss(towards(reads[0]))])
        seen[-1].append(round(float(gk.minimize(lambda w: (w - reads[2]()) ** 2, 0.0).params)))
    assert [each[:1] + each[2:] for each in seen] == [[3.0, 3.0, 9.0, 3], [5.0, 5.0, 25.0, 5]]
    assert seen[0][1] != seen[1][1]


def drawing(draw):
    """A make whose start is drawn from no key, for two optimizers."""
    kinds = {"sgd": optax.sgd, "adam": optax.adam}
    return lambda h: gk.descent(lambda w, b: w, lambda key: jnp.float32(draw()), kinds[h.opt](h.lr))


GENERATOR = np.random.default_rng(0)
DRAWS = {"of its own": lambda: GENERATOR.normal(), "shared": lambda: np.random.randn()}  # noqa: NPY002


@pytest.mark.parametrize("way", DRAWS)
def test_numbers_that_are_drawn_from_no_key_are_told_and_no_refit_takes_others(way):
    sweep = gk.sweep(drawing(DRAWS[way]), X, gk.grid(opt=["sgd", "adam"], lr=[0.1, 0.2]), plan=gk.Plan(width=2), **ONE)
    [note] = sweep.notes
    assert note.startswith("make, init or the loss gives other numbers each time it is traced")
    assert sweep.replay(0).params == sweep.params(0)  # it is still compiled
    with pytest.raises(ValueError, match="`sweep` must be run again by the functions that it ran, got functions that are traced"):
        sweep.refit(0)


def test_what_is_read_from_a_file_is_repeated_until_that_is_another(tmp_path):
    path = tmp_path / "number.npy"
    np.save(path, np.float32(3))
    sweep = gk.sweep(drawing(lambda: np.load(path)), X, gk.grid(opt=["sgd"], lr=[0.1, 0.2]), plan=gk.Plan(width=2), **ONE)
    assert not sweep.notes
    assert sweep.refit(1).history["loss"][0] == 3.0
    np.save(path, np.float32(5))
    jax.clear_caches()
    for again in (sweep.replay, sweep.refit):
        with pytest.raises(ValueError, match="got functions that are traced to another program by now"):
            again(0)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.float32])
def test_an_array_changed_in_place_is_seen_though_jax_keeps_what_it_converted(dtype):
    numbers = [np.array([3], dtype)]
    make = towards(lambda: jnp.sum(jnp.ones(1) * numbers[0]))
    assert first_loss(make) == 9.0
    numbers[0][0] = 5
    assert first_loss(make) == 25.0
    numbers[0] = np.array([5], dtype)
    assert first_loss(make) == 25.0


def test_a_tensor_of_torch_may_be_edited_in_place_and_in_a_jitted_function():
    torch = pytest.importorskip("torch")
    tensor = torch.full((2,), 3.0)
    jitted = jax.jit(lambda: jnp.float32(float(tensor[0])))
    makes = [towards(lambda: float(tensor[0])), towards(lambda: jitted())]
    assert [first_loss(make) for make in makes] == [9.0, 9.0]
    tensor.fill_(5.0)
    assert [first_loss(make) for make in makes] == [25.0, 25.0]


def test_context_variables_of_the_caller_hold_in_the_threads_of_a_run():
    scale = contextvars.ContextVar("scale", default=1.0)
    seen = set()

    def loss(w, batch):
        seen.add(threading.current_thread())
        return jnp.mean((scale.get() * w * batch) ** 2)

    scale.set(2.0)
    fit = gk.fit(gk.descent(loss, jnp.ones(()), optax.sgd(0.1)), X, steps=1, progress=False)
    space = gk.grid(learning_rate=[0.1, 0.2])
    make = lambda h: gk.descent(loss, jnp.ones(()), optax.sgd(h.learning_rate))  # noqa: E731
    sweep = gk.sweep(make, X, space, steps=1, plan=gk.Plan(width=1), progress=False)
    assert [each.history["loss"][0] for each in (fit, *sweep)] == [4.0, 4.0, 4.0]
    assert len(seen) > 1  # or nothing was shown
