"""What is said of momentum and of adaptive rates: runs flow in, claims with their verdicts flow out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments import momentum_landscapes as lands
from experiments import momentum_laws as laws
from experiments.stories import Claim

RADIUS = 0.3  # who is farther from a saddle has left it
TOLD = 0.15  # the rate told of, or one nearby
STANDARD_ERRORS = 4.0
SETTLED = 1e-3  # a transient within this factor of its start is over
LINEAR = ("plain", "momentum", "Nesterov")  # their steps are linear in the slopes
ROUNDING = 4 * float(np.finfo(np.float32).eps)


def worst(errors) -> float:
    """The largest; infinite where there is none, so that nothing measured holds no claim up."""
    return float(np.max(errors)) if np.size(errors) else np.inf


def window(condition: float) -> int:
    """Steps in which the best heavy ball loses a few orders of magnitude; contractions are read off after 2 to 8 of them."""
    return int(2.5 * condition**0.5)


def measure_factors(paths: np.ndarray, unit: int) -> np.ndarray:
    """Contraction per step at each rate: between the largest distances in steps 2 to 4 units and in steps 6 to 8 units."""
    early, late = (np.abs(paths[:, :, part * unit : (part + 2) * unit]).max(axis=(1, 2, 3)) for part in (2, 6))
    return (late / early) ** (1 / (4 * unit))


def judge_plain(runs: lands.Runs, condition: float) -> list[Claim]:
    """Plain descent in the ravine: the law of every rate and the best one."""
    rates, paths = runs.paths("plain", "tuning")
    unit, (best, factor) = window(condition), laws.best_plain(1 / condition, 1)
    early, late = (np.abs(paths[:, :, part * unit]) for part in (4, 8))
    measured = ((late / np.maximum(early, 1e-30)) ** (1 / (4 * unit))).max(axis=(1, 2))
    law = np.array([max(abs(1 - rate), abs(1 - rate / condition)) for rate in rates])
    errors = np.abs(measured / law - 1)[np.isfinite(measured)]
    chosen = rates[np.nanargmin(measured)]
    return [Claim(
        "In a ravine plain descent contracts by max |1 - eta lambda|; its best rate is 2 / (l + L), its best factor "
        "(kappa - 1) / (kappa + 1).",
        f"{len(errors)} rates: at most {errors.max():.0e} off; best of them {chosen:.4f} (theory {best:.4f}), factor "
        f"{np.nanmin(measured):.5f} (theory {factor:.5f})",
        bool(errors.max() <= ROUNDING and abs(chosen / best - 1) < 1e-6),
    )]  # fmt: skip


def compare_factors(runs: lands.Runs, condition: float) -> pd.DataFrame:
    """Of every rate and momentum tried for tuning where distances stay finite: the factor measured, the same of the powers of
    the recursion's matrix in float64, and its spectral radius."""
    rows, unit, curvatures = [], window(condition), (1, 1 / condition)
    for method, name, momentum in runs.members:
        if name == "tuning" and method != "plain":
            rates, paths = runs.paths(method, name, momentum)
            for rate, factor, starts in zip(rates, measure_factors(paths, unit), paths[:, :, 0]):
                courses = [laws.course(method, rate, momentum, each, 8 * unit) for each in curvatures]
                powers = measure_factors(starts[None, :, None] * np.stack(courses, axis=1), unit)[0]
                radius = max(laws.factor(method, rate, momentum, each) for each in curvatures)
                rows.append((method, rate, momentum, factor, powers, radius))
    return pd.DataFrame(rows, columns=["method", "rate", "momentum", "factor", "powers", "radius"]).query("factor < inf")


