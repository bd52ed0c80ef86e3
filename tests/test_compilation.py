"""Programs on disk: found again by the next process to the same bits, nobody's settings touched, and ways to turn it off."""

import json
import os
import pathlib
import subprocess
import sys
import threading

import jax
import jaxlib.version
import pytest

from gradkit import folders
from gradkit.engine import compilation

NAMES = ["jax_compilation_cache_dir", "jax_enable_compilation_cache", *compilation.SETTINGS]

SCRIPT = """
import collections, hashlib, json, threading
import jax, jax.numpy as jnp, numpy as np, optax
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split("/")[-1]]))
jnp.zeros(3).block_until_ready()  # jax has looked for a cache by the time that gradkit begins
import gradkit as gk
from gradkit.engine import compilation

x = jnp.asarray(np.random.default_rng(0).normal(size=(40, 3)), "float32")
loss = lambda w, batch: jnp.mean(jnp.tanh(batch @ w) ** 2)
make = lambda h: gk.descent(loss, lambda key: jax.random.normal(key, (3,)), optax.adam(h.learning_rate))
counts.clear()
with compilation.persistent():
    sweep = gk.sweep(make, x, gk.grid(learning_rate=[0.1, 0.2], seed=range(2)), steps=9, batch_size=8, progress=False)
    worker = threading.Thread(target=lambda: jax.jit(lambda x: jnp.sin(x) @ x)(x[0]).block_until_ready())
    worker.start(), worker.join()
within = dict(counts)
jax.jit(lambda x: jnp.cos(x) @ x, inline=True)(x[0])
after = {name: counts[name] - within.get(name, 0) for name in counts}
bits = b"".join(np.asarray(fit.params).tobytes() + np.asarray(fit.history["loss"]).tobytes() for fit in sweep)
print(json.dumps({"within": within, "after": after, "bits": hashlib.sha256(bits).hexdigest()}))
"""


def settings():
    return {name: getattr(jax.config, name) for name in NAMES}


def run_script(home, **variables):
    """What a fresh process says, which must say nothing on stderr."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRADKIT_CACHE", "JAX_", "XDG_"))}
    root = str(pathlib.Path(compilation.__file__).parents[2])
    environment = {**kept, "HOME": str(home), "PYTHONPATH": root, "JAX_PLATFORMS": "cpu", **variables}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADKIT_CACHE_DIR", str(tmp_path / "caches"))
    return tmp_path / "caches" / "programs"


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The same script with the cache off, with an empty and with a warm one; and the home they had."""
    if not compilation._loads_well():
        pytest.skip("this jaxlib writes to stderr when it loads a program")
    home = tmp_path_factory.mktemp("home")
    keeps_all = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # would show what is stored once gradkit is done
    return home, [run_script(home, GRADKIT_CACHE_DIR="off"), run_script(home), run_script(home, **keeps_all)]


def stored(home):
    return sorted(path.name for path in home.rglob("*-cache"))


def test_a_second_process_compiles_nothing_anew(processes):
    _, (off, cold, warm) = processes
    requests = "compile_requests_use_cache"
    assert "cache_hits" not in off["within"] and "cache_misses" not in off["within"]
    assert cold["within"]["cache_misses"] == warm["within"]["cache_hits"] == warm["within"][requests] > 5
    assert "cache_misses" not in warm["within"]


def test_a_loaded_program_has_the_bits_of_a_compiled_one(processes):
    _, (off, cold, warm) = processes
    assert off["bits"] == cold["bits"] == warm["bits"]


def test_what_compiles_after_is_not_stored(processes):
    home, (_, cold, warm) = processes
    assert len(stored(home)) == cold["within"]["cache_misses"]
    for process in (cold, warm):
        assert process["after"]["compile_requests_use_cache"] > 0
        assert not process["after"].get("cache_misses") and not process["after"].get("cache_hits")


def test_the_programs_lie_in_the_users_caches_for_the_user_alone(processes):
    home, _ = processes
    if sys.platform == "linux":
        assert [path.name for path in home.iterdir()] == [".cache"]
        assert (home / ".cache" / "gradkit" / "programs").stat().st_mode & 0o777 == 0o700


