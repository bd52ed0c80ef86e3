"""jax's settings: what changes numbers is carried from thread to thread, and kept with a result so that it can be repeated.

Most settings have a context manager, which sets them for one thread alone. The others are global: they are changed for the
time and put back. jax's settings are changed in this file only.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

Settings = dict[str, Any]


def enable_x64(is_enabled: bool) -> Any:
    """The context of 64-bit types, under whichever name this jax has it."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(is_enabled)
    return jax.experimental.enable_x64(is_enabled)


CONTEXTS = {
    "jax_enable_x64": enable_x64,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_default_device": jax.default_device,
    "jax_default_prng_impl": jax.default_prng_impl,
    "jax_threefry_partitionable": jax.threefry_partitionable,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_numpy_rank_promotion": jax.numpy_rank_promotion,
    "jax_softmax_custom_jvp": jax.softmax_custom_jvp,
    "jax_debug_nans": jax.debug_nans,
    "jax_debug_infs": jax.debug_infs,
}

if hasattr(jax, "allow_f16_reductions"):  # from jax 0.8 on
    CONTEXTS["jax_allow_f16_reductions"] = jax.allow_f16_reductions

GLOBALS = tuple(
    name
    for name in (
        "jax_random_seed_offset",
        "jax_safer_randint",
        "jax_high_dynamic_range_gumbel",
        "jax_default_dtype_bits",
        "jax_explicit_x64_dtypes",
        "jax_use_direct_linearize",
        "jax_optimization_level",
        "jax_exec_time_optimization_effort",
        "jax_memory_fitting_level",
        "jax_memory_fitting_effort",
        "jax_disable_most_optimizations",
        "eager_constant_folding",
    )
    if name in jax.config.values  # they come and go with the versions of jax
)

_changing = threading.RLock()


def current() -> tuple[Any, ...]:
    """The settings in force in this thread; hashable."""
    global_values = jax.config.values  # jax makes this dictionary anew each time it is asked for
    return tuple(getattr(jax.config, name) for name in CONTEXTS) + tuple(global_values[name] for name in GLOBALS)


def kept() -> Settings:
    """The settings in force in this thread by their names, for :func:`restored`."""
    return dict(zip((*CONTEXTS, *GLOBALS), current()))


@contextlib.contextmanager
def without_mesh() -> Iterator[None]:
    """No mesh set by ``jax.set_mesh``: a sweep spreads members over devices by a mesh of its own."""
    is_set = not jax.sharding.get_abstract_mesh().empty
    with jax.set_mesh(jax.sharding.Mesh(np.empty((), object), ())) if is_set else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def without_explicit_mesh() -> Iterator[None]:
    """The same for a mesh with explicit axes, which would become a part of the types inside the program; another one stays."""
    is_explicit = jax.sharding.AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types
    with without_mesh() if is_explicit else contextlib.nullcontext():
        yield


def _mesh() -> Any:
    """The mesh set in this thread, or ``None``; jax before 0.8 does not tell."""
    mesh = jax.sharding.get_mesh() if hasattr(jax.sharding, "get_mesh") else None
    return None if mesh is None or mesh.empty else mesh


@contextlib.contextmanager
def restored(settings: Settings) -> Iterator[None]:
    """Settings as they were, in this thread and in those that :func:`carried` functions run in; then as they are now."""
    differing = {name: settings[name] for name in GLOBALS if settings.get(name) != jax.config.values[name]}
    with contextlib.ExitStack() as stack:
        if differing:  # one at a time: they are everybody's
            stack.enter_context(_changing)
            stack.callback(change, change(differing))
        _enter(stack, settings)
        yield


def carried(function: Callable) -> Callable:
    """The function under the settings and the context variables of the thread that called this, in whichever it will run."""
    settings, mesh, variables = kept(), _mesh(), contextvars.copy_context()

    def under_settings(*args):
        with contextlib.ExitStack() as stack:
            _enter(stack, settings)
            if mesh is not None:
                stack.enter_context(jax.set_mesh(mesh))
            return function(*args)

    # a context of its own for each call: two threads cannot be in one at a time
    return lambda *args: variables.copy().run(under_settings, *args)


def _enter(stack: contextlib.ExitStack, settings: Settings):
    for name, context in CONTEXTS.items():
        if name in settings and getattr(jax.config, name) != settings[name]:
            stack.enter_context(context(settings[name]))


def change(values: Settings) -> Settings:
    """Set jax's settings for all threads; return what they were."""
    before = {name: jax.config.values[name] for name in values}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # whoever set it first has been told
        for name, value in values.items():
            jax.config.update(name, value)
    return before
