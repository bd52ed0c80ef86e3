"""What every recipe keeps: chains, partitions, maps, half precision, leaves without a gradient; and what it refuses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import KERAS, TORCH, descend, shaken, start, stress

from gradkit import as_keras, as_torch, optimizers, transforms

ALL = [(room, row) for room, rows in ((as_torch, TORCH), (as_keras, KERAS)) for row in rows]
CASES = list({(room, row.name): (room, row) for room, row in ALL}.values())
each_case = pytest.mark.parametrize(("room", "row"), CASES, ids=[f"{room.__name__[11:]} {row}" for room, row in CASES])


def make(room, row, **changed):
    return getattr(room, row.name)(**{**row.numbers, **changed}, **dict(row.static))


GRADIENTS, PARAMS = stress()[:12, :4, :3].astype(np.float32), start()[:4, :3].astype(np.float32)


def path(optimizer, dtype=jnp.float32):
    return descend(optimizer, jnp.asarray(PARAMS, dtype), jnp.asarray(GRADIENTS, dtype))


@pytest.mark.few(6)
@each_case
def test_in_a_chain_and_in_a_partition_an_optimizer_is_itself(room, row):
    params = {"a": jnp.asarray(PARAMS), "b": jnp.ones((2, 2))}
    chained = optax.chain(optax.clip(1e3), make(room, row), optax.identity())
    split = optax.partition({"own": chained, "other": optax.sgd(0.1)}, {"a": "own", "b": "other"})

    @jax.jit
    def run():
        def step(carry, g):
            updates, state = split.update({"a": g, "b": jnp.ones((2, 2))}, carry[1], carry[0])
            params = optax.apply_updates(carry[0], updates)
            return (params, state), params["a"]

        return jax.lax.scan(step, (params, split.init(params)), jnp.asarray(GRADIENTS))[1], path(make(room, row))

    in_partition, alone = run()
    np.testing.assert_allclose(in_partition, alone, rtol=2e-6, atol=2e-6)


def test_no_two_leaves_of_a_new_state_and_of_the_parameters_share_a_buffer():
    # what is donated twice is refused: jax.jit(step, donate_argnums=(0, 1))
    params = {"a": jnp.ones((4, 3)), "b": jnp.ones((2, 2))}
    skipping = [getattr(as_torch, row.name)(**row.numbers, **dict(row.static), unused="skip") for row in TORCH]
    others = [as_keras.sgd(clipnorm=lambda step: 1.0), as_torch.sgd(momentum=lambda step: 0.9)]
    plateau = as_torch.reduce_lr_on_plateau(lr=jnp.float32(0.1))
    for optimizer in [make(room, row) for room, row in ALL] + skipping + others + [plateau]:
        pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, optimizer.init(params)))]
        assert len(set(pointers)) == len(pointers)


@pytest.mark.few(5)
@each_case
def test_every_number_can_be_mapped_over(room, row):
    leaves, structure = jax.tree.flatten(row.numbers)
    halves = jnp.asarray([0.5, 1.0])

    def at(index, factor):
        """All numbers are traced, the one of the index is scaled: one program for all of them."""
        scales = jnp.where(jnp.arange(len(leaves)) == index, factor, 1.0)
        changed = jax.tree.unflatten(structure, [leaf * scale for leaf, scale in zip(leaves, scales)])
        return path(make(room, row, **changed))[-1]

    over_factors = jax.vmap(at, (None, 0))
    run = jax.jit(lambda: (jax.vmap(over_factors, (0, None))(jnp.arange(len(leaves)), halves), path(make(room, row))[-1]))
    found, constant = run()
    np.testing.assert_allclose(found[:, 1], np.stack([constant] * len(leaves)), rtol=2e-5, atol=2e-5)
    chex.assert_tree_all_finite(found)


@each_case
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_dtype_remembers_in_float32_and_stays_finite(room, row, dtype):
    optimizer = make(room, row)
    params = {"w": jnp.zeros((4, 3), dtype)}
    state = optimizer.init(params)
    updates, after = jax.eval_shape(optimizer.update, params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (params, state))
    assert dtype not in [leaf.dtype for leaf in jax.tree.leaves(state)]


@pytest.mark.long
def test_half_precision_stays_finite_where_gradients_are_zero_tiny_or_large():
    # eps is 0 in float16, and 1 - 0.999 in bfloat16
    @functools.partial(jax.jit, static_argnums=0)
    def run(dtype):
        return [path(make(room, row), dtype) for room, row in CASES] + [path(own(), dtype) for own in OWN]

    OWN = [
        lambda name=name: getattr(optimizers, name)(1e-3) for name in ("adam", "adamw", "nadam", "adamax", "amsgrad", "rmsprop")
    ]
    for dtype in (jnp.bfloat16, jnp.float16):
        for found in run(dtype):
            assert found.dtype == dtype
            assert np.isfinite(np.asarray(found, np.float32)).all()


def test_own_moments_of_bfloat16_are_float32_and_go_on_where_optax_stops():
    # optax keeps the second moment in bfloat16, where 0.999 rounds to 1
    g, theta = jnp.full(1, 0.5, jnp.bfloat16), jnp.ones(1, jnp.bfloat16)
    for optimizer, expected in ((optimizers.adam(1e-3), 1 - 0.999**3000), (optimizers.adamw(1e-3), 1 - 0.999**3000)):
        state = jax.lax.fori_loop(0, 3000, lambda i, s, o=optimizer: o.update(g, s, theta)[1], optimizer.init(theta))
        np.testing.assert_allclose(np.asarray(optax.tree.get(state, "nu")), 0.25 * expected, rtol=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("row", [TORCH[index] for index in (0, 5, 9, 11, 14, 18)], ids=str)
def test_a_leaf_without_a_gradient_is_passed_over_as_torch_does(row):
    torch = pytest.importorskip("torch")
    used = np.array([1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1], bool)
    params = {"always": jnp.asarray(start()[8:10, :3]), "at times": jnp.asarray(start()[10:12, :3])}
    theta = {name: torch.nn.Parameter(torch.tensor(np.asarray(leaf))) for name, leaf in params.items()}
    theirs = getattr(torch.optim, row.theirs)(list(theta.values()), **row.numbers, **dict(row.static))
    grads = {"always": stress()[:12, 8:10, :3], "at times": stress()[:12, 10:12, :3] * used[:, None, None]}
    optimizer = getattr(as_torch, row.name)(**row.numbers, **dict(row.static), unused="skip")

    @jax.jit
    def run(params, grads):
        def step(carry, g):
            updates, state = optimizer.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), grads)[0][0]

    for index in range(12):
        for name, leaf in theta.items():
            is_none = name == "at times" and not used[index]
            leaf.grad = None if is_none else torch.tensor(grads[name][index])
        theirs.step()
    found = run(params, {name: jnp.asarray(g) for name, g in grads.items()})
    for name, leaf in theta.items():
        np.testing.assert_allclose(found[name], leaf.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: as_torch.sgd(lr=-0.1), "`lr` must be finite and at least 0, got -0.1"),
        (lambda: as_torch.sgd(weight_decay=float("nan")), "`weight_decay` must be finite and at least 0, got nan"),
        (
            lambda: as_torch.sgd(momentum=0.9, dampening=0.1, nesterov=True),
            "`nesterov` must come with a momentum and without damp",
        ),
        (lambda: as_torch.sgd(nesterov=True), "got momentum=0.0 and dampening=0.0"),
        (lambda: as_torch.adam(betas=(0.9, 1.0)), "`beta2` must be at least 0 and below 1, got 1.0"),
        (lambda: as_torch.adadelta(rho=1.5), "`rho` must be at least 0 and at most 1, got 1.5"),
        (lambda: as_torch.rmsprop(alpha=1.5), "`alpha` must be at least 0 and at most 1, got 1.5"),
        (lambda: as_torch.sgd(lr=[0.1, 0.2]), "`lr` must be a scalar, got [0.1, 0.2]. Map over several values with jax.vmap"),
        (lambda: as_torch.sgd(lr=np.ones(2)), "`lr` must be a scalar, got an array of shape (2,)"),
        (lambda: as_keras.rmsprop(rho=1.5), "`rho` must be at least 0 and at most 1, got 1.5"),
        (lambda: as_keras.adadelta(rho=2.0), "`rho` must be at least 0 and at most 1, got 2.0"),
        (lambda: as_keras.sgd(momentum=1.5), "`momentum` must be at least 0 and at most 1, got 1.5"),
        (lambda: as_keras.sgd(use_ema=True, ema_momentum=1.5), "`ema_momentum` must be at least 0 and at most 1, got 1.5"),
        (lambda: as_torch.rprop(etas=(0.5, 0.9)), "`etas[1]` must be above 1, got 0.9"),
        (lambda: as_torch.muon(adjust_lr_fn="none"), "`adjust_lr_fn` must be one of original, match_rms_adamw, got 'none'"),
        (lambda: as_torch.adam(unused="none"), "`unused` must be one of zero, skip, got 'none'"),
        (lambda: as_torch.clip_grad_norm(-1.0), "`max_norm` must be finite and at least 0, got -1.0"),
        (lambda: as_torch.clip_grad_value(float("inf")), "`clip_value` must be finite and at least 0, got inf"),
        (lambda: as_keras.adam(float("inf")), "`learning_rate` must be finite and at least 0, got inf"),
        (lambda: as_keras.adam(weight_decay=-0.1), "`weight_decay` must be finite and at least 0, got -0.1"),
        (
            lambda: as_keras.sgd(clipnorm=1.0, clipvalue=1.0),
            "`clipnorm` must be the only kind of clipping, got clipnorm, clipvalue",
        ),
        (
            lambda: as_keras.sgd(gradient_accumulation_steps=1),
            "`gradient_accumulation_steps` must be a whole number of at least 2",
        ),
        (lambda: optimizers.adam(-1e-3), "`learning_rate` must be finite and at least 0, got -0.001"),
        (lambda: optimizers.adamw(1e-3, weight_decay=float("inf")), "`weight_decay` must be finite and at least 0, got inf"),
        (lambda: optimizers.nesterov(0.1, momentum=-0.9), "`momentum` must be finite and at least 0, got -0.9"),
        (lambda: optimizers.adam(1e-3, b2=1.0), "`b2` must be at least 0 and below 1, got 1.0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError) as caught:
        build()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: as_torch.adam(betas=0.9), "`betas` must be a pair, got 0.9"),
        (lambda: as_torch.sgd(lr="0.1"), "`lr` must be a number, a traced value or a schedule, got '0.1'"),
        (lambda: as_keras.adam(beta1=0.9), "`arguments` must be among weight_decay, clipnorm"),
    ],
)
def test_what_is_no_number_is_refused(build, message):
    with pytest.raises(TypeError) as caught:
        build()
    assert message in str(caught.value)


COMMON = [{}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"gradient_accumulation_steps": 2, "use_ema": True}]
KERAS_ADAMS = [lambda common=common: as_keras.adam(**common) for common in COMMON]


@pytest.mark.parametrize("build", [lambda: as_torch.adam(), lambda: optimizers.adam(1e-3), *KERAS_ADAMS])
def test_gradients_that_do_not_fit_are_refused_by_the_name_of_the_leaf(build):
    optimizer, params = build(), {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state = optimizer.init(params)
    with pytest.raises(
        ValueError, match=r"`grads` must have the shapes of `params`, got \(2,\) at 'w' where `params` has \(3, 2\)"
    ):
        optimizer.update({"w": jnp.ones(2), "b": jnp.ones(2)}, state, params)
    with pytest.raises(ValueError, match="`grads` must have the structure of `params`, got the leaf 'b' only in `params`"):
        optimizer.update({"w": jnp.ones((3, 2))}, state, params)
    with pytest.raises(ValueError, match="got the leaf 'c' only in `grads`"):
        optimizer.update({**params, "c": jnp.ones(1)}, state, params)


def test_muon_takes_matrices_only():
    with pytest.raises(ValueError, match=r"`params` must be matrices, got a leaf of shape \(2,\) at 'b'"):
        as_torch.muon().init({"w": jnp.ones((3, 2)), "b": jnp.ones(2)})


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_only_real_leaves_have_recipes(dtype):
    params = {"w": jnp.ones(2), "n": [jnp.ones(2, dtype)]}
    for optimizer in (as_torch.sgd(), as_keras.adam(clipnorm=1.0)):
        with pytest.raises(TypeError, match=rf"`params` must be real floating, got {jnp.dtype(dtype).name} at 'n\[0\]'"):
            optimizer.init(params)


def test_a_dampening_known_to_be_zero_is_none():
    as_torch.sgd(momentum=0.9, dampening=jnp.float32(0), nesterov=True)


def test_recipes_need_the_parameters():
    with pytest.raises(ValueError, match="`params` must be given to `update`, got None"):
        as_torch.sgd().update(jnp.ones(2), as_torch.sgd().init(jnp.ones(2)))


def test_the_average_of_keras_begins_at_the_parameters():
    params = {"w": jnp.asarray(PARAMS)}
    found = transforms.evaluation_params(as_keras.adam(use_ema=True).init(params), params)
    np.testing.assert_array_equal(found["w"], PARAMS)


def test_torch_clips_as_torch_does():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for scale in (1e-7, 0.1, 1.0, 1e4):
        leaves = [scale * rng.normal(size=shape).astype(np.float32) for shape in ((4, 3), (5,))]
        for p in (2.0, 1.0, float("inf")):
            theirs = [torch.nn.Parameter(torch.zeros(leaf.shape)) for leaf in leaves]
            for theta, leaf in zip(theirs, leaves):
                theta.grad = torch.tensor(leaf)
            torch.nn.utils.clip_grad_norm_(theirs, 1.0, p)
            ours = as_torch.clip_grad_norm(1.0, p)
            found, _ = ours.update([jnp.asarray(leaf) for leaf in leaves], ours.init(leaves))
            for theta, leaf in zip(theirs, found):
                np.testing.assert_allclose(leaf, theta.grad.numpy(), rtol=1e-6)
    for bad in ([np.inf, 1.0], [np.nan, 1.0]):
        theta = torch.nn.Parameter(torch.zeros(2))
        theta.grad = torch.tensor(bad)
        torch.nn.utils.clip_grad_norm_([theta], 1.0)
        ours = as_torch.clip_grad_norm(1.0)
        np.testing.assert_array_equal(ours.update(jnp.asarray(bad), ours.init(jnp.zeros(2)))[0], theta.grad.numpy())


def test_shaken_changes_the_last_bits_only():
    theta, gradients = shaken(np.float32, True)
    np.testing.assert_allclose(theta, start(), rtol=2e-7)
    np.testing.assert_allclose(gradients, stress(), rtol=3e-7)
    assert (theta != start().astype(np.float32)).all()
