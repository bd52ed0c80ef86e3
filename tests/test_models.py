"""The small networks against NumPy, lax and flax; flax modules as models; the descent of all of them."""

from functools import cache, partial

import chex
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gradkit import losses, models, trees
from gradkit.descents import Stateful
from gradkit.models import convolutions, layers

KEY = jax.random.key(0)


class Net(nnx.Module):
    """A module with all that is hard: batch statistics, dropout, a stream of its own, a nested list with integer names."""

    def __init__(self, key):
        rngs = nnx.Rngs(key)
        self.body = nnx.Sequential(nnx.Linear(24, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs), jax.nn.relu)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, inputs):
        return self.head(self.dropout(self.body(inputs)))


MODELS = {
    "linear": models.linear(24, 3),
    "mlp": models.mlp((24, 5, 5, 3), activation="tanh"),
    "residual": models.mlp((24, 5, 5, 3), activation="sigmoid", residual=0.5),
    "batch norm": models.mlp((24, 5, 5, 3), activation="gelu", batch_norm=True, residual=True),
    "cnn": models.cnn((4, 6), 3, channels=(2, 3)),
    "nnx": models.from_nnx(Net),
}
OURS = [name for name in MODELS if name != "nnx"]


def batch_of():
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 24)).astype(np.float32), rng.integers(0, 3, 16).astype(np.int32)


INPUTS = batch_of()[0]


def start(name):
    """Parameters of a model with numbers that make every leaf count; drawn by NumPy, as compiling jax.random takes seconds."""
    return _start(name, jax.config.jax_enable_x64)


@cache
def _start(name, is_x64):
    shapes, rng = jax.eval_shape(MODELS[name].init, KEY), np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.uniform(-0.7, 0.7, leaf.shape).astype(leaf.dtype), shapes)
    return params._replace(state=jax.tree.map(abs, params.state)) if isinstance(params, Stateful) else params


@cache
def scores_of(name):
    return jax.jit(MODELS[name].apply)


# Laws of every model


@pytest.mark.parametrize("name", MODELS)
def test_stacked_parameters_give_each_member_its_own_scores(name):
    params = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf, leaf / 2]), start(name))
    scores = np.asarray(jax.jit(jax.vmap(MODELS[name].apply, in_axes=(0, None)))(params, INPUTS))
    for member in range(3):
        alone = scores_of(name)(trees.take_lane(params, member), INPUTS)
        np.testing.assert_allclose(scores[member], alone, rtol=1e-5, atol=1e-5)
    assert not np.allclose(scores[0], scores[1])


