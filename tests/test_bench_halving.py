"""The benchmark of halving on small settings: its contestants make the same runs, and its claims follow from its table."""

import dataclasses
import os
import sys

import numpy as np
import pandas as pd
import pytest

import experiments.bench
from experiments.bench import halving as bench
from gradkit import folders

pytestmark = pytest.mark.long

SMALL = bench.Settings(configurations=9, seeds=2, steps=27, min_steps=3, batch_size=32, repeats=1, validation_examples=100)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return bench.pose(SMALL, str(tmp_path_factory.mktemp("caches")))


@pytest.fixture(scope="module")
def full(problem):
    return bench.run_sweep(problem, SMALL, 5, None)[0]


class Recorder:
    """A trial that is never pruned and keeps what it is told."""

    def __init__(self):
        self.reports = {}

    def report(self, value, step):
        self.reports[step] = value

    def should_prune(self):
        return False


@pytest.fixture
def studies():
    """The contestant of Optuna and PyTorch, where they are installed."""
    pytest.importorskip("torch")
    pytest.importorskip("optuna")
    from experiments.bench import pruned_studies

    return pruned_studies


def test_pytorch_makes_the_runs_that_gradkit_makes(problem, full, studies):
    task = studies.as_tensors(bench.pose_task(problem, SMALL, 5, studies))
    table = full.table()
    for configuration in full.configurations():
        hyper = {name: full.hyper[configuration[0]][name] for name in bench.BOUNDS}
        if hyper["learning_rate"] > 0.01:
            continue  # where the dynamics amplify rounding
        trial = Recorder()
        steps, loss, accuracy = studies.train(task, hyper, trial)
        assert steps == 27 and list(trial.reports) == [3, 9, 27]
        np.testing.assert_allclose(loss, table.validation_loss.iloc[list(configuration)].mean(), rtol=1e-4)
        params = [full.params(member) for member in configuration]
        right = [problem.model.apply(each, problem.validation[0]).argmax(-1) == problem.validation[1] for each in params]
        assert accuracy == pytest.approx(np.mean(right), abs=0.011)
    assert sum(rate <= 0.01 for rate in table.learning_rate) >= 6


def test_plans_and_programs_are_kept_apart_from_those_of_the_user(monkeypatch, tmp_path):
    for before in ("mine", None):
        monkeypatch.setenv(bench.CACHE_VARIABLE, before) if before else monkeypatch.delenv(bench.CACHE_VARIABLE, raising=False)
        with bench.caches_in(str(tmp_path)):
            assert folders.cache_folder() == tmp_path
        assert os.environ.get(bench.CACHE_VARIABLE) == before


def test_the_winner_has_the_standard_error_of_its_losses_over_the_validation_examples(problem, full):
    winner = bench.examine(problem, full)
    means = full.table().groupby(["learning_rate", "weight_decay"]).validation_loss.mean()
    assert winner.loss == pytest.approx(means.min(), rel=1e-5)
    assert (winner.hyper["learning_rate"], winner.hyper["weight_decay"]) == means.idxmin()
    inputs, targets = problem.validation
    members = [i for i, hyper in enumerate(full.hyper) if hyper["learning_rate"] == winner.hyper["learning_rate"]]
    losses = []
    for member in members:
        scores = np.asarray(problem.model.apply(full.params(member), inputs), np.float64)
        losses.append(np.log(np.exp(scores).sum(1)) - scores[np.arange(len(targets)), targets])
    assert len(members) == 2 and len(targets) == 100
    assert winner.standard_error == pytest.approx(np.std(np.mean(losses, 0), ddof=1) / 10, rel=1e-4)


def test_optuna_tries_every_point_and_prunes_by_its_rule(problem, studies):
    points = list(bench.draw_points(SMALL, 5))
    trials, seconds = studies.run(bench.pose_task(problem, SMALL, 5, studies), points, workers=1)
    assert [trial.hyper for trial in trials] == points
    assert {trial.steps for trial in trials} <= {3, 9, 27}
    assert all(trial.is_complete == (trial.steps == 27) for trial in trials)
    assert trials[0].is_complete, "the first trial has none to be compared with"
    assert sum(trial.steps for trial in trials) < 9 * 27
    assert all(0 < trial.seconds <= seconds for trial in trials)


def row(behind, seconds=1.0, loss=0.1, **more):
    row = {"contestant": bench.HALVING, "seconds": seconds, "steps": 10} | more
    winner = bench.Winner({"learning_rate": 0.1}, 0.1 + behind * 0.02, np.nan, 0.9)
    return bench.compare(row, winner, bench.Winner({}, 0.1, 0.02, 0.9))


