"""Clipping and what goes with it in Keras: several leaves at once, bounds of zero, half precision, no leaves at all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradkit import as_keras, as_torch, transforms

SHAPES = {"bias": (3,), "scale": (), "weight": (2, 3)}
KERAS_CLIPS = ("clipnorm", "global_clipnorm", "clipvalue")
TOGETHER = [  # numbers that Keras cannot round: it takes constants through float32
    {"clipnorm": 0.75, "gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.75, "weight_decay": 0.125},
    {"global_clipnorm": 0.75, "use_ema": True, "ema_momentum": 0.75, "ema_overwrite_frequency": 2, "weight_decay": 0.125},
    {"clipvalue": 0.5, "gradient_accumulation_steps": 2, "weight_decay": 0.125},
]


@pytest.mark.few(1)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("common", TOGETHER, ids=lambda common: next(iter(common)))
def test_several_leaves_go_where_keras_takes_them(common):
    keras = pytest.importorskip("keras")
    from test_as_keras import floats_of

    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    ours = as_keras.sgd(0.125, momentum=0.875, **common)
    found, state, update = jax.tree.map(jnp.asarray, params), ours.init(params), jax.jit(ours.update)
    with floats_of(np.float64):
        theirs = keras.optimizers.SGD(0.125, momentum=0.875, **common)
        variables = [keras.Variable(theta, dtype="float64") for theta in params.values()]
        theirs.build(variables)
        for _ in range(6):
            grads = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
            updates, state = update(grads, state, found)
            found = optax.apply_updates(found, updates)
            theirs.apply(list(grads.values()))
            np.testing.assert_allclose(_flat(found.values()), _flat(v.value for v in variables), rtol=1e-13)
            if "use_ema" in common:
                averages = [v.value for v in theirs._model_variables_moving_average]
                kept = transforms.evaluation_params(state, found)
                np.testing.assert_allclose(_flat(kept.values()), _flat(averages), rtol=1e-13)


def _flat(leaves):
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


@pytest.mark.parametrize("name", KERAS_CLIPS)
@pytest.mark.parametrize("zero", [0, 0.0, lambda step: 0.0 * step], ids=["int", "float", "schedule"])
def test_a_bound_of_zero_does_not_clip_in_keras(name, zero):
    optimizer, g = as_keras.sgd(1.0, **{name: zero}), jnp.array([3.0, -4.0])
    np.testing.assert_array_equal(optimizer.update(g, optimizer.init(g), jnp.zeros(2))[0], -g)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(
    ("clip", "sign"),
    [(as_torch.clip_grad_norm(1.0), 1)] + [(as_keras.sgd(1.0, **{name: 1.0}), -1) for name in KERAS_CLIPS],
    ids=["clip_grad_norm", *KERAS_CLIPS],
)
def test_large_half_precision_gradients_are_clipped_in_float32(clip, sign, dtype):
    # their squares overflow float16; four of 300 have a norm of 600
    grads = {"a": jnp.full(2, 300, dtype), "b": jnp.full(2, 300, dtype)}
    updates, _ = clip.update(grads, clip.init(grads), jax.tree.map(jnp.zeros_like, grads))
    assert jax.tree.leaves(updates)[0].dtype == dtype
    found = sign * np.asarray(_flat(updates.values()), np.float32)
    assert np.all((found > 0.49) & (found < 1.01))


def test_nothing_to_clip_is_given_back():
    for clip in (as_torch.clip_grad_norm(1.0), *(as_keras.sgd(1.0, **{name: 1.0}) for name in KERAS_CLIPS)):
        assert clip.update({}, clip.init({}), {})[0] == {}


@pytest.mark.parametrize("gradient_dtype", [jnp.bfloat16, jnp.float32])
def test_gradients_of_half_precision_are_summed_in_float32(gradient_dtype):
    # in bfloat16 256 + 1 is 256
    optimizer, theta = as_keras.sgd(1.0, gradient_accumulation_steps=4), jnp.zeros((), jnp.bfloat16)
    grads = jnp.array([256, 1, 1, 2], gradient_dtype)
    step = lambda state, g: optimizer.update(g, state, theta)[::-1]  # noqa: E731
    _, updates = jax.lax.scan(step, optimizer.init(theta), grads)
    assert updates.dtype == gradient_dtype
    np.testing.assert_array_equal(updates.astype(jnp.float32), [0, 0, 0, -65])
