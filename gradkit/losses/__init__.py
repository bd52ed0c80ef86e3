"""What a model is judged by: losses of one example, the objective that lifts one of them to a batch, and metrics of a batch."""

from gradkit.losses.calls import watched as watched
from gradkit.losses.metrics import accuracy as accuracy
from gradkit.losses.metrics import r2 as r2
from gradkit.losses.objectives import Objective as Objective
from gradkit.losses.objectives import objective as objective
from gradkit.losses.one_example import absolute as absolute
from gradkit.losses.one_example import focal as focal
from gradkit.losses.one_example import gaussian as gaussian
from gradkit.losses.one_example import hinge as hinge
from gradkit.losses.one_example import huber as huber
from gradkit.losses.one_example import log_cosh as log_cosh
from gradkit.losses.one_example import logistic as logistic
from gradkit.losses.one_example import poisson as poisson
from gradkit.losses.one_example import quantile as quantile
from gradkit.losses.one_example import softmax as softmax
from gradkit.losses.one_example import squared as squared
