"""Muon as PyTorch computes it: momentum, its matrices made nearly orthogonal."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradkit.as_torch.recipes import lerp, recipe
from gradkit.checks import Described, one_of, require, whole_number
from gradkit.roots import norm
from gradkit.transforms import zeros
from gradkit.trees import leaf_names


def muon(
    lr: Any = 1e-3,
    weight_decay: Any = 0.1,
    momentum: Any = 0.95,
    nesterov: bool = True,
    ns_coefficients: Any = (3.4445, -4.7750, 2.0315),
    eps: Any = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    *,
    unused: str = "zero",
) -> optax.GradientTransformationExtraArgs:
    """``torch.optim.Muon``, for matrices ``(rows, columns)`` only: hidden weights, not embeddings, heads or biases::

        v = momentum * v + (1 - momentum) * g
        d = orthogonal((1 - momentum) * g + momentum * v if nesterov else v)
        theta -= lr * (weight_decay * theta + sqrt(max(1, rows / columns)) * d)

    ``orthogonal`` divides by the Frobenius norm and makes ``ns_steps`` of Newton-Schulz, ``x = a x + (b A + c A A) x`` with
    ``A = x x^T``, in the dtype of the parameters (float32 at least), where torch rounds to bfloat16: singular values end near 1,
    between about 0.7 and 1.2. Rows are outputs in torch's ``nn.Linear``; a kernel of ``(inputs, outputs)`` takes another scale.

    Args:
        lr, weight_decay, momentum, eps: Numbers, traced values or schedules.
        ns_coefficients: ``(a, b, c)``, numbers.
        nesterov, ns_steps: Static.
        adjust_lr_fn: ``None`` or ``"original"``, as above; ``"match_rms_adamw"``: ``0.2 * sqrt(max(rows, columns))``. Static.
        unused: ``"zero"``, or ``"skip"``: leave a leaf whose gradient is zero everywhere as it is.

    Raises:
        ValueError: A number is negative or not finite; at ``init``, a leaf is not a matrix: give the others to another
            optimizer with ``optax.partition``.

    >>> optimizer, theta = muon(lr=0.5, weight_decay=0.0), jnp.diag(jnp.array([4.0, -1.0]))
    >>> print(jnp.abs(optimizer.update(theta, optimizer.init(theta), theta)[0]).round(1))
    [[0.4 0. ]
     [0.  0.4]]

    References:
        Jordan et al., Muon, 2024: https://kellerjordan.github.io/posts/muon/
        https://docs.pytorch.org/docs/stable/generated/torch.optim.Muon.html
    """
    if adjust_lr_fn is not None:
        one_of("adjust_lr_fn", adjust_lr_fn, ("original", "match_rms_adamw"))
    whole_number("ns_steps", ns_steps, at_least=1, remedy="It counts the iterations.")
    is_triple = isinstance(ns_coefficients, (tuple, list)) and len(ns_coefficients) == 3
    require(is_triple, "ns_coefficients", "be three numbers", ns_coefficients, "torch's are (3.4445, -4.775, 2.0315).")

    def rule(h, t, theta, g, v):
        v = lerp(v, g, 1 - h.momentum)
        ahead = lerp(g, v, h.momentum) if nesterov else v
        rate = h.lr * _scale(adjust_lr_fn, *g.shape)
        return rate * -_orthogonal(ahead, ns_coefficients, ns_steps, h.eps), v

    optimizer = recipe(
        rule, zeros(1), maximize=False, unused=unused, is_decoupled=True,
        lr=lr, weight_decay=weight_decay, momentum=momentum, eps=eps,
    )  # fmt: skip

    def init(params):
        _check_matrices(params)
        return optimizer.init(params)

    return optimizer._replace(init=init)


def _check_matrices(params: Any):
    """Refuse leaves that are not matrices, naming the first."""
    for name, theta in zip(leaf_names(params), jax.tree.leaves(params)):
        given = Described(f"a leaf of shape {jnp.shape(theta)}" + (f" at {name!r}" if name else ""))
        remedy = "Give the others to another optimizer with optax.partition."
        require(jnp.ndim(theta) == 2, "params", "be matrices", given, remedy)


def _scale(adjustment: str | None, rows: int, columns: int) -> float:
    """What the rate is multiplied by."""
    return 0.2 * max(rows, columns) ** 0.5 if adjustment == "match_rms_adamw" else max(1, rows / columns) ** 0.5


def _orthogonal(matrix: jax.Array, coefficients: Any, steps: int, eps: Any) -> jax.Array:
    """The matrix with singular values near 1."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / jnp.maximum(norm(x), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x
