"""Gradient transformations that optax lacks. Each works inside ``optax.chain``, and every optax one works beside it.

Gradients enter a chain, updates flow through it, and what leaves it is added to the parameters.
"""

from gradkit.transforms.adam import scale_by_adam as scale_by_adam
from gradkit.transforms.scheduling import ScheduledState as ScheduledState
from gradkit.transforms.scheduling import scale_by_learning_rate as scale_by_learning_rate
from gradkit.transforms.scheduling import scheduled as scheduled
