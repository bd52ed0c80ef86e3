"""What make and the functions it reaches read may be edited: the next run uses it. What is equal compiles nothing anew."""

import collections
import dataclasses
import functools
import importlib
import os
import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_sweeps import compilations

import gradkit as gk
from gradkit.engine.fingerprints import fingerprint

X = jnp.zeros((2,))
TARGET = 3.0
SETTINGS = {"target": 3.0, "deep": [1, {"target": 3.0}]}
JAX_ARRAY = jnp.array(3.0)


def first_loss(make):
    """The loss of the first step: that of parameters of 0, which is the square of the target."""
    sweep = gk.sweep(make, X, gk.grid(learning_rate=[0.1]), steps=1, plan=gk.Plan(width=1), progress=False)
    return float(sweep[0].history["loss"][0])


def towards(target_fn):
    """A make whose loss asks for its target while it is traced."""
    return lambda h: gk.descent(lambda w, batch: (w - target_fn()) ** 2, jnp.zeros(()), optax.sgd(h.learning_rate))


def a_global(monkeypatch):
    """A number."""
    return towards(lambda: TARGET), lambda: monkeypatch.setitem(globals(), "TARGET", 5.0)


def helper():
    """What other functions call."""
    return 3.0


def calls_helper():
    """Two levels up."""
    return helper()


def a_function_called_by_another(monkeypatch):
    """Defined anew."""
    return towards(calls_helper), lambda: monkeypatch.setitem(globals(), "helper", lambda: 5.0)


def a_dict_in_place(monkeypatch):
    """As settings often are."""
    return towards(lambda: SETTINGS["target"]), lambda: monkeypatch.setitem(SETTINGS, "target", 5.0)


def a_dict_in_a_list_in_a_dict(monkeypatch):
    """Deep down."""
    return towards(lambda: SETTINGS["deep"][1]["target"]), lambda: monkeypatch.setitem(SETTINGS["deep"][1], "target", 5.0)


def a_list_in_place(monkeypatch):
    """One entry."""
    targets = [3.0]
    return towards(lambda: targets[0]), lambda: targets.__setitem__(0, 5.0)


def a_deque_in_place(monkeypatch):
    """As another container."""
    recent = collections.deque([3.0])
    return towards(lambda: recent[-1]), lambda: recent.append(5.0)


def a_numpy_array_in_place(monkeypatch):
    """One entry."""
    array = np.array([3.0, 0.0], np.float32)
    return towards(lambda: array[0]), lambda: array.__setitem__(0, 5.0)


def an_array_of_jax(monkeypatch):
    """Another one under the same name."""
    return towards(lambda: JAX_ARRAY), lambda: monkeypatch.setitem(globals(), "JAX_ARRAY", jnp.array(5.0))


def an_attribute(monkeypatch):
    """Of a plain namespace."""
    settings = types.SimpleNamespace(target=3.0)
    return towards(lambda: settings.target), lambda: setattr(settings, "target", 5.0)


class Slotted:
    """Without a dict."""

    __slots__ = ("target",)


def a_slot(monkeypatch):
    """Of an object without a dict."""
    settings = Slotted()
    settings.target = 3.0
    return towards(lambda: settings.target), lambda: setattr(settings, "target", 5.0)


class Model:
    """With its target in the class."""

    target = 3.0

    def ask(self):
        """The target."""
        return self.target

    @property
    def asked(self):
        """The target."""
        return self.ask()

    def make(self, h):
        """A bound make."""
        return towards(self.ask)(h)


def an_attribute_of_a_class(monkeypatch):
    """Seen by its instances."""
    model = Model()
    return towards(lambda: model.asked), lambda: monkeypatch.setattr(Model, "target", 5.0)


def a_method(monkeypatch):
    """Defined anew in its class."""
    return towards(lambda: Model().asked), lambda: monkeypatch.setattr(Model, "ask", lambda self: 5.0)


def a_bound_make(monkeypatch):
    """A method whose object changes."""
    model = Model()
    return model.make, lambda: setattr(model, "target", 5.0)


@dataclasses.dataclass
class Make:
    """A callable object that is not frozen and has no hash."""

    target: float

    def __call__(self, h):
        """A descent."""
        return towards(lambda: self.target)(h)


def a_callable_object(monkeypatch):
    """Whose field changes."""
    make = Make(3.0)
    return make, lambda: setattr(make, "target", 5.0)


def a_closure(monkeypatch):
    """A variable of the enclosing function."""
    target = 3.0

    def edit():
        nonlocal target
        target = 5.0

    return towards(lambda: target), edit


def a_default(monkeypatch):
    """Of an argument."""

    def ask(target=3.0, *, plus=0.0):
        return target + plus

    return towards(ask), lambda: setattr(ask, "__kwdefaults__", {"plus": 2.0})


