"""Keras's optimizers as Keras computes them.

``g`` is the gradient after clipping, ``t = 1, 2, ...`` counts updates. Every number may be a Python number, a traced value or a
schedule; booleans are static. ``**common`` are the arguments that all of them share, see :class:`gradkit.as_keras.Common`: weight
decay, always decoupled (``theta -= theta * weight_decay * learning_rate``), clipping, a moving average, accumulation.
What is remembered of bfloat16 and float16 parameters is float32. On TensorFlow, Keras itself rounds every number to float32, even
for float64 parameters: there the two agree to rounding for numbers that float32 holds, such as ``float(numpy.float32(0.999))``.
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradkit.as_keras.recipes import recipe
from gradkit.checks import is_zero
from gradkit.roots import sqrt
from gradkit.transforms import rounded, zeros


def sgd(
    learning_rate: Any = 0.01, momentum: Any = 0.0, nesterov: bool = False, **common: Any
) -> optax.GradientTransformationExtraArgs:
    """``keras.optimizers.SGD``; the rate is inside the velocity::

        v = momentum * v - learning_rate * g
        theta += momentum * v - learning_rate * g if nesterov else v

    >>> optimizer, theta = sgd(0.5, momentum=0.9), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0])
    [-2.   0.5]

    References:
        https://keras.io/api/optimizers/sgd/
    """
    has_momentum = not is_zero(momentum)

    def rule(h, t, theta, g, *v):
        step = rounded(h, g * h.learning_rate)
        if not has_momentum:
            return (theta - step,)
        v = rounded(h, v[0] * h.momentum) - step
        return theta + (rounded(h, v * h.momentum) - step if nesterov else v), v

    return recipe(rule, zeros(int(has_momentum)), common, learning_rate=learning_rate, momentum=momentum)


def rmsprop(
    learning_rate: Any = 0.001, rho: Any = 0.9, momentum: Any = 0.0, epsilon: Any = 1e-7, centered: bool = False, **common: Any
) -> optax.GradientTransformationExtraArgs:
    """``keras.optimizers.RMSprop``; epsilon is inside the root, the rate inside the velocity::

        n = rho * n + (1 - rho) * g**2,    a = rho * a + (1 - rho) * g
        v = momentum * v + learning_rate * g / sqrt((n - a**2 if centered else n) + epsilon)
        theta -= v

    >>> optimizer, theta = rmsprop(0.5, rho=0.75), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0].round(3))
    [-1.  1.]

    References:
        https://keras.io/api/optimizers/rmsprop/
    """
    has_momentum = not is_zero(momentum)

    def rule(h, t, theta, g, n, *rest):
        n = rounded(h, h.rho * n) + rounded(h, (1 - h.rho) * (g * g))
        variance, memory = n, (n,)
        if centered:
            mean = rounded(h, h.rho * rest[0]) + rounded(h, (1 - h.rho) * g)
            variance, memory = n - rounded(h, mean * mean), (n, mean)
        step = h.learning_rate * g / rounded(h, sqrt(variance + h.epsilon))
        if not has_momentum:
            return theta - step, *memory
        v = rounded(h, h.momentum * rest[-1]) + step
        return theta - v, *memory, v

    num_slots = 1 + centered + has_momentum
    return recipe(rule, zeros(num_slots), common, learning_rate=learning_rate, rho=rho, momentum=momentum, epsilon=epsilon)


def adagrad(
    learning_rate: Any = 0.001, initial_accumulator_value: Any = 0.1, epsilon: Any = 1e-7, **common: Any
) -> optax.GradientTransformationExtraArgs:
    """``keras.optimizers.Adagrad``; ``n`` starts at its initial value::

        n = n + g**2
        theta -= learning_rate * g / sqrt(n + epsilon)

    >>> optimizer, theta = adagrad(0.5, initial_accumulator_value=0.0), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0].round(3))
    [-0.5  0.5]

    References:
        https://keras.io/api/optimizers/adagrad/
    """

    def start(h, theta):
        return (jnp.full_like(theta, h.initial_accumulator_value),)

    def rule(h, t, theta, g, n):
        n = n + rounded(h, g * g)
        return theta - h.learning_rate * g / rounded(h, sqrt(n + h.epsilon)), n

    numbers = {"initial_accumulator_value": initial_accumulator_value, "epsilon": epsilon}
    return recipe(rule, start, common, learning_rate=learning_rate, **numbers)


def adadelta(
    learning_rate: Any = 0.001, rho: Any = 0.95, epsilon: Any = 1e-7, **common: Any
) -> optax.GradientTransformationExtraArgs:
    """``keras.optimizers.Adadelta``; the paper's learning rate is 1::

        n = rho * n + (1 - rho) * g**2
        d = sqrt(x + epsilon) * g / sqrt(n + epsilon)
        x = rho * x + (1 - rho) * d**2
        theta -= learning_rate * d

    >>> optimizer, theta = adadelta(1.0, rho=0.75, epsilon=1e-6), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0].round(3))
    [-0.002  0.002]

    References:
        https://keras.io/api/optimizers/adadelta/
    """

    def rule(h, t, theta, g, n, x):
        n = rounded(h, h.rho * n) + rounded(h, (1 - h.rho) * (g * g))
        d = rounded(h, sqrt(x + h.epsilon)) * g / rounded(h, sqrt(n + h.epsilon))
        return theta - rounded(h, h.learning_rate * d), n, rounded(h, h.rho * x) + rounded(h, (1 - h.rho) * (d * d))

    return recipe(rule, zeros(2), common, learning_rate=learning_rate, rho=rho, epsilon=epsilon)


def adam(
    learning_rate: Any = 0.001,
    beta_1: Any = 0.9,
    beta_2: Any = 0.999,
    epsilon: Any = 1e-7,
    amsgrad: bool = False,
    **common: Any,
) -> optax.GradientTransformationExtraArgs:
    """``keras.optimizers.Adam``::

        m = beta_1 * m + (1 - beta_1) * g
        n = beta_2 * n + (1 - beta_2) * g**2,    x = max(x, n) if amsgrad else n
        theta -= learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (sqrt(x) + epsilon)

    Its epsilon is ``epsilon / sqrt(1 - beta_2**t)`` of the paper's Algorithm 1, 32 times as much at first. Powers of the betas
    have the dtype of the parameters, as in Keras.

    >>> optimizer, theta = adam(0.5), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0].round(3))
    [-0.5  0.5]

    References:
        https://keras.io/api/optimizers/adam/
    """

    def rule(h, t, theta, g, m, n, *largest):
        m, n = _moments(h, g, m, n)
        largest = tuple(jnp.maximum(x, n) for x in largest)
        rate = h.learning_rate * jnp.sqrt(1 - _power(h.beta_2, t, g)) / (1 - _power(h.beta_1, t, g))
        return theta - m * rate / (sqrt(*largest or (n,)) + h.epsilon), m, n, *largest

    slots = zeros(3 if amsgrad else 2)
    return recipe(rule, slots, common, learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)


def adamw(
    learning_rate: Any = 0.001,
    weight_decay: Any = 0.004,
    beta_1: Any = 0.9,
    beta_2: Any = 0.999,
    epsilon: Any = 1e-7,
    amsgrad: bool = False,
    **common: Any,
) -> optax.GradientTransformationExtraArgs:
    """``keras.optimizers.AdamW``: :func:`adam` with a weight decay of 0.004, which torch's AdamW has at 0.01.

    >>> optimizer, theta = adamw(0.5, weight_decay=0.5), jnp.array([4.0, -2.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0].round(2))
    [-1.5  1. ]

    References:
        https://keras.io/api/optimizers/adamw/
    """
    return adam(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **common)


def adamax(
    learning_rate: Any = 0.001, beta_1: Any = 0.9, beta_2: Any = 0.999, epsilon: Any = 1e-7, **common: Any
) -> optax.GradientTransformationExtraArgs:
    """``keras.optimizers.Adamax``; ``m`` as in :func:`adam`::

        u = max(beta_2 * u, abs(g))
        theta -= learning_rate * m / ((1 - beta_1**t) * (u + epsilon))

    >>> optimizer, theta = adamax(0.5), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0].round(3))
    [-0.5  0.5]

    References:
        https://keras.io/api/optimizers/adamax/
    """

    def rule(h, t, theta, g, m, u):
        m, u = m + rounded(h, (g - m) * (1 - h.beta_1)), jnp.maximum(h.beta_2 * u, jnp.abs(g))
        return theta - h.learning_rate * m / ((1 - _power(h.beta_1, t, g)) * (u + h.epsilon)), m, u

    return recipe(rule, zeros(2), common, learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)


def nadam(
    learning_rate: Any = 0.001, beta_1: Any = 0.9, beta_2: Any = 0.999, epsilon: Any = 1e-7, **common: Any
) -> optax.GradientTransformationExtraArgs:
    """``keras.optimizers.Nadam``, whose momentum warms up; torch's does so 250 times as slowly::

        m, n as in adam
        u_t = beta_1 * (1 - 0.96**t / 2),    P = u_1 * ... * u_t
        d = u_(t+1) / (1 - P * u_(t+1)) * m + (1 - u_t) / (1 - P) * g
        theta -= learning_rate * d / (sqrt(n / (1 - beta_2**t)) + epsilon)

    >>> optimizer, theta = nadam(0.5, beta_1=0.0), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0].round(3))
    [-0.5  0.5]

    References:
        https://keras.io/api/optimizers/Nadam/
    """

    def start(h, theta):
        return *zeros(2)(h, theta), jnp.ones((), theta.dtype)

    def rule(h, t, theta, g, m, n, product):
        beta_1, beta_2 = jnp.asarray(h.beta_1, g.dtype), jnp.asarray(h.beta_2, g.dtype)
        u, u_next = (beta_1 * (1 - 0.5 * _power(0.96, t + ahead, g)) for ahead in (0, 1))
        product = product * u
        m, n = m + rounded(h, (g - m) * (1 - beta_1)), n + rounded(h, (rounded(h, g * g) - n) * (1 - beta_2))
        d = u_next * m / (1 - rounded(h, product * u_next)) + (1 - u) * g / (1 - product)
        return theta - d * h.learning_rate / (sqrt(n / (1 - _power(beta_2, t, g))) + h.epsilon), m, n, product

    return recipe(rule, start, common, learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)


def lion(
    learning_rate: Any = 0.001, beta_1: Any = 0.9, beta_2: Any = 0.99, **common: Any
) -> optax.GradientTransformationExtraArgs:
    """``keras.optimizers.Lion``::

        theta -= learning_rate * sign(beta_1 * m + (1 - beta_1) * g)
        m = beta_2 * m + (1 - beta_2) * g

    >>> optimizer, theta = lion(0.5), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0])
    [-0.5  0.5]

    References:
        https://keras.io/api/optimizers/lion/
    """

    def rule(h, t, theta, g, m):
        beta_1, beta_2 = jnp.asarray(h.beta_1, g.dtype), jnp.asarray(h.beta_2, g.dtype)
        direction = jnp.sign(rounded(h, m * beta_1) + rounded(h, g * (1 - beta_1)))
        return theta - h.learning_rate * direction, rounded(h, m * beta_2) + rounded(h, g * (1 - beta_2))

    return recipe(rule, zeros(1), common, learning_rate=learning_rate, beta_1=beta_1, beta_2=beta_2)


def _moments(h, g, m, n):
    """The fading means of gradients and squared gradients, rounded as Keras rounds them."""
    return m + rounded(h, (g - m) * (1 - h.beta_1)), n + rounded(h, (rounded(h, g * g) - n) * (1 - h.beta_2))


def _power(base, t, g):
    """``base**t`` in the dtype of the parameters."""
    return jnp.power(jnp.asarray(base, g.dtype), t.astype(g.dtype))
