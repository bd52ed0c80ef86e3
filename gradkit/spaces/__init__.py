"""Spaces of hyper-parameters: which members a sweep has, known before anything runs.

In flow the values of each axis, out flows a :class:`Space`: an ordered list of members, each a dict from name to
value. An axis of numbers is traced, so that all its values share one compiled program; any other axis is static and
splits the sweep into groups.
"""

from gradkit.spaces.axes import geomspace as geomspace
from gradkit.spaces.axes import linspace as linspace
from gradkit.spaces.axes import static as static
from gradkit.spaces.members import Space as Space
from gradkit.spaces.members import grid as grid
from gradkit.spaces.members import zipped as zipped
from gradkit.spaces.samples import choice as choice
from gradkit.spaces.samples import log_uniform as log_uniform
from gradkit.spaces.samples import sample as sample
from gradkit.spaces.samples import uniform as uniform