def an_attribute_of_a_function(monkeypatch):
    """Where some keep settings."""

    def ask():
        return ask.target

    ask.target = 3.0
    return towards(ask), lambda: setattr(ask, "target", 5.0)


def a_partial(monkeypatch):
    """Of a function that reads a global."""
    return towards(functools.partial(lambda plus: TARGET + plus, 0.0)), lambda: monkeypatch.setitem(globals(), "TARGET", 5.0)


def a_function_in_a_container(monkeypatch):
    """Replaced in it."""
    functions = {"ask": lambda: 3.0}
    return towards(lambda: functions["ask"]()), lambda: functions.update(ask=lambda: 5.0)


def a_jitted_function(monkeypatch):
    """Of which jax keeps what it traced."""
    ask = jax.jit(lambda x: x + TARGET)
    assert ask(0.0) == 3.0
    return towards(lambda: ask(0.0)), lambda: monkeypatch.setitem(globals(), "TARGET", 5.0)


def a_function_with_a_rule_of_its_own(monkeypatch):
    """Under ``jax.custom_jvp``."""

    @jax.custom_jvp
    def square(x):
        return (x - TARGET) ** 2

    square.defjvp(lambda primals, tangents: (square(*primals), tangents[0]))
    make = lambda h: gk.descent(lambda w, batch: square(w), jnp.zeros(()), optax.sgd(h.learning_rate))  # noqa: E731
    return make, lambda: monkeypatch.setitem(globals(), "TARGET", 5.0)


def a_name_in_builtins(monkeypatch):
    """Read by ``globals()``, which cannot be seen through."""
    return towards(lambda: globals()["TARGET"]), lambda: monkeypatch.setitem(globals(), "TARGET", 5.0)


def the_environment(monkeypatch):
    """A variable of it."""
    monkeypatch.setenv("GRADKIT_TEST_TARGET", "3")
    return towards(lambda: float(os.environ["GRADKIT_TEST_TARGET"])), lambda: monkeypatch.setenv("GRADKIT_TEST_TARGET", "5")


def a_function_of_a_library(monkeypatch):
    """Put in the place of another."""
    make = lambda h: gk.descent(lambda w, batch: jnp.square(w - 3.0), jnp.zeros(()), optax.sgd(h.learning_rate))  # noqa: E731
    return make, lambda: monkeypatch.setattr(jnp, "square", lambda x: (x - 2.0) ** 2)


EDITS = [
    a_global, a_function_called_by_another, a_dict_in_place, a_dict_in_a_list_in_a_dict, a_list_in_place, a_deque_in_place,
    a_numpy_array_in_place, an_array_of_jax, an_attribute, a_slot, an_attribute_of_a_class, a_method, a_bound_make,
    a_callable_object, a_closure, a_default, an_attribute_of_a_function, a_partial, a_function_in_a_container, a_jitted_function,
    a_function_with_a_rule_of_its_own, a_name_in_builtins, the_environment, a_function_of_a_library,
]  # fmt: skip


@pytest.mark.parametrize("edited", EDITS, ids=lambda edited: edited.__name__)
def test_what_a_loss_reads_may_be_edited(edited, monkeypatch):
    make, edit = edited(monkeypatch)
    assert first_loss(make) == 9.0
    if edited is not a_name_in_builtins:
        assert compilations(lambda: first_loss(make)) == 0
    edit()
    assert first_loss(make) == 25.0


