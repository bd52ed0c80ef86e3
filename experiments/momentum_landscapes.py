"""Surfaces over the plane and where descents start on them flow in; all runs of all methods, in one sweep, flow out."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradkit as gk
from experiments import momentum_laws as laws

MOMENTUM = 0.9
WAVES = 1.0  # height of the waves of the surface with many minima
NOISE = 0.1  # deviation of the noise of a slope, over the slope one length unit off, in units in which the curvature is 1
DISTANCES = 16  # starts near each saddle
METHODS = {
    "plain": lambda rate, momentum: gk.optimizers.gradient_descent(rate),
    "momentum": lambda rate, momentum: gk.optimizers.momentum(rate, momentum=momentum),
    "Nesterov": lambda rate, momentum: gk.optimizers.nesterov(rate, momentum=momentum),
    "RMSprop": lambda rate, momentum: gk.optimizers.rmsprop(rate),
    "Adam": lambda rate, momentum: gk.optimizers.adam(rate),
}


class Landscape(NamedTuple):
    """A surface.

    Attributes:
        height: ``(x, y) -> f``, element by element.
        starts: Where descents begin, (n, 2).
        level: Who stays below has arrived: at the minimum, or at the best of many.
        noise: Deviations of the noise on the two slopes.
    """

    height: Callable
    starts: np.ndarray
    level: np.ndarray
    noise: tuple[float, float] = (0.0, 0.0)


class Runs(NamedTuple):
    """A sweep over several landscapes, with the members of each method, landscape and momentum."""

    landscapes: dict[str, Landscape]
    sweep: gk.Sweep
    members: dict[tuple[str, str, float], list[int]]

    def paths(self, method: str, name: str, momentum: float = MOMENTUM) -> tuple[np.ndarray, np.ndarray]:
        """The rates (r,), ascending, and the place before each step, (r, starts, steps, 2); NaN behind a divergence."""
        places = {}
        for member in self.members[method, name, momentum]:
            history = self.sweep[member].history
            place = np.stack([history["x"], history["y"]], axis=-1).astype(np.float64)
            places.setdefault(self.sweep.hyper[member]["learning_rate"], []).append(place)
        return np.array(sorted(places)), np.array([places[rate] for rate in sorted(places)])


def measure_heights(landscape: Landscape, places: np.ndarray) -> np.ndarray:
    """Heights at places (..., 2) in float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return landscape.height(places[..., 0], places[..., 1])


def measure_slopes(landscape: Landscape, places: np.ndarray) -> np.ndarray:
    """Slopes at places (..., 2), by central differences in float64."""
    offsets = 1e-5 * np.eye(2)
    rises = [measure_heights(landscape, places + each) - measure_heights(landscape, places - each) for each in offsets]
    return np.stack(rises, axis=-1) / 2e-5


def count_to_arrive(landscape: Landscape, paths: np.ndarray) -> np.ndarray:
    """Steps after which the height stays at or below the level to the end; infinite where it does not: (r, starts)."""
    above = ~(measure_heights(landscape, paths) <= landscape.level[:, None])
    last = np.where(above.any(axis=2), above.shape[2] - above[:, :, ::-1].argmax(axis=2), 0)
    return np.where(last < above.shape[2], last, np.inf)


def count_to_leave(distances: np.ndarray, radius: float) -> np.ndarray:
    """Steps after which distances (..., steps) first exceed the radius; all of them where they never do."""
    is_away = distances > radius
    return np.where(is_away.any(axis=-1), is_away.argmax(axis=-1), distances.shape[-1])


def saddle(x, y):
    """Down along y from a saddle at 0, where the curvatures are 2 and -2, to minima at y = +-sqrt(2), f = -1."""
    return x**2 - y**2 + y**4 / 4


def monkey(x, y):
    """Three valleys meet at a saddle without curvature; the wall, 3/4 r**4, ends them in minima at r = 1, f = -1/4."""
    return x**3 - 3 * x * y**2 + 0.75 * (x**2 + y**2) ** 2


def waves(x, y):
    """Rastrigin's function: a bowl with waves, whose minima lie close to whole numbers; f = 0 at 0, the best."""
    cos = np.cos if isinstance(x, np.ndarray) else jnp.cos
    return sum(each**2 + WAVES * (1 - cos(2 * np.pi * each)) for each in (x, y))


