"""From PyTorch: the parameters of a module, and a live optimizer in the middle of its training, go on in gradkit."""

import hashlib
import inspect
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradkit import as_torch
from gradkit.checks import Described, require, whole_number
from gradkit.transforms import RuleState


class Kind(NamedTuple):
    """How an optimizer of torch is called here.

    Attributes:
        name: Of the recipe in ``gradkit.as_torch``.
        arguments: Of the group's options that the recipe takes.
        memory: Names in torch's state of what a leaf remembers, in the order of the recipe's; each with the option without which
            the recipe has no place for it, or None.
    """

    name: str
    arguments: tuple[str, ...]
    memory: dict[str, str | None]


@dataclass(frozen=True, eq=False)
class Member:
    """A parameter that torch's optimizer trains; no pytree, so that it can stand for its leaf.

    Attributes:
        theta: The parameter itself.
        memory: What torch remembers of it, by torch's names.
        label: Of its group.
        name: In its module, where that is known.
    """

    theta: Any
    memory: dict[str, Any]
    label: str
    name: str | None


ADAM = ("lr", "betas", "eps", "weight_decay", "maximize")
MOMENTS = {"exp_avg": None, "exp_avg_sq": None}
LARGEST = {"max_exp_avg_sq": "amsgrad"}
KINDS = {
    "SGD": Kind(
        "sgd", ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"), {"momentum_buffer": "momentum"}
    ),
    "RMSprop": Kind(
        "rmsprop", ("lr", "alpha", "eps", "weight_decay", "momentum", "centered", "maximize"),
        {"square_avg": None, "grad_avg": "centered", "momentum_buffer": "momentum"},
    ),
    "Adagrad": Kind("adagrad", ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps", "maximize"), {"sum": None}),
    "Adadelta": Kind("adadelta", ("lr", "rho", "eps", "weight_decay", "maximize"), {"square_avg": None, "acc_delta": None}),
    "Adam": Kind("adam", (*ADAM, "amsgrad", "decoupled_weight_decay"), MOMENTS | LARGEST),
    "AdamW": Kind("adamw", (*ADAM, "amsgrad"), MOMENTS | LARGEST),
    "Adamax": Kind("adamax", ADAM, {"exp_avg": None, "exp_inf": None}),
    "NAdam": Kind("nadam", (*ADAM, "momentum_decay", "decoupled_weight_decay"), MOMENTS | {"mu_product": None}),
    "RAdam": Kind("radam", (*ADAM, "decoupled_weight_decay"), MOMENTS),
    "Rprop": Kind("rprop", ("lr", "etas", "step_sizes", "maximize"), {"prev": None, "step_size": None}),
    "Muon": Kind(
        "muon", ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"),
        {"momentum_buffer": None},
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
    torch_optimizer: Any, params: Any, *, module: Any = None, steps: int | None = None, unused: str = "skip"
) -> tuple[optax.GradientTransformationExtraArgs, Any]:
    """A live optimizer of torch as a transformation and its state, whose next steps equal torch's.

    Those of Muon to bfloat16 only: its products are in the dtype of the parameters here, in bfloat16 in torch.

    Its rates are what torch's groups hold now, and stay: a scheduler of torch cannot be seen from its optimizer. To go on with
    one, make the recipe yourself, with a schedule of ``gk.as_torch`` that begins at the group's ``initial_lr`` and with the
    ``unused`` given here. If one group trains all leaves, its state is ``state.inner_states["0"].inner_state``; else put the
    recipes at ``"0"``, ``"1"``, ... and ``optax.set_to_zero()`` at ``"rest"`` of an ``optax.partition``, and give it ``state``.

    Two counts go on. ``count`` of this :class:`RuleState` is what schedules are asked with: ``steps``, or without it the updates
    that torch counted, the most of the group; where torch does not count (SGD, Muon) it is 1, or 0 where nothing is remembered.
    Its ``steps``, the ``t`` of first steps and of corrections of the bias, are torch's, whatever is given.

    Args:
        torch_optimizer: One of ``torch.optim``'s that ``gradkit.as_torch`` has, or of a subclass that leaves ``step`` alone,
            before or between its steps. Hooks are not seen.
        params: The parameters it trains, as :func:`import_module` gives them now; others may be among them.
        module: The ``torch.nn.Module`` of its parameters, which are found by their names there. Without it they are found by the
            names that the optimizer was made with (``module.named_parameters()``) if ``params`` has any of these, else by their
            values, which does not do where leaves are equal, as fresh biases are, and torch treats them differently.
        steps: Updates that torch made, where its optimizer does not count them; schedules go on from there. It is
            ``scheduler.last_epoch`` if the scheduler steps with each update.
        unused: What a gradient of zeros means. ``"skip"``: none, as for torch a ``grad`` of None; choose it where the loss leaves
            some leaves out, whose gradients in jax are zeros. ``"zero"``: a gradient, along which momentum, decay and counts move
            on; choose it where the loss uses all leaves, and all of a leaf's gradient may vanish (dead units, masked batches).
            Static.

    Returns:
        ``(optimizer, state)``. Leaves that torch's optimizer does not hold, or that require no gradient there, get no updates.

    Raises:
        TypeError: An optimizer that ``gradkit.as_torch`` does not have, or with a step of its own.
        ValueError: A parameter that is not among ``params``, has another shape there, is not in ``module``, or is not to be told
            from another leaf; ``steps`` is negative.

    References:
        https://docs.pytorch.org/docs/stable/optim.html
    """
    kind, tree = _kind(torch_optimizer), jax.tree.structure(params)
    if steps is not None:
        steps = whole_number("steps", steps, at_least=0, remedy="It counts the updates that torch made.")
    owners = _owners(_members(torch_optimizer, module), params, is_named=module is not None)
    labels = jax.tree.unflatten(tree, ["rest" if owner is None else owner.label for owner in owners])
    groups, optimizers = {str(i): group for i, group in enumerate(torch_optimizer.param_groups)}, {"rest": optax.set_to_zero()}
    for label, group in groups.items():
        arguments = {name: _number(group[name]) for name in kind.arguments if name in group}
        optimizers[label] = getattr(as_torch, kind.name)(**arguments, unused=unused)
    optimizer = optax.partition(optimizers, labels)
    state = optimizer.init(params)
    inner = dict(state.inner_states)
    for label, group in groups.items():
        own = [owner if owner is not None and owner.label == label else optax.MaskedNode() for owner in owners]
        slots = [name for name, option in kind.memory.items() if option is None or _number(group.get(option, False))]
        filled = _filled(inner[label].inner_state, jax.tree.unflatten(tree, own), slots, steps)
        inner[label] = inner[label]._replace(inner_state=filled)
    return optimizer, state._replace(inner_states=inner)


def _kind(torch_optimizer: Any) -> Kind:
    """The kind of an optimizer by the class of torch that makes its steps."""
    own = type(torch_optimizer)
    bases = [base for base in own.__mro__ if f"{base.__module__}.".startswith("torch.optim.") and base.__name__ in KINDS]
    given, remedy = f"{own.__module__}.{own.__qualname__}", f"There are {', '.join(KINDS)}."
    require(bases, "torch_optimizer", "be one that gradkit.as_torch has", given, remedy, error=TypeError)
    # torch wraps the step of a class when its first instance is made
    is_plain = inspect.unwrap(own.step) is inspect.unwrap(bases[0].step)
    rule, remedy = f"step as torch's {bases[0].__name__} does", "Write its own step with gk.transforms.by_rule."
    require(is_plain, "torch_optimizer", rule, given, remedy, error=TypeError)
    return KINDS[bases[0].__name__]


def _members(torch_optimizer: Any, module: Any) -> list[Member]:
    """What the optimizer trains; what requires no gradient gets none, and so is left alone."""
    known = {} if module is None else {theta: name for name, theta in module.named_parameters()}
    members = []
    for index, group in enumerate(torch_optimizer.param_groups):
        names = group.get("param_names", [None] * len(group["params"]))
        for theta, name in zip(group["params"], names):
            given = Described(f"a module without a parameter of shape {tuple(theta.shape)}")
            is_known = module is None or theta in known or not theta.requires_grad
            require(is_known, "module", "hold every parameter of the optimizer", given, "Pass the module that it trains.")
            if theta.requires_grad:
                members.append(Member(theta, torch_optimizer.state.get(theta, {}), str(index), known.get(theta, name)))
    return members


def _owners(members: list[Member], params: Any, *, is_named: bool) -> list[Member | None]:
    """For each leaf of the parameters the member that it is, or None."""
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    is_named = is_named or any(member.name in names for member in members)
    places = _places_by_name(members, params, names) if is_named else _places_by_value(members, params)
    owners: list[Member | None] = [None] * len(names)
    for member, place in zip(members, places):
        owners[place] = member
    return owners


def _places_by_name(members: list[Member], params: Any, names: list[str]) -> list[int]:
    """Where in the leaves each member is, by its name."""
    leaves = dict(zip(names, jax.tree.leaves(params)))
    given_names = [member.name for member in members]
    for name, member in zip(given_names, members):
        is_found = names.count(name) == 1 == given_names.count(name)
        rule, remedy = "hold every parameter of the optimizer by its name", "Take them from import_module, and pass its module."
        require(is_found, "params", rule, name, remedy)
        ours, theirs = np.shape(leaves[name]), tuple(member.theta.shape)
        given = Described(f"{ours} at {name!r} where torch has {theirs}")
        require(ours == theirs, "params", "have torch's shapes", given, "Keep torch's layouts, as import_module gives them.")
    return [names.index(name) for name in given_names]


def _places_by_value(members: list[Member], params: Any) -> list[int]:
    """Where in the leaves each member is, by its value; those of one value must be the same to the optimizer."""
    leaves, places, twins = defaultdict(list), {}, defaultdict(list)
    for place, leaf in enumerate(jax.tree.leaves(params)):
        leaves[_fingerprint(leaf)].append(place)
    for member in members:
        twins[_fingerprint(_array(member.theta))].append(member)
    for value, alike in twins.items():
        num_leaves = len(leaves[value])
        given = Described(f"a parameter of shape {value[0]}")
        rule, remedy = "hold every parameter of the optimizer as it is now", "Import the module again."
        require(num_leaves >= len(alike), "params", rule, given, remedy)
        is_settled = num_leaves == len(alike) and len({_role(member) for member in alike}) == 1
        remedy = "Pass module=..., the module of these parameters."
        require(is_settled, "params", "be told apart by their values", given, remedy)
        places |= zip(alike, leaves[value])
    return [places[member] for member in members]


def _role(member: Member) -> tuple:
    """What tells a member from another of its value: its group and torch's memory."""
    memory = {name: None if value is None else _fingerprint(_array(value)) for name, value in member.memory.items()}
    return member.label, tuple(sorted(memory.items()))


def _fingerprint(array: Any) -> tuple[tuple[int, ...], bytes]:
    """Shape and values of an array, of whatever dtype, as a key."""
    values = np.asarray(jnp.asarray(array)).astype(np.complex128) + 0  # no negative zeros
    return values.shape, hashlib.sha256(values.tobytes()).digest()


def _filled(state: RuleState, own: Any, slots: list[str], steps: int | None) -> RuleState:
    """The state with torch's memory in the place of its own.

    Args:
        state: Of the recipe of one group.
        own: The parameters' tree with the group's members in the place of its leaves, others masked.
        slots: Torch's names of what the recipe remembers.
        steps: What schedules go on from, or None for torch's count.
    """
    members, tree = jax.tree.flatten(own)
    taken = [_steps(member.memory) for member in members]
    count = max(taken, default=0)
    if isinstance(state.steps, jax.Array):
        given = Described(f"counts from {min(taken, default=0)} to {count}")
        require(len(set(taken)) <= 1, "unused", "be 'skip' where leaves made different numbers of steps", given, "Leave it out.")
        own_steps = jnp.asarray(count, jnp.int32)
    else:
        own_steps = tree.unflatten([jnp.asarray(num, jnp.int32) for num in taken])
    memories = [_remembered(slots, fresh, member) for fresh, member in zip(tree.flatten_up_to(state.memory), members)]
    return RuleState(jnp.asarray(count if steps is None else steps, jnp.int32), own_steps, tree.unflatten(memories))


def _steps(memory: dict[str, Any]) -> int:
    """Updates that a parameter took part in; SGD and Muon do not count, and only the first of theirs differs."""
    return int(memory["step"]) if "step" in memory else int(any(value is not None for value in memory.values()))


def _remembered(slots: list[str], fresh: tuple, member: Member) -> tuple:
    """What a leaf remembers: torch's, and what it begins with where torch has not begun or stopped to remember."""
    given = [member.memory.get(slot) for slot in slots]
    return tuple(own if value is None else _array(value).astype(own.dtype) for value, own in zip(given, fresh, strict=True))


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