@pytest.mark.parametrize("name", OURS)
def test_gradients_are_those_of_finite_differences(name, x64):
    loss, rng = losses.objective(losses.softmax, MODELS[name].apply), np.random.default_rng(2)
    params = jax.tree.map(np.float64, start(name))
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), params)
    if isinstance(params, Stateful):
        direction = direction._replace(state=jax.tree.map(np.zeros_like, params.state))
    along = jax.jit(lambda params: jax.jvp(lambda params: loss(params, batch_of()), (params,), (direction,)))
    moved = [along(jax.tree.map(lambda p, d: p + length * d, params, direction))[0] for length in (1e-6, -1e-6)]  # noqa: B023
    np.testing.assert_allclose(along(params)[1], (moved[0] - moved[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_examples_may_come_flat_or_in_their_shape(name):
    flat, images = (scores_of(name)(start(name), INPUTS.reshape(shape)) for shape in [(16, 24), (16, 4, 6)])
    np.testing.assert_array_equal(flat, images)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["linear", "batch norm", pytest.param("cnn", marks=pytest.mark.long), "nnx"])
def test_a_sweep_of_the_descent_learns_and_keeps_structure_and_dtypes(name):
    module = Net if name == "nnx" else MODELS[name]
    batch = batch_of()

    def train(rate, key):
        descent = models.descent(module, losses.softmax, optax.adam(rate))
        state = descent.init(key, batch, None)
        final, infos = jax.lax.scan(lambda state, _: descent.step(state, batch)[:2], state, None, length=60)
        params = descent.params(final, ())
        return params, infos.loss, descent.loss(descent.params(state, ()), batch), descent.loss(params, batch)

    rates = jnp.array([0.03, 0.03, 0.0])
    params, curves, before, after = jax.jit(jax.vmap(train))(rates, jax.random.split(KEY, 3))
    params, before, after = trees.to_host((params, before, after))
    chex.assert_trees_all_equal_shapes_and_dtypes(trees.take_lane(params, 0), start(name))
    assert curves.shape == (3, 60)
    assert (after[:2] < 0.7 * before[:2]).all()
    assert len({float(loss) for loss in before}) == 3
    loaded = losses.objective(losses.softmax, scores_of(name))(trees.take_lane(params, 1), batch)
    np.testing.assert_allclose(loaded, after[1], rtol=1e-4)


@pytest.mark.parametrize("model", [models.linear(4), models.mlp((4, 3, None)), models.cnn((2, 2), channels=(3,))])
def test_without_a_number_of_outputs_each_example_has_one_score(model):
    batch = jnp.ones((5, 4)), jnp.zeros(5)
    assert model.apply(model.init(KEY), batch[0]).shape == (5,)
    assert losses.objective(losses.squared, model.apply)(model.init(KEY), batch).shape == ()


@pytest.mark.parametrize("name", OURS)
def test_bfloat16_parameters_give_bfloat16_scores(name):
    params, inputs = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (start(name), INPUTS))
    assert jax.eval_shape(MODELS[name].apply, params, jnp.asarray(inputs)).dtype == jnp.bfloat16


# The perceptron

NUMPY_ACTIVATIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "gelu": lambda z: z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "identity": lambda z: z,
}


def numpy_mlp(params, inputs, activation, residual=0.0, moments=None):
    """The definition in NumPy; ``moments`` are ``None`` without batch norm, else a list of (mean, var), or "batch"."""
    values = inputs
    for index, layer in enumerate(params["hidden"]):
        products = values @ layer["weight"]
        if moments is not None:
            mean, var = (products.mean(0), products.var(0)) if moments == "batch" else moments[index]
            products = layer["scale"] * (products - mean) / np.sqrt(var + 1e-5)
        branch = NUMPY_ACTIVATIONS[activation](products + layer["bias"])
        values = values + residual * branch if residual and branch.shape == values.shape else branch
    return values @ params["output"]["weight"] + params["output"]["bias"]


