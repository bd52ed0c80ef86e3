"""Is the negative gradient the steepest way down, and for how long a step?"""

from __future__ import annotations

import dataclasses
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradkit as gk
from experiments import stories
from gradkit import checks
from gradkit.report.plots import BLUE, GRAY, RED
from gradkit.settings import enable_x64

FEATURES = {"s1": "total cholesterol", "s2": "LDL cholesterol"}  # correlation 0.9: a narrow valley
LENGTHS = np.array([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.2, 0.5, 1.0, 2.0])
GREEN = "#2a8c55"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Step from one point of a real surface in thousands of random directions, and see whether any falls faster than -grad L.

    The surface is the loss of a logistic regression with two weights: does a diabetes patient's illness progress more than the
    median, given two blood values? Writes a table, the paths of theta <- theta - alpha grad L at three rates, and a figure.

    Examples:
      python -m experiments.gradient
      python -m experiments.gradient --start 2.0 -1.0 --rates 0.1 0.5 0.99 1.01 1.5
    """

    directions: int = 4096
    """Random directions, uniform over the circle."""
    start: tuple[float, float] = (-1.0, 2.5)
    """Where the directions are tried and where the descents start."""
    rates: tuple[float, ...] = (0.02, 0.9, 1.5)
    """Learning rates, in units of the largest that is safe everywhere, 2 / lambda_max."""
    steps: int = 100
    """Updates of each descent."""
    seed: int = 0
    """Seeds the directions."""
    output: str = "results/gradient"
    """Where the table and the figure are written."""


class Point(NamedTuple):
    """A place on the surface: theta (2,), the loss, its gradient (2,) and its Hessian (2, 2) there."""

    theta: np.ndarray
    loss: float
    gradient: np.ndarray
    hessian: np.ndarray

    @property
    def curvature(self) -> float:
        """The largest eigenvalue of the Hessian."""
        return float(np.linalg.eigvalsh(self.hessian).max())

    @property
    def norm(self) -> float:
        """Length of the gradient."""
        return float(np.linalg.norm(self.gradient))

    @property
    def frame(self) -> np.ndarray:
        """Rows: the direction of -gradient, and the one a right angle to the left of it."""
        down = -self.gradient / self.norm
        return np.stack([down, [-down[1], down[0]]])


def load_patients() -> tuple[np.ndarray, np.ndarray]:
    """Two standardized blood values (n, 2) of each patient, and whether the illness progressed more than the median (n,)."""
    from sklearn.datasets import load_diabetes

    patients = load_diabetes()
    columns = [patients.feature_names.index(name) for name in FEATURES]
    (inputs,) = gk.data.standardize(patients.data[:, columns])
    return inputs, (patients.target > np.median(patients.target)).astype(np.float64)


objective = gk.objective(gk.losses.logistic, lambda theta, inputs: inputs @ theta)


def recorded_objective(theta, batch):
    """The loss, with the place where it was taken as metrics, so that the history of a fit is its path."""
    return objective(theta, batch), {"theta_0": theta[0], "theta_1": theta[1]}


@jax.jit
def loss_and_derivatives(theta, batch):
    """The loss, its gradient and its Hessian."""
    return objective(theta, batch), jax.grad(objective)(theta, batch), jax.hessian(objective)(theta, batch)


def look(batch, theta) -> Point:
    """The surface at a place, in float64."""
    with enable_x64(True):
        loss, gradient, hessian = loss_and_derivatives(jnp.asarray(theta, jnp.float64), batch)
        return Point(np.asarray(theta), float(loss), np.asarray(gradient), np.asarray(hessian))


def find_minimum(batch) -> Point:
    """The lowest point, by Newton's method: the surface is convex."""
    point = look(batch, np.zeros(2))
    for _ in range(8):
        point = look(batch, point.theta - np.linalg.solve(point.hessian, point.gradient))
    return point


def measure_descents(batch, start: Point, angles: np.ndarray) -> np.ndarray:
    """How much the loss falls per unit of length, for each length of step and angle to -gradient: (lengths, angles)."""
    with enable_x64(True):
        directions = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1) @ start.frame)
        loss_at = lambda length, direction: objective(start.theta + length * direction, batch)  # noqa: E731
        losses = jax.jit(jax.vmap(jax.vmap(loss_at, (None, 0)), (0, None)))(jnp.asarray(LENGTHS), directions)
        return (start.loss - np.asarray(losses)) / LENGTHS[:, None]


