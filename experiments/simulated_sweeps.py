"""Does a sweep say only what is so? Simulated sweeps with known answers, against what the statistical core finds in them."""

from __future__ import annotations

import dataclasses
import sys
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments import stories
from gradkit import checks
from gradkit.report import findings
from gradkit.report.findings import Axis, Members

KINDS = ("nothing trains", "one optimum", "a plateau", "optimum at the edge", "an axis of noise")
NUM_VALUES = {1: (3, 5, 9, 17, 33, 65, 400), 3: (3, 5, 9, 17, 33), 5: (3, 5, 9, 17, 33)}  # by the number of seeds
NOISE = (0.005, 0.02, 0.05)  # of the best gain, in the middle of the axis
MOST_FALSE, LEAST_FOUND, LEAST_WORKS = 0.02, 0.95, 0.9


@dataclasses.dataclass(frozen=True)
class Settings:
    """Draw sweeps in which nothing trains, or one optimum, a plateau, an optimum beyond the edge or an axis without effect hides.

    Each has 1, 3 or 5 seeds and 3 to 400 values. The noise differs from value to value and has heavy tails; seeds share their
    starts; some starts are measured on one batch; members diverge at the upper end, or have bad luck; there are axes of one
    value and axes besides. Prints how often a finding was false and how often it was missed; writes a row per sweep.

    Examples:
      python -m experiments.simulated_sweeps
      python -m experiments.simulated_sweeps --sweeps 10000 --key 7
    """

    sweeps: int = 1000
    """Sweeps of each kind."""
    key: int = 0
    """Seeds the draws."""
    output: str = "results/simulated_sweeps"
    """Where the table is written."""


class Sweep(NamedTuple):
    """A simulated sweep and its answer.

    Attributes:
        members: What each member came to.
        axes: The axis in question, and others.
        gain: The true gain of each value of the axis in question, as a share of the best, [k]; NaN where it diverges.
        edge: The side on which the optimum lies beyond the axis, or ``None``.
        num_seeds, num_values, noise: As drawn.
    """

    members: Members
    axes: tuple[Axis, ...]
    gain: np.ndarray
    edge: str | None
    num_seeds: int
    num_values: int
    noise: float


def bump(place: np.ndarray, top: float, left: float, right: float) -> np.ndarray:
    """One optimum, with slopes of different width."""
    return np.exp(-(((place - top) / np.where(place < top, left, right)) ** 2))


def draw_gain(kind: str, place: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str | None]:
    """The share of the best gain at each place from 0 to 1, and on which side the optimum lies beyond, if it does."""
    if kind == "nothing trains":
        return np.zeros(len(place)), None
    if kind == "an axis of noise":
        return np.ones(len(place)), None
    if kind == "one optimum":
        margin = max(1, len(place) // 6)
        top = rng.choice(place[margin:-margin]) + rng.uniform(-0.2, 0.2) * (place[1] - place[0])
        gain = bump(place, top, rng.uniform(0.1, 0.35), rng.uniform(0.1, 0.25))
        return gain / gain.max(), None
    is_lower = rng.random() < 0.5
    seen = 1 - place if is_lower else place
    if kind == "a plateau":
        rise = np.clip((seen - rng.uniform(0, 0.3)) / rng.uniform(0.05, 0.2), 0, 1)
        return rise**2 * (3 - 2 * rise), None
    gain = bump(seen, 1 + rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.5), 1.0)
    return gain / gain.max(), "lower" if is_lower else "upper"


def draw(kind: str, rng: np.random.Generator) -> Sweep:
    """A sweep of a kind."""
    num_seeds = int(rng.choice(list(NUM_VALUES)))
    num_values = int(rng.choice(NUM_VALUES[num_seeds]))
    noise = rng.choice(NOISE)
    place = np.linspace(0, 1, num_values)
    gain, edge = draw_gain(kind, place, rng)
    others = draw_others(kind, num_values, rng)
    diverges = draw_tail(num_values, rng) if edge != "upper" else np.zeros(num_values)

    value, other, seed = (grid.ravel() for grid in np.indices((num_values, len(others), num_seeds)))
    is_diverged = rng.random(len(value)) < diverges[value]
    near = np.convolve(diverges, np.ones(3), "same")[value] > 0  # noise grows where members begin to diverge
    waves = np.exp(0.5 * np.sin(2 * np.pi * (rng.uniform(1, 3) * place + rng.random())))[value] * np.where(near, 2, 1)
    luck = rng.standard_t(4, size=len(value)) / np.sqrt(2) * waves
    if rng.random() < 0.3:
        luck[rng.integers(len(luck))] += 10  # one unlucky member
    shared = rng.normal(size=num_seeds)[seed]  # a seed does well or badly everywhere
    starts = np.exp(rng.choice([0.02, 0.1, 0.4]) * rng.normal(size=num_seeds))[seed]
    share = gain[value] * others[other]
    trained = rng.uniform(0.5, 0.95)
    ends = starts * (1 - share) + share * (1 - trained) + noise * trained * (luck + 0.5 * shared)

    error = noise * rng.uniform(0.3, 1) if rng.random() < 0.5 else 0.0  # of the batch on which starts are measured
    is_max = bool(rng.random() < 0.5)
    unit = 10 ** rng.uniform(-3, 3) * (-1 if is_max else 1)
    members = Members(
        configuration=value * len(others) + other,
        replicate=seed,
        end=np.where(is_diverged, np.nan, unit * ends),
        gain=abs(unit) * (starts + error * rng.normal() - ends),
        end_error=np.zeros(len(value)),
        gain_error=np.full(len(value), abs(unit) * error),
        is_diverged=is_diverged,
        is_whole=~is_diverged,
        is_max=is_max,
    )
    axes = (
        Axis("axis", 10.0 ** (5 * place - 4)[value]),
        Axis("constant", np.full(len(value), 0.9)),
        Axis("other", other.astype(float), is_range=bool(rng.random() < 0.5)),
    )
    truth = np.where(diverges == 1, np.nan, gain)
    return Sweep(members, axes, truth, edge, num_seeds, num_values, float(noise))


