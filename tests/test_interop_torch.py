"""From PyTorch: modules compute the same with their imported parameters, and optimizers go on where they stood."""

from collections import OrderedDict

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


def train(module, optimizer, steps, seed=0, scheduler=None):
    """Steps along gradients from noise, which frozen parameters do not get; returns the gradients."""
    rng, taken = np.random.default_rng(seed), []
    for _ in range(steps):
        grads = {name: rng.normal(size=theta.shape) for name, theta in module.named_parameters()}
        for name, theta in module.named_parameters():
            theta.grad = torch.tensor(grads[name], dtype=theta.dtype) if theta.requires_grad else None
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
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


@pytest.mark.few(4)
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


def fresh_network():
    """Biases of zeros, of which two have the shape of the norm's."""
    torch.manual_seed(0)
    body, norm, head = torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 4)
    for layer in (body, head):
        torch.nn.init.zeros_(layer.bias)
    return torch.nn.ModuleDict({"body": body, "norm": norm, "head": head}).double()


def held(state, label):
    """Names of the leaves of a group, of a state with ``unused="skip"``."""
    return {name for name, num in state.inner_states[label].inner_state.steps.items() if isinstance(num, jax.Array)}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("is_all", [True, False], ids=["another group", "not held"])
def test_a_module_tells_equal_parameters_apart(is_all):
    module = fresh_network()
    groups = [{"params": module["head"].parameters(), "lr": 1e-2}]
    if is_all:
        groups.append({"params": [*module["body"].parameters(), *module["norm"].parameters()], "lr": 1e-4})
    theirs = torch.optim.SGD(groups)
    params = from_torch.import_module(module)
    with pytest.raises(ValueError, match=r"`params` must be told apart by .*, got a parameter of shape \(4,\)\. Pass module="):
        from_torch.import_optimizer(theirs, params)
    optimizer, state = from_torch.import_optimizer(theirs, params, module=module)
    assert held(state, "0") == {"head.weight", "head.bias"}
    gradients = train(module, theirs, 2)
    assert_went_on(module, follow(optimizer, state, params, gradients))


def test_equal_parameters_that_the_optimizer_treats_alike_need_no_module():
    module = fresh_network()
    params = from_torch.import_module(module)
    _, state = from_torch.import_optimizer(torch.optim.Adam(module.parameters()), params)
    assert held(state, "0") == set(params)


@pytest.mark.parametrize("is_named", [True, False])
def test_names_go_with_their_leaves_whatever_the_order_or_depth_of_the_tree(is_named):
    module = fresh_network()
    params = OrderedDict(reversed(from_torch.import_module(module).items()))
    pairs = [(name, theta) for name, theta in module.named_parameters() if name.endswith("bias")]
    theirs = torch.optim.SGD(pairs if is_named else [theta for _, theta in pairs])
    module = None if is_named else module
    _, state = from_torch.import_optimizer(theirs, params, module=module)
    assert held(state, "0") == {name for name, _ in pairs}
    nested = {layer: {kind: params[f"{layer}.{kind}"] for kind in ("weight", "bias")} for layer in ("body", "head", "norm")}
    _, state = from_torch.import_optimizer(theirs, nested, module=module)
    steps = state.inner_states["0"].inner_state.steps
    assert all(isinstance(layer["weight"], optax.MaskedNode) and layer["bias"] == 0 for layer in steps.values())


@pytest.mark.usefixtures("x64")
def test_frozen_parameters_stay():
    module = network()
    theirs = torch.optim.AdamW(module.named_parameters(), weight_decay=0.3)
    train(module, theirs, 3)
    module[0].requires_grad_(False)
    train(module, theirs, 2)
    params = from_torch.import_module(module)
    optimizer, state = from_torch.import_optimizer(theirs, params, unused="zero")
    gradients = train(module, theirs, 3, seed=1)
    assert_went_on(module, follow(optimizer, state, params, gradients))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "options", "changed"),
    [
        ("SGD", {"lr": 0.1}, {"momentum": 0.9, "dampening": 0.5}),
        ("RMSprop", {"momentum": 0.9, "centered": True}, {"momentum": 0}),
        ("RMSprop", {"momentum": 0.9, "centered": True}, {"centered": False}),
        ("Adam", {"amsgrad": True}, {"amsgrad": False}),
    ],
    ids=["SGD with momentum", "RMSprop without momentum", "RMSprop not centered", "Adam without amsgrad"],
)
def test_options_changed_between_steps_keep_the_rest_of_the_memory(name, options, changed):
    module = network()
    theirs = getattr(torch.optim, name)(module.parameters(), **options)
    train(module, theirs, 3)
    theirs.param_groups[0].update(changed)
    params = from_torch.import_module(module)
    optimizer, state = from_torch.import_optimizer(theirs, params)
    gradients = train(module, theirs, 3, seed=1)
    assert_went_on(module, follow(optimizer, state, params, gradients))


