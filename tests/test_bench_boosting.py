"""The benchmark of boosting on tiny settings."""

import pandas as pd
import pytest

from experiments.bench import boosting as bench
from experiments.bench.boosters import Size
from experiments.bench.boosting_probe import ask

pytestmark = pytest.mark.long

SMALL = ["--rows", "2000", "--features", "5", "--trees", "8", "--depth", "3", "--members", "2", "--repeats", "1"]


def test_a_process_of_its_own_tells_what_a_first_fit_takes():
    told = ask(bench.GRADKIT, 2000, 5, Size(2, 3))
    assert told["first"] > told["second"] > 0 and told["memory"] > 0


def test_all_contenders_learn_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "ask", lambda *_, **__: {"kernel": 0.0, "first": 2.0, "second": 1.0, "memory": 5.0})
    bench.main([*SMALL, "--output", str(tmp_path)])
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.contender.tolist()[0] == bench.GRADKIT and "sklearn" in table.contender.tolist()
    assert table.log_loss.max() < 1.1 * table.log_loss.min() < 0.72
    assert (table.seconds > 0).all() and table.sweep.notna().sum() == 2


def row(contender, seconds, log_loss, sweep, memory=100.0, compiles=2.0):
    times = {"compiles": compiles, "loads": 0.5, "kernel": 5.0}
    return {"contender": contender, "seconds": seconds, "log_loss": log_loss, "sweep": sweep, "memory": memory, **times}


@pytest.mark.parametrize(
    ("own", "held"),
    [
        ((1.0, 0.5, 3.0), [True, True, True, True, True]),
        ((1.6, 0.5, 3.0, 100, 6.0), [False, False, True, True, True]),
        ((1.0, 0.6, 5.0, 160), [True, True, False, False, False]),
    ],
)
def test_claims_follow_from_the_figures(own, held):
    table = pd.DataFrame([row(bench.GRADKIT, *own), row("a", 1.5, 0.5, 8.0), row("b", 2.0, 0.51, float("nan"))])
    assert [claim.held for claim in bench.judge(table)] == held


def test_wrong_settings_are_refused():
    with pytest.raises(SystemExit, match="`rows` must be a whole number of at least 4, got 2"):
        bench.main(["--rows", "2"])