@pytest.mark.parametrize("activation", NUMPY_ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, 0.3, True])
def test_mlp_is_its_definition(activation, residual):
    model = models.mlp((24, 5, 5, 3), activation=activation, residual=residual)
    params = start("mlp")
    expected = numpy_mlp(params, INPUTS, activation, float(residual))
    np.testing.assert_allclose(model.apply(params, INPUTS), expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_uses_the_batch_in_training_and_running_moments_in_evaluation():
    options = {"activation": "gelu", "residual": True}
    params, state = start("batch norm")
    scores, new_state = jax.jit(MODELS["batch norm"].train)(params, state, INPUTS, KEY)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(scores, numpy_mlp(params, INPUTS, **options, moments="batch"))
    close(scores_of("batch norm")(Stateful(params, state), INPUTS), numpy_mlp(params, INPUTS, **options, moments=state))
    products = INPUTS @ params["hidden"][0]["weight"]
    np.testing.assert_allclose(new_state[0].mean, 0.9 * state[0].mean + 0.1 * products.mean(0), rtol=1e-5)
    np.testing.assert_allclose(new_state[0].var, 0.9 * state[0].var + 0.1 * products.var(0), rtol=1e-5)


def test_batch_norm_agrees_with_flax():
    ours, theirs = models.mlp([24, 24, 24], batch_norm=True), nnx.BatchNorm(24, momentum=0.9, rngs=nnx.Rngs(0))
    ones, zeros = np.ones(24, np.float32), np.zeros(24, np.float32)
    params = {
        "hidden": [{"weight": np.diag(ones), "scale": ones, "bias": zeros}],
        "output": {"weight": np.diag(ones), "bias": zeros},
    }
    state = [layers.init_moments(24)]
    scores, new_state = jax.jit(ours.train)(params, state, INPUTS, KEY)
    np.testing.assert_allclose(scores, jax.nn.relu(theirs(INPUTS)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new_state[0].mean, theirs.mean[...], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(new_state[0].var, theirs.var[...], rtol=1e-5)
    theirs.eval()
    evaluated = ours.apply(Stateful(params, new_state), INPUTS)
    np.testing.assert_allclose(evaluated, jax.nn.relu(theirs(INPUTS)), rtol=1e-4, atol=1e-5)


def test_moments_of_bfloat16_are_taken_in_float32():
    values = jnp.full((4096, 1), 3.0, jnp.bfloat16)
    moments = layers.batch_moments(values)
    assert moments.mean.dtype == jnp.float32 and float(moments.mean[0]) == 3.0
    assert layers.normalize(values, moments).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "options, expected",
    [({}, 2**0.5), ({"activation": "tanh"}, 1.0), ({"weight_scale": 5 / 3}, 5 / 3), ({"weight_scale": jnp.asarray(0.5)}, 0.5)],
)
def test_hidden_weights_start_with_the_scale_over_the_root_of_fan_in(options, expected):
    params = models.mlp((400, 300, 200), **options).init(KEY)
    assert np.std(params["hidden"][0]["weight"]) * 400**0.5 == pytest.approx(expected, rel=0.02)
    assert np.std(params["output"]["weight"]) * 300**0.5 == pytest.approx(1, rel=0.02)


def test_kernels_start_with_the_scale_of_he():
    kernel = models.cnn((4, 4), 3, channels=(50, 60)).init(KEY)["hidden"][1]["kernel"]
    assert np.std(kernel) * (9 * 50) ** 0.5 == pytest.approx(2**0.5, rel=0.02)


def test_scales_may_be_swept():
    @jax.jit
    @partial(chex.assert_max_traces, n=1)
    def scores(weight_scale, residual):
        model = models.mlp((24, 24, 3), activation="identity", weight_scale=weight_scale, residual=residual)
        return model.apply(model.init(KEY), INPUTS)

    plain, weighted, branched = scores(1.0, 1.0), scores(2.0, 1.0), scores(1.0, 2.0)
    np.testing.assert_allclose(weighted, branched, rtol=1e-5)
    assert not np.allclose(plain, weighted)


def test_the_gradient_of_a_bias_with_a_row_per_example_is_that_of_the_pre_activations():
    loss, (inputs, targets) = losses.objective(losses.softmax, MODELS["mlp"].apply), batch_of()
    grad = jax.jit(jax.grad(loss))
    params = start("mlp")
    widened = params | {"hidden": [h | {"bias": np.tile(h["bias"], (16, 1))} for h in params["hidden"]]}
    rows = grad(widened, (inputs, targets))
    one_by_one = [grad(params, (inputs[i : i + 1], targets[i : i + 1])) for i in range(3)]
    for layer in range(2):
        expected = [grads["hidden"][layer]["bias"] / 16 for grads in one_by_one]
        np.testing.assert_allclose(rows["hidden"][layer]["bias"][:3], expected, rtol=1e-4, atol=1e-6)


# The convolution


def lax_convolve(images, kernel):
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("size", [(3, 3), (1, 1), (2, 4), (5, 3)])
def test_convolve_and_its_gradients_are_those_of_lax(size):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 5, 6, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*size, 3, 4)), jnp.float32)
    weights = rng.normal(size=(2, 5, 6, 4)).astype(np.float32)
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda i, k, f=convolve: jnp.sum(weights * f(i, k) ** 2), argnums=(0, 1)))
        for convolve in (models.convolve, lax_convolve)
    )
    np.testing.assert_allclose(models.convolve(images, kernel), lax_convolve(images, kernel), rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(ours(images, kernel), theirs(images, kernel), rtol=1e-4, atol=1e-3)
    changes = (jnp.cos(images), jnp.cos(kernel))
    ours, theirs = (jax.jvp(f, (images, kernel), changes)[1] for f in (models.convolve, lax_convolve))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_convolve_takes_images_of_bytes():
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    kernel = jnp.ones((3, 3, 1, 2))
    expected = lax_convolve(images.astype(np.float32), kernel)
    np.testing.assert_allclose(models.convolve(images, kernel), expected, rtol=1e-6)


def test_convolve_over_stacked_kernels_and_shared_images_is_a_loop():
    rng = np.random.default_rng(0)
    images, kernels = rng.normal(size=(2, 5, 6, 3)).astype(np.float32), rng.normal(size=(3, 3, 3, 3, 4)).astype(np.float32)
    lanes = jax.vmap(models.convolve, (None, 0))(images, kernels)
    np.testing.assert_allclose(lanes, [models.convolve(images, kernel) for kernel in kernels], rtol=1e-5, atol=1e-5)


def plain_cnn(params, images):
    """Without ``lax_convolve``: its compiled second derivatives are wrong on CPU in jax 0.7.2."""
    values = images.reshape(*images.shape[:3], -1)
    for layer in params["hidden"]:
        values = jax.nn.relu(models.convolve(values, layer["kernel"]) + layer["bias"][None, None, None])
        n, height, width, channels = values.shape
        even = values[:, : height // 2 * 2, : width // 2 * 2]
        values = even.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
    return values.reshape(len(values), -1) @ params["output"]["weight"] + params["output"]["bias"][None]


def images_and_params(model, image_shape, lanes=()):
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=lanes + leaf.shape).astype(np.float32), jax.eval_shape(model.init, KEY))
    return rng.normal(size=(4, *image_shape)).astype(np.float32), params


