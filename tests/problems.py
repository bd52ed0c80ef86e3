"""Small problems that the tests of the engine share; the functions are module level so that compiled programs are shared too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradkit as gk

EIGENVALUES = np.geomspace(0.1, 10.0, 5)


def quadratic(params, batch):
    """Half the sum of eigenvalue times coordinate squared; the batch is not looked at."""
    return 0.5 * jnp.sum(jnp.asarray(EIGENVALUES, params.dtype) * params**2)


def descend_quadratic(h):
    """Plain gradient descent from all ones."""
    return gk.descent(quadratic, jnp.ones(5), optax.sgd(h.learning_rate))


def regression_data(n=96, d=6):
    """Inputs (n, d) and targets (n,) of a noisy linear map."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(n, d)).astype(np.float32)
    targets = np.tanh(inputs @ rng.normal(size=d)) + 0.1 * rng.normal(size=n)
    return inputs, targets.astype(np.float32)


def init_net(key, d=6, width=7):
    """Parameters of a net with one hidden layer."""
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (d, width)) / np.sqrt(d),
        "bias": jnp.zeros(width),
        "out": jax.random.normal(second, (width,)) / np.sqrt(width),
    }


def apply_net(params, inputs):
    """Scores (n,) of inputs (n, d)."""
    return jnp.tanh(inputs @ params["hidden"] + params["bias"][None, :]) @ params["out"]


def net_loss(params, batch):
    """Mean squared error of the net."""
    inputs, targets = batch
    return jnp.mean((apply_net(params, inputs) - targets) ** 2)


def adam_net(h):
    """The net under Adam at a swept rate."""
    return gk.descent(net_loss, init_net, optax.adam(h.learning_rate))


def sgd_net(h):
    """The net under plain descent at a swept rate."""
    return gk.descent(net_loss, init_net, optax.sgd(h.learning_rate))


def errors(params, batch):
    """A metric besides the loss."""
    return {"mean_error": jnp.mean(jnp.abs(apply_net(params, batch[0]) - batch[1]))}


def same_bits(one, other):
    """Whether two trees hold the same bits, NaN included."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in leaves)
