"""Adam and its relatives as PyTorch computes them.

``g`` is the gradient with weight decay in it (L2) unless the decay is decoupled, ``t = 1, 2, ...`` counts updates. Every number
may be a Python number, a traced value or a schedule; ``betas`` is a pair of such. Moments of bfloat16 and float16 parameters are
float32, where torch keeps them in the parameters' dtype. With ``unused="skip"`` a leaf whose gradient is zero everywhere is
passed over, as torch passes over a parameter whose ``grad`` is None: no decay, no momentum, no count.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradkit.as_torch.recipes import lerp, pair, recipe
from gradkit.roots import sqrt
from gradkit.transforms import bias_correction, rounded, zeros

# c_k = B_2k / (2k)! of x / (exp(x) - 1) = 1 - x/2 + sum c_k x**2k, for float64 up to x = 1/2
BERNOULLI = [1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600,
             -3617 / 10670622842880000]  # fmt: skip

LARGE = 80.0  # to expm1, of which float32 can hold that of 88; to the bit the limit of radam, whose slope stays finite


def adam(
    lr: Any = 1e-3,
    betas: Any = (0.9, 0.999),
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.Adam``; ``weight_decay`` is L2::

        m = beta1 * m + (1 - beta1) * g
        n = beta2 * n + (1 - beta2) * g**2,    x = max(x, n) if amsgrad else n
        theta -= lr / (1 - beta1**t) * m / (sqrt(x) / sqrt(1 - beta2**t) + eps)

    Args:
        lr, betas, eps, weight_decay: Numbers, traced values or schedules.
        amsgrad, maximize, decoupled_weight_decay: Static.
        unused: ``"zero"`` or ``"skip"``, see above.

    Raises:
        ValueError: A number is negative or not finite, or a beta not below 1.

    >>> optimizer, theta = adam(lr=0.5), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(2 * theta, optimizer.init(theta), theta)[0])
    [-0.5  0.5]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html
    """

    def rule(h, t, theta, g, m, n, *largest):
        m, n = moments(h, g, m, n)
        largest = tuple(jnp.maximum(x, n) for x in largest)
        root = sqrt(*largest or (n,)) / jnp.sqrt(bias_correction(h.beta2, t))
        return -(h.lr / bias_correction(h.beta1, t)) * m / (root + h.eps), m, n, *largest

    beta1, beta2 = pair("betas", betas)
    return recipe(
        rule, zeros(3 if amsgrad else 2), maximize=maximize, unused=unused, is_decoupled=decoupled_weight_decay,
        lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
    )  # fmt: skip