def draw_others(kind: str, num_values: int, rng: np.random.Generator) -> np.ndarray:
    """What a second axis does to the gain: one value, three that matter, or three that do not."""
    if kind == "an axis of noise":
        return np.array([0.3, 0.8, 1.0]) if rng.random() < 0.5 else np.ones(1)
    if num_values > 33 or rng.random() < 0.5:
        return np.ones(1)
    return rng.choice(np.array([[0.5, 0.9, 1.0], [1.0, 1.0, 1.0]]))


def draw_tail(num_values: int, rng: np.random.Generator) -> np.ndarray:
    """The chance of each value to diverge: every second sweep has a tail, which may begin with a doubtful value."""
    chances = np.zeros(num_values)
    length = int(rng.uniform(0, 0.3) * num_values)
    if rng.random() < 0.5 and length:
        chances[-length:] = 1.0
        chances[-length] = rng.choice([0.3, 1.0])
    return chances


def judge(sweep: Sweep) -> dict[str, object]:
    """What the core said of a sweep, beside the truth."""
    found = findings.find(sweep.members, sweep.axes)
    (axis,) = (each for each in found.ranges if each.name == "axis")
    values = np.unique(sweep.axes[0].values)
    works = axis.low is not None
    is_told = (values >= axis.low) & (values <= axis.high) if works else np.zeros(len(values), bool)
    trains = np.nan_to_num(sweep.gain, nan=1.0) > 0.5  # a value that diverged by bad luck may lie within
    is_extended = axis.edge is not None
    return {
        "seeds": sweep.num_seeds,
        "values": sweep.num_values,
        "noise": sweep.noise,
        "works": works,
        "false_works": bool((is_told & ~trains).any()) or (found.has_gained and not trains.any()),
        "false_extend": is_extended and axis.edge != sweep.edge,
        "edge_found": is_extended and axis.edge == sweep.edge,
    }


def run(settings: Settings) -> pd.DataFrame:
    """A row per sweep."""
    checks.whole_number("sweeps", settings.sweeps, at_least=1, remedy="Ask for the sweeps of each kind.")
    rows = []
    for place, kind in enumerate(KINDS):
        rng = np.random.default_rng([settings.key, place])
        rows += [{"kind": kind, **judge(draw(kind, rng))} for _ in range(settings.sweeps)]
    return pd.DataFrame(rows)


def claims(table: pd.DataFrame) -> list[stories.Claim]:
    """How often what was said is false, and how often what is true was missed."""
    edges = table[table.kind == "optimum at the edge"]
    trains = table[table.kind != "nothing trains"]
    return [
        _at_most("nothing is said to work that does not train", table, "false_works", MOST_FALSE),
        _at_most("no axis is extended without need", table, "false_extend", MOST_FALSE),
        _at_least("an optimum beyond the edge is found", edges, "edge_found", LEAST_FOUND),
        _at_least("what trains is said to work", trains, "works", LEAST_WORKS),
    ]


def _at_most(statement: str, table: pd.DataFrame, column: str, bound: float) -> stories.Claim:
    held = bool((table.groupby("kind")[column].mean() <= bound).all())
    return stories.Claim(f"{statement}: in all but {bound:.0%} of each kind", _shares(table, column), held)


def _at_least(statement: str, table: pd.DataFrame, column: str, bound: float) -> stories.Claim:
    held = bool((table.groupby("kind")[column].mean() >= bound).all())
    return stories.Claim(f"{statement}: in at least {bound:.0%} of each kind", _shares(table, column), held)


def _shares(table: pd.DataFrame, column: str) -> str:
    """How often it was so, by kind and by the number of seeds."""
    kinds = [f"{kind} {share:.1%}" for kind, share in table.groupby("kind")[column].mean().items()]
    seeds = [
        f"with {number} seed{'s' * (number > 1)} {share:.1%}" for number, share in table.groupby("seeds")[column].mean().items()
    ]
    return "\n".join([", ".join(kinds), ", ".join(seeds)])


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        output = stories.make_output(settings.output)
        table = run(settings)
    except ValueError as error:
        sys.exit(f"error: {error}")
    paths = stories.write_table(table, output / "table")
    question = f"Does a sweep say only what is so? {settings.sweeps} simulated sweeps of each kind"
    has_held = stories.tell(question, claims(table))
    print("written: " + ", ".join(map(str, paths)))
    return 0 if has_held else 1


if __name__ == "__main__":
    sys.exit(main())
