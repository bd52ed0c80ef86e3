"""How many certified digits does a minimization find, at how many evaluations, and how much sooner do a thousand starts end?"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.optimize

import gradkit as gk
from experiments import stories
from experiments.bench.nist import MODELS, digits, read
from experiments.bench.nist_hard import PROBLEMS
from gradkit import checks

LEAST_DIGITS = 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """NIST's certified regressions and a thousand starts at once, beside SciPy; float64."""

    data_dir: str
    """Folder that holds nist-strd/."""
    starts: int = 1000
    """Starts of each race."""
    repeats: int = 3
    """Rounds, in turns."""
    output: str = "results/bench_minimize"
    """Folder for the tables."""


def problem(name: str, folder: pathlib.Path):
    """``residuals(b)``, both starts and the certified parameters."""
    if name in PROBLEMS:
        hard = PROBLEMS[name]
        return lambda b: hard.model(b, hard.x) - hard.y, hard.starts, hard.certified
    x, y, starts, certified = read(folder / f"{name}.dat")
    return lambda b: MODELS[name](b, x) - y, starts, certified


def agreed_digits(residuals, params: np.ndarray, certified: np.ndarray) -> float:
    """Digits of the parameters; or of the sum of squares, as terms that change places and signs give equal minima."""
    if not np.all(np.isfinite(params)):
        return 0.0
    least, found = (np.sum(np.asarray(residuals(b)) ** 2) for b in (certified, params))
    of_sum = -np.log10(max(abs(found - least) / least, 1e-11))
    return max(digits(params, certified), float(of_sum), 0.0)


def _count(end: gk.Minimum) -> int:
    """Evaluations, and products of the Hessian, each at about the price of one."""
    return int(end.num_evaluations + end.num_products)


def solvers(residuals) -> dict[str, Callable[[np.ndarray], tuple[np.ndarray, bool, int]]]:
    """By name: from a start to parameters, whether it says converged, and evaluations; SciPy's with exact derivatives.

    Each compiles once for all starts of a problem.
    """

    def half_sum(b):
        return jnp.sum(residuals(b) ** 2) / 2

    jacobian = jax.jit(jax.jacfwd(residuals))
    value_and_grad = jax.jit(jax.value_and_grad(half_sum))
    tight = {"xtol": 1e-10, "ftol": 1e-10, "gtol": 1e-10}

    def ours(fn, **settings):
        def solve(start):
            end = gk.minimize(fn, jnp.asarray(start), **settings)
            return np.asarray(end.params), bool(end.status == gk.MinimumStatus.CONVERGED), _count(end)

        return solve

    def least_squares(method):
        def solve(start):
            end = scipy.optimize.least_squares(
                lambda b: np.nan_to_num(np.asarray(residuals(b)), nan=1e150, posinf=1e150, neginf=-1e150),
                start,
                jac=lambda b: np.nan_to_num(np.asarray(jacobian(b)), nan=0.0),
                method=method,
                x_scale="jac",
                max_nfev=5000,
                **tight,
            )
            return end.x, end.success, end.nfev

        return solve

    def quasi_newton(start):
        end = scipy.optimize.minimize(
            lambda b: tuple(map(np.asarray, value_and_grad(b))),
            start,
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 2000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-8},
        )
        return end.x, end.success, end.nfev

    return {
        "gradkit, residuals": ours(residuals, residuals=True),
        "gradkit, one number": ours(half_sum),
        "SciPy least_squares lm": least_squares("lm"),
        "SciPy least_squares trf": least_squares("trf"),
        "SciPy L-BFGS-B": quasi_newton,
    }


def certify(folder: pathlib.Path) -> pd.DataFrame:
    """A row per problem, start and solver."""
    rows = []
    for name in (*MODELS, *PROBLEMS):
        residuals, starts, certified = problem(name, folder)
        solve_by = solvers(residuals)
        for number, start in enumerate(starts, 1):
            for solver, solve in solve_by.items():
                with np.errstate(all="ignore"):  # SciPy's trial points overflow
                    params, is_converged, count = solve(start)
                row = {"problem": name, "start": number, "solver": solver}
                agreed = agreed_digits(residuals, params, certified)
                rows.append({**row, "digits": agreed, "converged": is_converged, "evaluations": count})
    return pd.DataFrame(rows)


