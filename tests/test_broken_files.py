"""What is read back from disk is verified: what is broken is dropped and made anew, without a word and without a crash."""

import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gradkit as gk
import gradkit.interop.xgboost_models
from gradkit.boosting import native
from gradkit.engine import compilation, rates, stores
from gradkit.engine.rates import Sample

SCRIPT = """
import collections, json, pathlib, sys
import jax, jax.numpy as jnp, optax
import gradkit as gk
import gradkit.interop.xgboost_models
from gradkit.engine import stores
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split("/")[-1]]))
if "full" in sys.argv:
    def write_bytes(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")
    pathlib.Path.write_bytes = write_bytes
make = lambda h: gk.descent(lambda w, batch: jnp.mean((w - batch) ** 2), jnp.zeros(()), optax.sgd(h.learning_rate))
sweep = gk.sweep(make, jnp.arange(4.0), gk.grid(learning_rate=[0.1]), steps=3, progress=False)
print(json.dumps({"hits": counts["cache_hits"], "misses": counts["cache_misses"], "params": float(sweep.params(0))}))
"""


def run(script, folder, *arguments):
    """What a fresh process says, for which every warning is an error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GRADKIT_CACHE", "JAX_"))}
    root = str(pathlib.Path(gk.__file__).parents[1])
    environment = {**kept, "GRADKIT_CACHE_DIR": str(folder), "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.long
@pytest.mark.skipif(not compilation._loads_well(), reason="this jaxlib writes to stderr when it loads a program")
def test_programs_cut_short_are_compiled_anew_and_stored_whole(tmp_path):
    stored = lambda: sorted((tmp_path / "programs").iterdir())  # noqa: E731
    full = run(SCRIPT, tmp_path, "full")
    assert full["hits"] == 0 and stored() == []
    first = run(SCRIPT, tmp_path)
    files = stored()
    assert first["hits"] == 0 and len(files) == first["misses"]
    for number, path in enumerate(files):
        data = path.read_bytes()
        path.write_bytes([b"", data[: len(data) // 2], data[:-1], b"?" + data[1:]][number % 4])
    again = run(SCRIPT, tmp_path)
    assert (again["hits"], again["misses"]) == (0, first["misses"])
    store = stores.Store(tmp_path / "programs")
    assert all(store.get(path.name.removesuffix("-cache")) for path in files)
    assert full["params"] == first["params"] == again["params"]


def test_a_store_gives_back_what_is_whole_or_nothing(tmp_path, monkeypatch):
    store = stores.Store(tmp_path)
    assert store.get("key") is None
    store.put("key", b"program")
    assert store.get("key") == b"program"
    (tmp_path / "key-cache").write_bytes(b"program")
    assert store.get("key") is None and not list(tmp_path.iterdir())

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    store.put("key", b"program")
    assert store.get("key") is None


BROKEN_RATES = [
    "", "{", "[]", "null", "7",
    '{"1": [0, 1.0, 8]}', '{"1": [-5.0, 1.0, 8]}', '{"1": [NaN, 1.0, 8]}', '{"1": [Infinity, 1.0, 8]}',
    '{"1": [1e300, 1.0, 8]}', '{"1": ["9", 1.0, 8]}', '{"1": [true, 1.0, 8]}', '{"1": [9.0, -1.0, 8]}', '{"1": [9.0, 1.0, -8]}',
    '{"1": [9.0, 1.0, 8.5]}', '{"1": [9.0, 1.0]}', '{"1": 9.0}', '{"0": [9.0, 1.0, 8]}', '{"-1": [9.0, 1.0, 8]}',
    '{"x": [9.0, 1.0, 8]}', '{"99999999999999": [9.0, 1.0, 8]}', '{"1": [9.0, 1.0, 8], "2": [0.0, 1.0, 8]}', "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN_RATES, ids=lambda text: text[:30] or "empty")
def test_rates_that_cannot_have_been_measured_are_dropped(text, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADKIT_CACHE_DIR", str(tmp_path))
    rates.save("name", {1: Sample(9.0, 1.0, 8), 2: Sample(3.0, 0.5, None)})
    assert rates.load("name") == {1: Sample(9.0, 1.0, 8), 2: Sample(3.0, 0.5, None)}
    (tmp_path / "rates" / "name.json").write_text(text)
    assert rates.load("name") == {}
    assert not list((tmp_path / "rates").iterdir())


def test_rates_on_a_full_disk_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADKIT_CACHE_DIR", str(tmp_path))

    def full(path, text):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    rates.save("name", {1: Sample(9.0, 1.0, 8)})
    assert not list((tmp_path / "rates").iterdir())


KERNEL = """
import json
from gradkit.boosting import native
print(json.dumps(native.is_there()))
"""


@pytest.mark.skipif(not native.is_there(), reason="no compiler, no kernel")
def test_a_kernel_cut_short_is_built_anew(tmp_path, monkeypatch):
    """Loading a truncated one kills the process, so the first look is at another process."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "small.cc").write_text('extern "C" int gradkit_answer() { return 42; }')
    monkeypatch.setattr(native, "FOLDER", source)
    path = tmp_path / "kernels" / "small.so"
    assert native._built(path) == path
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(broken)
        assert native._built(path) == path
        assert len(path.read_bytes()) == len(whole)
    path.with_suffix(".sha256").unlink()
    assert native._built(path) == path
    before = path.stat().st_mtime_ns
    assert native._built(path) == path
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    path.write_bytes(whole[:100])
    assert native._built(path) is None


