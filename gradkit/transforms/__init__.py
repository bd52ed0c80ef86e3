"""Gradient transformations that optax lacks. Each works inside ``optax.chain``, and every optax one works beside it.

Gradients enter a chain, updates flow through it, and what leaves it is added to the parameters. :func:`mixed_precision` stands
before a chain, at the loss; :func:`reported` behind it, where a descent reads what the states have to tell.
"""

from gradkit.transforms.accumulation import AccumulateState as AccumulateState
from gradkit.transforms.accumulation import accumulate as accumulate
from gradkit.transforms.adam import bias_correction as bias_correction
from gradkit.transforms.adam import scale_by_adam as scale_by_adam
from gradkit.transforms.adam import scale_by_adamax as scale_by_adamax
from gradkit.transforms.adam import scale_by_amsgrad as scale_by_amsgrad
from gradkit.transforms.averaging import AverageState as AverageState
from gradkit.transforms.averaging import LookaheadState as LookaheadState
from gradkit.transforms.averaging import average as average
from gradkit.transforms.averaging import equal as equal
from gradkit.transforms.averaging import evaluation_params as evaluation_params
from gradkit.transforms.averaging import fading as fading
from gradkit.transforms.averaging import lookahead as lookahead
from gradkit.transforms.clipping import clip_by_global_norm as clip_by_global_norm
from gradkit.transforms.clipping import clip_by_norm as clip_by_norm
from gradkit.transforms.entrances import optimizer as optimizer
from gradkit.transforms.entrances import widen as widen
from gradkit.transforms.foreign import skipping_wrapper as skipping_wrapper
from gradkit.transforms.guarding import GuardState as GuardState
from gradkit.transforms.guarding import guard as guard
from gradkit.transforms.observation import ObserveState as ObserveState
from gradkit.transforms.observation import observe as observe
from gradkit.transforms.paths import ScaleByPathState as ScaleByPathState
from gradkit.transforms.paths import scale_by_path as scale_by_path
from gradkit.transforms.plateaus import PlateauState as PlateauState
from gradkit.transforms.plateaus import reduce_on_plateau as reduce_on_plateau
from gradkit.transforms.precision import mixed_precision as mixed_precision
from gradkit.transforms.reports import kept_beside as kept_beside
from gradkit.transforms.reports import reported as reported
from gradkit.transforms.reports import unless_skipped as unless_skipped
from gradkit.transforms.rounding import rounded as rounded
from gradkit.transforms.rules import RuleState as RuleState
from gradkit.transforms.rules import by_rule as by_rule
from gradkit.transforms.rules import zeros as zeros
from gradkit.transforms.schedule_free import ScheduleFreeState as ScheduleFreeState
from gradkit.transforms.schedule_free import schedule_free_adamw as schedule_free_adamw
from gradkit.transforms.scheduling import ScheduledState as ScheduledState
from gradkit.transforms.scheduling import scale_by_learning_rate as scale_by_learning_rate
from gradkit.transforms.scheduling import scheduled as scheduled
from gradkit.transforms.scheduling import values_at as values_at
from gradkit.transforms.skips import Skips as Skips