def test_a_cache_that_the_user_set_is_the_one_that_is_used(tmp_path):
    run_script(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    assert {path.parent for path in tmp_path.rglob("*-cache")} == {tmp_path / "own"}
    assert not (tmp_path / ".cache" / "gradkit" / "programs").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"GRADKIT_CACHE_DIR": "HOME/here"}, "here"),
        ({"GRADKIT_CACHE_DIR": "~/here", "XDG_CACHE_HOME": "HOME/caches"}, "here"),
        ({"XDG_CACHE_HOME": "HOME/caches"}, "caches/gradkit"),
        ({}, ".cache/gradkit"),
        ({"GRADKIT_CACHE_DIR": "off"}, None),
        ({"GRADKIT_CACHE_DIR": "OFF"}, None),
        ({"GRADKIT_CACHE_DIR": ""}, None),
        ({"GRADKIT_CACHE_DIR": "HOME/file"}, None),
        ({"GRADKIT_CACHE_DIR": "HOME/file/below"}, None),
    ],
)
def test_where_the_folder_is(monkeypatch, tmp_path, variables, expected):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("GRADKIT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value.replace("HOME", str(tmp_path)))
    found = folders.cache_folder()
    assert found == (expected and tmp_path / expected)
    assert found is None or found.is_dir()


def test_mac_and_windows_have_folders_of_their_own(monkeypatch, tmp_path):
    monkeypatch.delenv("GRADKIT_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    for platform, expected in (("darwin", "Library/Caches/gradkit"), ("win32", "Local/gradkit")):
        monkeypatch.setattr(sys, "platform", platform)
        assert folders.cache_folder() == tmp_path / expected


def test_nobodys_home_is_no_error(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("GRADKIT_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "home", homeless)
    assert folders.cache_folder() is None


def test_settings_hold_inside_in_every_thread_and_are_restored(folder):
    before, seen = settings(), []
    with compilation.persistent():
        worker = threading.Thread(target=lambda: seen.append(settings()))
        worker.start()
        worker.join()
        with compilation.persistent():
            seen.append(settings())
        seen.append(settings())
    inside = {**before, "jax_compilation_cache_dir": str(folder), **compilation.SETTINGS}
    assert seen == [inside] * 3
    assert settings() == before != inside


def test_settings_are_restored_after_an_error(folder):
    before = settings()
    with pytest.raises(KeyError), compilation.persistent():
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize(("name", "value"), [("jax_compilation_cache_dir", "HERE"), ("jax_enable_compilation_cache", False)])
def test_what_the_user_settled_stays(folder, tmp_path, name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, str(tmp_path) if value == "HERE" else value)
    try:
        mine = settings()
        with compilation.persistent():
            assert settings() == mine
        assert settings() == mine
    finally:
        jax.config.update(name, before)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_changes_nothing(folder):
    folder.parent.mkdir()
    folder.touch()
    before = settings()
    with compilation.persistent():
        assert settings() == before


@pytest.mark.parametrize(
    ("version", "platform", "backend", "is_on"),
    [
        ((0, 7, 2), "linux", "cpu", True),
        ((0, 8, 0), "linux", "cpu", True),
        ((0, 8, 1), "linux", "cpu", False),
        ((0, 10, 1), "linux", "cpu", False),
        ((0, 10, 2), "linux", "cpu", True),
        ((0, 11, 0), "linux", "cpu", True),
        ((0, 7, 2), "darwin", "cpu", False),
        ((0, 10, 2), "darwin", "cpu", True),
        ((0, 10, 1), "linux", "gpu", True),
    ],
)
def test_a_jaxlib_that_loads_with_noise_or_crashes_is_left_alone(folder, monkeypatch, version, platform, backend, is_on):
    monkeypatch.setattr(jaxlib.version, "__version_info__", version)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with compilation.persistent():
        assert (jax.config.jax_compilation_cache_dir == str(folder)) == is_on


def test_what_was_used_longest_ago_goes_first(folder, monkeypatch):
    monkeypatch.setattr(compilation, "MAX_BYTES", 250)
    folder.mkdir(parents=True)
    for age, name in enumerate(["new", "newer", "old", "oldest"]):
        (folder / name).write_bytes(b"x" * 100)
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    with compilation.persistent():
        assert sorted(path.name for path in folder.iterdir()) == ["new", "newer"]