def tabulate(start: Point, angles: np.ndarray, descents: np.ndarray, straight: np.ndarray):
    """A row per length of step: the descent along -gradient, the best random one, how many beat it, and what theory says.

    To second order in the length r, with h the Hessian's entry between -gradient and its normal, the best direction is off by
    r |h| / |g|, every direction within twice that beats -gradient, and the cosine law is off by r lambda / 2 at most.
    """
    import pandas as pd

    bend = abs(start.frame[0] @ start.hessian @ start.frame[1])
    return pd.DataFrame(
        {
            "length": LENGTHS,
            "along_gradient": straight,
            "best_random": descents.max(axis=1),
            "best_angle": np.degrees(np.abs(angles[descents.argmax(axis=1)])),
            "best_angle_theory": np.degrees(LENGTHS * bend / start.norm),
            "share_that_beats": (descents > straight[:, None]).mean(axis=1),
            "share_theory": LENGTHS * bend / (np.pi * start.norm),
            "gap_to_cosine": np.abs(descents - start.norm * np.cos(angles)).max(axis=1),
            "gap_theory": LENGTHS * start.curvature / 2,
        }
    )


def safe_rate(batch) -> float:
    """2 / lambda_max: the curvature of a logistic loss is nowhere above that at 0, where every probability is 1/2."""
    return 2 / look(batch, np.zeros(2)).curvature


def descend(batch, settings: Settings) -> gk.Sweep:
    """theta <- theta - alpha grad L, at every rate."""
    theta = jnp.asarray(settings.start)
    make = lambda h: gk.descent(recorded_objective, theta, gk.optimizers.gradient_descent(h.learning_rate))  # noqa: E731
    rates = [float(rate) for rate in safe_rate(batch) * np.array(settings.rates)]
    return gk.sweep(make, batch, gk.grid(learning_rate=rates), steps=settings.steps, progress=False)


def trace_path(fit: gk.Fit) -> np.ndarray:
    """Every place a descent stood at: (steps + 1, 2)."""
    return np.append(np.stack([fit.history["theta_0"], fit.history["theta_1"]], axis=1), fit.params[None], axis=0)


def measure_deviation(batch, path: np.ndarray, rate: float) -> float:
    """The largest difference, along a path, between a place and theta - alpha grad L of the place before."""
    gradients = jax.vmap(jax.grad(objective), (0, None))(jnp.asarray(path[:-1]), batch)
    return float(np.abs(path[1:] - (path[:-1] - rate * np.asarray(gradients))).max())


def count_rises(fit: gk.Fit) -> int:
    """Steps that went up, by more than rounding."""
    losses = fit.history["loss"]
    return int((np.diff(losses) > 4 * np.finfo(losses.dtype).eps * losses[:-1]).sum())


def judge_directions(start: Point, table, count: int) -> list[stories.Claim]:
    """The claims about one step."""
    rounding = 4 * np.finfo(float).eps * start.loss / LENGTHS[0]
    short, long = table.iloc[0], table.iloc[(table.best_random - table.along_gradient).argmax()]
    return [
        stories.Claim(
            "The slope along a direction is -|grad L| cos(its angle to -grad L).",
            f"step {short.length:.0e}, {count} random directions: off by {short.gap_to_cosine / start.norm:.1e} of |grad L| = "
            f"{start.norm:.3f}; the curvature explains {short.gap_theory / start.norm:.1e}, in proportion to the step",
            bool(short.gap_to_cosine <= 1.01 * short.gap_theory + rounding),
        ),
        stories.Claim(
            "No direction goes down more steeply than -grad L.",
            f"step {short.length:.0e}: {short.share_that_beats:.0%} of the directions fall further than -grad L; the best, "
            f"{short.best_angle:.2f} degrees off, falls {1 - short.best_random / short.along_gradient:.0e} of it less",
            bool(short.share_that_beats == 0),
        ),
        stories.Claim(
            "A step of finite length is another matter: in a narrow valley random directions beat -grad L.",
            f"step {long.length:g}: {long.share_that_beats:.0%} of the directions fall further; the loss changes by "
            f"{-long.length * long.best_random:+.3f} along the best, {long.best_angle:.0f} degrees off, and by "
            f"{-long.length * long.along_gradient:+.3f} along -grad L",
            bool(long.share_that_beats > 0),
        ),
    ]


def judge_paths(batch, settings: Settings, sweep: gk.Sweep) -> list[stories.Claim]:
    """The claims about many steps."""
    minimum, rates = find_minimum(batch), [hyper["learning_rate"] for hyper in sweep.hyper]
    safe, edge = safe_rate(batch), 2 / minimum.curvature
    paths, rises = [trace_path(fit) for fit in sweep], [count_rises(fit) for fit in sweep]
    deviation = max(measure_deviation(batch, path, rate) for path, rate in zip(paths, rates))
    rounding = 8 * np.finfo(np.float32).eps * max(np.abs(path).max() for path in paths)
    left = [max(fit.losses[-1] - minimum.loss, 0) / (fit.losses[0] - minimum.loss) for fit in sweep]
    line = "alpha = {:.2f}: {} of {} steps up, {:.1%} of the descent left"
    lines = [line.format(rate, up, settings.steps, share) for rate, up, share in zip(rates, rises, left)]
    return [
        stories.Claim(
            "Every step of gk.descent is theta <- theta - alpha grad L.",
            f"largest deviation on {len(paths)} paths of {settings.steps} steps: {deviation:.1e} (rounding: {rounding:.1e})",
            deviation <= rounding,
        ),
        stories.Claim(
            f"Below alpha = 2 / lambda_max = {safe:.2f} all steps go down; above {edge:.2f}, as the minimum repels, some go up.",
            "\n".join(lines),
            all(up == 0 if rate < safe else up > 0 or rate < edge for up, rate in zip(rises, rates)),
        ),
    ]


