"""Optimizers and schedules that are wrong in ways that others have been: the comparison with torch catches each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import TORCH, assert_same, descend, start, stress
from test_as_torch import torch_path

from gradkit import as_torch

pytestmark = pytest.mark.usefixtures("x64")


def row(name):
    return next(row for row in TORCH if row.name == name)


def no_first_exception(lr, momentum, dampening, weight_decay):
    """SGD that dampens its first step too."""
    trace = optax.chain(optax.add_decayed_weights(weight_decay), optax.scale(1 - dampening), optax.trace(momentum))
    return optax.chain(trace, optax.scale(-lr))


def eps_in_the_root(lr, betas, eps, weight_decay):
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(lr, *betas, eps=0.0, eps_root=eps))


def ascending(lr, rho, eps, weight_decay):
    """What ``optax.adadelta()`` does without a rate."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adadelta(None, rho, eps))


def stale(lr, etas, step_sizes):
    """``optax.rprop``, which makes each step one update late."""
    return optax.rprop(lr, *etas, *step_sizes)


MUTANTS = {"sgd": no_first_exception, "adam": eps_in_the_root, "adadelta": ascending, "rprop": stale}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_known_mistake_of_an_optimizer_is_caught(name):
    recipe = row(name)
    theirs = torch_path(recipe, recipe.numbers, 0.0, start(), stress())
    run = jax.jit(lambda make: descend(make, jnp.asarray(start()), jnp.asarray(stress())), static_argnums=0)
    assert_same(np.asarray(run(getattr(as_torch, name)(**recipe.numbers))), theirs, 4)
    with pytest.raises(AssertionError):
        assert_same(np.asarray(run(MUTANTS[name](**recipe.numbers))), theirs, 4)


def test_a_cycle_that_is_a_step_late_is_caught():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.1)
    scheduler, rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, 40), []
    for step in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < 39:
            scheduler.step()
    schedule = as_torch.one_cycle_lr(0.3, 40)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(40)), rates, rtol=1e-12, atol=1e-12)
    for shift in (-1, 1):
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(40) + shift), rates, rtol=1e-12, atol=1e-12)