def chwirut(folder: pathlib.Path):
    """Chwirut2 in NumPy with its Jacobian by hand, as an expert hands it to SciPy."""
    x, y, starts, _ = read(folder / "Chwirut2.dat")

    def residuals(b):
        return np.exp(-b[0] * x) / (b[1] + b[2] * x) - y

    def jacobian(b):
        top, bottom = np.exp(-b[0] * x), b[1] + b[2] * x
        return np.stack([-x * top / bottom, -top / bottom**2, -x * top / bottom**2], axis=1)

    return residuals, jacobian, starts[1]


def race(folder: pathlib.Path, settings: Settings) -> pd.DataFrame:
    """Seconds for all starts: one program of gradkit against a loop over SciPy, in turns, compiled before."""
    residuals, jacobian, center = chwirut(folder)
    model, *_ = problem("Chwirut2", folder)
    random = np.random.default_rng(0)
    near = center * random.uniform(0.5, 2, (settings.starts, 3))
    wide = random.uniform(-2, 2, (settings.starts, 10))

    def valley(x):
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    races = {
        "Chwirut2, least squares": (
            near,
            jax.jit(jax.vmap(lambda b: gk.minimize(model, b, residuals=True))),
            lambda b: scipy.optimize.least_squares(residuals, b, jac=jacobian, method="lm").x,
        ),
        "Rosenbrock, 10 parameters": (
            wide,
            jax.jit(jax.vmap(lambda x: gk.minimize(valley, x))),
            lambda x: scipy.optimize.minimize(scipy.optimize.rosen, x, jac=scipy.optimize.rosen_der, method="L-BFGS-B").x,
        ),
    }
    rows = []
    for name, (starts, ours, theirs) in races.items():
        jax.block_until_ready(ours(starts))
        for turn in range(settings.repeats):
            began = time.perf_counter()
            found = jax.block_until_ready(ours(starts))
            middle = time.perf_counter()
            with np.errstate(all="ignore"):
                for start in starts:
                    theirs(start)
            rows.append({"race": name, "round": turn, "gradkit": middle - began, "scipy": time.perf_counter() - middle,
                         "converged": float(np.mean(np.asarray(found.status) == gk.MinimumStatus.CONVERGED))})  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(ratio=table.scipy / table.gradkit)


def judge(table: pd.DataFrame, races: pd.DataFrame) -> list[stories.Claim]:
    """What the figures say."""
    ours = table[table.solver.str.startswith("gradkit")]
    sure = ours[ours.converged]
    false = int((sure.digits < LEAST_DIGITS).sum())
    ratios = races.groupby("race", sort=False).ratio.median()
    said = ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items())
    return [
        stories.Claim(f"where it says converged, {LEAST_DIGITS} digits agree at least",
                      f"{false} false of {len(sure)}; least {sure.digits.min():.1f}", false == 0),
        stories.Claim("it converges from both starts of every problem, as residuals and as one number",
                      f"{int(ours.converged.sum())} of {len(ours)}", bool(ours.converged.all())),
        stories.Claim("all starts at once end sooner than a loop over SciPy", said, bool((ratios > 1).all())),
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        for name in ("starts", "repeats"):
            checks.whole_number(name, getattr(settings, name), at_least=1, remedy=f"See --help for what {name} counts.")
        folder = pathlib.Path(settings.data_dir) / "nist-strd"
        checks.require(folder.is_dir(), "data_dir", "hold a folder nist-strd", settings.data_dir, "Name the folder above it.")
        output = stories.make_output(settings.output)
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        table, races = certify(folder), race(folder, settings)
    finally:
        jax.config.update("jax_enable_x64", before)
    wide = table.pivot(index=["problem", "start"], columns="solver", values=["digits", "evaluations", "converged"])
    print(wide.to_string(float_format="{:.1f}".format))
    print(races.to_string(index=False, float_format="{:.3g}".format))
    held = stories.tell(__doc__, judge(table, races))
    written = stories.write_table(table, output / "digits") + stories.write_table(races, output / "races")
    print("written: " + ", ".join(map(str, written)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
