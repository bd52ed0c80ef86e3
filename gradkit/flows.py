"""What depends on what in a traced program: inputs that are marked flow in, the outputs that they reach flow out."""

from __future__ import annotations

from jax.extend.core import ClosedJaxpr, Literal


def reached(closed: ClosedJaxpr, marked_inputs: list[bool]) -> list[bool]:
    """Which outputs of a program depend on the marked inputs; calls are entered, other equations mix all they touch."""
    jaxpr = closed.jaxpr
    marked = {var for var, is_marked in zip(jaxpr.invars, marked_inputs) if is_marked}
    for equation in jaxpr.eqns:
        inputs = [not isinstance(var, Literal) and var in marked for var in equation.invars]
        if not any(inputs):
            continue
        inner = equation.params.get("jaxpr")
        is_call = isinstance(inner, ClosedJaxpr) and equation.primitive.name in ("pjit", "jit")
        outputs = reached(inner, inputs) if is_call else [True] * len(equation.outvars)
        marked.update(var for var, is_marked in zip(equation.outvars, outputs) if is_marked)
    return [not isinstance(var, Literal) and var in marked for var in jaxpr.outvars]


def needed(closed: ClosedJaxpr) -> ClosedJaxpr:
    """A program without the equations and constants that reach none of its outputs; calls are taken whole."""
    jaxpr = closed.jaxpr
    wanted = {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    equations = []
    for equation in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(equation.outvars):
            equations.append(equation)
            wanted.update(var for var in equation.invars if not isinstance(var, Literal))
    kept = [(var, value) for var, value in zip(jaxpr.constvars, closed.consts) if var in wanted]
    own = jaxpr.replace(eqns=equations[::-1], constvars=[var for var, _ in kept])
    return ClosedJaxpr(own, [value for _, value in kept])
