"""Recipes as Keras writes them: its class names in snake case, its arguments and defaults, its trajectories."""

from gradkit.as_keras.optimizers import adadelta as adadelta
from gradkit.as_keras.optimizers import adagrad as adagrad
from gradkit.as_keras.optimizers import adam as adam
from gradkit.as_keras.optimizers import adamax as adamax
from gradkit.as_keras.optimizers import adamw as adamw
from gradkit.as_keras.optimizers import lion as lion
from gradkit.as_keras.optimizers import nadam as nadam
from gradkit.as_keras.optimizers import rmsprop as rmsprop
from gradkit.as_keras.optimizers import sgd as sgd
from gradkit.as_keras.recipes import Common as Common
from gradkit.as_keras.schedules import cosine_decay as cosine_decay
from gradkit.as_keras.schedules import cosine_decay_restarts as cosine_decay_restarts
from gradkit.as_keras.schedules import exponential_decay as exponential_decay
from gradkit.as_keras.schedules import inverse_time_decay as inverse_time_decay
from gradkit.as_keras.schedules import piecewise_constant_decay as piecewise_constant_decay
from gradkit.as_keras.schedules import polynomial_decay as polynomial_decay
