"""gradkit: one pure loss function in; training, sweeps over hundreds of learning rates, and answers out.

Flow: losses -> objective -> gradients -> transforms/optimizers -> descents -> engine -> fit, sweep -> results.
"""

from gradkit import as_keras, as_torch, boosting, data, gradients, keys, losses, models, optimizers, schedules, transforms
from gradkit.contracts import Descent, Hyper, Info, Source, Status
from gradkit.data import drawn, stream
from gradkit.descents import Stateful, descent
from gradkit.engine.halving import Halving
from gradkit.engine.plan import Plan
from gradkit.fits import fit
from gradkit.losses import Objective, objective
from gradkit.minima import Minima, Minimum, MinimumStatus, minimize
from gradkit.results import Best, Fit, Sweep
from gradkit.spaces import (
    Space,
    choice,
    geomspace,
    grid,
    linspace,
    log_uniform,
    sample,
    static,
    uniform,
    zipped,
)
from gradkit.sweeps import plan, sweep
from gradkit.unrolls import unroll

__all__ = [
    "Best", "Descent", "Fit", "Halving", "Hyper", "Info", "Minima", "Minimum", "MinimumStatus", "Objective", "Plan", "Source",
    "Space", "Stateful", "Status", "Sweep", "as_keras", "as_torch", "boosting", "choice", "data", "descent", "drawn", "fit",
    "geomspace", "gradients", "grid", "keys", "linspace", "log_uniform", "losses", "minimize", "models", "objective",
    "optimizers", "plan", "sample", "schedules", "static", "stream", "sweep", "transforms", "uniform", "unroll", "zipped",
]  # fmt: skip


def __getattr__(name: str):
    """``gk.sklearn``, imported when it is first asked for: it needs scikit-learn, which nothing else does."""
    if name == "sklearn":
        from gradkit.interop import estimators

        return estimators
    raise AttributeError(f"module 'gradkit' has no attribute {name!r}")
