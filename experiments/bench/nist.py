"""NIST's nonlinear regressions: the models as their files state them; data, both starts and the certified parameters."""

import re

import jax.numpy as jnp
import numpy as np
from jax.numpy import cos, exp, sin

TURN = 2 * np.pi
MODELS = {
    "Misra1a": lambda b, x: b[0] * (1 - exp(-b[1] * x)),
    "Chwirut2": lambda b, x: exp(-b[0] * x) / (b[1] + b[2] * x),
    "Lanczos3": lambda b, x: b[0] * exp(-b[1] * x) + b[2] * exp(-b[3] * x) + b[4] * exp(-b[5] * x),
    "Gauss1": lambda b, x: b[0] * exp(-b[1] * x) + _peak(b[2:5], x) + _peak(b[5:8], x),
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "Misra1b": lambda b, x: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Kirby2": lambda b, x: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Hahn1": lambda b, x: _cubic(b[:4], x) / (1 + x * _cubic(b[4:], x)),
    "MGH17": lambda b, x: b[0] + b[1] * exp(-x * b[3]) + b[2] * exp(-x * b[4]),
    "Roszman1": lambda b, x: b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / np.pi,
    "ENSO": lambda b, x: b[0] + _wave(b[1:3], x / 12) + _wave(b[4:6], x / b[3]) + _wave(b[7:9], x / b[6]),
    "Thurber": lambda b, x: _cubic(b[:4], x) / (1 + x * _cubic(b[4:], x)),
    "BoxBOD": lambda b, x: b[0] * (1 - exp(-b[1] * x)),
    "Rat42": lambda b, x: b[0] / (1 + exp(b[1] - b[2] * x)),
}


def _cubic(b, x):
    return sum(b[power] * x**power for power in range(len(b)))


def _peak(b, x):
    return b[0] * exp(-(((x - b[1]) / b[2]) ** 2))


def _wave(b, turns):
    return b[0] * cos(TURN * turns) + b[1] * sin(TURN * turns)


def read(path):
    """``x``, ``y``, the two starts ``(2, d)`` and the certified parameters ``(d,)``."""
    y, x = np.loadtxt(path, skiprows=60).T
    lines = [line for line in path.read_text().splitlines() if re.match(r"\s*b\d+\s*=\s*[-\d.]", line)]
    numbers = np.array([line.split("=")[1].split() for line in lines], float)
    return x, y, numbers[:, :2].T, numbers[:, 2]


def digits(params, certified):
    """Digits of the worst parameter that agree, 11 at most as NIST certifies."""
    with np.errstate(divide="ignore"):
        return min(11.0, float(-np.log10(np.abs(params - certified) / np.abs(certified)).max()))
