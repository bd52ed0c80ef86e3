"""Gradients through the steps of a descent, of every optimizer and transformation, against finite differences.

One objective of all rows: the loss after some steps plus a linear function of what is evaluated there, differentiated by the
initial parameters and by every number of the optimizer; at a point without symmetry, where the gradient of one layer is exactly
zero, and where every gradient is, now and for ever.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import OPTIMIZERS
from recipes import KERAS, TORCH

import gradkit as gk
from gradkit import roots, transforms

pytestmark = pytest.mark.usefixtures("x64")

FIRST = np.array([[0.5, -0.3], [0.8, -0.6]])
POINTS = {
    "generic": {"first": FIRST, "last": np.array([[0.7, -1.1], [0.4, 0.9]])},
    "zero-initialized": {"first": FIRST, "last": np.zeros((2, 2))},
    "saddle": {"first": np.zeros((2, 2)), "last": np.zeros((2, 2))},
}
SLOPES = {"first": np.array([[0.3, -0.2], [0.4, 0.7]]), "last": np.array([[1.3, -0.4], [-0.5, 0.2]])}
NUM_NUMBERS = 8  # at most of a row: all rows then share the shapes of the perturbations


class Row(NamedTuple):
    """An optimizer as a function of its numbers, and where it has a derivative by ``last``: a sign has none at zero."""

    name: str
    make: Callable[..., optax.GradientTransformation]
    numbers: dict[str, Any]
    steps: int = 3
    is_sign: bool = False
    step: float = 1e-7  # of the differences
    tolerance: float = 1e-5


# An eps that finite differences can see, and means that fade within the few steps
BENT = {"eps": 0.1, "epsilon": 0.1, "lr": 0.1, "learning_rate": 0.1, "alpha": 0.9, "rho": 0.9, "decay": 0.9}
BENT |= {"betas": (0.8, 0.95), "b1": 0.8, "b2": 0.95, "beta_1": 0.8, "beta_2": 0.95}


def bent(numbers):
    return {name: BENT.get(name, value) for name, value in numbers.items()}


def _of_recipe(room, row):
    make = functools.partial(getattr(room, row.name), **dict(row.static))
    numbers = bent(row.numbers)
    if row.name == "muon":
        numbers["eps"] = 10.0  # five Newton-Schulz steps bend it 3.4**5 times as much
    steps = {"radam": 8}.get(row.name, 4 if "accumulation" in str(row) else 3)  # until the second moment is trusted
    is_coarse = row.name == "nadam" and room is gk.as_torch  # whose product of momenta is a float32
    accuracy = {"step": 1e-4, "tolerance": 0.01} if is_coarse else {}
    return Row(f"{room.__name__[8:]} {row}", make, numbers, steps, row.name in ("lion", "rprop"), **accuracy)


def _by_path(factor, other):
    return optax.chain(optax.sgd(0.1), transforms.scale_by_path({"first": factor, "la*": lambda step: other * (1 + step)}))


def _observed(rate, max_norm):
    return transforms.observe(gk.optimizers.adam(rate, eps=0.1), clip=transforms.clip_by_global_norm(max_norm))


def _clipped(clip, rate, max_norm):
    return optax.chain(clip(max_norm), optax.sgd(rate))


def _on_plateau(factor, threshold):
    return optax.chain(optax.sgd(0.1), transforms.reduce_on_plateau(factor, 1, threshold=threshold))


def _on_plateau_as_torch(factor, threshold):
    return optax.chain(optax.sgd(0.1), gk.as_torch.reduce_lr_on_plateau(factor=factor, patience=0, threshold=threshold, lr=0.1))


def _scheduled(rate, end, b1):
    return gk.optimizers.nadam(gk.schedules.linear(rate, end, 5), b1=gk.schedules.linear(b1, 0.9, 5), eps=0.1)


def _averaged(rate, decay, warmup=False):
    return transforms.average(ADAM(rate), transforms.fading(decay, warmup=warmup))


def _looking_ahead(rate, part):
    return transforms.lookahead(ADAM(rate), sync_steps=2, slow_step=part)


def _free(**numbers):
    return {"learning_rate": 0.1, "b1": 0.8, "b2": 0.95, "eps": 0.1, "weight_decay": 0.1, **numbers}


ADAM = functools.partial(gk.optimizers.adam, eps=0.1)
RATE, CLIP = {"rate": 0.1}, {"rate": 0.1, "max_norm": 0.8}
CLIPS = {
    "clip_by_norm": transforms.clip_by_norm,
    "clip_by_global_norm": transforms.clip_by_global_norm,
    "clip_grad_value": gk.as_torch.clip_grad_value,
    "clip_grad_norm": gk.as_torch.clip_grad_norm,
    "clip_grad_norm of order 1": functools.partial(gk.as_torch.clip_grad_norm, norm_type=1.0),
    "clip_grad_norm of order 3": functools.partial(gk.as_torch.clip_grad_norm, norm_type=3.0),
    "clip_grad_norm of order inf": functools.partial(gk.as_torch.clip_grad_norm, norm_type=np.inf),
}
TRANSFORMS = [
    *(Row(name, functools.partial(_clipped, clip), CLIP) for name, clip in CLIPS.items()),
    Row("clipnorm", lambda rate, max_norm: gk.as_keras.sgd(rate, clipnorm=max_norm), CLIP),
    Row("global_clipnorm", lambda rate, max_norm: gk.as_keras.sgd(rate, global_clipnorm=max_norm), CLIP),
    Row("guard", lambda rate: transforms.guard(ADAM(rate)), RATE),
    Row("guard that goes back", lambda rate: transforms.guard(ADAM(rate), policy="restore", every=2), RATE),
    Row("accumulate", lambda rate: transforms.accumulate(ADAM(rate), 2), RATE, steps=4),
    Row("fading average", _averaged, {"rate": 0.1, "decay": 0.6}),
    Row("fading average with a warm-up", functools.partial(_averaged, warmup=True), {"rate": 0.1, "decay": 0.15}),
    Row("plain average", lambda rate: transforms.average(ADAM(rate), transforms.equal(start=1)), RATE),
    Row("lookahead", _looking_ahead, {"rate": 0.1, "part": 0.4}),
    Row("lookahead all the way", _looking_ahead, {"rate": 0.1, "part": 1.0}),
    Row("schedule_free_adamw", transforms.schedule_free_adamw, _free(weight_power=2.0, step_power=0.5)),
    Row(
        "schedule_free_adamw with a warm-up",
        transforms.schedule_free_adamw,
        _free(warmup_steps=2.5, weight_power=0.5, step_power=1.0),
    ),
    Row("observe", _observed, CLIP),
    Row("scale_by_path", _by_path, {"factor": 0.5, "other": 0.2}),
    Row("scale_by_path that freezes", _by_path, {"factor": 0.0, "other": 0.2}),
    Row("reduce_on_plateau", _on_plateau, {"factor": 0.5, "threshold": 0.9}),
    Row("reduce_lr_on_plateau", _on_plateau_as_torch, {"factor": 0.5, "threshold": 0.9}),
    Row("scheduled numbers", _scheduled, {"rate": 0.1, "end": 0.01, "b1": 0.5}),
    Row("skipping the unused", lambda rate: gk.as_torch.adam(rate, eps=0.1, unused="skip"), RATE, is_sign=True),
]
ROWS = [
    *(Row(case.name, case.make, bent(case.arguments), is_sign=case.name == "lion") for case in OPTIMIZERS),
    *TRANSFORMS,
    *(_of_recipe(gk.as_torch, row) for row in TORCH),
    *(_of_recipe(gk.as_keras, row) for row in KERAS),
]


def loss(params, target):
    return jnp.sum((params["first"] * params["last"] - target) ** 2)


def objective(row, point):
    """What is differentiated: of the initial parameters and the optimizer's numbers."""
    params, numbers = point
    descent = gk.descent(loss, params, row.make(**numbers))
    targets = 1 + 0.2 * jnp.arange(1.0 * row.steps)
    state, _, _ = gk.unroll(descent, descent.init(jax.random.key(0), None, None), targets)
    found = descent.params(state, ())
    return loss(found, 1.0) + sum(jnp.sum(SLOPES[name] * found[name]) for name in SLOPES)


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def differences(fun, points, step):
    """By each coordinate, those at two steps, of which what is linear in the step cancels: at zero second derivatives jump."""
    num_coordinates = sum(np.size(leaf) for leaf in jax.tree.leaves(points[0]))
    shifted = []
    for point in points:
        leaves, structure = jax.tree.flatten(point)
        for place, leaf in enumerate(leaves):
            for index in np.ndindex(np.shape(leaf)):
                for shift in (step, -step, step / 2, -step / 2):
                    new = np.array(leaf, float)
                    new[index] += shift
                    shifted.append(structure.unflatten([*leaves[:place], new, *leaves[place + 1 :]]))
    padding = [points[0]] * (4 * len(points) * (8 + NUM_NUMBERS) - len(shifted))
    values = np.asarray(jax.vmap(fun)(stacked(shifted + padding)))[: len(shifted)].reshape(len(points), num_coordinates, 4)
    coarse, fine = values[..., 0] - values[..., 1], values[..., 2] - values[..., 3]
    return (2 * fine - coarse / 2) / step


