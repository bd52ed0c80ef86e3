"""Optimizers: each one chain of gradient transformations, its formula above it.

``g`` is the gradient at the parameters ``theta`` before the update, ``t = 1, 2, ...`` counts updates, moments start at
zero unless said otherwise, squares and roots are taken element by element. Every argument may be a Python number, a
traced value or a schedule, which is asked for its value at step ``t - 1``; one that is negative or not finite is a ValueError,
and so is one of 1 or more by which a mean fades (``b1``, ``b2``, ``decay``, ``rho``). Defaults are optax's. With Python numbers
an optimizer follows optax's to the bit, but for those that correct a bias (adam, adamw, nadam, adamax, amsgrad), more exactly
than optax's. A gradient must have the shape of its parameter, and of bfloat16 and float16 parameters moments are float32
(``transforms.optimizer``).
"""

import functools

import optax

from gradkit.checks import nonnegative
from gradkit.schedules import Number, Schedule
from gradkit.transforms import optimizer, scale_by_adam, scale_by_adamax, scale_by_amsgrad, scale_by_learning_rate, scheduled

NumberOrSchedule = Number | Schedule
Optimizer = optax.GradientTransformation


def _numbers(factory):
    """Let what the factory takes be numbers that are not negative, traced values or schedules."""
    make = scheduled(factory)

    def checked(**numbers):
        for name, value in numbers.items():
            nonnegative(name, value, below=1.0 if name in ("b1", "b2", "decay", "rho") else float("inf"))
        return make(**numbers)

    return checked


_trace = _numbers(lambda momentum: optax.trace(momentum))
_trace_ahead = _numbers(lambda momentum: optax.trace(momentum, nesterov=True))
_scale_by_rss = _numbers(optax.scale_by_rss)
_scale_by_rms = _numbers(optax.scale_by_rms)
_scale_by_adadelta = _numbers(optax.scale_by_adadelta)
_scale_by_adam = _numbers(scale_by_adam)
_scale_by_nadam = _numbers(functools.partial(scale_by_adam, nesterov=True))
_scale_by_adamax = _numbers(scale_by_adamax)
_scale_by_amsgrad = _numbers(scale_by_amsgrad)
_scale_by_lion = _numbers(optax.scale_by_lion)
_add_decayed_weights = _numbers(optax.add_decayed_weights)


def gradient_descent(learning_rate: NumberOrSchedule) -> Optimizer:
    """Straight down the gradient::

        theta -= learning_rate * g

    >>> import jax.numpy as jnp
    >>> descent, theta = gradient_descent(0.5), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0])
    [-4.  1.]

    References:
        Cauchy, Méthode générale pour la résolution des systèmes d'équations simultanées, 1847
    """
    return optimizer(scale_by_learning_rate(learning_rate))


def momentum(learning_rate: NumberOrSchedule, *, momentum: NumberOrSchedule = 0.9) -> Optimizer:
    """The heavy ball: gradients add up in a velocity that fades::

        v = momentum * v + g
        theta -= learning_rate * v

    >>> import jax.numpy as jnp
    >>> descent, theta = momentum(0.5, momentum=0.9), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0])
    [-4.  1.]

    References:
        Polyak, Some methods of speeding up the convergence of iteration methods, 1964:
        https://doi.org/10.1016/0041-5553(64)90137-5
    """
    return optimizer(_trace(momentum=momentum), scale_by_learning_rate(learning_rate))


def nesterov(learning_rate: NumberOrSchedule, *, momentum: NumberOrSchedule = 0.9) -> Optimizer:
    """Momentum that looks ahead along its velocity::

        v = momentum * v + g
        theta -= learning_rate * (g + momentum * v)

    >>> import jax.numpy as jnp
    >>> descent, theta = nesterov(0.5, momentum=1.0), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0])
    [-8.  2.]

    References:
        Sutskever et al., On the importance of initialization and momentum, 2013:
        https://proceedings.mlr.press/v28/sutskever13.html
    """
    return optimizer(_trace_ahead(momentum=momentum), scale_by_learning_rate(learning_rate))


