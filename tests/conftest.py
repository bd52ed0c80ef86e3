"""Strict settings for all tests: no silent broadcasting between ranks, and types checked at run time."""

import collections
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker per core: torch's threads would wait for each other, ten times as long

import jax
import pytest
from jaxtyping import install_import_hook

MOST_MAPS = 30_000

jax.config.update("jax_numpy_rank_promotion", "raise")
install_import_hook("gradkit", "beartype.beartype")
os.environ["GRADKIT_CACHE_DIR"] = tempfile.mkdtemp(prefix="gradkit_tests_")  # never the user's, and one for each worker


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of the rows of a test marked ``few(n)``, n that are spread evenly stay; the others are long."""
    families = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("few") is not None and item.get_closest_marker("long") is None:
            families[item.path, item.originalname].append(item)
    for rows in families.values():
        [count] = rows[0].get_closest_marker("few").args
        kept = {place * len(rows) // count for place in range(count)}
        for index, item in enumerate(rows):
            if index not in kept:
                item.add_marker(pytest.mark.long)


def pytest_unconfigure():
    """Leave nothing behind."""
    shutil.rmtree(os.environ["GRADKIT_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Forget compiled programs once there are many: Linux lets a process map 65,530 pieces of memory, and each takes some."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


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
