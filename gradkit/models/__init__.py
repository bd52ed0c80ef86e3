"""Small networks as pure functions, and flax nnx modules made into such; ``descent`` trains any of them."""

from gradkit.models.base import Model as Model
from gradkit.models.convolutions import cnn as cnn
from gradkit.models.convolutions import convolve as convolve
from gradkit.models.descents import descent as descent
from gradkit.models.modules import from_nnx as from_nnx
from gradkit.models.networks import linear as linear
from gradkit.models.networks import mlp as mlp