@pytest.mark.parametrize("image_shape", [(5, 7), (4, 6, 2)])
def test_cnn_and_its_derivatives_are_convolutions_relu_pooling_and_a_linear_layer(image_shape):
    model = models.cnn(image_shape, 3, channels=(2, 4))
    images, params = images_and_params(model, image_shape)

    def derivatives(apply):
        grad = jax.grad(lambda params, images: jnp.sum(jnp.sin(apply(params, images))), argnums=(0, 1))
        direction = jax.tree.map(jnp.cos, (params, images))
        return apply(params, images), *jax.jvp(grad, (params, images), direction)

    ours, theirs = jax.jit(derivatives, static_argnums=0)(model.apply), jax.jit(derivatives, static_argnums=0)(plain_cnn)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_cnn_over_stacked_parameters_and_shared_images_is_a_loop():
    model = models.cnn((4, 6, 2), 3, channels=(2, 4))
    images, params = images_and_params(model, (4, 6, 2), lanes=(3,))
    grad = jax.jit(jax.value_and_grad(lambda params, images: jnp.sum(model.apply(params, images) ** 2)))
    each = [grad(jax.tree.map(lambda leaf, lane=lane: leaf[lane], params), images) for lane in range(3)]
    lanes = jax.jit(jax.vmap(grad, (0, None)))(params, images)
    chex.assert_trees_all_close(lanes, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each), rtol=1e-4, atol=1e-4)


def cnn_that_adds_largest_pixels():
    params = {"kernel": jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0), "bias": jnp.zeros(1)}
    return models.cnn((4, 4), channels=(1,)), {"hidden": [params], "output": {"weight": jnp.ones((4, 1)), "bias": jnp.zeros(1)}}


