"""Where memory runs out, really or made to seem so: chunks go on at half the width and nothing that was done is lost."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from problems import adam_net, errors, regression_data, same_bits

import gradkit as gk
from gradkit.engine import chunk, group, memory, runner, runs

DATA = regression_data()
SPACE = gk.grid(learning_rate=gk.geomspace(1e-3, 0.1, 5), seed=range(2))
RUN = {"steps": 100, "progress": False}
Status = gk.Status

TRUE_SCRIPT = """
import resource
import jax, jax.numpy as jnp, numpy as np, optax
import gradkit as gk
from problems import same_bits

def wide(w, batch):  # 64 MiB for each member at work
    return jnp.mean(jnp.sin(w[:, None, None] * batch[None, :, None] + w[None, None, :]) ** 2)

make = lambda h: gk.descent(wide, lambda key: jax.random.normal(key, (256,)), optax.sgd(h.learning_rate))
space = gk.grid(learning_rate=[0.01, 0.1], seed=range(4))
def run(width):
    plan = gk.Plan(width=width, threads=1)
    return gk.sweep(make, jnp.linspace(0, 1, 256), space, steps=2, plan=plan, progress=False)

expected = run(2)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 350 * 2**20,) * 2)
sweep = run(8)
assert sweep.notes[0] == "out of memory at width 8: those it befell went on at half of it", sweep.notes
assert [fit.status.name for fit in sweep] == ["FINISHED"] * 8
for fit, other in zip(sweep, expected):
    np.testing.assert_allclose(fit.history["loss"], other.history["loss"], rtol=1e-5)
    np.testing.assert_allclose(fit.params, other.params, rtol=1e-3, atol=1e-5)
