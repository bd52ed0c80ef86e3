"""Are boosted trees fitted as fast as by XGBoost, LightGBM and scikit-learn, and a sweep of them faster?"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments import stories
from experiments.bench.boosters import GRADKIT, Data, Size, contenders, make_data, sweep_gradkit
from experiments.bench.boosting_probe import ask
from gradkit import checks

MOST_SINGLE, MOST_SWEEP, MOST_MEMORY = 1.0, 0.5, 1.5  # times a peer's seconds; times the fastest one's; times a peer's MiB
MOST_COMPILING, MOST_LOADING = 5.0, 1.0  # seconds


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fit boosted trees with equal settings by every library, in turns, and compare the times: medians of the rounds.

    Logistic loss on generated data; learning rate 0.1, L2 of 1, at least 1 of curvature in a child, complete trees. A fit's time
    is all of it: binning, growing, and for gradkit the call's own cost; what it compiles is told apart. Memory is how far that of
    a new process rises in its first fit, all code loaded. The sweep is one of learning rates, against as many fits of the fastest
    peer one after the other. Peers that are not installed are left out. Writes a table.

    Examples:
      python -m experiments.bench.boosting
      python -m experiments.bench.boosting --rows 20000 --features 50
      python -m experiments.bench.boosting --rows 1000000 --repeats 3
    """

    rows: int = 200_000
    """Training examples; a quarter as many are held out."""
    features: int = 28
    """Numbers per example."""
    trees: int = 100
    """Trees of a model."""
    depth: int = 6
    """Levels of splits."""
    members: int = 16
    """Learning rates of the sweep."""
    repeats: int = 5
    """Rounds of single fits; the sweep runs once."""
    output: str = "results/bench_boosting"
    """Where the table is written."""


def seconds_of(function: Callable, *args) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    function(*args)
    return time.perf_counter() - started


def measure(data: Data, settings: Settings) -> pd.DataFrame:
    """A row per contender.

    ``seconds`` of a fit (median) and how many times gradkit's they are; ``compiles`` and ``loads``: what a first fit takes more
    where nothing was compiled before, and in a new process after that; ``kernel``: once per machine; ``memory`` in MiB; the
    held-out log loss; seconds of the ``sweep``, for gradkit and the fastest peer only.
    """
    found, size = contenders(), Size(settings.trees, settings.depth)
    ask(GRADKIT, settings.rows, settings.features, size)  # so that the next process finds all compiled
    fresh = {own.name: ask(own.name, settings.rows, settings.features, size) for own in found}
    cold = ask(GRADKIT, settings.rows, settings.features, size, is_cold=True)
    predicted = {own.name: own.fit(data, size, 0.1)() for own in found}
    rounds = pd.DataFrame([{own.name: seconds_of(own.fit, data, size, 0.1) for own in found} for _ in range(settings.repeats)])
    rates = np.geomspace(0.03, 0.3, settings.members).tolist()
    fastest = rounds.drop(columns=GRADKIT).median().idxmin()
    sweep_gradkit(data, size._replace(trees=1), rates[:2])
    swept = {GRADKIT: seconds_of(sweep_gradkit, data, size, rates)}
    peer = next(own for own in found if own.name == fastest)
    swept[fastest] = seconds_of(lambda: [peer.fit(data, size, rate) for rate in rates])
    return pd.DataFrame([
        {
            "contender": name, "seconds": rounds[name].median(), "times_gradkit": (rounds[name] / rounds[GRADKIT]).median(),
            "compiles": cold["first"] - cold["second"] if name == GRADKIT else np.nan, "loads": own["first"] - own["second"],
            "kernel": cold["kernel"] if name == GRADKIT else np.nan, "memory": own["memory"],
            "log_loss": log_loss(data, predicted[name]), "sweep": swept.get(name, np.nan),
        }
        for name, own in fresh.items()
    ])  # fmt: skip


def log_loss(data: Data, probabilities: np.ndarray) -> float:
    """The mean log loss of held-out examples."""
    inside = np.clip(probabilities.astype(float), 1e-7, 1 - 1e-7)
    return float(-np.where(data.held_targets > 0, np.log(inside), np.log1p(-inside)).mean())


def judge(table: pd.DataFrame) -> list[stories.Claim]:
    """What the figures say."""
    own, peers = table[table.contender == GRADKIT].iloc[0], table[table.contender != GRADKIT]
    ratios = "; ".join(f"{row.contender}: {own.seconds / row.seconds:.2f}" for row in peers.itertuples())
    swept = peers.dropna(subset="sweep").iloc[0]
    compiled = f"{own.compiles:.1f} s; {own.loads:.1f} s in a new process; the kernel, once per machine, {own.kernel:.1f} s"
    memory = "; ".join(f"{row.contender}: {own.memory / row.memory:.2f}" for row in peers.itertuples())
    return [
        stories.Claim(f"a fit takes at most {MOST_SINGLE} times as long as a peer's", ratios,
                      bool((own.seconds <= MOST_SINGLE * peers.seconds).all())),
        stories.Claim(f"compiling takes under {MOST_COMPILING} s, loading what was compiled under {MOST_LOADING} s", compiled,
                      bool(own.compiles < MOST_COMPILING and own.loads < MOST_LOADING)),
        stories.Claim(f"a sweep takes at most {MOST_SWEEP} times as long as as many fits of the fastest peer",
                      f"{own.sweep / swept.sweep:.2f} ({swept.contender}: {swept.sweep:.1f} s)",
                      bool(own.sweep <= MOST_SWEEP * swept.sweep)),
        stories.Claim(f"a fit needs at most {MOST_MEMORY} times a peer's memory", memory,
                      bool((own.memory <= MOST_MEMORY * peers.memory).all())),
        stories.Claim("the held-out log loss is within the spread of the peers', or below",
                      f"{own.log_loss:.4f}, peers {peers.log_loss.min():.4f} to {peers.log_loss.max():.4f}",
                      bool(own.log_loss <= peers.log_loss.max())),
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        for name in ("rows", "features", "trees", "depth", "members", "repeats"):
            least = 4 if name in ("rows", "features") else 1
            checks.whole_number(name, getattr(settings, name), at_least=least, remedy=f"See --help for what {name} counts.")
        output = stories.make_output(settings.output)
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    table = measure(make_data(settings.rows, settings.features), settings)
    print(table.to_string(index=False, float_format="{:.4g}".format))
    held = stories.tell(__doc__, judge(table))
    print("written: " + ", ".join(map(str, stories.write_table(table, output / "table"))))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
