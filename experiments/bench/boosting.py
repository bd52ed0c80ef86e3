"""Are boosted trees fitted as fast as by XGBoost, LightGBM and scikit-learn, and a sweep of them faster?"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import gradkit as gk
from experiments import stories
from gradkit import checks
from gradkit.engine.plan import num_cores

MOST_SINGLE, MOST_SWEEP = 1.0, 0.5  # times a peer's seconds; times the fastest one's
GRADKIT = "gradkit"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fit boosted trees with equal settings by every library, in turns, and compare the times: medians of the rounds.

    Logistic loss on generated data; learning rate 0.1, L2 of 1, at least 1 of curvature in a child, complete trees. A fit's time
    is all of it: binning, growing, and for gradkit the call's own cost; what it compiles is compiled before and told apart. The
    sweep is one of learning rates, against as many fits of the fastest peer one after the other. Peers that are not installed are
    left out. Writes a table.

    Examples:
      python -m experiments.bench.boosting
      python -m experiments.bench.boosting --rows 1000000 --repeats 3 --members 4
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


class Data(NamedTuple):
    """Training and held-out examples: features (n, d), float32, and classes 0 and 1 (n,)."""

    inputs: np.ndarray
    targets: np.ndarray
    held_inputs: np.ndarray
    held_targets: np.ndarray


class Contender(NamedTuple):
    """A library: its name, and how it fits: ``(data, settings, learning_rate) -> () -> probabilities`` of held-out examples."""

    name: str
    fit: Callable[[Data, Settings, float], Callable[[], np.ndarray]]


def make_data(rows: int, features: int) -> Data:
    """Normal features; the log-odds of class 1 are a product, a wave, a step and a line of some of them."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(rows + rows // 4, features)).astype(np.float32)
    score = inputs[:, 0] * inputs[:, 1] + np.sin(3 * inputs[:, 2]) + (inputs[:, 3] > 0.5) + 0.5 * inputs[:, -1]
    targets = (score + random.logistic(size=len(score)) > 0).astype(np.float32)
    return Data(inputs[:rows], targets[:rows], inputs[rows:], targets[rows:])


def make_descent(depth: int, rate: Any) -> gk.Descent:
    """gradkit's descent at a rate."""
    return gk.boosting.descent(gk.losses.logistic, learning_rate=rate, depth=depth)


def fit_gradkit(data: Data, settings: Settings, rate: float) -> Callable[[], np.ndarray]:
    """One fit by gradkit."""
    binned = gk.boosting.bin(data.inputs)
    made = gk.fit(make_descent(settings.depth, rate), (binned, data.targets), steps=settings.trees, progress=False)
    jax.block_until_ready(made.params)
    return lambda: np.asarray(jax.nn.sigmoid(gk.boosting.predict(made.params, binned.like(data.held_inputs))))


def sweep_gradkit(data: Data, settings: Settings, rates: list[float]) -> None:
    """All rates in one sweep."""
    make = lambda h: make_descent(settings.depth, h.learning_rate)  # noqa: E731
    batch = gk.boosting.bin(data.inputs), jnp.asarray(data.targets)
    gk.sweep(make, batch, gk.grid(learning_rate=rates), steps=settings.trees, plan=gk.Plan(width=1), progress=False)


def fit_xgboost(data: Data, settings: Settings, rate: float) -> Callable[[], np.ndarray]:
    """One fit by XGBoost's histograms."""
    import xgboost

    told = {
        "tree_method": "hist",
        "max_depth": settings.depth,
        "eta": rate,
        "objective": "binary:logistic",
        "nthread": num_cores(),
    }
    model = xgboost.train(told, xgboost.QuantileDMatrix(data.inputs, data.targets, max_bin=256), settings.trees)
    return lambda: model.predict(xgboost.DMatrix(data.held_inputs))


def fit_lightgbm(data: Data, settings: Settings, rate: float) -> Callable[[], np.ndarray]:
    """One fit by LightGBM, held to the same depth."""
    import lightgbm

    told = {
        "objective": "binary", "max_depth": settings.depth, "num_leaves": 2**settings.depth, "learning_rate": rate,
        "lambda_l2": 1, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 1, "max_bin": 255, "num_threads": num_cores(),
        "verbose": -1,
    }  # fmt: skip
    model = lightgbm.train(told, lightgbm.Dataset(data.inputs, data.targets), settings.trees)
    return lambda: model.predict(data.held_inputs)


def fit_sklearn(data: Data, settings: Settings, rate: float) -> Callable[[], np.ndarray]:
    """One fit by scikit-learn's histograms."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_depth=settings.depth, max_leaf_nodes=2**settings.depth, max_iter=settings.trees, learning_rate=rate,
        early_stopping=False, min_samples_leaf=1, l2_regularization=1,
    ).fit(data.inputs, data.targets)  # fmt: skip
    return lambda: model.predict_proba(data.held_inputs)[:, 1]


def contenders() -> list[Contender]:
    """gradkit, and the peers that are installed."""
    peers = {"xgboost": fit_xgboost, "lightgbm": fit_lightgbm, "sklearn": fit_sklearn}
    found = [Contender(name, fit) for name, fit in peers.items() if importlib.util.find_spec(name) is not None]
    return [Contender(GRADKIT, fit_gradkit), *found]


def seconds_of(function: Callable, *args) -> tuple[float, Any]:
    """Wall time of a call, and what it returned."""
    started = time.perf_counter()
    told = function(*args)
    return time.perf_counter() - started, told


def measure(data: Data, settings: Settings) -> pd.DataFrame:
    """A row per contender: seconds of a fit (median), gradkit's speed over it, held-out log loss, and seconds of the sweep.

    ``first`` is the first fit, in which gradkit compiles; ``sweep`` is measured for gradkit and the fastest peer only.
    """
    found = contenders()
    first = {own.name: seconds_of(own.fit, data, settings, 0.1) for own in found}
    rounds = pd.DataFrame(
        [{own.name: seconds_of(own.fit, data, settings, 0.1)[0] for own in found} for _ in range(settings.repeats)]
    )
    rates = np.geomspace(0.03, 0.3, settings.members).tolist()
    fastest = rounds.drop(columns=GRADKIT).median().idxmin()
    seconds_of(sweep_gradkit, data, dataclasses.replace(settings, trees=1), rates[:2])
    swept = {GRADKIT: seconds_of(sweep_gradkit, data, settings, rates)[0]}
    peer = next(own for own in found if own.name == fastest)
    swept[fastest] = seconds_of(lambda: [peer.fit(data, settings, rate) for rate in rates])[0]
    return pd.DataFrame([
        {
            "contender": own.name, "seconds": rounds[own.name].median(), "first": first[own.name][0],
            "gradkit is": (rounds[own.name] / rounds[GRADKIT]).median(), "log_loss": log_loss(data, first[own.name][1]()),
            "sweep": swept.get(own.name, np.nan),
        }
        for own in found
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
    return [
        stories.Claim(f"a fit takes at most {MOST_SINGLE} times as long as a peer's", ratios,
                      bool((own.seconds <= MOST_SINGLE * peers.seconds).all())),
        stories.Claim(f"a sweep takes at most {MOST_SWEEP} times as long as as many fits of the fastest peer",
                      f"{own.sweep / swept.sweep:.2f} ({swept.contender}: {swept.sweep:.1f} s)",
                      bool(own.sweep <= MOST_SWEEP * swept.sweep)),
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
