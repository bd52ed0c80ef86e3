"""From PyTorch: the parameters of a module, and a live optimizer in the middle of its training, go on in gradkit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradkit import as_torch
from gradkit.checks import Described, refuse, require
from gradkit.transforms import RuleState
from gradkit.trees import leaf_names


class Kind(NamedTuple):
    """How an optimizer of torch is called here.

    Attributes:
        name: Of the recipe in ``gradkit.as_torch``.
        arguments: Of the group's options that the recipe takes.
        memory: Names in torch's state of what a leaf remembers, in the order of the recipe's.
    """

    name: str
    arguments: tuple[str, ...]
    memory: tuple[str, ...]


ADAM = ("lr", "betas", "eps", "weight_decay", "maximize")
MOMENTS = ("exp_avg", "exp_avg_sq")
KINDS = {
    "SGD": Kind("sgd", ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"), ("momentum_buffer",)),
    "RMSprop": Kind(
        "rmsprop", ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"),
        ("square_avg", "grad_avg", "momentum_buffer"),
    ),
    "Adagrad": Kind("adagrad", ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps", "maximize"), ("sum",)),
    "Adadelta": Kind("adadelta", ("lr", "rho", "eps", "weight_decay", "maximize"), ("square_avg", "acc_delta")),
    "Adam": Kind("adam", (*ADAM, "amsgrad", "decoupled_weight_decay"), (*MOMENTS, "max_exp_avg_sq")),
    "AdamW": Kind("adamw", (*ADAM, "amsgrad"), (*MOMENTS, "max_exp_avg_sq")),
    "Adamax": Kind("adamax", ADAM, ("exp_avg", "exp_inf")),
    "NAdam": Kind("nadam", (*ADAM, "momentum_decay", "decoupled_weight_decay"), (*MOMENTS, "mu_product")),
    "RAdam": Kind("radam", (*ADAM, "decoupled_weight_decay"), MOMENTS),
    "Rprop": Kind("rprop", ("lr", "etas", "step_sizes", "maximize"), ("prev", "step_size")),
    "Muon": Kind(
        "muon", ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"),
        ("momentum_buffer",),
    ),
}  # fmt: skip


def import_module(torch_module: Any) -> dict[str, jax.Array]:
    """The parameters of a ``torch.nn.Module`` by torch's names, in torch's layouts and dtypes.

    ``nn.Linear`` has a weight of ``(outputs, inputs)``: ``x @ weight.T + bias``. ``nn.Conv2d`` has ``(outputs, inputs, height,
    width)``: ``jax.lax.conv_general_dilated(x, weight, strides, padding, dimension_numbers=("NCHW", "OIHW", "NCHW"))``. What
    is shared appears once, what is frozen appears as well, buffers (batch statistics) do not.

    Args:
        torch_module: Any module; its parameters are copied.

    Returns:
        A flat dict of arrays: a pytree for ``gk.descent``.
    """
    return {name: _array(theta) for name, theta in torch_module.named_parameters()}


def import_optimizer(
    torch_optimizer: Any, params: Any, *, unused: str = "skip"
) -> tuple[optax.GradientTransformationExtraArgs, Any]:
    """A live optimizer of torch as a transformation and its state, whose next steps equal torch's.

    Its rates are what torch's groups hold now, and stay: a scheduler of torch cannot be seen from its optimizer. To go on with
    one, make the recipe yourself with a schedule of ``gk.as_torch`` and give it this state: both count updates alike.

    Args:
        torch_optimizer: One of ``torch.optim``'s that ``gradkit.as_torch`` has, before or between its steps.
        params: The parameters it trains, as :func:`import_module` gives them now. They are found by their names if the optimizer
            was made with ``module.named_parameters()``, else by their values.
        unused: What a gradient of zeros means: ``"skip"``, as for torch a ``grad`` of None, or ``"zero"``. Static.

    Returns:
        ``(optimizer, state)``. Leaves that torch's optimizer does not hold get no updates.

    Raises:
        TypeError: An optimizer that ``gradkit.as_torch`` does not have.
        ValueError: A parameter that is not among ``params``, or not to be told from another.

    References:
        https://docs.pytorch.org/docs/stable/optim.html
    """
    class_name = type(torch_optimizer).__name__
    remedy = f"There are {', '.join(KINDS)}."
    require(class_name in KINDS, "torch_optimizer", "be one that gradkit.as_torch has", class_name, remedy, error=TypeError)
    kind, leaves = KINDS[class_name], dict(zip(leaf_names(params), jax.tree.leaves(params)))
    names = dict(zip(leaves, _raw_names(params)))
    labels, optimizers, members = dict.fromkeys(leaves, "rest"), {"rest": optax.set_to_zero()}, {}
    for index, group in enumerate(torch_optimizer.param_groups):
        label = str(index)
        arguments = {name: _number(group[name]) for name in kind.arguments if name in group}
        optimizers[label] = getattr(as_torch, kind.name)(**arguments, unused=unused)
        free = {name: leaf for name, leaf in leaves.items() if labels[name] == "rest"}
        members[label] = _match(group, free, names, torch_optimizer.state)
        labels |= dict.fromkeys(members[label], label)
    tree = jax.tree.unflatten(jax.tree.structure(params), list(labels.values()))
    optimizer = optax.partition(optimizers, tree)
    state = optimizer.init(params)
    inner = dict(state.inner_states)
    for label, own in members.items():
        masked = inner[label]
        inner[label] = masked._replace(inner_state=_filled(masked.inner_state, kind, own, leaves, torch_optimizer.state))
    return optimizer, state._replace(inner_states=inner)


def _filled(state: RuleState, kind: Kind, members: dict[str, Any], leaves: dict[str, Any], torch_states: Any) -> RuleState:
    """The state with torch's memory in the place of its own."""
    own = [torch_states.get(members[name], {}) if name in members else None for name in leaves]
    held = [entry for entry in own if entry is not None]
    steps = [_steps(entry) for entry in held]
    is_memory = lambda node: isinstance(node, tuple) and not isinstance(node, optax.MaskedNode)  # noqa: E731
    memories, structure = jax.tree.flatten(state.memory, is_leaf=is_memory)
    filled = [_remembered(kind, fresh, entry) for fresh, entry in zip(memories, held)]
    count = jnp.asarray(max(steps, default=0), jnp.int32)
    if isinstance(state.steps, jax.Array):
        given = Described(f"counts from {min(steps)} to {max(steps)}") if steps else ""
        require(len(set(steps)) <= 1, "unused", "be 'skip' where leaves made different numbers of steps", given, "Leave it out.")
        new_steps = count
    else:
        new_steps = jax.tree.unflatten(jax.tree.structure(state.steps), [jnp.asarray(n, jnp.int32) for n in steps])
    return RuleState(count, new_steps, jax.tree.unflatten(structure, filled))


