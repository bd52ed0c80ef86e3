"""Ten thousand steps of Adam in float32: how far from float64, beside torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk

torch = pytest.importorskip("torch")
STEPS, SIZE = 10_000, 4096


def gradients(start):
    """A thousand steps of gradients of every scale, float32."""
    random = np.random.default_rng(start)
    return (random.normal(size=(1000, SIZE)) * np.geomspace(1e-3, 1e1, SIZE)).astype(np.float32)


def torch_path(theta):
    parameter = torch.nn.Parameter(torch.tensor(theta))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    for start in range(0, STEPS, 1000):
        for g in torch.tensor(gradients(start).astype(theta.dtype)):
            parameter.grad = g
            optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.long
def test_adam_ends_no_farther_from_float64_than_torchs(x64):
    theta = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)
    optimizer = gk.optimizers.adam(1e-3)

    @jax.jit
    def advance(carry, grads):
        def step(carry, g):
            theta, state = carry
            updates, state = optimizer.update(g, state, theta)
            return (optax.apply_updates(theta, updates), state), None

        return jax.lax.scan(step, carry, grads)[0]

    carry = (jnp.asarray(theta), optimizer.init(jnp.asarray(theta)))
    for start in range(0, STEPS, 1000):
        carry = advance(carry, gradients(start))
    exact = torch_path(theta.astype(np.float64))
    ours, theirs = (np.sqrt(np.mean((path - exact) ** 2)) for path in (carry[0], torch_path(theta)))
    assert carry[0].dtype == jnp.float32
    assert ours <= theirs * (1 + 3 / np.sqrt(SIZE))  # three standard errors of the ratio of two such samples
    assert ours < 1e-5