@pytest.mark.long
@pytest.mark.skipif(not native.is_there(), reason="no compiler, no kernel")
def test_a_process_outlives_a_kernel_cut_short(tmp_path):
    assert run(KERNEL, tmp_path) is True
    (kernel,) = (tmp_path / "kernels").glob("*.so")
    kernel.write_bytes(kernel.read_bytes()[:5000])
    assert run(KERNEL, tmp_path) is True
    kernel.write_bytes(b"")
    assert run(KERNEL, tmp_path) is True


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file with a model, and the bytes in it."""
    x, y = np.arange(8.0)[:, None], np.arange(8.0)
    data = gk.boosting.bin(x), y
    fitted = gk.fit(gk.boosting.descent(gk.losses.squared, learning_rate=0.5, depth=1), data, steps=1, progress=False).params
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    gk.boosting.save(path, fitted, data[0])
    return types.SimpleNamespace(path=path, data=path.read_bytes())


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_model_cut_short_is_refused(model, tmp_path, size):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(model.data[:size])
    with pytest.raises(ValueError, match="`path` must be a file of format"):
        gk.boosting.load(path)


@pytest.mark.parametrize("part", ["trees.feature", "coefficient", "intercept"])
def test_a_model_without_a_part_is_refused(model, tmp_path, part):
    from safetensors import safe_open

    with safe_open(model.path, "numpy") as file:
        told = file.metadata()
    arrays = load_file(model.path)
    del arrays[part]
    save_file(arrays, tmp_path / "part.safetensors", told)
    with pytest.raises(ValueError, match="`path` must hold all parts of a model"):
        gk.boosting.load(tmp_path / "part.safetensors")


@pytest.mark.parametrize("told", ["{", "{}", "7", '{"num_bins": 3}'])
def test_a_model_with_a_broken_header_is_refused(model, tmp_path, told):
    save_file(load_file(model.path), tmp_path / "told.safetensors", {"format": "gradkit.boosting/1", "binned": told})
    with pytest.raises(ValueError, match="`path` must hold all parts of a model"):
        gk.boosting.load(tmp_path / "told.safetensors")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"learner": {}}', '{"learner": {"gradient_booster": {"name": "gblinear"}}}']
)
def test_text_that_is_no_model_of_xgboosts_is_refused(text):
    with pytest.raises(ValueError, match="`text` must be XGBoost's JSON"):
        gradkit.interop.xgboost_models.from_json(text)