def adagrad(
    learning_rate: NumberOrSchedule, *, initial_accumulator_value: NumberOrSchedule = 0.1, eps: NumberOrSchedule = 1e-7
) -> Optimizer:
    """Each coordinate by the root of all its squared gradients so far, ``n``, which starts at its initial value::

        n = n + g**2
        theta -= learning_rate * g / sqrt(n + eps)

    >>> import jax.numpy as jnp
    >>> descent, theta = adagrad(0.5, initial_accumulator_value=0.0), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0])
    [-0.5  0.5]

    References:
        Duchi et al., Adaptive subgradient methods, 2011: https://jmlr.org/papers/v12/duchi11a.html
    """
    scale = _scale_by_rss(initial_accumulator_value=initial_accumulator_value, eps=eps)
    return optimizer(scale, scale_by_learning_rate(learning_rate))


def rmsprop(learning_rate: NumberOrSchedule, *, decay: NumberOrSchedule = 0.9, eps: NumberOrSchedule = 1e-8) -> Optimizer:
    """Each coordinate by the root of the fading mean of its squared gradients::

        n = decay * n + (1 - decay) * g**2
        theta -= learning_rate * g / sqrt(n + eps)

    >>> import jax.numpy as jnp
    >>> descent, theta = rmsprop(0.5, decay=0.75), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0])
    [-1.  1.]

    References:
        Tieleman and Hinton, Lecture 6.5, 2012: https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf
    """
    return optimizer(_scale_by_rms(decay=decay, eps=eps), scale_by_learning_rate(learning_rate))


def adadelta(learning_rate: NumberOrSchedule, *, rho: NumberOrSchedule = 0.9, eps: NumberOrSchedule = 1e-6) -> Optimizer:
    """Steps in the units of the parameters: by the root of past squared steps over that of squared gradients::

        n = rho * n + (1 - rho) * g**2
        d = sqrt(x + eps) / sqrt(n + eps) * g
        x = rho * x + (1 - rho) * d**2
        theta -= learning_rate * d

    The paper's learning rate is 1; ``optax.adadelta()`` without one climbs.

    >>> import jax.numpy as jnp
    >>> descent, theta = adadelta(1.0, rho=0.75), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0])
    [-0.002  0.002]

    References:
        Zeiler, ADADELTA, 2012: https://arxiv.org/abs/1212.5701
    """
    return optimizer(_scale_by_adadelta(rho=rho, eps=eps), scale_by_learning_rate(learning_rate))


def adam(
    learning_rate: NumberOrSchedule,
    *,
    b1: NumberOrSchedule = 0.9,
    b2: NumberOrSchedule = 0.999,
    eps: NumberOrSchedule = 1e-8,
) -> Optimizer:
    """Momentum over RMS, both freed of the bias of their start at zero::

        m = b1 * m + (1 - b1) * g
        n = b2 * n + (1 - b2) * g**2
        theta -= learning_rate * m / (1 - b1**t) / (sqrt(n / (1 - b2**t)) + eps)

    >>> import jax.numpy as jnp
    >>> descent, theta = adam(0.5), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0].round(3))
    [-0.5  0.5]

    References:
        Kingma and Ba, Adam, 2015: https://arxiv.org/abs/1412.6980
    """
    return optimizer(_scale_by_adam(b1=b1, b2=b2, eps=eps), scale_by_learning_rate(learning_rate))


def adamw(
    learning_rate: NumberOrSchedule,
    *,
    b1: NumberOrSchedule = 0.9,
    b2: NumberOrSchedule = 0.999,
    eps: NumberOrSchedule = 1e-8,
    weight_decay: NumberOrSchedule = 1e-4,
) -> Optimizer:
    """Adam with weights that decay at the learning rate, past the moments::

        d = the direction of adam
        theta -= learning_rate * (d + weight_decay * theta)

    >>> import jax.numpy as jnp
    >>> descent, theta = adamw(0.5, weight_decay=0.5), jnp.array([4.0, -2.0])
    >>> print(descent.update(2 * theta, descent.init(theta), theta)[0].round(1))
    [-1.5  1. ]

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, 2019: https://arxiv.org/abs/1711.05101
    """
    scale, decay = _scale_by_adam(b1=b1, b2=b2, eps=eps), _add_decayed_weights(weight_decay=weight_decay)
    return optimizer(scale, decay, scale_by_learning_rate(learning_rate))


