"""The benchmark of overheads on tiny settings: what it measures adds up, and its claims follow from the figures."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import gradkit as gk
from experiments.bench import overhead
from experiments.bench.overhead import FIT, SWEEP, WATCHED

pytestmark = pytest.mark.long

SMALL = ["--steps", "20", "--repeats", "2", "--width", "2", "--threads", "2", "--imports", "1", "--starts", "1"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The status, the words and the tables of one small run."""
    output = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        told = []
        patch.setattr(overhead.stories, "tell", lambda question, claims: told.extend(claims) or all(c.held for c in claims))
        status = overhead.main([*SMALL, "--output", str(output)])
    return status, told, {name: pd.read_csv(output / f"{name}.csv") for name in ("engine", "imports", "first_results")}


def test_every_claim_is_told_and_decides_the_status(written):
    status, claims, _ = written
    assert len(claims) == 3
    assert status == (0 if all(claim.held for claim in claims) else 1)
    assert all(name in claims[0].measured for name in (SWEEP, WATCHED, FIT))


def test_fixed_cost_and_steps_add_up_to_the_time(written):
    engine = written[2]["engine"]
    assert len(engine) == 5
    np.testing.assert_allclose(engine.step_us / 1e6, (engine.seconds_long - engine.seconds_short) / 60, rtol=1e-6, atol=1e-12)
    few = engine.fixed_ms / 1e3 + overhead.FEW_STEPS * engine.step_us / 1e6
    np.testing.assert_allclose(few, engine.seconds_few, rtol=1e-6, atol=1e-9)
    bare = engine[engine.runner.str.startswith("bare")]
    assert len(bare) == 2 and (bare[["overhead", "low", "high"]] == 0).all(axis=None)


def test_only_the_first_of_two_processes_finds_no_programs(written):
    results = written[2]["first_results"].set_index("folder")
    assert results.loc["empty", "compiled anew"] == results.loc["empty", "programs"] > 10
    assert results.loc["warm", "compiled anew"] < results.loc["empty", "compiled anew"] / 2
    assert (written[2]["imports"] > 0).all(axis=None)


def tables(overheads=(0.01, 0.02, 0.0), imports=(1.0, 1.1), anew=0):
    engine = pd.DataFrame({"runner": [SWEEP, WATCHED, FIT], "overhead": overheads, "low": 0.0, "high": 0.1, "fixed_ms": 5.0})
    times = pd.DataFrame(dict(zip(overhead.IMPORTS, [[seconds] * 3 for seconds in imports])))
    results = pd.DataFrame({"folder": ["empty", "warm"], "seconds": [3.0, 1.0], "programs": 30, "compiled anew": [30, anew]})
    return engine, times, results


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True, True, True]),
        ({"overheads": (0.01, 0.031, 0.0)}, [False, True, True]),
        ({"imports": (1.0, 1.21)}, [True, False, True]),
        ({"anew": 1}, [True, True, False]),
    ],
)
def test_claims_hold_exactly_within_their_bars(changed, expected):
    assert [claim.held for claim in overhead.judge(*tables(**changed))] == expected


def test_words_carry_the_figures():
    engine, imports, results = (claim.measured for claim in overhead.judge(*tables(anew=4)))
    assert f"{WATCHED}: +2.0% (+0.0% to +10.0%)" in engine and f"{FIT}: 5 ms a call" in engine
    assert imports == "1.10 times (jax, optax, flax: 1.00 s, gradkit: 1.10 s)"
    assert results == "4 of 30 programs; first result after 1.0 s, with an empty folder 3.0 s"


def test_bare_scan_and_fit_make_the_same_steps():
    data, rate = overhead.make_data(), 1e-3
    order = overhead.shuffled_epochs(overhead.NUM_EXAMPLES, batch_size=overhead.BATCH_SIZE, key=0)(None, 0, 40)
    ((_, losses),) = overhead.make_bare(data, order, 1, 1, rate=rate)(40)
    fit = gk.fit(
        overhead.make_descent(SimpleNamespace(learning_rate=rate)), data, steps=40, batch_size=overhead.BATCH_SIZE, progress=False
    )
    np.testing.assert_allclose(losses, fit.history["loss"], rtol=1e-4)


@pytest.mark.parametrize("name", ["steps", "repeats", "width", "threads", "imports", "starts"])
def test_a_wrong_setting_is_refused(tmp_path, name):
    with pytest.raises(SystemExit, match=f"`{name}` must be a whole number of at least 1, got 0"):
        overhead.main([*SMALL, f"--{name}", "0", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