def test_of_equal_scores_in_a_window_the_first_takes_the_gradient():
    model, params = cnn_that_adds_largest_pixels()
    expected = np.zeros((1, 4, 4))
    expected[:, ::2, ::2] = 1
    grad = jax.jit(jax.grad(lambda images: model.apply(params, images)[0]))
    np.testing.assert_array_equal(grad(jnp.ones((1, 4, 4))), expected)


def test_pooling_does_not_lose_a_nan():
    model, params = cnn_that_adds_largest_pixels()
    images = np.where(np.eye(16), np.nan, 1.0).astype(np.float32).reshape(16, 4, 4)  # each has a nan at another place
    scores, _ = jax.jit(jax.vmap(jax.value_and_grad(lambda image: model.apply(params, image[None])[0])))(images)
    assert np.isnan(scores).all()
    assert np.isnan(model.apply(params, images)).all()


def test_cnn_takes_images_of_bytes():
    model, images = models.cnn((4, 4), 3, channels=(2,)), np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    params = model.init(KEY)
    np.testing.assert_allclose(model.apply(params, images), model.apply(params, images.astype(np.float32)), rtol=1e-6)


@pytest.mark.parametrize("size", [convolutions.BLOCK, 2 * convolutions.BLOCK + 7])
def test_blocks_of_a_large_set_are_scored_like_one(size):
    model = models.cnn((4, 4), 3, channels=(4,))
    params, images = model.init(KEY), jax.random.normal(KEY, (size, 4, 4))
    np.testing.assert_allclose(jax.jit(model.apply)(params, images), jax.jit(plain_cnn)(params, images), rtol=1e-4, atol=1e-5)


# Flax modules


def test_a_factory_starts_each_seed_elsewhere_and_an_instance_does_not():
    first, second = jax.random.split(KEY)
    kernel = lambda module, key: models.from_nnx(module).init(key).params["head"]["kernel"]  # noqa: E731
    assert not np.allclose(kernel(Net, first), kernel(Net, second))
    np.testing.assert_array_equal(kernel(Net(KEY), first), kernel(Net(KEY), second))
    np.testing.assert_array_equal(kernel(Net, KEY), Net(KEY).head.kernel[...])


def test_an_instance_is_left_as_it_is():
    module = Net(KEY)
    module.eval()
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))))
    descent = models.descent(module, losses.softmax, optax.sgd(0.1))
    state = jax.jit(descent.step)(descent.init(KEY, None, None), batch_of())[0]
    jax.jit(descent.loss)(descent.params(state, ()), batch_of())
    chex.assert_trees_all_equal(before, nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.RngState))))
    assert module.dropout.deterministic
    assert not np.array_equal(state.state["body"]["layers"][1]["mean"], before["body"]["layers"][1]["mean"])


