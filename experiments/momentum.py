"""What do momentum and adaptive rates change in ravines, at saddles, among many minima and under noise?"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pandas as pd

import gradkit as gk
from experiments import momentum_claims as claims
from experiments import momentum_figures, stories
from experiments import momentum_landscapes as lands
from gradkit import checks


@dataclasses.dataclass(frozen=True)
class Settings:
    """Descend six surfaces by plain descent, momentum, Nesterov, RMSprop and Adam, and hold what is measured against theory.

    The surfaces: a ravine (curvatures 1 and 1 / condition) along the axes and turned by 45 degrees, the saddle
    x^2 - y^2 + y^4 / 4, the monkey saddle x^3 - 3 x y^2 with a wall around it, Rastrigin's bowl with waves and so with many
    minima, and a noisy bowl in bad units. All methods try the same rates from the same starts. A start has arrived when the
    height stays below a level to the end (ravine: 1e-4 of the start's; noisy bowl: 1e-2). The best rate is the one with the
    fewest steps to arrive, a start that never does counted as all steps, on average over every other start (if none does, the
    one that ends lowest); what is told of it is measured on the rest.
    Momenta are 0.9. In the ravine all pairs of a rate and a momentum are tried besides, for what is said of the best pair; the
    table and the figure are of 0.9 there, too. Writes a table, the steps to leave the saddles and a figure.

    Examples:
      python -m experiments.momentum
      python -m experiments.momentum --condition 400 --rates 32
    """

    condition: float = 100.0
    """kappa, the ratio of the curvatures of the ravine and of the noisy bowl."""
    rates: int = 20
    """Learning rates, at least 8, spaced evenly on a log scale."""
    low: float = 1e-4
    """The lowest learning rate, at most 0.01."""
    high: float = 4.0
    """The highest learning rate, from 1 to 100."""
    pairs: int = 16
    """Rates, and momenta, of which all pairs are tried in the ravine."""
    starts: int = 256
    """Random starts among many minima; a fourth of them in the noisy bowl."""
    steps: int = 1000
    """Updates."""
    seed: int = 0
    """Seeds the random starts and the noise."""
    output: str = "results/momentum"
    """Where the tables and the figure are written."""


def survey(settings: Settings, methods=None) -> lands.Runs:
    """Run everything, in one sweep."""
    checks.require(10 <= settings.condition < np.inf, "condition", "be finite and at least 10", settings.condition,
                   "Less is no ravine.")  # fmt: skip
    checks.whole_number("seed", settings.seed, at_least=0, remedy="Any seeds the starts and the noise.")
    checks.whole_number("pairs", settings.pairs, at_least=2, remedy="The lowest and the highest come first.")
    need = 8 * claims.window(settings.condition)
    checks.require(settings.steps > need, "steps", f"be above {need}, 20 times the root of the condition", settings.steps,
                   "Contractions are read off after as many.")  # fmt: skip
    checks.whole_number("starts", settings.starts, at_least=16, remedy="Half of them choose the rates, half judge them.")
    checks.whole_number("rates", settings.rates, at_least=8, remedy="With fewer, the best might lie between them.")
    checks.require(0 < settings.low <= 0.01 and 1 <= settings.high <= 100, "low, high", "reach from 0.01 or less to 1 up to 100",
                   (settings.low, settings.high), "Some surfaces are a hundred times as steep as others.")  # fmt: skip
    methods = lands.METHODS if methods is None else methods
    landscapes = lands.survey_land(settings.condition, settings.starts, settings.seed)
    rates = gk.geomspace(settings.low, settings.high, settings.rates)
    space = lands.space_of(landscapes, methods, rates) + lands.tuning_space(landscapes, settings.condition, settings.pairs)
    return lands.run(landscapes, methods, space, steps=settings.steps, seed=settings.seed)


def tabulate(runs: lands.Runs) -> pd.DataFrame:
    """A row per landscape and method at its best rate: share that arrived, steps, and the steps' size in each coordinate."""
    keys = [(name, method) for method, name, momentum in runs.members if name != "tuning"]
    table = pd.DataFrame([summarize(runs, name, method) for name, method in keys])
    return table.sort_values("landscape", key=lambda names: names.map(list(runs.landscapes).index), kind="stable")


def summarize(runs: lands.Runs, name: str, method: str) -> dict:
    """The row of one landscape and method: every other start chooses the rate, the others are told of.

    ``step_x`` is the root mean square step on the way, ``rate_x`` the same over the root mean square slope.
    """
    landscape, (rates, paths) = runs.landscapes[name], runs.paths(method, name)
    counts = lands.count_to_arrive(landscape, paths)
    spent = np.minimum(counts, paths.shape[2])
    ends = np.nan_to_num(lands.measure_heights(landscape, paths[:, ::2, -1]), nan=np.inf).mean(axis=1)
    best = int(np.lexsort((ends, spent[:, ::2].mean(axis=1)))[0])
    own, on_way = paths[best, 1::2], np.arange(paths.shape[2] - 1) < np.maximum(spent[best, 1::2], 1)[:, None]
    steps = np.sqrt((np.diff(own, axis=1)[on_way] ** 2).mean(axis=0))
    slopes = np.sqrt((lands.measure_slopes(landscape, own[:, :-1])[on_way] ** 2).mean(axis=0))
    return {
        "landscape": name, "method": method, "best_rate": rates[best], "is_at_edge": best in (0, len(rates) - 1),
        "share": np.isfinite(counts[best, 1::2]).mean(), "starts": len(own), "steps": spent[best, 1::2].mean(),
        "step_x": steps[0], "step_y": steps[1], "rate_x": steps[0] / slopes[0], "rate_y": steps[1] / slopes[1],
    }  # fmt: skip


def judge(runs: lands.Runs, table: pd.DataFrame, condition: float) -> list[stories.Claim]:
    """All claims."""
    return [
        *claims.judge_plain(runs, condition),
        *claims.judge_tuning(claims.compare_factors(runs, condition), condition),
        *claims.judge_turn(runs, table),
        *claims.judge_circles(runs, condition),
        *claims.judge_saddles(runs),
        *claims.judge_basins(runs),
        *claims.judge_shares(table),
        *claims.judge_noise(claims.compare_spreads(runs, condition)),
        *claims.judge_steps(runs, condition),
        *claims.judge_first(table, condition),
    ]


def tabulate_escapes(runs: lands.Runs) -> pd.DataFrame:
    """A row per saddle, method, rate and start: how close it began and after how many steps it had left, NaN if never."""
    frames = []
    for name in ("saddle", "monkey saddle"):
        for method in dict.fromkeys(method for method, _, _ in runs.members):
            rates, distances, counts, most = claims.leave(runs, method, name)
            frame = pd.DataFrame({"saddle": name, "method": method, "rate": np.repeat(rates, len(distances))})
            frames.append(
                frame.assign(distance=np.tile(distances, len(rates)), steps=counts.ravel()).replace({"steps": most}, np.nan)
            )
    return pd.concat(frames, ignore_index=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        output = stories.make_output(settings.output)
        runs = survey(settings)
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    table, escapes = tabulate(runs), tabulate_escapes(runs)
    held = stories.tell(__doc__, judge(runs, table, settings.condition))
    print(table.set_index(["landscape", "method"]).to_string(float_format="{:.3g}".format))
    files = stories.write_table(table, output / "table") + stories.write_table(escapes, output / "escapes")
    files.append(stories.write_figure(momentum_figures.draw(runs, table, escapes, settings.condition), output / "momentum.png"))
    print("written: " + ", ".join(map(str, files)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
