"""Random members: points that fill a box evenly, sent through the distribution of each axis.

In flow distributions and a key, out flows a :class:`Space`; the same key draws the same members.
"""

from __future__ import annotations

import dataclasses
from numbers import Real
from typing import Any

import numpy as np

from gradkit.checks import one_of, require, whole_number
from gradkit.keys import key_words
from gradkit.spaces.axes import Axis, check_axis, check_ends, check_positive, describe
from gradkit.spaces.members import Space


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Numbers between two ends, spread evenly; made by :func:`uniform`."""

    low: float
    high: float

    def draw(self, name: str, u: np.ndarray) -> Axis:
        """Take points of [0, 1) to values."""
        return check_axis(name, (self.low + (self.high - self.low) * u).clip(self.low, self.high))


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """Numbers between two positive ends, spread evenly in the logarithm; made by :func:`log_uniform`."""

    low: float
    high: float

    def draw(self, name: str, u: np.ndarray) -> Axis:
        """Take points of [0, 1) to values."""
        logs = np.log(self.low) + (np.log(self.high) - np.log(self.low)) * u
        return check_axis(name, np.exp(logs).clip(self.low, self.high))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of the options, each as likely as the others; made by :func:`choice`."""

    options: Any

    def draw(self, name: str, u: np.ndarray) -> Axis:
        """Take points of [0, 1) to options."""
        options = check_axis(name, self.options)
        indices = (u * len(options.values)).astype(int)
        return options._replace(values=tuple(options.values[index] for index in indices))


Distribution = Uniform | LogUniform | Choice


def uniform(low: Real, high: Real) -> Uniform:
    """Draw floats evenly between ``low`` and ``high``, for :func:`sample`.

    >>> uniform(0, 1)
    Uniform(low=0.0, high=1.0)
    """
    check_ends(low, high)
    return Uniform(float(low), float(high))


def log_uniform(low: Real, high: Real) -> LogUniform:
    """Draw floats evenly in the logarithm between ``low`` and ``high``, both positive, for :func:`sample`.

    >>> log_uniform(1e-4, 1)
    LogUniform(low=0.0001, high=1.0)
    """
    check_ends(low, high)
    check_positive(low)
    return LogUniform(float(low), float(high))


def choice(options: Any) -> Choice:
    """Draw one of the options, for :func:`sample`: numbers are traced and other values static, as in :func:`grid`.

    >>> choice(["relu", "tanh"])
    Choice(options=['relu', 'tanh'])
    """
    return Choice(options)


def sample(n: Any, *, method: str = "sobol", key: Any = 0, **distributions: Any) -> Space:
    """Draw ``n`` members, each axis from its own distribution.

    The points are the first ``n`` of a scrambled Sobol sequence, which fills the space more evenly than independent
    draws (best where ``n`` is a power of two), or independent draws. For one or two axes a grid is easier to read.

    Args:
        n: Number of members.
        method: ``"sobol"`` or ``"random"``.
        key: An int or a jax key; the same key draws the same members.
        **distributions: For each name :func:`uniform`, :func:`log_uniform` or :func:`choice`. What is not drawn is
            multiplied on: ``sample(...) * grid(seed=range(4))``.

    References:
        Owen, `Scrambling Sobol' and Niederreiter-Xing points <https://doi.org/10.1006/jcom.1998.0487>`_, 1998.

    >>> space = sample(6, learning_rate=log_uniform(1e-4, 1), optimizer=choice(["sgd", "adam"]))
    >>> len(space), all(1e-4 <= rate <= 1 for rate in space.columns()["learning_rate"])
    (6, True)
    """
    n = whole_number("n", n, at_least=1, remedy="Ask for the number of members to draw.")
    one_of("method", method, ["sobol", "random"])
    require(len(distributions) > 0, "space", "have at least one axis", distributions, "Name one: x=gk.uniform(0, 1).")
    for name, distribution in distributions.items():
        remedy = "Use gk.uniform, gk.log_uniform or gk.choice; multiply the sample by a gk.grid of fixed values."
        require(isinstance(distribution, Distribution), name, "be a distribution", distribution, remedy, error=TypeError)
    points = (_sobol if method == "sobol" else _random)(n, len(distributions), np.random.default_rng(key_words(key)))
    columns = tuple(rule.draw(name, u) for (name, rule), u in zip(distributions.items(), points.T))
    return Space(columns, f"{method} sample [{', '.join(map(describe, columns))}]")


def _sobol(n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    from scipy.stats import qmc

    # scipy warns of a count that is not a power of two; the first n points of the next power are the same ones.
    return qmc.Sobol(d, scramble=True, seed=generator).random_base2(int(n - 1).bit_length())[:n]


def _random(n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    return generator.random((n, d))