def test_dropout_differs_between_keys_and_evaluation_has_none():
    train = jax.jit(MODELS["nnx"].train)
    first, again, other = (train(*start("nnx"), INPUTS, jax.random.key(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    params = start("nnx").params
    hidden = INPUTS @ params["body"]["layers"][0]["kernel"] + params["body"]["layers"][0]["bias"]
    norm, moments = params["body"]["layers"][1], start("nnx").state["body"]["layers"][1]
    hidden = norm["scale"] * (hidden - moments["mean"]) / np.sqrt(moments["var"] + 1e-5) + norm["bias"]
    expected = np.maximum(hidden, 0) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(scores_of("nnx")(start("nnx"), INPUTS), expected, rtol=1e-4, atol=1e-5)


def test_dropout_differs_between_members_and_steps_of_a_descent():
    batch = batch_of()

    def losses_at_rest(key):
        descent = models.descent(Net(KEY), losses.softmax, optax.sgd(0.0))
        return jax.lax.scan(lambda s, _: descent.step(s, batch)[:2], descent.init(key, batch, None), length=4)[1].loss

    curves = jax.jit(jax.vmap(losses_at_rest))(jax.random.split(KEY, 2))
    assert len(np.unique(curves)) == 8


def test_layers_of_a_module_drop_different_units():
    class Twice(nnx.Module):
        def __init__(self, key):
            rngs = nnx.Rngs(key)
            self.first, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, inputs):
            return self.first(inputs) - self.second(inputs)

    model = models.from_nnx(Twice)
    assert np.any(model.train(*model.init(KEY), jnp.ones((4, 8)), KEY)[0])


def test_evaluation_is_pure_even_where_a_module_always_draws():
    class Noisy(nnx.Module):
        def __init__(self, key):
            self.rngs = nnx.Rngs(noise=key)

        def __call__(self, inputs):
            return inputs + jax.random.normal(self.rngs.noise(), inputs.shape)

    model = models.from_nnx(Noisy)
    apply = jax.jit(lambda inputs: model.apply(model.init(KEY), inputs))
    np.testing.assert_array_equal(apply(np.zeros((2, 3))), model.apply(model.init(KEY), np.zeros((2, 3))))
    np.testing.assert_array_equal(apply(np.zeros((1, 3))), model.apply(model.init(KEY), np.zeros((1, 3))))


def test_training_matches_flax_trained_by_hand():
    batch, module = batch_of(), Net(KEY)
    module.dropout.rate = 0.0
    descent = models.descent(module, losses.softmax, optax.sgd(0.1))
    state = jax.jit(descent.step)(descent.init(KEY, None, None), batch)[0]

    def loss(module):
        return optax.softmax_cross_entropy_with_integer_labels(module(batch[0]), batch[1]).mean()

    grads = nnx.grad(loss)(module)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(module, nnx.Param), grads)
    chex.assert_trees_all_close(state.params, nnx.to_pure_dict(params), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(state.state, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)), rtol=1e-5)


def test_trained_parameters_load_into_a_module():
    descent = models.descent(Net, losses.softmax, optax.sgd(0.1))
    fitted = descent.params(jax.jit(descent.step)(descent.init(KEY, None, None), batch_of())[0], ())
    module = Net(jax.random.key(1))
    nnx.update(module, fitted.params, fitted.state)
    module.eval()
    np.testing.assert_allclose(module(INPUTS), scores_of("nnx")(fitted, INPUTS), rtol=1e-5)


def test_a_traced_attribute_of_a_module_can_be_swept():
    class Scaled(nnx.Module):
        def __init__(self, key, scale):
            self.linear, self.scale = nnx.Linear(24, 3, rngs=nnx.Rngs(key)), scale

        def __call__(self, inputs):
            return self.scale * self.linear(inputs)

    def scores(scale):
        model = models.from_nnx(lambda key: Scaled(key, scale))
        start = model.init(KEY)
        return model.train(*start, INPUTS, KEY)[0], model.apply(start, INPUTS)

    trained, evaluated = jax.jit(jax.vmap(scores))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(trained[1], 2 * trained[0], rtol=1e-6)
    np.testing.assert_array_equal(trained, evaluated)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_sown_intermediates_do_not_enter_the_state():
    class Sowing(nnx.Module):
        def __init__(self, key):
            self.linear = nnx.Linear(24, 3, rngs=nnx.Rngs(key))

        def __call__(self, inputs):
            self.sow(nnx.Intermediate, "scores", self.linear(inputs))
            return self.linear(inputs)

    model = models.from_nnx(Sowing)
    assert model.train(*model.init(KEY), INPUTS, KEY)[1] == {}


@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")  # flax 0.12 casts in place
def test_wide_inputs_do_not_widen_the_state_of_a_module(x64):
    inputs, before = INPUTS.astype(np.float64), start("nnx")
    scores, state = jax.eval_shape(MODELS["nnx"].train, *before, inputs, KEY)
    assert scores.dtype == np.float64
    chex.assert_trees_all_equal_dtypes(state, before.state)