@pytest.mark.parametrize("unused", ["zero", "skip"])
def test_parameters_may_be_a_tuple(unused):
    module = network(torch.float32)
    theirs = torch.optim.RMSprop(module.parameters(), momentum=0.9)
    train(module, theirs, 2)
    params = tuple(from_torch.import_module(module).values())
    optimizer, state = from_torch.import_optimizer(theirs, params, unused=unused)
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(params))
    remembered = state.inner_states["0"].inner_state.memory[0][1]
    np.testing.assert_array_equal(remembered, theirs.state[module[0].weight]["momentum_buffer"].numpy())


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
    params = from_torch.import_module(module)
    _, state = from_torch.import_optimizer(theirs, params, unused="zero")
    assert state.inner_states["0"].inner_state.count == 4
    assert as_torch.step_lr(4, 0.5, lr=1.0)(state.inner_states["0"].inner_state.count) == 0.5
    _, state = from_torch.import_optimizer(theirs, params, steps=9)
    assert state.inner_states["0"].inner_state.count == 9
    assert set(map(int, state.inner_states["0"].inner_state.steps.values())) == {4}


@pytest.mark.usefixtures("x64")
def test_schedules_go_on_from_given_steps_where_torch_does_not_count():
    module = network()
    theirs = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, dampening=0.2)
    scheduler = torch.optim.lr_scheduler.StepLR(theirs, 4, gamma=0.5)
    train(module, theirs, 7, scheduler=scheduler)
    params = from_torch.import_module(module)
    _, state = from_torch.import_optimizer(theirs, params, steps=scheduler.last_epoch)
    rate = as_torch.step_lr(4, 0.5, lr=theirs.param_groups[0]["initial_lr"])
    optimizer = as_torch.sgd(lr=rate, momentum=0.9, dampening=0.2, unused="skip")
    gradients = train(module, theirs, 6, seed=1, scheduler=scheduler)
    assert_went_on(module, follow(optimizer, state.inner_states["0"].inner_state, params, gradients))


def test_only_the_steps_of_torch_itself_are_taken_over(monkeypatch):
    module = network()
    params = from_torch.import_module(module)

    class Heir(torch.optim.SGD):
        pass

    class Adam(torch.optim.Optimizer):
        def step(self):
            pass

    class Rebel(torch.optim.SGD):
        def step(self):
            pass

    # as if no SGD had been made before: torch wraps the step of the first class that is
    monkeypatch.delattr(torch.optim.SGD.step, "hooked", raising=False)
    _, state = from_torch.import_optimizer(Heir(module.parameters(), lr=0.1), params)
    assert "step" in vars(Heir)
    assert held(state, "0") == set(params)
    with pytest.raises(TypeError, match=r"`torch_optimizer` must be one that gradkit\.as_torch has, got '.*Adam'"):
        from_torch.import_optimizer(Adam(module.parameters(), {}), params)
    with pytest.raises(TypeError, match=r"`torch_optimizer` must step as torch's SGD does, got '.*Rebel'"):
        from_torch.import_optimizer(Rebel(module.parameters(), lr=0.1), params)


def test_what_cannot_be_imported_is_refused():
    module = network()
    with pytest.raises(
        TypeError, match=r"`torch_optimizer` must be one that gradkit\.as_torch has, got 'torch\.optim\.lbfgs\.LBFGS'"
    ):
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


def test_names_bind_and_so_do_shapes():
    module = network()
    params = from_torch.import_module(module)
    theirs = torch.optim.AdamW(module.named_parameters())
    with pytest.raises(
        ValueError, match=r"`params` must have torch's shapes, got \(3, 4\) at '0\.weight' where torch has \(4, 3\)"
    ):
        from_torch.import_optimizer(theirs, params | {"0.weight": params["0.weight"].T})
    without = {name: leaf for name, leaf in params.items() if name != "2.bias"}
    with pytest.raises(ValueError, match=r"`params` must hold every parameter of the optimizer by its name, got '2\.bias'"):
        from_torch.import_optimizer(theirs, without)
    with pytest.raises(ValueError, match="`module` must hold every parameter of the optimizer, got a module without a parameter"):
        from_torch.import_optimizer(theirs, params, module=network())
    with pytest.raises(ValueError, match="`steps` must be a whole number of at least 0, got -1"):
        from_torch.import_optimizer(theirs, params, steps=-1)
