"""Matrices are never decomposed side by side on a CPU, where batched calls of LAPACK may wait for each other for ever."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk
from gradkit.decompositions import uses_decompositions

PLACES = jnp.linspace(-1, 1, 12)
VALUES = jnp.sin(3 * PLACES)


def likelihood(params, batch):
    """Of a Gaussian process: two decompositions at a time."""
    places, values = batch
    length, noise = jnp.exp(params)
    kernel = jnp.exp(-((places[:, None] - places[None, :]) ** 2) / (2 * length**2)) + noise * jnp.eye(len(places))
    root = jnp.linalg.cholesky(kernel)
    whitened = jax.scipy.linalg.solve_triangular(root, values, lower=True)
    return whitened @ whitened / 2 + jnp.sum(jnp.log(jnp.diag(root)))


def make(h):
    return gk.descent(likelihood, jnp.zeros(2), optax.sgd(h.learning_rate))


def test_members_that_decompose_run_in_a_loop_and_agree_with_it():
    space = gk.grid(learning_rate=gk.geomspace(1e-3, 1e-1, 8))
    sweep = gk.sweep(make, (PLACES, VALUES), space, steps=5)
    assert sweep.plan.programs[0].widths == (1,)
    alone = gk.sweep(make, (PLACES, VALUES), space, steps=5, plan=gk.Plan(width=1))
    np.testing.assert_array_equal(sweep.table().final_loss, alone.table().final_loss)


def test_a_width_that_may_hang_is_refused():
    space = gk.grid(learning_rate=[1e-3, 1e-2])
    with pytest.raises(ValueError, match=r"`plan.width` must be 1 for steps that decompose matrices .* got 2"):
        gk.sweep(make, (PLACES, VALUES), space, steps=5, plan=gk.Plan(width=2))


def test_orthogonal_weights_begin_one_by_one_and_train_side_by_side():
    def init(key):
        return jax.nn.initializers.orthogonal()(key, (3, 3))

    def loss(weights, batch):
        return jnp.mean((batch[0] @ weights - batch[1]) ** 2)

    data = (jnp.eye(3), 2 * jnp.eye(3))
    sweep = gk.sweep(
        lambda h: gk.descent(loss, init, optax.sgd(h.learning_rate)),
        data,
        gk.grid(learning_rate=[1e-9], seed=range(4)),
        steps=1,
        plan=gk.Plan(width=4),
        order="shared",
    )
    for member in range(4):
        weights = np.asarray(sweep.params(member))
        np.testing.assert_allclose(weights @ weights.T, np.eye(3), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "is_one"),
    [
        (jnp.linalg.cholesky, True), (jnp.linalg.eigh, True), (jnp.linalg.svd, True), (jnp.linalg.inv, True),
        (jnp.linalg.det, True), (jnp.linalg.qr, True), (lambda a: jnp.linalg.solve(a, a[0]), True),
        (lambda a: jax.lax.cond(a[0, 0] > 0, jnp.linalg.cholesky, lambda a: a, a), True),
        (lambda a: jax.lax.fori_loop(0, 2, lambda _, a: jnp.linalg.cholesky(a), a), True),
        (jax.grad(lambda a: jnp.sum(a @ a)), False),
    ],
)  # fmt: skip
def test_decompositions_are_seen_wherever_they_stand(function, is_one):
    assert uses_decompositions(jax.make_jaxpr(function)(jnp.eye(4))) == is_one
