"""Closed forms, in float64: how fast descents contract, leave a saddle and spread under noise, and how long their steps are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DECAY, EPS = 0.9, 1e-8  # RMSprop's defaults


def recursion(method: str, rate: float, momentum: float, curvature: float) -> tuple[np.ndarray, np.ndarray]:
    """One step where f = curvature x**2 / 2, as (x, v) <- A (x, v) + b w, with w the noise of the gradient.

    v <- momentum v + g and x <- x - rate v; Nesterov's x <- x - rate (g + momentum v); plain descent has no momentum.
    """
    momentum = 0.0 if method == "plain" else momentum
    ahead, now = (momentum, 1.0) if method == "Nesterov" else (1.0, 0.0)
    slope, velocity = np.array([curvature, 0.0]), np.array([curvature, momentum])
    return np.array([[1.0, 0.0] - rate * (ahead * velocity + now * slope), velocity]), np.array([-rate * (ahead + now), 1.0])


def factor(method: str, rate: float, momentum: float, curvature: float) -> float:
    """By what the distance is multiplied per step in the end: the spectral radius."""
    return float(np.abs(np.linalg.eigvals(recursion(method, rate, momentum, curvature)[0])).max())


def course(method: str, rate: float, momentum: float, curvature: float, steps: int) -> np.ndarray:
    """The distance at every step from 0 on, over the first: powers of the recursion's matrix."""
    matrix, _ = recursion(method, rate, momentum, curvature)
    states = [np.array([1.0, 0.0])]
    for _ in range(steps):
        states.append(matrix @ states[-1])
    return np.array(states)[:, 0]


def variance(method: str, rate: float, momentum: float, curvature: float, noise: float) -> float:
    """Of x in the long run, under noise of the gradient with that deviation: the solution S of S = A S A' + b b'."""
    from scipy.linalg import solve_discrete_lyapunov

    matrix, drive = recursion(method, rate, momentum, curvature)
    return float(solve_discrete_lyapunov(matrix, noise**2 * np.outer(drive, drive))[0, 0])


def best_plain(low: float, high: float) -> tuple[float, float]:
    """The best rate for curvatures from low to high, and its factor."""
    return 2 / (low + high), (high - low) / (high + low)


def best_momentum(low: float, high: float) -> tuple[float, float, float]:
    """The heavy ball's best rate and momentum (Polyak 1964), and their factor."""
    ratio = (high**0.5 - low**0.5) / (high**0.5 + low**0.5)
    return 4 / (high**0.5 + low**0.5) ** 2, ratio**2, ratio


def saddle_steps(rate: float, distances: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on the steps of plain descent past y = radius, where y grows by 1 + rate (2 - y**2) per step."""
    decades = np.log(radius / distances)
    return decades / np.log1p(2 * rate), decades / np.log1p(rate * (2 - radius**2))


def monkey_steps(rate: float, distances: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The same down a valley of the monkey saddle: r grows by s = 3 rate r**2 (1 - r), so 1 / r falls by s / (r (r + s))."""
    way = 1 / distances - 1 / radius
    return way / (3 * rate), way * (1 + 3 * rate * radius) / (3 * rate * (1 - radius))


def rmsprop_steps(slope: Callable, rate: float, distances: np.ndarray, radius: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds for RMSprop, given how steep it is at a distance: as g grows on the way, (1 - decay) g**2 <= n <= g**2."""
    fastest, slowest = (_count(lambda y, n=n: rate * slope(y) / np.sqrt(n * slope(y) ** 2 + EPS), distances, radius, most)
                        for n in (1 - DECAY, 1.0))  # fmt: skip
    return fastest, slowest


def _count(step: Callable, distances: np.ndarray, radius: float, most: int) -> np.ndarray:
    """Steps until each distance exceeds the radius, ``most`` at most."""
    places, counts = distances.astype(float), np.zeros(len(distances))
    for _ in range(most):
        is_inside = places <= radius
        counts += is_inside
        places = places + np.where(is_inside, step(places), 0.0)
    return counts


def rmsprop_circle(rate: float, curvature: float) -> float:
    """How far from the minimum RMSprop ends: at -a and a in turn, where its step is rate c a / sqrt(c**2 a**2 + eps) = 2 a."""
    return max(rate**2 / 4 - EPS / curvature**2, 0.0) ** 0.5


def rmsprop_step(noise: float) -> float:
    """Root mean square of g / sqrt(n + eps) for independent normal g with that deviation.

    E[g**2 / (n + eps)] is the integral over s > 0 of E[g**2 exp(-s (n + eps))], a product over the past, as n is a sum over it.
    """
    logs = np.linspace(-30, 30, 6001)
    times = np.exp(logs) / noise**2
    shares = (1 - DECAY) * DECAY ** np.arange(400)
    spread = np.log1p(2 * np.outer(times, shares) * noise**2)
    integrand = noise**2 * np.exp(-spread[:, 0] - spread.sum(axis=1) / 2 - times * EPS) * times
    return float(np.trapezoid(integrand, logs)) ** 0.5