def _steps(entry: dict[str, Any]) -> int:
    """Updates that a parameter took part in; SGD and Muon do not count, and only the first of theirs differs."""
    return int(entry["step"]) if "step" in entry else int(any(value is not None for value in entry.values()))


def _remembered(kind: Kind, fresh: tuple, entry: dict[str, Any]) -> tuple:
    """What a leaf remembers: torch's, and what it begins with where torch has not begun."""
    found = [entry[name] for name in kind.memory if entry.get(name) is not None]
    if len(found) != len(fresh):
        return fresh
    return tuple(_array(value).astype(own.dtype).reshape(own.shape) for value, own in zip(found, fresh))


def _match(group: dict, leaves: dict[str, Any], names: dict[str, str], torch_states: Any) -> dict[str, Any]:
    """The parameters of a group by the names of their leaves."""
    members: dict[str, Any] = {}
    for index, theta in enumerate(group["params"]):
        given = group["param_names"][index] if "param_names" in group else None
        value = np.asarray(_array(theta))
        free = [name for name in leaves if name not in members]
        if given in names.values():
            found = [name for name in free if names[name] == given]
        else:
            found = [name for name in free if np.array_equal(np.asarray(leaves[name]), value)]
        what = Described(f"a parameter of shape {value.shape}" if given is None else repr(given))
        require(found, "params", "hold every parameter of the optimizer as it is now", what, "Import the module again.")
        twins = [other for other in group["params"][index + 1 :] if np.array_equal(np.asarray(_array(other)), value)]
        if len(found) > 1 and (given is None) and any(not _is_alike(theta, other, torch_states) for other in twins):
            refuse("params", "be told apart by their values", what, "Make torch's optimizer with module.named_parameters().")
        members[found[0]] = theta
    return members


def _is_alike(theta: Any, other: Any, torch_states: Any) -> bool:
    """Whether torch remembers the same of two parameters."""
    one, two = torch_states.get(theta, {}), torch_states.get(other, {})
    return one.keys() == two.keys() and all(
        np.array_equal(np.asarray(_array(one[name])), np.asarray(_array(two[name]))) for name in one if one[name] is not None
    )


def _raw_names(params: Any) -> list[str]:
    """The keys of a flat dict, which are torch's names; for another tree the names of its leaves."""
    is_flat = isinstance(params, dict) and len(params) == len(jax.tree.leaves(params))
    return list(map(str, sorted(params))) if is_flat else leaf_names(params)


def _array(tensor: Any) -> jax.Array:
    """A copy of a tensor; numpy has no bfloat16, so that one goes by way of float32."""
    if not hasattr(tensor, "detach"):
        return jnp.asarray(tensor)
    host = tensor.detach().cpu()
    is_bfloat16 = str(host.dtype) == "torch.bfloat16"
    array = jnp.array(host.float().numpy() if is_bfloat16 else host.numpy())
    return array.astype(jnp.bfloat16) if is_bfloat16 else array


def _number(value: Any) -> Any:
    """An option of a group: tensors become numbers."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_number, value))
    return value.item() if hasattr(value, "item") else value