MODULE = """
import helpers_of_a_user
target = 3.0
def ask(): return target
def loss(w, batch): return (w - ask()) ** 2
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Two modules of a user, one of which imports the other."""
    (tmp_path / "losses_of_a_user.py").write_text(MODULE)
    (tmp_path / "helpers_of_a_user.py").write_text("target = 3.0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module("losses_of_a_user"), tmp_path
    for name in ("losses_of_a_user", "helpers_of_a_user"):
        sys.modules.pop(name)


def made(loss):
    """A make of a loss that may be looked up late."""
    return lambda h: gk.descent(loss, jnp.zeros(()), optax.sgd(h.learning_rate))


@pytest.mark.parametrize("way", ["attribute", "function", "reload", "imported inside", "by a text", "of another module"])
def test_a_module_of_the_users_may_be_edited(modules, way):
    module, folder = modules
    name = "target"

    def imported_inside():
        import losses_of_a_user

        return losses_of_a_user.target

    target_fn = {
        "attribute": lambda: module.target,
        "function": lambda: module.ask(),
        "imported inside": imported_inside,
        "by a text": lambda: getattr(module, name),
        "of another module": lambda: module.helpers_of_a_user.target,
    }
    make = made(lambda w, batch: module.loss(w, batch)) if way == "reload" else towards(target_fn[way])
    assert first_loss(make) == 9.0
    assert compilations(lambda: first_loss(make)) == 0
    if way == "function":
        module.ask = lambda: 5.0
    elif way == "reload":
        (folder / "losses_of_a_user.py").write_text(MODULE.replace("target = 3.0", "target = 1.0 + 4.0"))
        importlib.reload(module)
    elif way == "of another module":
        module.helpers_of_a_user.target = 5.0
    else:
        module.target = 5.0
    assert first_loss(make) == 25.0


def run(make=None, space=None, data=X, **settings):
    """A sweep of one member unless told otherwise."""
    return gk.sweep(
        towards(lambda: TARGET) if make is None else make, data, space or gk.grid(learning_rate=[0.1]), steps=1,
        plan=gk.Plan(width=1), progress=False, **settings,
    )  # fmt: skip


def test_functions_that_evaluate_and_draw_may_be_edited(monkeypatch):
    make = made(lambda w, batch: (w - batch.mean()) ** 2)
    evaluate = lambda params, batch: {"told": jnp.float32(TARGET)}  # noqa: E731
    draw = gk.drawn(lambda key: jnp.full((2,), TARGET))
    before = run(make, data=draw, validation=X, evaluate=evaluate)
    monkeypatch.setitem(globals(), "TARGET", 5.0)
    after = run(make, data=draw, validation=X, evaluate=evaluate)
    assert [before[0].metrics["told"], after[0].metrics["told"]] == [3.0, 5.0]
    assert [float(each[0].history["loss"][0]) for each in (before, after)] == [9.0, 25.0]


def test_a_validation_loss_and_an_optimizer_of_the_users_may_be_edited(monkeypatch):
    def optimizer(rate):
        return optax.stateless(lambda updates, params: jax.tree.map(lambda leaf: -rate * TARGET * leaf, updates))

    def make(h):
        slope = lambda w, batch: w  # noqa: E731
        return gk.descent(slope, jnp.zeros(()), optimizer(h.learning_rate), validation_loss=lambda w, batch: w - TARGET)

    before = run(make, validation=X)
    monkeypatch.setitem(globals(), "TARGET", 5.0)
    after = run(make, validation=X)
    assert [float(each.params(0)) for each in (before, after)] == pytest.approx([-0.3, -0.5])
    assert [each[0].metrics["validation_loss"] for each in (before, after)] == pytest.approx([-3.3, -5.5])


def test_a_static_function_may_be_edited(monkeypatch):
    make = lambda h: towards(h.ask)(h)  # noqa: E731
    space = gk.grid(learning_rate=[0.1], ask=[calls_helper])
    assert float(run(make, space)[0].history["loss"][0]) == 9.0
    monkeypatch.setitem(globals(), "helper", lambda: 5.0)
    assert float(run(make, space)[0].history["loss"][0]) == 25.0


def test_a_lone_fit_and_a_minimum_see_an_edit_too(monkeypatch):
    descent = gk.descent(lambda w, batch: (w - TARGET) ** 2, jnp.zeros(()), optax.sgd(0.5))
    fit = lambda: float(gk.fit(descent, X, steps=1, progress=False).params)  # noqa: E731
    found = lambda: float(gk.minimize(parabola, jnp.zeros(())).params)  # noqa: E731
    assert (fit(), round(found(), 3)) == (3.0, 3.0)
    monkeypatch.setitem(globals(), "TARGET", 5.0)
    assert (fit(), round(found(), 3)) == (5.0, 5.0)


def parabola(x):
    """Lowest at the target."""
    return (x - TARGET) ** 2


def test_a_replay_repeats_the_sweep_and_not_the_edit(monkeypatch):
    sweep = run()
    monkeypatch.setitem(globals(), "TARGET", 5.0)
    assert float(sweep.replay(0).history["loss"][0]) == 9.0


@pytest.mark.few(1)
@pytest.mark.parametrize("again", ["refit", "replay"])
def test_what_would_run_the_edit_in_place_of_the_sweep_is_refused(again, monkeypatch):
    make = towards(lambda: TARGET)
    space = gk.grid(learning_rate=[0.1, 0.2, 0.3])
    sweep = gk.sweep(make, X, space, steps=1, plan=gk.Plan(width=3), progress=False)
    monkeypatch.setitem(globals(), "TARGET", 5.0)
    if again == "replay":
        jax.clear_caches()
    message = "`sweep` must be run again by the functions that it ran, got functions that read something else by now"
    with pytest.raises(ValueError, match=message):
        getattr(sweep, again)(0)
    monkeypatch.setitem(globals(), "TARGET", 3.0)
    assert float(getattr(sweep, again)(0).history["loss"][0]) == 9.0


CELL = """
rates = {"momentum": 0.5}
def loss(w, batch):
    def inner(x):
        return (x - target) ** 2
    return inner(w)
make = lambda h: gk.descent(loss, jnp.zeros(()), optax.sgd(h.learning_rate, momentum=rates["momentum"]))
"""


def test_a_cell_that_runs_again_compiles_nothing_until_it_says_something_else():
    namespace = {"gk": gk, "jnp": jnp, "optax": optax, "target": 3.0, "__name__": "__main__"}

    def run_cell(text):
        exec(compile(text, "<cell>", "exec"), namespace)
        return first_loss(namespace["make"])

    assert run_cell(CELL) == 9.0
    assert compilations(lambda: run_cell(CELL)) == 0
    assert run_cell(CELL.replace("- target", "- target - 2")) == 25.0
    namespace["target"] = 5.0
    assert run_cell(CELL) == 25.0


def test_equal_descents_of_lone_fits_share_a_program():
    def fit():
        descent = gk.descent(lambda w, batch: (w - 3.0) ** 2, lambda key: jnp.zeros(()), optax.adam(0.1))
        return gk.fit(descent, X, steps=1, progress=False)

    fit()
    assert compilations(fit) == 0


def test_what_tracing_itself_changes_is_no_edit():
    calls = []

    def loss(w, batch):
        calls.append((w, len(calls)))  # tracers among them
        return (w - TARGET) ** 2

    make = made(loss)
    first_loss(make)
    assert calls
    assert compilations(lambda: first_loss(make)) == 0


class Opaque:
    """An object that holds a random generator, whose state nobody sees."""

    def __init__(self):
        self.rng = np.random.default_rng(0)


class Pair(NamedTuple):
    """A class of the user's, whose fields are read by descriptors of their own kind."""

    first: int
    second: int


@pytest.mark.parametrize(
    ("one", "other", "is_equal"),
    [
        (0.0, -0.0, False),
        (1, True, False),
        (1, 1.0, False),
        (float("nan"), float("nan"), True),
        ({1, 2, 3}, {3, 2, 1}, True),
        ({1, 2}, {1, 2, 3}, False),
        ([1, [2]], [1, [2]], True),
        ([1, [2]], [1, (2,)], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        (np.arange(3), np.arange(3), True),
        (np.arange(3), np.arange(3.0), False),
        (np.arange(4), np.arange(4).reshape(2, 2), False),
        (np.array([{"a": 1}]), np.array([{"a": 1}]), True),
        (np.float32(1), np.float32(1), True),
        (np.float32(1), np.float64(1), False),
        (jnp.ones(2), jnp.ones(2), False),
        (optax.adam(0.1), optax.adam(0.1), True),
        (optax.adam(0.1), optax.adam(0.2), False),
        (optax.adam(0.1), optax.sgd(0.1), False),
        (functools.partial(max, 1), functools.partial(max, 1), True),
        (functools.partial(max, 1), functools.partial(max, 2), False),
        (range(3), range(3), True),
        (slice(1, 2), slice(1, 2), True),
        (slice(1, 2), slice(1, 3), False),
        (np.add, np.add, True),
        (np.add, np.multiply, False),
        (Pair(1, 2), Pair(1, 2), True),
        (Pair(1, 2), Pair(1, 3), False),
        ([].append, [].append, True),
        ([1].append, [2].append, False),
    ],
)
def test_keys_are_equal_where_contents_are(one, other, is_equal):
    assert fingerprint(one).is_clear
    assert (fingerprint(one) == fingerprint(other)) == is_equal


@pytest.mark.parametrize(
    "thing", [Opaque(), iter([1]), lambda: eval("TARGET"), list(range(30_000))], ids=["generator", "iterator", "eval", "too much"]
)
def test_what_cannot_be_seen_through_is_said(thing):
    assert not fingerprint(thing).is_clear


def test_cycles_end():
    loop = []
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop)


def test_an_array_of_jax_is_not_kept_alive_by_a_key_and_its_place_in_memory_is_not_mistaken_for_it():
    array = jnp.ones(3)
    one, twin = fingerprint(array), fingerprint(array)
    assert one == twin and hash(one.tokens) == hash(twin.tokens)
    del array
    assert one != twin


MODEL = gk.models.mlp((4, 8, 3))
USUAL = {
    "losses and an optax chain": lambda: towards(lambda: TARGET),
    "a model": lambda: lambda h: gk.models.descent(MODEL, gk.losses.softmax, optax.adam(h.lr)),
    "boosting": lambda: lambda h: gk.boosting.descent(gk.losses.squared, learning_rate=h.lr),
    "a lone descent": lambda: gk.descent(parabola, jnp.zeros(()), optax.adamw(optax.cosine_decay_schedule(0.1, 100))),
}


@pytest.mark.parametrize("name", USUAL)
def test_a_key_is_small(name):
    """A token takes about a microsecond."""
    found = fingerprint(USUAL[name]())
    assert found.is_clear
    assert len(found.tokens) < 2000