def nadam(
    learning_rate: NumberOrSchedule,
    *,
    b1: NumberOrSchedule = 0.9,
    b2: NumberOrSchedule = 0.999,
    eps: NumberOrSchedule = 1e-8,
) -> Optimizer:
    """Adam with Nesterov's look ahead; ``m`` and ``n`` as in adam::

        d = b1 * m / (1 - b1**(t + 1)) + (1 - b1) * g / (1 - b1**t)
        theta -= learning_rate * d / (sqrt(n / (1 - b2**t)) + eps)

    >>> import jax.numpy as jnp
    >>> descent, theta = nadam(0.5, b1=0.0), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0].round(3))
    [-0.5  0.5]

    References:
        Dozat, Incorporating Nesterov momentum into Adam, 2016: https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ
    """
    return optimizer(_scale_by_nadam(b1=b1, b2=b2, eps=eps), scale_by_learning_rate(learning_rate))


def adamax(
    learning_rate: NumberOrSchedule,
    *,
    b1: NumberOrSchedule = 0.9,
    b2: NumberOrSchedule = 0.999,
    eps: NumberOrSchedule = 1e-8,
) -> Optimizer:
    """Adam under the largest gradient instead of the mean square; ``m`` as in adam::

        u = max(b2 * u, abs(g) + eps)
        theta -= learning_rate * m / (1 - b1**t) / u

    >>> import jax.numpy as jnp
    >>> descent, theta = adamax(0.5), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0].round(3))
    [-0.5  0.5]

    References:
        Kingma and Ba, Adam, section 7.1, 2015: https://arxiv.org/abs/1412.6980
    """
    return optimizer(_scale_by_adamax(b1=b1, b2=b2, eps=eps), scale_by_learning_rate(learning_rate))


def amsgrad(
    learning_rate: NumberOrSchedule,
    *,
    b1: NumberOrSchedule = 0.9,
    b2: NumberOrSchedule = 0.999,
    eps: NumberOrSchedule = 1e-8,
) -> Optimizer:
    """Adam whose steps are held down by the largest second moment so far; ``m`` and ``n`` as in adam::

        x = max(x, n / (1 - b2**t))
        theta -= learning_rate * m / (1 - b1**t) / (sqrt(x) + eps)

    >>> import jax.numpy as jnp
    >>> descent, theta = amsgrad(0.5), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta))[0].round(3))
    [-0.5  0.5]

    References:
        Reddi et al., On the convergence of Adam and beyond, 2018: https://arxiv.org/abs/1904.09237
    """
    return optimizer(_scale_by_amsgrad(b1=b1, b2=b2, eps=eps), scale_by_learning_rate(learning_rate))


def lion(
    learning_rate: NumberOrSchedule,
    *,
    b1: NumberOrSchedule = 0.9,
    b2: NumberOrSchedule = 0.99,
    weight_decay: NumberOrSchedule = 1e-3,
) -> Optimizer:
    """The sign of a momentum, with decoupled weight decay; wants a learning rate 3 to 10 times smaller than Adam's::

        d = sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
        theta -= learning_rate * (d + weight_decay * theta)

    >>> import jax.numpy as jnp
    >>> descent, theta = lion(0.5, weight_decay=0.5), jnp.array([4.0, -1.0])
    >>> print(descent.update(2 * theta, descent.init(theta), theta)[0])
    [-1.5   0.75]

    References:
        Chen et al., Symbolic discovery of optimization algorithms, 2023: https://arxiv.org/abs/2302.06675
    """
    scale, decay = _scale_by_lion(b1=b1, b2=b2), _add_decayed_weights(weight_decay=weight_decay)
    return optimizer(scale, decay, scale_by_learning_rate(learning_rate))
