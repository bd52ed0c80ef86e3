"""SGD, RMSprop, Adagrad, Adadelta and Rprop as PyTorch computes them.

``g`` is the gradient with weight decay in it (L2), ``t = 1, 2, ...`` counts updates. Every number may be a Python number, a
traced value or a schedule; booleans are static. What is remembered of bfloat16 and float16 parameters is float32, where torch
keeps it in the parameters' dtype. With ``unused="skip"`` a leaf whose gradient is zero everywhere is passed over, as torch
passes over a parameter whose ``grad`` is None: no decay, no momentum, no count.
"""

from typing import Any

import jax.numpy as jnp
import optax

from gradkit.as_torch.recipes import lerp, pair, recipe, scaled
from gradkit.checks import Described, is_zero, nonnegative, require
from gradkit.roots import sqrt
from gradkit.transforms import rounded, zeros


def sgd(
    lr: Any = 1e-3,
    momentum: Any = 0.0,
    dampening: Any = 0.0,
    weight_decay: Any = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.SGD``; the first step with momentum has no dampening::

        v = momentum * v + (1 - dampening) * g,    v = g at first
        theta -= lr * (g + momentum * v if nesterov else v)

    While a schedule of the momentum is at 0, ``v`` rests and the step is along ``g``.

    Args:
        lr, momentum, dampening, weight_decay: Numbers, traced values or schedules. Without momentum dampening does nothing.
        nesterov: Look ahead along ``v``; wants momentum and no dampening.
        maximize: Climb instead.
        unused: ``"zero"`` or ``"skip"``, see above.

    Raises:
        ValueError: A number is negative or not finite; ``nesterov`` without momentum or with dampening.

    >>> optimizer, theta = sgd(lr=0.5, momentum=0.9, dampening=0.1), jnp.array([4.0, -1.0])
    >>> updates, state = optimizer.update(theta, optimizer.init(theta), theta)
    >>> print(updates, optimizer.update(theta, state, theta)[0])
    [-2.   0.5] [-3.6  0.9]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html
    """
    has_momentum, is_damped = not is_zero(momentum), not is_zero(dampening)
    is_possible = not nesterov or (has_momentum and not is_damped)
    given = Described(f"momentum={momentum!r} and dampening={dampening!r}")
    require(is_possible, "nesterov", "come with a momentum and without dampening", given, "Change one of the three.")

    def plain_rule(h, t, theta, g):
        return (scaled(theta, h.lr, g),)

    def rule(h, t, theta, g, v, has_begun=None):
        is_on = h.momentum != 0
        is_first = t == 1 if has_begun is None else ~has_begun
        ahead = jnp.where(is_first, g, rounded(h, h.momentum * v) + (1 - h.dampening) * g)
        step = jnp.where(is_on, g + h.momentum * ahead if nesterov else ahead, g)
        begun = () if has_begun is None else (has_begun | is_on,)
        return scaled(theta, h.lr, step), jnp.where(is_on, ahead, v), *begun

    def start(h, theta):
        # a schedule may be at 0 for a while: whether v is a gradient yet is not known from t
        return *zeros(int(has_momentum))(h, theta), *((jnp.zeros((), bool),) if callable(momentum) else ())

    return recipe(
        rule if has_momentum else plain_rule, start, maximize=maximize, unused=unused,
        lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
    )  # fmt: skip


def rmsprop(
    lr: Any = 1e-2,
    alpha: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    momentum: Any = 0.0,
    centered: bool = False,
    *,
    maximize: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.RMSprop``::

        n = alpha * n + (1 - alpha) * g**2,    a = alpha * a + (1 - alpha) * g
        v = momentum * v + g / (sqrt(n - a**2 if centered else n) + eps)
        theta -= lr * v

    While the momentum is 0, ``v`` rests and the step is along its second term.

    Args:
        lr, alpha, eps, weight_decay, momentum: Numbers, traced values or schedules.
        centered, maximize: Static.
        unused: ``"zero"`` or ``"skip"``, see above.

    Raises:
        ValueError: A number is negative or not finite.

    >>> optimizer, theta = rmsprop(lr=0.5, alpha=0.75), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0])
    [-1.  1.]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html
    """
    has_momentum = not is_zero(momentum)

    def rule(h, t, theta, g, n, *rest):
        n = rounded(h, h.alpha * n) + (1 - h.alpha) * g * g
        variance, memory = n, (n,)
        if centered:
            mean = lerp(rest[0], g, 1 - h.alpha)
            variance, memory = n - mean * mean, (n, mean)
        root = sqrt(variance) + h.eps
        if not has_momentum:
            return -h.lr * g / root, *memory
        v = rounded(h, h.momentum * rest[-1]) + g / root
        is_on = h.momentum > 0
        return jnp.where(is_on, scaled(theta, h.lr, v), -h.lr * g / root), *memory, jnp.where(is_on, v, rest[-1])

    return recipe(
        rule, zeros(1 + centered + has_momentum), maximize=maximize, unused=unused,
        lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
    )  # fmt: skip


def adagrad(
    lr: Any = 1e-2,
    lr_decay: Any = 0.0,
    weight_decay: Any = 0.0,
    initial_accumulator_value: Any = 0.0,
    eps: Any = 1e-10,
    *,
    maximize: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.Adagrad``; ``n`` starts at its initial value::

        n = n + g**2
        theta -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(n) + eps)

    Args:
        lr, lr_decay, weight_decay, initial_accumulator_value, eps: Numbers, traced values or schedules.
        maximize: Climb instead.
        unused: ``"zero"`` or ``"skip"``, see above.

    Raises:
        ValueError: A number is negative or not finite.

    >>> optimizer, theta = adagrad(lr=0.5), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0])
    [-0.5  0.5]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html
    """

    def start(h, theta):
        return (jnp.full_like(theta, h.initial_accumulator_value),)

    def rule(h, t, theta, g, n):
        n = n + g * g
        return -(h.lr / (1 + (t - 1) * h.lr_decay)) * g / (sqrt(n) + h.eps), n

    return recipe(
        rule, start, maximize=maximize, unused=unused,
        lr=lr, lr_decay=lr_decay, weight_decay=weight_decay, initial_accumulator_value=initial_accumulator_value, eps=eps,
    )  # fmt: skip


def adadelta(
    lr: Any = 1.0,
    rho: Any = 0.9,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    *,
    maximize: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.Adadelta``::

        n = rho * n + (1 - rho) * g**2
        d = sqrt(x + eps) / sqrt(n + eps) * g
        x = rho * x + (1 - rho) * d**2
        theta -= lr * d

    Args:
        lr, rho, eps, weight_decay: Numbers, traced values or schedules.
        maximize: Climb instead.
        unused: ``"zero"`` or ``"skip"``, see above.

    Raises:
        ValueError: A number is negative or not finite.

    >>> optimizer, theta = adadelta(lr=1.0, rho=0.75), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0].round(3))
    [-0.002  0.002]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html
    """

    def rule(h, t, theta, g, n, x):
        n = rounded(h, h.rho * n) + (1 - h.rho) * g * g
        d = rounded(h, sqrt(x + h.eps) / rounded(h, sqrt(n + h.eps)) * g)
        return scaled(theta, h.lr, d), n, rounded(h, h.rho * x) + (1 - h.rho) * d * d

    return recipe(rule, zeros(2), maximize=maximize, unused=unused, lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)


