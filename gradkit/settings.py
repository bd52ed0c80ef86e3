"""jax settings that a context manager may have set for one thread only: carried from one to another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax


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
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_numpy_rank_promotion": jax.numpy_rank_promotion,
    "jax_debug_nans": jax.debug_nans,
}


def current() -> tuple[Any, ...]:
    """The settings in force in this thread; hashable."""
    return tuple(getattr(jax.config, name) for name in CONTEXTS)


def carried(function: Callable) -> Callable:
    """The function under the settings of the thread that called this, in whichever thread it will run."""
    settings = current()

    def under_settings(*args):
        with contextlib.ExitStack() as stack:
            for (name, context), value in zip(CONTEXTS.items(), settings):
                if getattr(jax.config, name) != value:
                    stack.enter_context(context(value))
            return function(*args)

    return under_settings