def draw(batch, settings: Settings, sweep: gk.Sweep, table, angles: np.ndarray, descents: np.ndarray):
    """Three panels: the surface with the paths, the slope against the angle, the share that beats -grad L against the length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_surface(left, batch, settings.rates, sweep)
    draw_cosine(middle, look(batch, settings.start), angles, descents)
    draw_share(right, table, len(angles))
    return figure


def draw_surface(ax, batch, rates: tuple[float, ...], sweep: gk.Sweep):
    """Contours of the loss, the paths and the minimum."""
    minimum, paths = find_minimum(batch), [trace_path(fit) for fit in sweep]
    places = np.concatenate([*paths, minimum.theta[None]])
    x, y = np.meshgrid(*np.linspace(places.min(axis=0) - 0.5, places.max(axis=0) + 0.5, 120).T)
    losses = jax.vmap(objective, (0, None))(jnp.stack([x.ravel(), y.ravel()], axis=1), batch).reshape(x.shape)
    ax.contourf(x, y, np.log10(np.maximum(losses - minimum.loss, 1e-4)), levels=16, cmap="Greys", alpha=0.5)
    for path, multiple, color in zip(paths, rates, (BLUE, GREEN, RED, GRAY) * len(paths)):
        ax.plot(*path.T, ".-", color=color, linewidth=1, markersize=4, label=rf"$\alpha = {multiple:g} \cdot 2/\lambda_{{max}}$")
    ax.plot(*minimum.theta, "*", color="black", markersize=11, label="minimum")
    ax.set(xlabel=f"weight of {FEATURES['s1']}", ylabel=f"weight of {FEATURES['s2']}", aspect="equal")
    ax.set(title=r"$\theta \leftarrow \theta - \alpha \nabla L$")
    ax.legend(fontsize=8)


def draw_cosine(ax, start: Point, angles: np.ndarray, descents: np.ndarray):
    """How much the loss falls per unit of length against the angle, beside the cosine law."""
    for row, color in ((0, BLUE), (-3, GREEN), (-1, RED)):
        ax.plot(np.degrees(angles), descents[row], ".", color=color, markersize=2, label=f"measured, step {LENGTHS[row]:g}")
    every = np.linspace(-np.pi, np.pi, 200)
    ax.plot(np.degrees(every), start.norm * np.cos(every), "--", color="black", linewidth=1, label=r"$|\nabla L|$ cos(angle)")
    ax.set(xticks=range(-180, 181, 90), xlabel=r"degrees from $-\nabla L$", ylabel="fall per unit of length", title="Cosine law")
    ax.legend(fontsize=8, markerscale=4)


def draw_share(ax, table, count: int):
    """The share of random directions that beat -grad L against the length of the step; triangles: fewer than one."""
    ax.loglog(table.length, table.share_theory, "--", color="black", linewidth=1, label=r"theory: $r\,|h|\,/\,(\pi\,|\nabla L|)$")
    ax.loglog(table.length, table.share_that_beats.where(table.share_that_beats > 0), "o", color=RED, label="measured")
    unseen = table[table.share_that_beats == 0]
    ax.loglog(unseen.length, np.full(len(unseen), 1 / count), "v", color=BLUE, label=f"none of {count}")
    ax.set(xlabel="length $r$ of the step", ylabel=r"share that falls further than $-\nabla L$", title="Longer steps: others win")
    ax.legend(fontsize=8, loc="lower right")


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        checks.whole_number("directions", settings.directions, at_least=1, remedy="It counts the directions to try.")
        output, batch = stories.make_output(settings.output), load_patients()
        sweep = descend(batch, settings)
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    start = look(batch, settings.start)
    angles = np.random.default_rng(settings.seed).uniform(-np.pi, np.pi, settings.directions)
    descents = measure_descents(batch, start, angles)
    table = tabulate(start, angles, descents, straight=measure_descents(batch, start, np.zeros(1))[:, 0])
    held = stories.tell(__doc__, judge_directions(start, table, settings.directions) + judge_paths(batch, settings, sweep))
    shown = table.drop(columns=["best_angle_theory", "gap_to_cosine", "gap_theory"])
    print(shown.to_string(index=False, float_format="{:.4g}".format))
    files = stories.write_table(table, output / "table") + stories.write_table(sweep.curves(), output / "paths")
    files.append(stories.write_figure(draw(batch, settings, sweep, table, angles, descents), output / "gradient.png"))
    print("written: " + ", ".join(map(str, files)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