def survey_land(condition: float, starts: int, seed: int) -> dict[str, Landscape]:
    """The landscapes; curvatures of the ravine and of the noisy bowl are 1 and 1 / condition.

    The noisy bowl is round, (a**2 + b**2) / 2 with noise of one size, in badly chosen units: a = x, b = y / sqrt(condition).
    """
    rng, units, flat = np.random.default_rng(seed), np.array([1.0, condition**0.5]), 1 / condition
    ravine = lambda x, y: (x**2 + flat * y**2) / 2  # noqa: E731
    turned = lambda x, y: ravine((x + y) / 2**0.5, (y - x) / 2**0.5)  # noqa: E731
    angles = np.linspace(0.2, 0.2 + 2 * np.pi, 8, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rotated = circle @ np.array([[1, 1], [-1, 1]]) / 2**0.5
    near, nearer = np.geomspace(0.1, 3e-3, DISTANCES), np.geomspace(0.1, 1e-8, DISTANCES)
    beside = np.stack([rng.uniform(-1, 1, DISTANCES), nearer], axis=1)
    aside = 0.3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    along = np.concatenate([np.stack([-near, np.zeros(DISTANCES)], axis=1), aside])
    corners = units * rng.choice([-1.0, 1.0], (starts // 4, 2))
    return {
        "ravine": Landscape(ravine, circle, 1e-4 * ravine(*circle.T)),
        "turned ravine": Landscape(turned, rotated, 1e-4 * ravine(*circle.T)),
        "saddle": Landscape(saddle, beside, np.full(DISTANCES, -0.9)),
        "monkey saddle": Landscape(monkey, along, np.full(len(along), -0.9 / 4)),
        "many minima": Landscape(waves, rng.uniform(-3, 3, (starts, 2)), np.full(starts, 0.05 * WAVES)),
        "noisy bowl": Landscape(ravine, corners, np.full(starts // 4, 1e-2), tuple(NOISE / units)),
        "tuning": Landscape(ravine, circle[:2], 1e-4 * ravine(*circle[:2].T)),
    }


def run(
    landscapes: dict[str, Landscape], methods: dict[str, Callable], space: gk.spaces.Space, *, steps: int, seed: int = 0
) -> Runs:
    """Send every member on its way: a program per method, in which landscape, rate, momentum and start are numbers."""
    names, most = list(landscapes), max(len(each.starts) for each in landscapes.values())
    starts = jnp.asarray([np.resize(each.starts, (most, 2)) for each in landscapes.values()], jnp.float32)
    noises = jnp.asarray([each.noise for each in landscapes.values()], jnp.float32)
    surfaces = list(dict.fromkeys(each.height for each in landscapes.values()))
    branches = [lambda place, height=height: height(place[0], place[1]) for height in surfaces]
    surface_of = jnp.asarray([surfaces.index(each.height) for each in landscapes.values()])

    def make(h):
        def loss_fn(place, draw):
            height = jax.lax.switch(surface_of[h.landscape], branches, place)
            return height + jnp.sum(noises[h.landscape] * draw * place), {"x": place[0], "y": place[1]}

        return gk.descent(loss_fn, starts[h.landscape, h.seed], methods[h.method](h.learning_rate, h.momentum))

    draw = lambda key: jax.random.normal(key, (2,))  # noqa: E731
    sweep, members = gk.sweep(make, gk.drawn(draw), space, steps=steps, key=seed, order="per_seed", progress=False), {}
    for member, hyper in enumerate(sweep.hyper):
        momentum = hyper.get("momentum", MOMENTUM)  # blank for a method that reads none
        members.setdefault((hyper["method"], names[hyper["landscape"]], momentum), []).append(member)
    return Runs(landscapes, sweep, members)


def space_of(landscapes: dict[str, Landscape], methods, rates) -> gk.spaces.Space:
    """Every method at every rate from every start of every landscape but the one for tuning."""
    grids = [
        gk.grid(method=list(methods), landscape=[place], learning_rate=rates, momentum=[MOMENTUM], seed=range(len(each.starts)))
        for place, (name, each) in enumerate(landscapes.items()) if name != "tuning"
    ]  # fmt: skip
    return functools.reduce(operator.add, grids)


def tuning_space(landscapes: dict[str, Landscape], condition: float, points: int) -> gk.spaces.Space:
    """Rates for plain descent, pairs of rate and momentum for the other two linear methods, and the best ones by theory."""
    fixed = {"landscape": [list(landscapes).index("tuning")], "seed": range(2)}
    rate, (pair_rate, pair_momentum, _) = laws.best_plain(1 / condition, 1)[0], laws.best_momentum(1 / condition, 1)
    rates, momenta = gk.linspace(0.1, 3.9, points), gk.linspace(0, 0.95, points)
    plain = gk.grid(method=["plain"], learning_rate=[*gk.linspace(0.1, 1.999, points), rate], momentum=[MOMENTUM], **fixed)
    pairs = gk.grid(method=["momentum", "Nesterov"], learning_rate=rates, momentum=momenta, **fixed)
    return plain + pairs + gk.grid(method=["momentum"], learning_rate=[pair_rate], momentum=[pair_momentum], **fixed)