assert same_bits(sweep.replay(5).params, sweep.params(5))
print("done")
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a process")
def test_a_sweep_outlives_a_true_lack_of_memory():
    path = os.pathsep.join([str(pathlib.Path(gk.__file__).parents[1]), str(pathlib.Path(__file__).parent)])
    settings = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "GRADKIT_CACHE_DIR": "off"}
    script = [sys.executable, "-c", TRUE_SCRIPT]
    done = subprocess.run(script, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "done", done.stderr


MESSAGES = ["RESOURCE_EXHAUSTED: too much", "INTERNAL: Error dispatching computation: Out of memory allocating 537927920 bytes."]


def lacking(monkeypatch, name, is_too_much, message=MESSAGES[0]):
    """Let ``chunk.name`` run out of memory for chunks of which that is said. Returns what befell: ``(width, step)``."""
    usual, befell = getattr(chunk, name), []

    def lacking(part, *args):
        if is_too_much(part):
            befell.append((part.run.program.width, part.step))
            raise RuntimeError(message)
        return usual(part, *args)

    monkeypatch.setattr(chunk, name, lacking)
    return befell


def width(part):
    return part.run.program.width


@pytest.fixture
def ran(monkeypatch):
    """The runs of the sweeps of a test, whose ledgers tell where members ran."""
    usual, seen = group.execute, []
    monkeypatch.setattr(group, "execute", lambda runs, *rest: (seen.extend(runs), usual(runs, *rest))[1])
    return seen


def sweep(data=DATA, **settings):
    return gk.sweep(adam_net, data, SPACE, **({"plan": gk.Plan(width=4), "batch_size": 16} | RUN | settings))


@functools.cache
def narrow():
    return sweep(plan=gk.Plan(width=2))


@functools.cache
def wide():
    return sweep()


def stream():
    order = gk.data.source(DATA, batch_size=16, key=0, per_seed=False).tickets(None, 0, 100)
    return gk.stream(lambda start: (tuple(a[rows] for a in DATA) for rows in order[start:]))


@pytest.mark.few(2)
@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("name", ["begin", "launch"])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_does_not_fit_from_the_start_is_the_sweep_at_half_the_width(monkeypatch, name, message, is_streamed):
    befell = lacking(monkeypatch, name, lambda part: width(part) > 2, message)
    found = sweep(stream(), batch_size=None) if is_streamed else sweep()
    assert befell == [(4, 0)] * 3
    assert found.notes == ("out of memory at width 4: those it befell went on at half of it",)
    assert same_bits([fit.params for fit in found], [fit.params for fit in narrow()])
    assert same_bits([fit.history for fit in found], [fit.history for fit in narrow()])
    assert "note: out of memory at width 4" in repr(found)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_steps_made_before_are_kept_and_a_replay_takes_the_same_path(monkeypatch, ran, is_streamed):
    monkeypatch.setattr(runs.Pace, "steps", lambda self, width: 16)
    befell = lacking(monkeypatch, "launch", lambda part: width(part) > 2 and part.step >= 16)
    found = sweep(stream(), batch_size=None) if is_streamed else sweep()
    assert len(befell) == 3 and {step for _, step in befell} == {16}
    paths = ran[0].ledger.path
    assert [[place[:2] for place in path] for path in paths] == [[(0, 4), (16, 2)]] * 10
    assert [fit.status for fit in found] == [Status.FINISHED] * 10
    for member, fit in enumerate(found):
        assert np.isfinite(fit.history["loss"]).all()
        assert same_bits(fit.history["loss"][:16], wide()[member].history["loss"][:16])
        np.testing.assert_allclose(fit.history["loss"], wide()[member].history["loss"], rtol=1e-2, atol=1e-5)
    for member in (0, 5, 9):
        again = found.replay(member)
        assert same_bits(again.params, found.params(member))
        assert same_bits(again.history, found[member].history)


@pytest.mark.long
def test_chunks_split_again_and_again(monkeypatch, ran):
    befell = lacking(monkeypatch, "launch", lambda part: width(part) > 1)
    found = sweep(plan=gk.Plan(width=10))
    assert befell[0] == (10, 0) and {size for size, _ in befell} == {10, 5, 2}
    assert found.notes == tuple(f"out of memory at width {size}: those it befell went on at half of it" for size in (10, 5, 2))
    assert [[tuple(place) for place in path] for path in ran[0].ledger.path] == [[(0, 1, 0)]] * 10
    alone = sweep(plan=gk.Plan(width=1))
    assert same_bits([fit.params for fit in found], [fit.params for fit in alone])


def test_an_evaluation_that_does_not_fit_narrows_the_chunk_and_none_is_lost(monkeypatch):
    held_out = {"validation": DATA, "evaluate": errors, "evaluate_every": 50}
    befell = lacking(monkeypatch, "evaluate", lambda part: width(part) > 2)
    found = sweep(**held_out)
    assert befell == [(4, 0)] * 3
    expected = sweep(plan=gk.Plan(width=2), **held_out)
    assert [fit.evaluations["step"].tolist() for fit in found] == [[0, 50, 100]] * 10
    assert same_bits([fit.evaluations for fit in found], [fit.evaluations for fit in expected])


@pytest.mark.parametrize(("at", "is_begun"), [(0, False), (16, True)])
def test_a_member_too_large_for_any_width_stops_and_the_others_finish(monkeypatch, at, is_begun):
    monkeypatch.setattr(runs.Pace, "steps", lambda self, width: 16)
    lacking(monkeypatch, "launch", lambda part: 3 in part.members[~part.is_padding] and part.step >= at)
    found = sweep()
    assert [fit.status for fit in found] == [Status.STOPPED if member == 3 else Status.FINISHED for member in range(10)]
    assert found[3].steps == at and (found[3].params is not None) == is_begun
    assert found.notes[-1] == runner.NO_ROOM
    assert runner.NO_ROOM in repr(found)
    assert found.table().steps_made.tolist() == [100] * 3 + [at] + [100] * 6
    whole = sweep(plan=gk.Plan(width=1))
    np.testing.assert_allclose(found[2].history["loss"], whole[2].history["loss"], rtol=1e-2, atol=1e-5)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    lacking(monkeypatch, "launch", lambda part: True, "INTERNAL: something else")
    with pytest.raises(RuntimeError, match="something else"):
        sweep()


def test_halving_goes_on_after_a_lack_of_memory(monkeypatch, ran):
    """Survivors are seated in wide chunks again, which do not fit either; replays find their way."""
    lacking(monkeypatch, "launch", lambda part: width(part) > 2)
    found = sweep(halving=gk.Halving(eta=2, min_steps=20))
    assert found.rungs.kept.tolist() == [4, 2]
    assert all({place.width for place in path} == {2} for path in ran[0].ledger.path)
    for member in range(10):
        assert same_bits(found.replay(member).params, found.params(member))
        assert same_bits(found.replay(member).history, found[member].history)


def test_planning_outlives_a_lack_of_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADKIT_CACHE_DIR", str(tmp_path))
    lacking(monkeypatch, "launch", lambda part: width(part) > 2)
    plan = gk.plan(adam_net, DATA, SPACE, steps=100, batch_size=16)
    assert plan.programs[0].rates.keys() <= {1, 2}
    assert sweep(plan=plan).notes == ()


def test_free_memory_is_known_here():
    assert memory.available(jax.devices()[0]) > 2**20
