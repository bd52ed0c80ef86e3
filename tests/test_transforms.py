"""Transformations: one table, and the laws that all of them obey; clips, plateaus and factors by path against their formulas."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradkit import schedules, transforms
from gradkit.optimizers import momentum

NUM_STEPS = 6


class Case(NamedTuple):
    """A transformation as a function of one number, that number for three members, and what it wraps."""

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    knobs: tuple
    wrap: Callable | None = None


def _observed(knob):
    rate = schedules.linear(knob, 0.0, NUM_STEPS)
    return transforms.observe(momentum(rate), clip=transforms.clip_by_global_norm(10 * knob), learning_rate=rate)


def _by_path(knob):
    return transforms.scale_by_path({"layers[0].*": knob, "bi?s": lambda step: 0.1 * knob * step})


RATES = (0.1, 0.05, 0.2)
CASES = [
    Case("guard", lambda rate: transforms.guard(momentum(rate)), RATES, transforms.guard),
    Case("guard that rests", lambda rate: transforms.guard(momentum(rate), policy="raise"), RATES),
    Case("guard that goes back", lambda rate: transforms.guard(momentum(rate), policy="restore", every=3), RATES),
    Case("accumulate", lambda rate: transforms.accumulate(momentum(rate), 3), RATES, lambda o: transforms.accumulate(o, 1)),
    Case("accumulate of a traced number", lambda num_steps: transforms.accumulate(optax.sgd(0.1), num_steps), (3, 1, 4)),
    Case("clip_by_norm", transforms.clip_by_norm, RATES),
    Case("clip_by_global_norm", transforms.clip_by_global_norm, RATES),
    Case("reduce_on_plateau", lambda number: transforms.reduce_on_plateau(number / 4, number, every=number), (1, 2, 3)),
    Case("observe", _observed, RATES, transforms.observe),
    Case("scale_by_path", _by_path, RATES),
]
BY_NAME = {case.name: case for case in CASES}
each_transform = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def start(dtype=jnp.float32):
    """Parameters, of which one leaf has a dtype of its own."""
    layers = [{"kernel": jnp.float32([[1.0, -2.0, 0.5]])}, {"kernel": jnp.asarray([0.25, 3.0], dtype)}]
    return {"layers": layers, "bias": jnp.float32([0.5, -0.5])}


def gradients(params):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=(NUM_STEPS, *leaf.shape)), leaf.dtype), params)


def run(name, knob, params):
    """All steps in one scan inside a chain, with losses that fall below zero and rest there: the path, the updates, the state."""
    optimizer = optax.chain(optax.identity(), BY_NAME[name].make(knob), optax.identity())
    values = jnp.maximum(1.0 - jnp.arange(NUM_STEPS, dtype=jnp.float32), -3.0)

    def step(carry, inputs):
        params, state = carry
        grads, value = inputs
        grads = jax.tree.map(lambda g, p: g + p, grads, params)
        updates, state = optimizer.update(grads, state, params, value=value, unknown=1)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, updates)

    (_, state), (path, updates) = jax.lax.scan(step, (params, optimizer.init(params)), (gradients(params), values))
    return path, updates, state


def run_all(knobs, params):
    return {name: run(name, knob, params) for name, knob in knobs.items()}


@functools.cache
def mapped():
    """All rows in one program, knobs traced, three members side by side; the same with NaN for the parameters of the second."""
    together = jax.jit(jax.vmap(chex.assert_max_traces(run_all, n=1)))
    knobs = {case.name: jnp.asarray(case.knobs) for case in CASES}
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), start())
    healthy = together(knobs, params)
    mirrored = jax.tree.map(lambda leaf: leaf[::-1], together({name: knob[::-1] for name, knob in knobs.items()}, params))
    return healthy, together(knobs, jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), params)), mirrored


assert_close = functools.partial(chex.assert_trees_all_close, rtol=2e-5, atol=1e-6)


@each_transform
def test_structure_and_dtypes_stay(case):
    params = start(jnp.bfloat16)
    path, updates, state = jax.eval_shape(lambda knob: run(case.name, knob, params), case.knobs[0])
    chex.assert_trees_all_equal_shapes_and_dtypes(path, updates, gradients(params))
    optimizer = optax.chain(optax.identity(), case.make(case.knobs[0]), optax.identity())
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(optimizer.init, params))


@pytest.mark.usefixtures("x64")
@each_transform
def test_dtypes_stay_under_x64(case):
    path, updates, _ = jax.eval_shape(lambda knob: run(case.name, knob, start()), case.knobs[0])
    assert {leaf.dtype for leaf in jax.tree.leaves((path, updates))} == {jnp.dtype("float32")}


@pytest.mark.few(1)
@each_transform
def test_jit_equals_eager_a_map_a_loop_and_traced_numbers_constants(case):
    found = mapped()[0][case.name]
    with jax.disable_jit():
        alone = run(case.name, case.knobs[0], start())
    assert_close(jax.tree.map(lambda leaf: leaf[0], found), alone)
    assert np.abs(found[0]["bias"][0] - found[0]["bias"][1]).max() > 1e-3, "the number matters"


@each_transform
def test_a_new_number_is_no_new_program_and_a_place_in_the_map_no_matter(case):
    assert_close(mapped()[2][case.name], mapped()[0][case.name])


@each_transform
def test_one_nan_member_leaves_the_bits_of_the_others(case):
    healthy, poisoned = (jax.tree.map(lambda leaf: leaf[np.array([0, 2])], both[case.name]) for both in mapped()[:2])
    chex.assert_trees_all_equal(poisoned, healthy)


@pytest.mark.parametrize("case", [case for case in CASES if case.wrap], ids=lambda case: case.name)
def test_extra_arguments_reach_the_optimizer_inside(case):
    def update(updates, state, params=None, *, boost, **extra_args):
        return jax.tree.map(lambda leaf: boost * leaf, updates), state

    optimizer = optax.chain(case.wrap(optax.GradientTransformationExtraArgs(optax.init_empty_state, update)))
    assert optimizer.update(jnp.ones(()), optimizer.init(jnp.ones(())), jnp.ones(()), boost=3.0)[0] == 3.0


AVERAGES = [transforms.average(momentum(0.1), transforms.equal()), transforms.lookahead(momentum(0.1), sync_steps=1),
            transforms.schedule_free_adamw()]  # fmt: skip
MADE = [*(case.make(case.knobs[0]) for case in CASES), *AVERAGES, transforms.guard(AVERAGES[2], policy="restore")]


def test_no_state_shares_a_buffer_so_that_all_can_be_donated():
    params = jax.tree.map(jnp.asarray, start())
    for optimizer in MADE:
        leaves = jax.tree.leaves((params, optimizer.init(params)))
        assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


def test_parameters_may_be_python_numbers():
    for optimizer in MADE:
        found = []
        for convert in (float, jnp.float32):
            params = {"layers": [{"kernel": convert(0.5)}], "bias": convert(2.0)}
            updates, _ = optax.with_extra_args_support(optimizer).update(params, optimizer.init(params), params, value=1.0)
            found.append(updates)
        chex.assert_trees_all_close(*found)


@pytest.mark.parametrize("wrap", [*(case.wrap for case in CASES if case.wrap), transforms.lookahead,
                                  lambda optimizer: transforms.average(optimizer, transforms.equal())])  # fmt: skip
@pytest.mark.parametrize("optimizer", [None, "adam", 3, optax.adam])
def test_what_is_no_optimizer_is_refused(wrap, optimizer):
    with pytest.raises(TypeError, match="`optimizer` must be an optax gradient transformation, got "):
        wrap(optimizer)


def clipped(clip, grads):
    return clip.update(grads, clip.init(grads))[0]


def test_clips_equal_optax_and_the_formula_where_nothing_overflows():
    grads = gradients(start())
    for limit in (0.1, 1.0, 100.0):
        truth = clipped(optax.clip_by_global_norm(limit), grads)
        chex.assert_trees_all_close(clipped(transforms.clip_by_global_norm(limit), grads), truth, rtol=1e-6)
        each = jax.tree.map(lambda leaf: leaf * min(1, limit / np.linalg.norm(np.float64(leaf))), grads)  # noqa: B023
        chex.assert_trees_all_close(clipped(transforms.clip_by_norm(limit), grads), each, rtol=1e-6)
    assert clipped(transforms.clip_by_global_norm(100.0), jnp.array([3.0, 4.0])).tolist() == [3.0, 4.0]


@pytest.mark.parametrize("make", [transforms.clip_by_norm, transforms.clip_by_global_norm])
@pytest.mark.parametrize(("size", "dtype"), [(1e25, "float32"), (3e38, "float32"), (1e-30, "float32"), (6e4, "float16")])
def test_norms_that_overflow_or_underflow_are_cut_all_the_same(make, size, dtype):
    grads = jnp.array([0.75, 1.0], dtype) * jnp.asarray(size, dtype)
    limit = min(1.0, size / 2)
    np.testing.assert_allclose(np.float64(clipped(make(limit), grads)), [0.6 * limit, 0.8 * limit], rtol=2e-3)
    if size > 1e20:
        assert clipped(optax.clip_by_global_norm(limit), grads).tolist() == [0.0, 0.0]  # what optax gives


@pytest.mark.parametrize("make", [transforms.clip_by_norm, transforms.clip_by_global_norm])
def test_clips_have_finite_gradients_and_hide_no_failure(make):
    for grads in ([0.0, 0.0], [3e30, 4e30], [0.3, 0.4], [1e-30, 0.0]):
        slope = jax.grad(lambda g: clipped(make(1.0), g).sum())(jnp.array(grads))
        assert np.isfinite(slope).all(), grads
    assert np.isnan(clipped(make(1.0), jnp.array([0.0, jnp.nan]))[1])
    assert np.isnan(clipped(make(1.0), jnp.array([0.0, jnp.inf]))[1])


def test_a_clip_before_a_partition_is_global_and_one_inside_is_not():
    grads, labels = {"a": jnp.array(3.0), "b": jnp.array(4.0)}, {"a": "one", "b": "other"}
    clip = transforms.clip_by_global_norm(1.0)
    inside = optax.partition({"one": clip, "other": clip}, labels)
    before = optax.chain(clip, optax.partition({"one": optax.identity(), "other": optax.identity()}, labels))
    chex.assert_trees_all_close(clipped(inside, grads), {"a": 1.0, "b": 1.0})
    chex.assert_trees_all_close(clipped(before, grads), {"a": 0.6, "b": 0.8}, rtol=1e-6)
    frozen = optax.partition({"one": optax.identity(), "other": optax.set_to_zero()}, labels)
    trainable = optax.chain(optax.masked(clip, {"a": True, "b": False}), frozen)
    chex.assert_trees_all_close(clipped(trainable, grads), {"a": 1.0, "b": 0.0})


def scales(plateau, values):
    def step(state, value):
        updates, state = plateau.update(jnp.ones(()), state, value=value)
        return state, updates

    return np.asarray(jax.lax.scan(step, plateau.init(None), jnp.asarray(values, jnp.float32))[1])


@pytest.mark.parametrize("every", [1, 3])
def test_a_plateau_of_positive_losses_is_optax_own(every):
    values = np.repeat([5.0, 3.0, 3.0, 2.9, 2.9999, 2.9, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0], 3)
    theirs = optax.contrib.reduce_on_plateau(0.5, 2, rtol=1e-2, accumulation_size=every)
    truth = scales(theirs, values)
    np.testing.assert_array_equal(scales(transforms.reduce_on_plateau(0.5, 2, every=every, threshold=1e-2), values), truth)
    assert truth.min() < 0.5


def test_a_plateau_of_negative_losses_falls_where_that_of_optax_never_does():
    values = [-1.0, -2.0, -2.01, -2.0, -2.01, -3.0, -3.0, -3.0]
    found = scales(transforms.reduce_on_plateau(0.5, 2, threshold=1e-2, min_scale=0.3), values)
    np.testing.assert_allclose(found, [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.3])
    assert scales(optax.contrib.reduce_on_plateau(0.5, 2, rtol=1e-2), values).tolist() == [1.0] * 8


def test_a_plateau_leaves_losses_out_that_are_not_finite():
    found = scales(transforms.reduce_on_plateau(0.5, 2, every=2), [1, np.nan, np.nan, 0.5, np.nan, np.inf, np.nan, np.nan])
    assert found.tolist() == [1, 1, 1, 1, 1, 1, 1, 0.5]


def test_the_first_pattern_of_a_path_wins_and_other_leaves_stay():
    factors = {"layers[0].*": 0.5, "*kernel": jnp.float32(0.25), "bias": lambda step: 3.0 + step}
    optimizer, params = transforms.scale_by_path(factors), start() | {"rest": jnp.ones(())}
    state = optimizer.init(params)
    for step in range(2):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state)
        layers = [layer["kernel"].flatten()[0] for layer in updates["layers"]]
        assert (*layers, updates["bias"][0], updates["rest"]) == (0.5, 0.25, 3.0 + step, 1.0)


def test_a_factor_of_zero_freezes_even_what_is_not_finite():
    scale, grads = transforms.scale_by_path({"a": 0.0, "b": 2.0}), {"a": jnp.array([np.nan, np.inf]), "b": jnp.array(np.nan)}
    updates, _ = scale.update(grads, scale.init(grads))
    assert updates["a"].tolist() == [0.0, 0.0] and np.isnan(updates["b"])


@pytest.mark.parametrize("patterns", [["kernel"], ["*", "bias"], ["layers0.*"]])
def test_a_pattern_in_vain_is_refused_with_the_names_of_the_leaves(patterns):
    names = r"layers\[0\].kernel, layers\[1\].kernel. Left over"
    with pytest.raises(ValueError, match=rf"must match a leaf that no earlier pattern matches, got none of bias, {names}"):
        transforms.scale_by_path(dict.fromkeys(patterns, 1.0)).init(start())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transforms.clip_by_norm(-1.0), "`max_norm` must be finite and at least 0, got -1.0"),
        (lambda: transforms.clip_by_global_norm(np.inf), "`max_norm` must be finite and at least 0, got inf"),
        (lambda: transforms.clip_by_norm(np.ones(2)), "`max_norm` must be a scalar"),
        (lambda: transforms.reduce_on_plateau(1.5), "`factor` must be at least 0 and below 1, got 1.5"),
        (lambda: transforms.reduce_on_plateau(0.1, 0), "`patience` must be a whole number of at least 1, got 0"),
        (lambda: transforms.reduce_on_plateau(0.1, every=0), "`every` must be a whole number of at least 1, got 0"),
        (lambda: transforms.reduce_on_plateau(threshold=-1.0), "`threshold` must be finite and at least 0"),
        (lambda: transforms.reduce_on_plateau(min_scale=np.nan), "`min_scale` must be finite and at least 0"),
        (lambda: transforms.reduce_on_plateau().update(1.0, transforms.reduce_on_plateau().init(None)), "`value` must be given"),
        (lambda: transforms.reduce_on_plateau(min_scale=5.0), "`min_scale` must be at most 1, got 5.0"),
        (lambda: transforms.scale_by_path({"*": -1.0}), r"`factors\['\*'\]` must be finite and at least 0, got -1.0"),
        (lambda: transforms.scale_by_path({"a": jnp.ones((3, 1))}), r"`factors\['a'\]` must be a scalar, got an array of shape"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
