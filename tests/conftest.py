"""Strict settings for all tests: no silent broadcasting between ranks, and types checked at run time."""

import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker per core: torch's threads would wait for each other, ten times as long

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("gradkit", "beartype.beartype")
os.environ["GRADKIT_CACHE_DIR"] = tempfile.mkdtemp(prefix="gradkit_tests_")  # never the user's, and one for each worker


def pytest_unconfigure():
    """Leave nothing behind."""
    shutil.rmtree(os.environ["GRADKIT_CACHE_DIR"], ignore_errors=True)


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