def judge_tuning(table: pd.DataFrame, condition: float) -> list[Claim]:
    """Momentum and Nesterov in the ravine: the law of every rate and momentum, and the best ones."""
    unit = window(condition)
    errors, gaps = (table.factor / table.powers - 1).abs(), (table.factor / table.radius - 1).abs()
    rate, momentum, factor = laws.best_momentum(1 / condition, 1)
    at_best = table[(table.method == "momentum") & np.isclose(table.momentum, momentum) & np.isclose(table.rate, rate)].iloc[0]
    others = table[table.method == "momentum"].drop(index=at_best.name).factor.min()
    nesterov = table[table.method == "Nesterov"].factor.min()
    slack = np.log(3) / (4 * unit)  # by a double root, (a + b t) rho**t, between steps 2 units and 6 units
    return [
        Claim("With momentum and Nesterov a coordinate follows the powers of a matrix of two rows; its spectral radius is the "
              "factor in the end.",
              f"{len(table)} pairs of rate and momentum, {8 * unit} steps: factor at most {errors.max():.0e} off the powers', "
              f"{gaps.max():.1%} off the radius", bool(errors.max() <= 8 * unit * ROUNDING)),
        Claim("The heavy ball's best factor is (sqrt(kappa) - 1) / (sqrt(kappa) + 1), at rate 4 / (sqrt(L) + sqrt(l))**2 and "
              "that factor squared for a momentum; no pair does better.",
              f"there {at_best.factor:.4f} (theory {factor:.4f}, and up to {slack:.1%} more for its double root); lowest of "
              f"the other pairs {others:.4f}; Nesterov's lowest {nesterov:.4f}",
              bool(0 <= np.log(at_best.factor / factor) <= slack and others >= factor)),
    ]  # fmt: skip


def judge_turn(runs: lands.Runs, table: pd.DataFrame) -> list[Claim]:
    """The ravine along the axes and across them."""
    turn, gaps = np.array([[1, 1], [-1, 1]]) / 2**0.5, {}
    for method, best in table[table.landscape == "ravine"].set_index("method").best_rate.items():
        (rates, straight), (_, turned) = (runs.paths(method, name) for name in ("ravine", "turned ravine"))
        gaps[method] = np.abs(straight[rates == best] @ turn - turned[rates == best]).max()
    steps = table.pivot(index="method", columns="landscape", values="steps")
    told = [f"{name} {steps['turned ravine'][name]:.0f} in place of {steps['ravine'][name]:.0f}" for name in ("RMSprop", "Adam")]
    return [
        Claim("Plain descent, momentum and Nesterov do not notice when the ravine is turned by 45 degrees.",
              f"paths at the best rates differ by {max(gaps[name] for name in LINEAR):.0e} of the start's distance",
              max(gaps[name] for name in LINEAR) <= 100 * ROUNDING),
        Claim("RMSprop and Adam do, as their rates are those of coordinates.",
              f"paths differ by {gaps['RMSprop']:.2g} and {gaps['Adam']:.2g}; steps to arrive: {' and '.join(told)}",
              min(gaps["RMSprop"], gaps["Adam"]) > 0.1),
        Claim("In a ravine momentum pays, adaptive rates do not: Nesterov is first, RMSprop last, Adam 10 % ahead at best.",
              ", ".join(f"{name} {count:.0f}" for name, count in steps["ravine"].sort_values().items()) + " steps to arrive",
              bool(steps["ravine"].idxmin() == "Nesterov" and steps["ravine"].idxmax() == "RMSprop"
                   and steps["ravine"].Adam >= 0.9 * steps["ravine"].momentum)),
    ]  # fmt: skip


def judge_circles(runs: lands.Runs, condition: float) -> list[Claim]:
    """Where RMSprop ends: at every rate that had the time to come down."""
    rates, paths = runs.paths("RMSprop", "ravine")
    is_down = rates * paths.shape[2] > 4
    ends = np.abs(paths[is_down][:, :, -20:])
    law = np.array([[laws.rmsprop_circle(rate, curvature) for curvature in (1, 1 / condition)] for rate in rates[is_down]])
    errors = np.abs(ends - law[:, None, None]).max(axis=(1, 2, 3)) / rates[is_down]
    far = ends.max(axis=(1, 2)) / rates[is_down][:, None]
    return [Claim(
        "At a constant rate RMSprop does not converge: it steps to and fro at eta / 2 from the minimum, in every coordinate "
        "with eta lambda >> 2 sqrt(eps) = 2e-4: at sqrt(eta**2 / 4 - eps / lambda**2).",
        f"{is_down.sum()} rates from {rates[is_down].min():.2g}: across {far[:, 0].min():.3f} to {far[:, 0].max():.3f} eta, "
        f"along {far[:, 1].min():.3f} to {far[:, 1].max():.3f} eta; the law is off by {errors.max():.0e} eta at most",
        bool(is_down.any() and errors.max() <= 1e-2),
    )]  # fmt: skip


