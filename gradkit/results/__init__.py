"""What runs give back: a ``Fit`` for a member, a ``Sweep`` for many. Both print as what a person wants to read."""

from gradkit.results.best import Best
from gradkit.results.fit import Fit
from gradkit.results.sweep import Sweep

__all__ = ["Best", "Fit", "Sweep"]
