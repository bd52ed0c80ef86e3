"""What the parity tests share: gradients under stress, the run of an optimizer over them, and how far two runs are apart."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st

STEPS, SHAPE = 60, (32, 16)


class Recipe(NamedTuple):
    """A row of the table: an optimizer of another library and the same of ours.

    Attributes:
        name: Of our factory.
        theirs: Of the library's class.
        numbers: Arguments of the row that are traced.
        static: Pairs of names and arguments that are not.
    """

    name: str
    theirs: str
    numbers: dict[str, Any]
    static: tuple[tuple[str, Any], ...] = ()

    def __str__(self):
        return " ".join([self.name, *(f"{name}={value}" for name, value in self.static)])


DECAY = {"weight_decay": 0.01}
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, **DECAY}
RMS = {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8}
MUON = {"lr": 1e-3, "momentum": 0.95, "eps": 1e-7, "weight_decay": 0.1}
TORCH = [
    Recipe("sgd", "SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-4}),
    Recipe("sgd", "SGD", {"lr": 1e-3, **DECAY}, (("maximize", True),)),
    Recipe("sgd", "SGD", {"lr": 0.1, "momentum": 0.9, **DECAY}, (("nesterov", True),)),
    Recipe("rmsprop", "RMSprop", {**RMS, **DECAY}),
    Recipe("rmsprop", "RMSprop", {**RMS, "momentum": 0.9, "weight_decay": 0.0}),
    Recipe("rmsprop", "RMSprop", {**RMS, "momentum": 0.9, **DECAY}, (("centered", True),)),
    Recipe("adagrad", "Adagrad", {"lr": 1e-2, "lr_decay": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-10, **DECAY}),
    Recipe("adadelta", "Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6, **DECAY}),
    Recipe("adam", "Adam", ADAM),
    Recipe("adam", "Adam", ADAM, (("amsgrad", True), ("maximize", True))),
    Recipe("adam", "Adam", ADAM, (("decoupled_weight_decay", True),)),
    Recipe("adamw", "AdamW", ADAM),
    Recipe("adamw", "AdamW", ADAM, (("amsgrad", True),)),
    Recipe("adamax", "Adamax", {**ADAM, "lr": 2e-3}),
    Recipe("nadam", "NAdam", {**ADAM, "lr": 2e-3, "momentum_decay": 4e-3}),
    Recipe("nadam", "NAdam", {**ADAM, "lr": 2e-3, "momentum_decay": 4e-3}, (("decoupled_weight_decay", True),)),
    Recipe("radam", "RAdam", ADAM),
    Recipe("radam", "RAdam", ADAM, (("decoupled_weight_decay", True),)),
    Recipe("rprop", "Rprop", {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)}),
    Recipe("muon", "Muon", MUON),
    Recipe("muon", "Muon", MUON, (("nesterov", False), ("adjust_lr_fn", "match_rms_adamw"))),
]
KERAS_ADAM = {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7}
KERAS_RMS = {"learning_rate": 1e-3, "rho": 0.9, "epsilon": 1e-7}
KERAS = [
    Recipe("sgd", "SGD", {"learning_rate": 0.01}),
    Recipe("sgd", "SGD", {"learning_rate": 0.1, "momentum": 0.9, **DECAY}),
    Recipe("sgd", "SGD", {"learning_rate": 0.1, "momentum": 0.9, **DECAY}, (("nesterov", True), ("global_clipnorm", 1.0))),
    Recipe("rmsprop", "RMSprop", KERAS_RMS),
    Recipe("rmsprop", "RMSprop", {**KERAS_RMS, "momentum": 0.9, **DECAY}),
    Recipe("rmsprop", "RMSprop", {**KERAS_RMS, "momentum": 0.9, **DECAY}, (("centered", True),)),
    Recipe("adagrad", "Adagrad", {"learning_rate": 1e-3, "initial_accumulator_value": 0.1, "epsilon": 1e-7, **DECAY}),
    Recipe("adadelta", "Adadelta", {"learning_rate": 1e-3, "rho": 0.95, "epsilon": 1e-7, **DECAY}, (("clipvalue", 0.5),)),
    Recipe("adam", "Adam", KERAS_ADAM),
    Recipe("adam", "Adam", {**KERAS_ADAM, **DECAY}, (("amsgrad", True), ("clipnorm", 1.0))),
    Recipe("adam", "Adam", {**KERAS_ADAM, **DECAY}, (("gradient_accumulation_steps", 4),)),
    Recipe("adamw", "AdamW", {**KERAS_ADAM, "weight_decay": 0.004}),
    Recipe("adamw", "AdamW", {**KERAS_ADAM, "weight_decay": 0.004}, (("use_ema", True), ("ema_overwrite_frequency", 7))),
    Recipe("adamax", "Adamax", {**KERAS_ADAM, **DECAY}),
    Recipe("nadam", "Nadam", {**KERAS_ADAM, **DECAY}),
    Recipe("lion", "Lion", {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.99, **DECAY}),
]


@functools.cache
def start() -> np.ndarray:
    """512 random parameters."""
    return np.random.default_rng(0).normal(size=SHAPE)


@functools.cache
def stress() -> np.ndarray:
    """60 gradients: entries have scales from 1e-9 to 1e3; some are zero for ever, at first or for a while, some constant."""
    rng = np.random.default_rng(1)
    scales = np.exp(rng.uniform(np.log(1e-9), np.log(1e3), size=SHAPE))
    gradients = (rng.normal(size=(STEPS, *SHAPE)) * scales).reshape(STEPS, -1)
    gradients[:, :16] = 0.0
    gradients[:8, 16:32] = 0.0
    gradients[20:25] = 0.0
    gradients[:, 32:48] = gradients[0, 32:48]
    gradients[:, 48:52] = 1.0
    return gradients.reshape(STEPS, *SHAPE)


def falling(rate: Any, slope: Any) -> Callable:
    """The schedule of the table: a straight line down, constant where the slope is zero."""
    return lambda step: rate * (1 - slope * step)


def descend(optimizer: optax.GradientTransformation, theta: jax.Array, gradients: jax.Array) -> jax.Array:
    """The parameters after each step."""

    def step(carry, g):
        theta, state = carry
        updates, state = optimizer.update(g, state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), theta

    return jax.lax.scan(step, (theta, optimizer.init(theta)), gradients)[1]


@functools.cache
def compiled(factory: Callable, names: tuple, static: tuple, rate: str, dtype: type) -> Callable:
    """``(numbers, slope) -> path``: one program for all values; the numbers are traced in float64, as Python's are."""
    traces = []

    @jax.jit
    def run(numbers, slope):
        traces.append(1)
        numbers = {**numbers, rate: falling(numbers[rate], slope)}
        return descend(factory(**numbers, **dict(static)), jnp.asarray(start(), dtype), jnp.asarray(stress(), dtype))

    def path(numbers, slope):
        assert set(numbers) == set(names)
        result = np.asarray(run(numbers, slope))
        assert len(traces) == 1, "a new value compiled anew"
        return result

    return path