def rprop(
    lr: Any = 1e-2,
    etas: Any = (0.5, 1.2),
    step_sizes: Any = (1e-6, 50.0),
    *,
    maximize: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.Rprop``: steps of a size ``s`` for each coordinate, which begins at ``lr``::

        f = etas[1] where g * p > 0, etas[0] where g * p < 0, else 1
        s = clip(f * s, *step_sizes)
        p = 0 where g * p < 0, else g
        theta -= s * sign(p)

    For full batches: noise turns the signs. ``optax.rprop`` makes each step one update late.

    Args:
        lr: First step size; a schedule is asked once, at step 0.
        etas: Factors after a change of sign and without one, below and above 1.
        step_sizes: Smallest and largest step.
        maximize: Climb instead.
        unused: ``"zero"`` or ``"skip"``, see above.

    Raises:
        ValueError: A number is negative or not finite, or the etas are not on both sides of 1.

    >>> optimizer, theta = rprop(lr=0.5), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(theta, optimizer.init(theta), theta)[0])
    [-0.5  0.5]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.Rprop.html
    """

    def start(h, theta):
        return jnp.zeros_like(theta), jnp.full_like(theta, h.lr)

    def rule(h, t, theta, g, previous, size):
        agreement = g * previous
        factor = jnp.where(agreement > 0, h.eta_plus, jnp.where(agreement < 0, h.eta_minus, 1.0))
        size = jnp.clip(size * factor, h.smallest, h.largest)
        previous = jnp.where(agreement < 0, 0.0, g)
        return -jnp.sign(previous) * size, previous, size

    (eta_minus, eta_plus), (smallest, largest) = pair("etas", etas), pair("step_sizes", step_sizes)
    nonnegative("etas[0]", eta_minus, below=1.0)
    if isinstance(eta_plus, (int, float)):
        require(eta_plus > 1, "etas[1]", "be above 1", eta_plus, "It is the factor while the sign stays.")
    return recipe(
        rule, start, maximize=maximize, unused=unused,
        lr=lr, eta_minus=eta_minus, eta_plus=eta_plus, smallest=smallest, largest=largest,
    )  # fmt: skip
