"""What a run will look like, known before anything compiles: an abstract pass over init, step, params and loss.

A program and the shapes it will meet flow in; the shapes of state, info, growth and metrics flow out, the hyper-parameters
that were read, and whether a member's key changes anything that can be observed. Everything wrong with a loss, an axis or a
batch raises here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradkit import checks, decompositions, flows, settings, trees
from gradkit.contracts import Descent, Info, Rule
from gradkit.engine import dependencies, programs
from gradkit.engine.dependencies import Judged, digest, identity, is_used
from gradkit.engine.outputs import check_metrics, check_step
from gradkit.engine.programs import Program
from gradkit.engine.segment import Lanes, descent_of
from gradkit.losses import watched
from gradkit.questions import Reported
from gradkit.weights import Weighted


class Outline(NamedTuple):
    """Shapes per member (``jax.ShapeDtypeStruct``), and what else can be seen in the traced programs.

    Attributes:
        state, info, growth, metrics: Shapes.
        reads: Names of hyper-parameters read by ``make``.
        uses: Those of the traced ones that reach what the member is or tells.
        of_training, of_evaluation: What the loss of a step, and that of the validation data, depends on itself, not through the
            parameters.
        is_keyed: Whether the key matters.
        digest, largest: Of the step: a digest, and the bytes of the largest value that it makes on its way.
        identity: Of all that was traced: a digest, the constants included.
        traced_with: The shapes that it was traced with: lane, batch, data, validation.
        rule: What the targets must be, if the loss says.
        is_weight_lost: Whether an objective was called with a batch of weights that the loss put together itself.
        is_loop_only: Whether steps side by side may wait for each other for ever: see :mod:`gradkit.decompositions`.
    """

    state: Any
    info: Info
    growth: Any
    metrics: dict[str, Any]
    reads: frozenset[str]
    uses: frozenset[str]
    of_training: Judged
    of_evaluation: Judged
    is_keyed: bool
    digest: str
    largest: int
    identity: str
    traced_with: tuple
    rule: Rule | None
    is_weight_lost: bool
    is_loop_only: bool


def reported(outlines: Sequence[Outline]) -> Reported:
    """What the members of several programs report, by name."""
    told = Reported(_union(each.info.metrics for each in outlines), _union(each.metrics for each in outlines))
    columns = [
        {told.step_columns[name] for name, leaf in each.info.metrics.items() if _is_real(leaf)}
        | {told.evaluation_columns[name] for name, leaf in each.metrics.items() if _is_real(leaf)}
        for each in outlines
    ]
    whole = {
        name for name in told.of_steps
        if all(_is_whole(each.info.metrics[name]) for each in outlines if name in each.info.metrics)
    }  # fmt: skip
    return told._replace(whole=frozenset(whole), of_all=frozenset(set.intersection(*columns)))


def _is_real(leaf) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.complexfloating)


def _is_whole(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.integer)


def _union(parts: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in part))


def outline(program: Program, lane: Lanes, batch: Any, data: Any, validation: Any) -> Outline:
    """Trace one member abstractly; the result is kept for equal programs and shapes.

    Args:
        lane: The first member, without a lane axis (arrays or shapes).
        batch: One batch, what ``Descent.init`` gets as data, and the validation batch (arrays or shapes; ``None`` for none).

    Raises:
        TypeError: If ``make`` gives no ``Descent``, the loss is not a floating scalar, a step changes the shape or dtype of
            its state, ``evaluate`` gives no scalars, or Python branches on a swept value.
    """
    shapes = jax.tree.map(_shape, (lane, batch, data, validation))
    leaves, structure = jax.tree.flatten(shapes)
    key = ("outline", program.split, tuple(leaves), structure, settings.current())
    return programs.recall(program).kept.once(key, lambda: _outline(program, leaves, structure))


def _shape(leaf) -> jax.ShapeDtypeStruct:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))


def _outline(program: Program, leaves, structure) -> Outline:
    with programs.tracing(program.kept, program.is_ordered):
        found, constants = _traced(program, *jax.tree.unflatten(structure, leaves))
    if constants > programs.LIGHT_BYTES:
        programs.let_go_with_make(program)
    return found


def identity_now(program: Program, then: Outline) -> str:
    """That of a program traced anew, as it was for an outline."""
    with programs.tracing(programs.recall(program).kept, program.is_ordered):
        found, _ = _traced(program, *then.traced_with)
    return found.identity


def _traced(program: Program, lane, batch, data, validation) -> tuple[Outline, int]:
    """The outline, and the bytes of the constants in the programs."""
    reads: set[str] = set()

    def make(lane):
        descent = descent_of(program, lane, reads.add)
        checks.require(isinstance(descent, Descent), "make", "return a Descent", descent,
                       "Return gk.descent(loss_fn, params, optimizer).", error=TypeError)  # fmt: skip
        return descent

    def init(key, lane, data, validation):
        return trees.strong(make(lane).init(key, data, validation))

    def step(state, lane, batch):
        return make(lane).step(state, batch)

    def params(state, growths, lane):
        return make(lane).params(state, growths)

    def metrics(params, lane, validation):
        named = {} if program.traced.evaluate is None else program.traced.evaluate(params, validation)
        checks.require(isinstance(named, dict), "evaluate", "return a dict of named scalars", named,
                       "Return {'accuracy': value}.", error=TypeError)  # fmt: skip
        numbered = [name for name in named if not isinstance(name, str)]
        checks.require(not numbered, "evaluate", "return a dict of named scalars", named, "Its keys are names.", error=TypeError)
        checks.require("validation_loss" not in named, "evaluate", "bring only names that the results do not use themselves",
                       checks.Described("validation_loss"), "Rename it.")  # fmt: skip
        return {"validation_loss": make(lane).loss(params, validation), **named}

    try:
        first_program, state = jax.make_jaxpr(init, return_shape=True)(lane.key, lane, data, validation)
        with watched() as calls:
            step_program, (new_state, info, growth) = jax.make_jaxpr(step, return_shape=True)(state, lane, batch)
        is_weight_lost = any(len(call.batch) == 3 and not isinstance(call.batch, Weighted) for call in calls)
        growths = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), growth)
        read_program, read = jax.make_jaxpr(params, return_shape=True)(state, growths, lane)
        told = [
            (first_program, (lane.key, lane, data, validation)),
            (step_program, (state, lane, batch)),
            (read_program, (state, growths, lane)),
        ]
        named = {}
        if validation is not None:
            measuring, named = jax.make_jaxpr(metrics, return_shape=True)(read, lane, validation)
            told.append((measuring, (read, lane, validation)))
    except (TypeError, jax.errors.TracerArrayConversionError) as error:
        if not _needs_a_value(error):
            raise
        raise TypeError(
            "`make` and the loss must be traceable: Python code needs the value of a traced array, such as a swept "
            "hyper-parameter. gk.schedules and gk.optimizers accept swept values in every argument (optax's schedules do "
            "not); branch with jnp.where; or, for widths, depths and the like, split the sweep with gk.static([...])."
        ) from error
    check_step(state, new_state, info)
    check_metrics(named)
    is_keyed = _reaches_outputs(first_program, step_program, read_program, state)
    of_training = of_evaluation = Judged()
    if lane.hyper or program.traced.static:
        if jax.tree.leaves(growth):
            of_training = dependencies.of_evaluation(make, read, lane, batch)
        else:
            of_training = dependencies.of_training(make, state, lane, batch)
        of_training = of_training._replace(losses=dependencies.losses_of(calls))
        of_evaluation = Judged() if validation is None else dependencies.of_evaluation(make, read, lane, validation)
    largest, rule = _largest(step_program.jaxpr), _rule_of(make, read, lane, batch)
    constants = {
        id(part): part for whole in (first_program, step_program, read_program) for part in dependencies.constants(whole)
    }
    num_bytes = trees.num_bytes([part for part in constants.values() if hasattr(part, "dtype")])
    uses = frozenset(name for name in lane.hyper if any(is_used(name, *program) for program in told))
    is_loop_only = any(decompositions.may_wait_for_each_other(traced) for traced, _ in told[1:])
    found = Outline(
        state,
        info,
        growth,
        named,
        frozenset(reads),
        uses,
        of_training,
        of_evaluation,
        is_keyed,
        digest(str(step_program)),
        largest,
        identity(traced for traced, _ in told),
        (lane, batch, data, validation),
        rule,
        is_weight_lost,
        is_loop_only,
    )
    return found, num_bytes


def _rule_of(make, params, lane: Lanes, batch) -> Rule | None:
    """What a descent says of its targets, known from shapes."""
    rules = [None]

    def trace(params, lane, batch):
        descent = make(lane)
        rules.append(None if descent.rule is None else descent.rule(params, batch))

    jax.eval_shape(trace, params, lane, batch)
    return rules[-1]


def _largest(jaxpr) -> int:
    """Bytes of the largest value in a program and the programs it calls."""
    own = (trees.num_bytes(var.aval) for equation in jaxpr.eqns for var in equation.outvars if hasattr(var.aval, "dtype"))
    parts = (part for equation in jaxpr.eqns for value in equation.params.values() for part in jax.tree.leaves(value))
    inner = (part.jaxpr if hasattr(part, "jaxpr") else part for part in parts)
    return max([*own, *(_largest(part) for part in inner if hasattr(part, "eqns"))], default=0)


def _needs_a_value(error: Exception) -> bool:
    """Whether Python code asked for the value of a traced array: in a branch, as an index, as a shape."""
    kinds = (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
    )
    return isinstance(error, kinds) or str(error).startswith("Shapes must be 1D sequences of concrete values")


def _reaches_outputs(first, step, read, state) -> bool:
    """Whether the key can reach parameters or infos: its leaves of the state are followed through init and repeated steps.

    A leaf that a step passes on unread, as the key itself, does not count.
    """
    num_leaves = len(jax.tree.leaves(state))
    tainted = flows.reached(first, [True] + [False] * (len(first.jaxpr.invars) - 1))
    while True:
        through = flows.reached(step, tainted + [False] * (len(step.jaxpr.invars) - num_leaves))
        grown = [a or b for a, b in zip(tainted, through)]
        if any(through[num_leaves:]):
            return True
        if grown == tainted:
            break
        tainted = grown
    return any(flows.reached(read, tainted + [False] * (len(read.jaxpr.invars) - num_leaves)))