@pytest.mark.parametrize(("behind", "is_as_good"), [(-3.0, True), (0.0, True), (0.999, True), (1.001, False), (np.inf, False)])
def test_a_winner_is_as_good_within_one_standard_error(behind, is_as_good):
    compared = row(behind)
    assert compared["is_as_good"] is is_as_good
    assert compared["standard_errors_behind"] == pytest.approx(behind)
    assert compared["seconds_to_best"] == (1.0 if is_as_good else np.inf)


def make_table(halved=1.0, behind=(0.0,) * 10, first=3.0):
    """Ten repetitions: a full sweep of 10 s, a halving, a study; the first repetition cold as well."""
    rows = []
    for repetition, each in enumerate(behind):
        for is_warm in (False, True) if repetition == 0 else (True,):
            more = {"repetition": repetition, "is_warm": is_warm}
            rows.append(row(0.0, 10.0 + 2 * (not is_warm), contestant=bench.FULL, steps=200) | more)
            rows.append(row(each, halved + (not is_warm)) | more)
        rows.append(row(0.0, 5.0, contestant=bench.STUDY, seconds_to_best=first) | {"repetition": repetition, "is_warm": True})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("table", "held", "words"),
    [
        (make_table(), [True, True, True], ["10.0 (10.0 to 10.0) times less without compilation, 6.0 with it; steps 20.0",
         "in 10 of 10", "halving 1.00 (1.00 to 1.00), the first time with compilation 2.00; Optuna + PyTorch 3.00"]),
        (make_table(halved=1.3), [False, True, True], ["7.7 (", "in 10 of 10", "whole study 5.00"]),
        (make_table(behind=(2.0,) + (0.5,) * 9), [True, True, True], ["10.0", "in 9 of 10; behind by 0.50 (0.50 to 2.00)", ""]),
        (make_table(behind=(2.0, 2.0) + (0.0,) * 8), [True, False, True], ["", "in 8 of 10", ""]),
        (make_table(first=1.5), [True, True, False], ["", "", "1.50"]),
        (make_table(first=np.inf), [True, True, True], ["", "", "Optuna + PyTorch never (never to never)"]),
    ],
)  # fmt: skip
def test_claims_follow_from_the_table(table, held, words):
    claims = bench.judge(table)
    assert [claim.held for claim in claims] == held
    for claim, expected in zip(claims, words, strict=True):
        assert expected in claim.measured


def test_without_optuna_its_contestant_is_left_out_with_a_line(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "experiments.bench.pruned_studies", raising=False)
    monkeypatch.delattr(experiments.bench, "pruned_studies", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert bench.find_studies() is None
    assert "left out: Optuna + PyTorch (optuna is not installed: pip install 'gradkit[torch,peers]')" in capsys.readouterr().out
    assert len(bench.judge(make_table().query("contestant != @bench.STUDY"))) == 2


def test_a_small_run_prints_its_claims_and_writes_its_table(studies, capsys, tmp_path):
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(SMALL).items() if value is not None]
    status = bench.main([*arguments, "--output", str(tmp_path)])
    text = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table.contestant) == [bench.FULL] * 2 + [bench.HALVING] * 2 + [bench.STUDY]
    assert list(table.is_warm) == [False, True, False, True, True]
    assert list(table.steps[:4]) == [9 * 2 * 27] * 2 + [2 * (9 * 3 + 3 * 6 + 18)] * 2
    assert table.validation_loss[0] == table.validation_loss[1] and table.standard_errors_behind[0] == 0
    assert list(table.is_as_good) == list(table.standard_errors_behind <= 1)
    assert status == (0 if text.count("│ yes") == 3 else 1) and text.count("│ yes") + text.count("│ no") == 3
    assert (tmp_path / "bench_halving.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-steps", "810"], "`halving.min_steps` must be below the number of steps, 810, got 810"),
        (["--eta", "1"], "`eta` must be a whole number of at least 2"),
        (["--workers", "0"], "`workers` must be a whole number of at least 1, got 0. Optuna runs"),
        (["--repeats", "0"], "`repeats` must be a whole number of at least 1"),
        (["--validation-examples", "1"], "`validation-examples` must be a whole number of at least 2"),
        (["--data", "mnist"], "`data-dir` must name the folder"),
    ],
)
def test_wrong_settings_are_refused(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        bench.main([*arguments, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
