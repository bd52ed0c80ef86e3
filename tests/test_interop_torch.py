"""From PyTorch: modules compute the same with their imported parameters, and optimizers go on where they stood."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk
from gradkit import as_torch

torch = pytest.importorskip("torch")
from gradkit.interop import torch as from_torch  # noqa: E402

OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("RMSprop", {"weight_decay": 0.01}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adagrad", {"lr_decay": 0.1}),
    ("Adadelta", {}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("Adamax", {}),
    ("NAdam", {"momentum_decay": 0.01}),
    ("RAdam", {}),
    ("Rprop", {}),
]


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).to(dtype)


def forward(params, x):
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"][None])
    return hidden @ params["2.weight"].T + params["2.bias"][None]


def train(module, optimizer, steps, seed=0):
    """Steps along gradients from noise; returns the gradients."""
    rng, taken = np.random.default_rng(seed), []
    for _ in range(steps):
        grads = {name: rng.normal(size=theta.shape) for name, theta in module.named_parameters()}
        for name, theta in module.named_parameters():
            theta.grad = torch.tensor(grads[name], dtype=theta.dtype)
        optimizer.step()
        taken.append(grads)
    return {name: np.stack([grads[name] for grads in taken]) for name in taken[0]} if taken else {}


def follow(optimizer, state, params, gradients):
    @jax.jit
    def run(params, state, gradients):
        def step(carry, g):
            updates, state = optimizer.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, state), gradients)[0][0]

    return run(params, state, gradients)


def assert_went_on(module, params, rtol=1e-12):
    for name, theta in module.named_parameters():
        np.testing.assert_allclose(np.asarray(params[name], np.float64), theta.detach().double().numpy(), rtol=rtol, atol=rtol)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("steps", [0, 7])
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=[f"{name} {' '.join(options)}" for name, options in OPTIMIZERS])
def test_an_optimizer_goes_on_where_it_stands(name, options, steps):
    module = network()
    theirs = getattr(torch.optim, name)(module.parameters(), **options)
    train(module, theirs, steps)
    params = from_torch.import_module(module)
    optimizer, state = from_torch.import_optimizer(theirs, params)
    gradients = train(module, theirs, 6, seed=1)
    assert_went_on(module, follow(optimizer, state, params, gradients))


@pytest.mark.usefixtures("x64")
def test_muon_goes_on_beside_what_it_does_not_hold(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    module = network()
    theirs = torch.optim.Muon([module[0].weight, module[2].weight])
    train(module, theirs, 5)
    params = from_torch.import_module(module)
    optimizer, state = from_torch.import_optimizer(theirs, params)
    gradients = train(module, theirs, 5, seed=1)
    assert_went_on(module, follow(optimizer, state, params, gradients))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("is_named", [True, False])
def test_groups_keep_their_rates_and_leaves_their_counts(is_named):
    module = network()
    pairs = list(module.named_parameters())
    first, second = (pairs[:2], pairs[2:]) if is_named else ([theta for _, theta in pairs[:2]], [theta for _, theta in pairs[2:]])
    theirs = torch.optim.AdamW([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.01, "weight_decay": 0.3}])
    train(module, theirs, 3)
    module[2].bias.grad = None
    theirs.step()
    params = jax.tree.map(lambda leaf: leaf, from_torch.import_module(module))
    optimizer, state = from_torch.import_optimizer(theirs, params)
    gradients = train(module, theirs, 4, seed=1)
    assert_went_on(module, follow(optimizer, state, params, gradients))
    with pytest.raises(ValueError, match="`unused` must be 'skip' where leaves made different numbers of steps"):
        from_torch.import_optimizer(theirs, from_torch.import_module(module), unused="zero")


def test_convolutions_and_half_precision_keep_layout_and_dtype():
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(2, 3, 3, padding=1)
    params = from_torch.import_module(convolution)
    x = np.random.default_rng(0).normal(size=(2, 2, 5, 5)).astype(np.float32)
    layout = ("NCHW", "OIHW", "NCHW")
    ours = jax.lax.conv_general_dilated(jnp.asarray(x), params["weight"], (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout)
    np.testing.assert_allclose(
        ours + params["bias"][:, None, None][None], convolution(torch.tensor(x)).detach().numpy(), atol=2e-6
    )
    module = network(torch.bfloat16)
    params = from_torch.import_module(module)
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype(jnp.bfloat16)}
    theirs = torch.optim.SGD(module.parameters(), lr=0.5)
    optimizer, state = from_torch.import_optimizer(theirs, params)
    gradients = {name: g.astype(jnp.bfloat16) for name, g in train(module, theirs, 2).items()}
    assert_went_on(module, follow(optimizer, state, params, gradients), rtol=2e-2)


def test_a_module_computes_the_same_and_a_fit_goes_on():
    module = network(torch.float32)
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    theirs = torch.optim.Adam(module.parameters(), lr=0.01)
    loss_in_torch = lambda: (module(torch.tensor(x)) ** 2).mean()  # noqa: E731
    for _ in range(3):
        theirs.zero_grad()
        loss_in_torch().backward()
        theirs.step()
    params = from_torch.import_module(module)
    np.testing.assert_allclose(forward(params, x), module(torch.tensor(x)).detach().numpy(), atol=1e-6)
    optimizer, state = from_torch.import_optimizer(theirs, params)
    descent = gk.descent(lambda params, batch: jnp.mean(forward(params, batch) ** 2), params, optimizer)
    begun = lambda key, data, validation: descent.init(key, data, validation)._replace(optimizer=state)  # noqa: E731
    fit = gk.fit(descent._replace(init=begun), x, steps=10, progress=False)
    for _ in range(10):
        theirs.zero_grad()
        loss_in_torch().backward()
        theirs.step()
    assert_went_on(module, fit.params, rtol=1e-5)


def test_schedules_go_on_by_the_same_count():
    module = network(torch.float32)
    theirs = torch.optim.Adam(module.parameters(), lr=1.0)
    train(module, theirs, 4)
    _, state = from_torch.import_optimizer(theirs, from_torch.import_module(module), unused="zero")
    assert state.inner_states["0"].inner_state.count == 4
    assert as_torch.step_lr(4, 0.5, lr=1.0)(state.inner_states["0"].inner_state.count) == 0.5


def test_what_cannot_be_imported_is_refused():
    module = network()
    with pytest.raises(TypeError, match=r"`torch_optimizer` must be one that gradkit\.as_torch has, got 'LBFGS'"):
        from_torch.import_optimizer(torch.optim.LBFGS(module.parameters()), from_torch.import_module(module))
    theirs = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    stale = from_torch.import_module(module)
    train(module, theirs, 1)
    with pytest.raises(ValueError, match="`params` must hold every parameter of the optimizer as it is now, got a parameter of"):
        from_torch.import_optimizer(theirs, stale)
    twins = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    theirs = torch.optim.SGD(twins, lr=0.0, momentum=0.9)
    twins[0].grad, twins[1].grad = torch.ones(2), 2 * torch.ones(2)
    theirs.step()
    with pytest.raises(ValueError, match="`params` must be told apart by their values"):
        from_torch.import_optimizer(theirs, {"a": jnp.zeros(2), "b": jnp.zeros(2)})
