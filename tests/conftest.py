"""Strict settings for all tests: no silent broadcasting between ranks, and types checked at run time."""

import os
import pathlib

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("gradkit", "beartype.beartype")


@pytest.fixture
def real_data() -> pathlib.Path:
    """The folder of real data sets; where ``GRADKIT_REAL_DATA`` does not name one, the test is skipped with that reason."""
    folder = os.environ.get("GRADKIT_REAL_DATA")
    if folder is None:
        pytest.skip("GRADKIT_REAL_DATA does not name a folder of real data sets")
    assert pathlib.Path(folder).is_dir(), f"GRADKIT_REAL_DATA names {folder!r}, which is not a folder"
    return pathlib.Path(folder)


@pytest.fixture
def x64():
    """Run a test in float64."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