# The descent


@pytest.mark.parametrize("name", ["mlp", "batch norm", "nnx"])
def test_an_example_of_weight_zero_reaches_neither_loss_nor_parameters(name):
    inputs, targets = batch_of()
    inputs[3] = np.nan
    weights = np.ones(16, np.float32)
    weights[3] = 0
    descent = models.descent(MODELS[name], losses.softmax, optax.sgd(0.1))
    before, step = descent.init(KEY, None, None), jax.jit(descent.step)
    after, info, _ = step(before, (inputs, targets, weights))
    chex.assert_tree_all_finite((info.loss, descent.params(after, ())))
    inputs[3], targets[3] = inputs[0], targets[0]
    _, replaced, _ = step(before, (inputs, targets, weights))
    np.testing.assert_allclose(info.loss, replaced.loss, rtol=1e-6)


def test_the_descent_of_a_model_without_a_state_is_that_of_its_objective():
    model, batch = MODELS["mlp"], batch_of()
    descent = models.descent(model, losses.softmax, optax.sgd(0.1))
    before = descent.init(KEY, None, None)
    grads = jax.jit(jax.grad(losses.objective(losses.softmax, model.apply)))(before.params, batch)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before.params, grads)
    chex.assert_trees_all_close(jax.jit(descent.step)(before, batch)[0].params, expected, rtol=1e-5, atol=1e-7)


# Refusals


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: models.mlp((4,)), ValueError, r"`sizes` must have at least an input and an output size, got \(4,\)"),
        (lambda: models.mlp((4, 0, 2)), ValueError, "`sizes` must be a whole number of at least 1, got 0"),
        (lambda: models.mlp((4, None, 2)), TypeError, "`sizes` must be a whole number of at least 1, got None"),
        (lambda: models.mlp((4, 2), activation="swish"), ValueError, "`activation` must be one of relu, tanh, sigmoid"),
        (lambda: models.linear(0), ValueError, "`num_inputs` must be a whole number of at least 1, got 0"),
        (lambda: models.linear(3, 0), ValueError, "`num_outputs` must be a whole number of at least 1, got 0"),
        (lambda: models.cnn((3, 8), 2), ValueError, r"`image_shape` must be at least 4 high and wide, got \(3, 8\)"),
        (lambda: models.cnn((1, 2, 8, 8), 2), ValueError, r"`image_shape` must be \(height, width\) or"),
        (lambda: models.cnn((8, 8, 0), 2), ValueError, "`image_shape` must be a whole number of at least 1"),
        (lambda: models.cnn((8, 8), 2, (4, 0)), ValueError, "`channels` must be a whole number of at least 1"),
        (lambda: models.cnn((8, 8), 0), ValueError, "`num_outputs` must be a whole number of at least 1"),
        (lambda: models.from_nnx(3), TypeError, "`module` must be a gradkit Model, a flax nnx module or a function"),
        (lambda: models.from_nnx(flax.linen.Dense(3)), TypeError, r"got Dense\(.*For any other, write gk.descent"),
        (lambda: models.from_nnx(lambda key: key), TypeError, "`module` must make a flax nnx module from a key"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_model_is_refused_with_a_remedy(make, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make()


@pytest.mark.parametrize("name", OURS)
def test_examples_of_another_size_are_refused(name):
    with pytest.raises(ValueError, match=r"`inputs` must hold examples of shape .* got an array of shape \(2, 5\)"):
        MODELS[name].apply(start(name), jnp.ones((2, 5)))


def test_scores_of_another_number_of_examples_are_refused():
    class Pooling(nnx.Module):
        def __call__(self, inputs):
            return inputs[:3]

    descent = models.descent(Pooling(), losses.softmax, optax.sgd(0.1))
    with pytest.raises(ValueError, match="`apply` must return one score per target, 16 along the first axis"):
        descent.step(descent.init(KEY, None, None), batch_of())