def adamw(
    lr: Any = 1e-3,
    betas: Any = (0.9, 0.999),
    eps: Any = 1e-8,
    weight_decay: Any = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.AdamW``: :func:`adam` without L2, and ``theta *= 1 - lr * weight_decay`` at each step.

    >>> optimizer, theta = adamw(lr=0.5, weight_decay=0.5), jnp.array([4.0, -2.0])
    >>> print(optimizer.update(2 * theta, optimizer.init(theta), theta)[0])
    [-1.5  1. ]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html
    """
    return adam(
        lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True, unused=unused
    )  # fmt: skip


def adamax(
    lr: Any = 2e-3,
    betas: Any = (0.9, 0.999),
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    *,
    maximize: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.Adamax``; ``m`` as in :func:`adam`, arguments too::

        u = max(beta2 * u, abs(g) + eps)
        theta -= lr / (1 - beta1**t) * m / u

    >>> optimizer, theta = adamax(lr=0.5), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(2 * theta, optimizer.init(theta), theta)[0].round(3))
    [-0.5  0.5]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.Adamax.html
    """

    def rule(h, t, theta, g, m, u):
        m, u = lerp(m, g, 1 - h.beta1), jnp.maximum(h.beta2 * u, jnp.abs(g) + h.eps)
        return -(h.lr / bias_correction(h.beta1, t)) * m / u, m, u

    beta1, beta2 = pair("betas", betas)
    return recipe(
        rule, zeros(2), maximize=maximize, unused=unused, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
    )


def nadam(
    lr: Any = 2e-3,
    betas: Any = (0.9, 0.999),
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    momentum_decay: Any = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.NAdam``, whose momentum warms up; ``m`` and ``n`` as in :func:`adam`, arguments too::

        mu_t = beta1 * (1 - 0.96**(t * momentum_decay) / 2),    P = mu_1 * ... * mu_t
        d = (1 - mu_t) / (1 - P) * g + mu_(t+1) / (1 - P * mu_(t+1)) * m
        theta -= lr * d / (sqrt(n / (1 - beta2**t)) + eps)

    As in torch ``P`` is kept in float32 whatever the dtype.

    >>> optimizer, theta = nadam(lr=0.5, betas=(0.0, 0.999)), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(2 * theta, optimizer.init(theta), theta)[0])
    [-0.5  0.5]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.NAdam.html
    """

    def start(h, theta):
        return *zeros(2)(h, theta), jnp.ones((), jnp.float32)

    def rule(h, t, theta, g, m, n, product):
        def momentum_at(t):
            return h.beta1 * (1 - 0.5 * 0.96 ** (t * h.momentum_decay))

        mu, mu_next = momentum_at(t), momentum_at(t + 1)
        product = product * jnp.asarray(mu, jnp.float32)
        passed = product.astype(jnp.result_type(mu))
        first, second = h.lr * (1 - mu) / (1 - passed), h.lr * mu_next / (1 - passed * mu_next)
        m, n = moments(h, g, m, n)
        root = sqrt(n / bias_correction(h.beta2, t)) + h.eps
        return theta - first.astype(g.dtype) * g / root - second.astype(g.dtype) * m / root - theta, m, n, product

    beta1, beta2 = pair("betas", betas)
    return recipe(
        rule, start, maximize=maximize, unused=unused, is_decoupled=decoupled_weight_decay,
        lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay,
    )  # fmt: skip


def radam(
    lr: Any = 1e-3,
    betas: Any = (0.9, 0.999),
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.RAdam``: momentum until the second moment can be trusted; ``m``, ``n`` and arguments as in :func:`adam`::

        rho = 2 / (1 - beta2) - 1,    rho_t = rho - 2 * t * beta2**t / (1 - beta2**t)
        r = sqrt((rho_t - 4) * (rho_t - 2) * rho / ((rho - 4) * (rho - 2) * rho_t))
        theta -= lr * m / (1 - beta1**t) * (r * sqrt(1 - beta2**t) / (sqrt(n) + eps) if rho_t > 5 else 1)

    >>> optimizer, theta = radam(lr=0.5), jnp.array([4.0, -1.0])
    >>> print(optimizer.update(2 * theta, optimizer.init(theta), theta)[0].round(3))
    [-4.  1.]

    References:
        https://docs.pytorch.org/docs/stable/generated/torch.optim.RAdam.html
    """

    def rule(h, t, theta, g, m, n):
        m, n = moments(h, g, m, n)
        longest, length = window_lengths(h.beta2, t)
        divisor = jnp.where(length > 5, (longest - 4) * (longest - 2) * length, 1.0)
        ratio = (length - 4) * (length - 2) * longest / divisor
        rectifier = jnp.sqrt(jnp.where(length > 5, ratio, 1.0))
        adapted = jnp.sqrt(bias_correction(h.beta2, t)) / (sqrt(n) + h.eps)
        step = m / bias_correction(h.beta1, t) * h.lr * jnp.where(length > 5, adapted, 1.0) * rectifier
        return -rounded(h, step), m, n

    beta1, beta2 = pair("betas", betas)
    return recipe(
        rule, zeros(2), maximize=maximize, unused=unused, is_decoupled=decoupled_weight_decay,
        lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
    )  # fmt: skip


def moments(h: Any, g: jax.Array, m: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The fading means of the gradients and of their squares, rounded as torch rounds them."""
    return lerp(m, g, 1 - h.beta1), rounded(h, h.beta2 * n) + (1 - h.beta2) * g * g


def window_lengths(beta2: Any, t: jax.Array) -> tuple[Any, jax.Array]:
    """``rho`` and ``rho_t`` of :func:`radam`: how many gradients a fading mean averages in the end, and after ``t`` steps.

    With ``a = -log(beta2)`` and ``x = a * t`` they are ``coth(a / 2)`` and ``coth(a / 2) - 2 / a * x / (exp(x) - 1)``, whose
    terms nearly cancel while ``x`` is small. There their series are subtracted term by term, which leaves
    ``t - 2 * sum c_k * (x**(2k-1) * t - a**(2k-1))``.

    >>> longest, length = window_lengths(0.999, jnp.int32(6))
    >>> print(round(longest, 3), round(float(length), 3))
    1999.0 5.994
    """
    if isinstance(beta2, (int, float)):
        rate, longest = -math.log(beta2) if beta2 > 0 else math.inf, (1 + beta2) / (1 - beta2)
    else:
        is_fading = beta2 > 0  # else one gradient is all that is averaged
        rate = jnp.where(is_fading, -jnp.log1p(jnp.where(is_fading, beta2, 0.5) - 1), LARGE)
        longest = (1 + beta2) / (1 - beta2)
    x = rate * t
    near, far = jnp.minimum(x, 0.5), jnp.minimum(x, LARGE)
    series = 1.0 * t
    for order, coefficient in enumerate(BERNOULLI, start=1):
        power = 2 * order - 1
        series = series - 2 * coefficient * (near**power * t - jnp.minimum(rate, 0.5) ** power)
    return longest, jnp.where(x < 0.5, series, longest - 2 * t / jnp.expm1(far))