def paths_without_x64(room: Any, rows: list[Recipe]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each row the path in float32 with its numbers as constants, and with them traced as float32: one program."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    theta, gradients = jnp.asarray(start(), jnp.float32), jnp.asarray(stress(), jnp.float32)

    def path(row, numbers):
        return descend(getattr(room, row.name)(**numbers, **dict(row.static)), theta, gradients)

    traced = [jax.tree.map(jnp.float32, row.numbers) for row in rows]
    run = jax.jit(lambda traced: [(path(row, row.numbers), path(row, numbers)) for row, numbers in zip(rows, traced)])
    try:
        return jax.tree.map(np.asarray, run(traced))
    finally:
        jax.config.update("jax_enable_x64", before)


def rounded(numbers: Any) -> Any:
    """Numbers as float32 has them; whole ones stay."""
    return jax.tree.map(lambda x: x if isinstance(x, int) else float(np.float32(x)), numbers)


def shaken(dtype: type, up: bool) -> tuple[np.ndarray, np.ndarray]:
    """Start and gradients with their last bits changed."""
    theta, factor = start().astype(dtype), 1 + np.finfo(dtype).eps * (1 if up else -1)
    return np.nextafter(theta, np.inf if up else -np.inf, dtype=dtype), (stress().astype(dtype) * factor).astype(dtype)


def units(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The largest distance at each step, in units in the last place that each parameter had where it was largest on its way.

    A float32 that began at 1 and ends at 1e-4 carries the rounding of 1.
    """
    gap = np.abs(ours.astype(np.float64) - theirs)
    return (gap / np.spacing(np.abs(theirs).max(axis=0))).reshape(len(ours), -1).max(axis=1)


def assert_same(ours: np.ndarray, theirs: np.ndarray, at_end: float, on_way: float | None = None):
    """At every step float64 to 1e-12, absolute or relative; float32 to so many units in the last place, half to the bit."""
    gap = np.abs(ours.astype(np.float64) - theirs)
    if ours.dtype == np.float64:
        assert (gap / np.maximum(1, np.abs(theirs))).max() <= 1e-12
    else:
        distances = units(ours, theirs)
        assert distances[-1] <= at_end
        assert distances.max() <= (at_end if on_way is None else on_way)
        assert np.median(gap) == np.median(gap[-1]) == 0


def log_uniform(low: float, high: float) -> st.SearchStrategy:
    """Numbers of all magnitudes between two."""
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.exp(x)))