def flat(tree):
    """The leaves of a tree whose members lead, as rows."""
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(tree)], axis=1)


def names_of(point):
    """Which leaf each coordinate belongs to."""
    paths = jax.tree_util.tree_leaves_with_path(point)
    return [jax.tree_util.keystr(path) for path, leaf in paths for _ in range(np.size(leaf))]


def points_of(row):
    """The points with the numbers of the row."""
    return [jax.tree.map(np.float64, (params, row.numbers)) for params in POINTS.values()]


# One of each kind; the others take long.
QUICK = [
    "adam",
    "clip_grad_norm",
    "schedule_free_adamw with a warm-up",
    "as_torch adamw amsgrad=True",
    "as_keras sgd nesterov=True global_clipnorm=1.0",
]
assert set(QUICK) <= {row.name for row in ROWS}
each_row = [row if row.name in QUICK else pytest.param(row, marks=pytest.mark.long) for row in ROWS]


@pytest.mark.parametrize("row", each_row, ids=lambda row: row.name)
def test_a_gradient_through_the_steps_is_that_of_finite_differences(row):
    points, fun = points_of(row), functools.partial(objective, row)
    with jax.disable_jit():  # operation by operation: compiling takes ten times as long
        found, truth = flat(jax.vmap(jax.grad(fun))(stacked(points))), differences(fun, points, row.step)
    assert np.isfinite(found).all()
    has_derivative = np.array([at == "generic" or not row.is_sign for at in POINTS])
    is_close = np.abs(found - truth) <= row.tolerance * (1 + np.abs(truth))
    for point, coordinate in np.argwhere(~is_close & has_derivative[:, None]):
        name = names_of(points[0])[coordinate]
        pytest.fail(f"{list(POINTS)[point]}, {name}: {found[point, coordinate]}, right {truth[point, coordinate]}")


