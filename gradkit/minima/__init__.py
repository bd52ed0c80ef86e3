"""A smooth function and where to start flow in; a minimum that was checked, or why there is none, flows out."""

from gradkit.minima.distinctions import Minima
from gradkit.minima.minimization import minimize
from gradkit.minima.outcomes import Minimum, MinimumStatus

__all__ = ["Minima", "Minimum", "MinimumStatus", "minimize"]
