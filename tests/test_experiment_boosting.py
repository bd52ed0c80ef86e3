"""Sets that are what they say, equal settings in every library, and claims that fail on figures against them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from experiments import boosting, boosting_libraries, boosting_sets
from experiments.boosting_libraries import GRADKIT, Task, libraries
from experiments.boosting_sets import CLASSES, NUMBERS, Examples

SMALL = ["--sets", "iris", "diabetes", "--seeds", "2", "--trees", "6", "--depth", "2"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Threads of the peers that wait for each other starve beside other tests."""
    monkeypatch.setattr(boosting_libraries, "num_cores", lambda: 1)
    with threadpool_limits(1, "openmp"):
        yield


@pytest.mark.long
def test_the_story_is_told_and_written(capsys, tmp_path):
    status = boosting.main([*SMALL, "--output", str(tmp_path)])
    table = pd.read_csv(tmp_path / "table.csv")
    assert status == (0 if all(claim.held for claim in boosting.judge(table)) else 1)
    assert capsys.readouterr().out.count("by more than") == 3
    assert table["set"].unique().tolist() == ["iris", "diabetes"] and set(table.library) == set(libraries())
    means = table.groupby("set")["mean"]
    assert means.max()["iris"] < np.log(3) * 0.7 and means.max()["diabetes"] < 1.1 * means.min()["diabetes"]
    assert (table.seconds > 0).all() and (tmp_path / "boosting.png").stat().st_size > 10_000
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 2 * len(table)


@pytest.mark.long
@pytest.mark.parametrize(("name", "fit"), libraries().items())
def test_every_library_grows_the_same_first_tree(name, fit):
    """One tree at rate 1 on few, well separated values: mean - with the L2 of 1 - of the residuals in each leaf."""
    x = np.repeat(np.arange(4.0), 25)[:, None]
    train = Examples(x, np.array([0.0, 1, 5, 6])[x[:, 0].astype(int)])
    predicted = fit(Task(NUMBERS, 0, (), trees=1, depth=2, learning_rate=1.0), train)(np.arange(4.0)[:, None])
    np.testing.assert_allclose(predicted, 3 + np.array([-3, -2, 2, 3]) * 25 / 26, rtol=1e-5)


@pytest.mark.parametrize("name", [*boosting_sets.BUNDLED, *boosting_sets.GENERATED])
def test_a_set_is_drawn_anew_by_each_seed_and_alike_by_the_same(name):
    own = boosting_sets.load(name)
    (train, test), (again, _), (other, _) = own.draw(0), own.draw(0), own.draw(1)
    assert train.inputs.shape[1:] == test.inputs.shape[1:] and len(train.inputs) == len(train.targets) >= len(test.targets)
    np.testing.assert_array_equal(train.inputs, again.inputs)
    assert not np.array_equal(train.inputs, other.inputs, equal_nan=True)
    if own.kind == CLASSES:
        assert set(np.unique(train.targets)) == set(range(train.targets.max() + 1))


def test_made_sets_have_what_they_are_made_for():
    missing = np.isnan(boosting_sets.load("wave").draw(0)[0].inputs)
    assert missing[:, 0].mean() == pytest.approx(0.25, abs=0.05) and not missing[:, 1].any()
    own = boosting_sets.load("categories")
    assert [len(np.unique(own.draw(0)[0].inputs[:, column])) for column in own.categorical] == [30, 8]


def test_example_files_are_split_whole(real_data):
    for name, width in (("binary", 2), ("multiclass", 5), ("regression", None)):
        own = boosting_sets.load(name, str(real_data))
        train, test = own.draw(0)
        assert (len(train.targets), len(test.targets), train.inputs.shape[1]) == (5625, 1875, 28)
        assert width is None or len(np.unique(test.targets)) == width


def test_sets_without_files_are_left_out_and_told(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("GRADKIT_REAL_DATA", raising=False)
    monkeypatch.setattr(boosting, "libraries", lambda: {GRADKIT: fake(1.0), "peer": fake(2.0)})
    assert boosting.main(["--sets", "binary", "diabetes", "--seeds", "2", "--output", str(tmp_path)]) == 0
    assert "left out, as their files are not there: binary (name their folder" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="`sets` must name a set that is there"):
        boosting.main(["--sets", "binary", "--output", str(tmp_path)])


def fake(off):
    """A library whose predictions are off the mean by so much."""
    return lambda task, train: lambda inputs: np.full(len(inputs), train.targets.mean() + off)


def make_runs(own, worst):
    """Three seeds of gradkit and two peers on one set."""
    metrics = {GRADKIT: own, "a": [0.9, 0.9, 0.9], "b": worst}
    rows = [("s", name, seed, metric, 1.0) for name, each in metrics.items() for seed, metric in enumerate(each)]
    return pd.DataFrame(rows, columns=["set", "library", "seed", "metric", "seconds"])


@pytest.mark.parametrize(
    ("own", "held"),
    [
        ([1.0, 1.1, 1.2], [True, False]),  # the worst peer itself; above the mean of both by more than 1 %
        ([0.9, 1.0, 1.1], [True, True]),
        ([0.8, 0.9, 1.0], [True, True]),
        ([1.01, 1.11, 1.21], [False, False]),  # always worse by the same: the error of the difference is 0
        ([1.0, 1.1, 1.21], [True, False]),  # worse in one of three: within one standard error
    ],
)
def test_claims_are_about_paired_differences_to_the_worst_peer(own, held):
    table = boosting.tabulate(make_runs(own, [1.0, 1.1, 1.2]), {"s": NUMBERS})
    assert [claim.held for claim in boosting.judge(table.round(9))] == held


def test_metrics_are_the_textbooks():
    shares, classes = np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]), np.array([0, 1, 1])
    assert boosting.measure(shares, classes, CLASSES) == pytest.approx(-(np.log(0.5) + np.log(0.75) + np.log(1e-7)) / 3)
    assert boosting.measure(np.array([1.0, 2.0]), np.array([4.0, 6.0]), NUMBERS) == pytest.approx(np.sqrt(12.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sets", "iris", "flowers"], "`sets` must be one of .*, got 'flowers'"),
        (["--seeds", "1"], "`seeds` must be a whole number of at least 2, got 1"),
        (["--trees", "0"], "`trees` must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        boosting.main([*arguments, "--output", str(tmp_path)])


def test_settings_are_passed_on():
    train = Examples(np.zeros((3, 2)), np.array([0, 1, 2]))
    settings = dataclasses.replace(boosting.Settings(), trees=7, depth=3, learning_rate=0.2)
    own = boosting_sets.Set("s", CLASSES, lambda seed: (train, train), (1,))
    assert boosting.task_of(own, train, settings) == Task(CLASSES, 3, (1,), 7, 3, 0.2)