def leave(runs: lands.Runs, method: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Rates, first distances from a saddle, steps it took to leave it (along y, or down the monkey's valley), steps made."""
    rates, paths = runs.paths(method, name)
    places = np.abs(paths[:, : lands.DISTANCES, :, 1 if name == "saddle" else 0])
    return rates, places[0, :, 0], lands.count_to_leave(places, RADIUS), paths.shape[2]


def is_between(runs: lands.Runs, method: str, name: str, bounds) -> bool:
    """Whether the steps to leave are within bounds(rate, distances, steps made), at every rate from every distance."""
    rates, distances, counts, most = leave(runs, method, name)
    held = True
    for rate, row in zip(rates, counts):
        low, high = bounds(rate, distances, most)
        held &= bool(np.all((row >= np.minimum(low, most)) & (row <= np.minimum(high + 1, most))))
    return held


def told(runs: lands.Runs, method: str, name: str) -> str:
    """The steps from the farthest and from the closest start, at the rate told of."""
    rates, distances, counts, most = leave(runs, method, name)
    first, last = counts[np.argmin(np.abs(np.log(rates / TOLD)))][[0, -1]]
    return f"{first} steps from {distances[0]:.0e}, {last if last < most else f'over {most}'} from {distances[-1]:.0e}"


def judge_saddles(runs: lands.Runs) -> list[Claim]:
    """How long descents stay near the two saddles."""
    plain = {
        "saddle": lambda rate, distances, most: laws.saddle_steps(rate, distances, RADIUS),
        "monkey saddle": lambda rate, distances, most: laws.monkey_steps(rate, distances, RADIUS),
    }
    slopes = {"saddle": lambda y: 2 * y - y**3, "monkey saddle": lambda r: 3 * r**2 - 3 * r**3}
    rmsprop = {
        name: lambda rate, distances, most, slope=slope: laws.rmsprop_steps(slope, rate, distances, RADIUS, most)
        for name, slope in slopes.items()
    }
    gaps, decades = measure_decades(runs)
    lead = f"rate {min(runs.paths('plain', 'saddle')[0], key=lambda rate: abs(np.log(rate / TOLD))):.2g}: "
    every = "; all rates and starts within the bounds of the law"
    return [
        Claim(f"From distance d plain descent is {RADIUS} from a saddle after log({RADIUS} / d) / log(1 + eta lambda) steps.",
              lead + told(runs, "plain", "saddle") + every, is_between(runs, "plain", "saddle", plain["saddle"])),
        Claim(f"From the monkey saddle, which has no curvature, only after (1 / d - 1 / {RADIUS}) / (3 eta) steps.",
              lead + told(runs, "plain", "monkey saddle") + every,
              is_between(runs, "plain", "monkey saddle", plain["monkey saddle"])),
        Claim("Each factor of ten closer costs momentum and Nesterov log 10 / log rho steps, rho the root of their recursion.",
              f"{lead}{decades}; at most {gaps:.1f} steps off over 4 decades", gaps <= 2),
        Claim("RMSprop hardly feels how close it starts: as long as slopes grow, a step is eta / sqrt(1 + eps / g**2) or more.",
              lead + "; ".join(f"{name} {told(runs, 'RMSprop', name)}" for name in slopes) + every,
              all(is_between(runs, "RMSprop", name, rmsprop[name]) for name in slopes)),
    ]  # fmt: skip


def measure_decades(runs: lands.Runs) -> tuple[float, str]:
    """How far the steps that four decades cost are from the law, over all rates; and the steps for one at a rate near 0.1."""
    gaps, words = [], []
    for method in LINEAR:
        rates, distances, counts, most = leave(runs, method, "saddle")
        near = np.argmin(np.abs(np.log(distances / distances[-1] / 1e4)))
        decades = np.log10(distances[near] / distances[-1])
        law = np.array([np.log(10) / np.log(laws.factor(method, rate, lands.MOMENTUM, -2.0)) for rate in rates])
        costs, has_left = counts[:, -1] - counts[:, near], counts[:, -1] < most
        gaps.append(worst(np.abs(costs - decades * law)[has_left]))
        middle = np.argmin(np.abs(np.log(rates / TOLD)))
        words.append(f"{method} {costs[middle] / decades:.1f} (law {law[middle]:.2f})")
    return max(gaps), ", ".join(words)


def judge_basins(runs: lands.Runs) -> list[Claim]:
    """Plain descent below 1 / L among many minima: it stays between the two crests where it started, coordinate by coordinate."""
    rates, paths = runs.paths("plain", "many minima")
    steepest = 2 + 4 * np.pi**2 * lands.WAVES
    crests = find_crests()
    basins = np.searchsorted(crests, paths[rates < 1 / steepest])
    stayed = (basins == basins[:, :, :1]).all(axis=2).all(axis=-1)
    starts = np.searchsorted(crests, paths[0, :, 0])
    share = (starts == np.searchsorted(crests, 0.0)).all(axis=-1).mean()
    return [Claim(
        "Below 1 / L plain descent never crosses a crest: where it starts decides which of many minima it finds.",
        f"{stayed.mean():.1%} of {stayed.size} descents stay in the basin they start in; {share:.1%} start in the best one's",
        bool(stayed.size and stayed.all()),
    )]  # fmt: skip


def find_crests() -> np.ndarray:
    """The maxima of x**2 + WAVES (1 - cos 2 pi x) along an axis."""
    places = np.linspace(-8, 8, 160_001)
    slopes = 2 * places + 2 * np.pi * lands.WAVES * np.sin(2 * np.pi * places)
    return places[1:][(slopes[:-1] > 0) & (slopes[1:] <= 0)]


def judge_shares(table: pd.DataFrame) -> list[Claim]:
    """Who finds the best of many minima."""
    own = table[table.landscape == "many minima"].set_index("method")
    deviation = lambda method: (own.share[method] * (1 - own.share[method]) / own.starts[method]) ** 0.5  # noqa: E731
    leads = {method: own.share[method] - own.share["plain"] for method in ("momentum", "Adam", "RMSprop")}
    errors = {method: np.hypot(deviation(method), deviation("plain")) for method in leads}
    return [Claim(
        "What crosses crests is inertia: momentum and Adam find the best minimum from more starts than plain descent, RMSprop, "
        "which has none, does not; and no method from most of them.",
        ", ".join(f"{name} {share:.0%}" for name, share in own.share.items()) + f" of {own.starts.iloc[0]} starts; ahead by "
        + ", ".join(f"{lead / max(errors[name], 1e-9):.1f} standard errors ({name})" for name, lead in leads.items()),
        bool(all(leads[name] > 2 * errors[name] for name in ("momentum", "Adam"))
             and leads["RMSprop"] <= 2 * errors["RMSprop"] and own.share.max() < 0.5),
    )]  # fmt: skip


def compare_spreads(runs: lands.Runs, condition: float) -> pd.DataFrame:
    """Mean square distance in the second half of the noisy runs, its standard error over starts, and the law, where settled."""
    rows = []
    for method in LINEAR:
        rates, paths = runs.paths(method, "noisy bowl")
        squares = (paths[:, :, paths.shape[2] // 2 :] ** 2).mean(axis=2)
        for rate, own in zip(rates, squares):
            for curvature, noise, square in zip((1, 1 / condition), runs.landscapes["noisy bowl"].noise, own.T):
                factor = laws.factor(method, rate, lands.MOMENTUM, curvature)
                if factor < 1 and factor ** (paths.shape[2] // 2) < SETTLED:
                    law = laws.variance(method, rate, lands.MOMENTUM, curvature, noise)
                    rows.append((method, rate, curvature, square.mean(), square.std(ddof=1) / len(square) ** 0.5, law))
    return pd.DataFrame(rows, columns=["method", "rate", "curvature", "measured", "error", "law"])


def judge_noise(spreads: pd.DataFrame) -> list[Claim]:
    """Where descents with linear steps end under noise."""
    deviations = (spreads.measured - spreads.law).abs() / spreads.error
    steep = spreads[spreads.curvature == 1]
    near = steep.loc[(np.log(steep.rate / TOLD).abs()).groupby(steep.method, sort=False).idxmin()]
    return [Claim(
        "Under noise sigma a constant rate ends at variance eta sigma**2 / (lambda (2 - eta lambda)) for plain descent, at the "
        "stationary variance of their recursion for momentum and Nesterov.",
        f"{len(spreads)} variances: at most {worst(deviations):.1f} standard errors off; "
        + f"across at rate {near.rate.iloc[0]:.2g}: "
        + ", ".join(f"{row.method} {row.measured:.3g} (law {row.law:.3g})" for row in near.itertuples()),
        worst(deviations) <= STANDARD_ERRORS,
    )]  # fmt: skip


def measure_steps(runs: lands.Runs, method: str, condition: float) -> pd.DataFrame:
    """Root mean square step over rate in the second half, for each rate and coordinate, and whether the slope then is noise."""
    rates, paths = runs.paths(method, "noisy bowl")
    late = paths[:, :, paths.shape[2] // 2 :]
    noise, curvatures = np.array(runs.landscapes["noisy bowl"].noise), np.array([1, 1 / condition])
    steps = np.sqrt((np.diff(late, axis=2) ** 2).mean(axis=(1, 2))) / rates[:, None]
    signals = np.sqrt(((curvatures * late) ** 2).mean(axis=(1, 2))) / noise
    return pd.DataFrame({"rate": np.repeat(rates, 2), "coordinate": list("xy") * len(rates), "noise": np.tile(noise, len(rates)),
                         "step": steps.ravel(), "is_noise": signals.ravel() < 0.5})  # fmt: skip


def judge_steps(runs: lands.Runs, condition: float) -> list[Claim]:
    """How long the steps are along coordinates with large and with small slopes."""
    rmsprop, plain = (measure_steps(runs, method, condition).query("is_noise") for method in ("RMSprop", "plain"))
    laws_of = {noise: laws.rmsprop_step(noise) for noise in runs.landscapes["noisy bowl"].noise}
    off = worst((rmsprop.step / rmsprop.noise.map(laws_of) - 1).abs())
    both = rmsprop.groupby("coordinate").step.mean().reindex(["x", "y"])
    ratio = plain[plain.coordinate == "x"].step.mean() / plain[plain.coordinate == "y"].step.mean()
    return [Claim(
        "RMSprop's steps are as long where slopes are small as where they are large, 0.96 eta where slopes are noise; so per "
        "unit of slope they are longer there. Plain descent's are in proportion to the slopes.",
        f"slopes {condition**0.5:.3g} to 1: RMSprop {both['x']:.3f} and {both['y']:.3f} eta (law {max(laws_of.values()):.4f}), "
        f"at most {off:.1%} off over {len(rmsprop)} rates and coordinates; plain {ratio:.3g} to 1",
        bool(both.notna().all() and off <= 0.01 and abs(ratio / condition**0.5 - 1) < 0.12),
    )]  # fmt: skip


def judge_first(table: pd.DataFrame, condition: float) -> list[Claim]:
    """Who copes with noise and bad units."""
    steps = table[table.landscape == "noisy bowl"].set_index("method").steps
    return [Claim(
        f"In units {condition**0.5:.3g} to 1 adaptive rates pay: RMSprop and Adam are the first to stay below 1 % of the height.",
        ", ".join(f"{name} {count:.0f}" for name, count in steps.sort_values().items()) + " steps",
        bool(steps[["RMSprop", "Adam"]].max() < steps[list(LINEAR)].min()),
    )]  # fmt: skip