def last_loss(make, first, last=0.0):
    """After three steps of two layers of one weight each."""
    descent = gk.descent(lambda p, _: (p[0] * p[1] - 1) ** 2, (first, last), make(0.1))
    state, _, _ = gk.unroll(descent, descent.init(jax.random.key(0), None, None), jnp.zeros(3))
    return (state.params[0] * state.params[1] - 1) ** 2


@pytest.mark.few(2)
@pytest.mark.parametrize("make", [gk.optimizers.adam, gk.as_torch.adam, gk.as_keras.adam])
def test_adam_at_a_zero_gradient_has_the_derivative_that_it_has(make):
    # w has no gradient at first and rests, u = 0.1 after the first step; then both move by about the rate, for u is far behind
    fun = functools.partial(last_loss, make)
    truth = (fun(0.5 + 1e-6) - fun(0.5 - 1e-6)) / 2e-6
    assert truth == pytest.approx(-0.480, abs=1e-4)
    found = jax.jit(lambda w: (jax.grad(fun)(w), jax.jvp(fun, (w,), (1.0,))[1], jax.vmap(jax.grad(fun))(jnp.stack([w, w]))))(0.5)
    np.testing.assert_allclose(np.hstack(found), truth, rtol=1e-6)


@pytest.mark.parametrize("make", [gk.as_torch.sgd, gk.as_keras.sgd])
def test_rounding_hides_no_derivative(make):
    fun = functools.partial(last_loss, functools.partial(make, momentum=0.9))
    truth = (fun(0.5 + 1e-5) - fun(0.5 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(fun)(0.5), truth, rtol=1e-8)


SECOND = {
    "adam": functools.partial(gk.optimizers.adam, b1=0.5, b2=0.5, eps=0.1),
    "as_torch rmsprop": functools.partial(gk.as_torch.rmsprop, alpha=0.5, eps=0.1, momentum=0.9),
    "as_torch adam": functools.partial(gk.as_torch.adam, betas=(0.5, 0.5), eps=0.1),
    "as_keras sgd": functools.partial(gk.as_keras.sgd, momentum=0.9, nesterov=True),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives_pass_through_the_steps(name):
    make = SECOND[name]
    slope = jax.grad(lambda w, u: last_loss(make, w, u))
    curve = jax.jit(lambda w, u: (jax.grad(slope)(w, u), jax.jvp(lambda w: slope(w, u), (w,), (1.0,))[1]))
    truth = (slope(0.5 + 1e-5, 0.3) - slope(0.5 - 1e-5, 0.3)) / 2e-5
    np.testing.assert_allclose(curve(0.5, 0.3), [truth, truth], rtol=1e-6)
    # where the first layer's gradient is zero along the whole line of differentiation
    truth = (slope(0.5 + 1e-5, 0.0) - slope(0.5 - 1e-5, 0.0)) / 2e-5
    np.testing.assert_allclose(curve(0.5, 0.0), [truth, truth], rtol=1e-6)


@pytest.mark.few(1)
@pytest.mark.parametrize("clip", [transforms.clip_by_norm, transforms.clip_by_global_norm, gk.as_torch.clip_grad_norm])
def test_a_clip_has_a_hessian_where_a_coordinate_is_zero(clip):
    # of g / norm(g), in the direction e: e / norm - g (g e) / norm**3, and its derivative once more
    g, rate = jnp.array([3.0, 0.0, 4.0]), clip(1.0)
    clipped = lambda g: rate.update(g, rate.init(g))[0]  # noqa: E731
    second = jax.jacfwd(jax.jacrev(clipped))(g)
    step = 1e-5 * np.eye(3)
    truth = np.stack([(jax.jacrev(clipped)(g + e) - jax.jacrev(clipped)(g - e)) / 2e-5 for e in step], axis=-1)
    np.testing.assert_allclose(second, truth, atol=1e-8)
    assert jnp.abs(truth).max() > 0.01


@pytest.mark.parametrize("decay, t, right", [(0.0, 1, -1.0), (0.0, 2, 0.0), (0.5, 3, -0.75), (0.999, 1, -1.0)])
def test_a_bias_correction_has_its_slope_at_every_decay(decay, t, right):
    assert jax.grad(transforms.bias_correction)(decay, jnp.int32(t)) == pytest.approx(right, rel=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("beta2", [0.0, 0.6, 0.9])
def test_the_slope_of_radam_stays_finite_however_long_it_runs(beta2):
    def update(beta2, count):
        optimizer = gk.as_torch.radam(0.1, betas=(0.9, beta2))
        state = optimizer.init(jnp.ones(1, jnp.float32))._replace(count=count, steps=count)
        return optimizer.update(jnp.ones(1, jnp.float32), state, jnp.ones(1, jnp.float32))[0][0]

    found = jax.vmap(jax.grad(update), (None, 0))(jnp.float32(beta2), jnp.array([0, 5, 20, 900, 100_000]))
    assert np.isfinite(found).all()


def test_roots_and_norms_are_those_of_jax_to_the_bit():
    x = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32) ** 2
    np.testing.assert_array_equal(jax.jit(roots.sqrt)(x), jax.jit(jnp.sqrt)(x))
    for order in (1, 2, 3, np.inf):
        ours, theirs = (jax.jit(norm, static_argnums=1)(x, order) for norm in (roots.norm, jnp.linalg.norm))
        # jax 0.7 fuses the sum of its own norm otherwise, which rounds one unit apart
        np.testing.assert_array_max_ulp(ours, theirs, maxulp=0 if jax.__version_info__ >= (0, 8) else 1)
        assert (jax.grad(roots.norm)(jnp.zeros(3, jnp.float32), order) == 0).all()  # the mean of both sides
    assert jax.grad(roots.sqrt)(4.0) == 0.25 and jax.grad(jax.grad(roots.sqrt))(4.0) == -1 / 32
    assert jax.grad(roots.sqrt)(0.0) == jax.grad(jax.grad(roots.sqrt))(0.0) == 0
