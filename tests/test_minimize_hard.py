"""Minimization at its edges: derivatives of where it ends, hard regressions, complex residuals, decompositions under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradkit as gk
from experiments.bench.nist_hard import PROBLEMS
from gradkit import MinimumStatus as Status
from gradkit.decompositions import uses_decompositions
from gradkit.minima.sensitivities import MOST_WRITTEN

pytestmark = pytest.mark.usefixtures("x64")
SLOW = pytest.mark.long
MATRIX = np.array([[3.0, 1.0], [1.0, 2.0]])
CENTER = np.array([1.0, -2.0])


def ridge(x, strength):
    """Half of ``(x - c)' A (x - c) + strength |x|^2``, whose minimum is ``(A + strength)^-1 A c``."""
    away = x - CENTER
    return (away @ MATRIX @ away + strength * x @ x) / 2


def ridge_minimum(strength):
    return jnp.linalg.solve(MATRIX + strength * jnp.eye(2), MATRIX @ CENTER)


def given(strength):
    return gk.minimize(ridge, jnp.ones(2), args=(strength,)).params


def closed_over(strength):
    return gk.minimize(lambda x: ridge(x, strength), jnp.ones(2)).params


@pytest.mark.few(1)
@pytest.mark.parametrize("found", [given, closed_over])
def test_the_end_moves_with_its_arguments_as_the_closed_form_does(found):
    right = jax.jacobian(ridge_minimum)(0.7)
    np.testing.assert_allclose(jax.jacrev(found)(0.7), right, rtol=1e-8)
    np.testing.assert_allclose(jax.jacfwd(found)(0.7), right, rtol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.jacrev(found))(0.7), right, rtol=1e-8)


@pytest.mark.long
def test_and_its_second_derivative_and_many_at_once():
    strengths = jnp.array([0.3, 0.7])
    second = jax.grad(jax.grad(lambda s: given(s).sum()))(0.7)
    np.testing.assert_allclose(second, jax.grad(jax.grad(lambda s: ridge_minimum(s).sum()))(0.7), rtol=1e-7)
    right = jax.vmap(jax.jacobian(ridge_minimum))(strengths)
    np.testing.assert_allclose(jax.vmap(jax.jacrev(given))(strengths), right, rtol=1e-8)
    summed = jax.grad(lambda s: jax.vmap(closed_over)(s).sum())(strengths)
    np.testing.assert_allclose(summed, right.sum(1), rtol=1e-8)


def test_the_value_moves_as_the_function_does_and_the_start_moves_nothing():
    value = jax.grad(lambda s: gk.minimize(ridge, jnp.ones(2), args=(s,)).value)(0.7)
    np.testing.assert_allclose(value, jnp.sum(ridge_minimum(0.7) ** 2) / 2, rtol=1e-8)
    start = jax.grad(lambda x: gk.minimize(ridge, x, args=(0.7,)).params.sum())(jnp.ones(2))
    np.testing.assert_array_equal(start, [0, 0])


@pytest.mark.long
def test_least_squares_and_many_parameters_have_derivatives_too():
    def residuals(x, shift):
        return jnp.stack([x[0] - shift, jnp.sqrt(2.0) * (x[0] + x[1]), x[1] - 1])

    design = np.array([[1, 0], [np.sqrt(2), np.sqrt(2)], [0, 1]])
    right = np.linalg.pinv(design)[:, 0]
    moved = jax.jacrev(lambda s: gk.minimize(residuals, jnp.ones(2), residuals=True, args=(s,)).params)(0.5)
    np.testing.assert_allclose(moved, right, rtol=1e-8)

    curvatures = jnp.linspace(1, 3, 70)  # beyond 64 by one decomposition
    many = jax.jacrev(lambda s: gk.minimize(lambda x, s: jnp.sum(curvatures * (x - s) ** 2), jnp.zeros(70), args=(s,)).params)
    np.testing.assert_allclose(many(0.5), np.ones(70), rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
@pytest.mark.parametrize("dtype, decades, rtol", [(np.float64, 4, 1e-7), (np.float32, 2, 1e-3)])
def test_nor_do_units_of_many_parameters_matter_to_their_derivatives(mode, dtype, decades, rtol):
    rng = np.random.default_rng(0)
    design, target = rng.normal(size=(200, 70)) * np.logspace(0, decades, 70), rng.normal(size=200)
    right = np.linalg.lstsq(design, target)[0]
    design, target = design.astype(dtype), target.astype(dtype)
    start = (0.99 * right).astype(dtype)
    fit = lambda c: gk.minimize(lambda p, c: design @ p - c * target, start, args=(c,), residuals=True)  # noqa: E731
    np.testing.assert_allclose(mode(lambda c: fit(c).params)(dtype(1)), right, rtol=rtol)


@pytest.mark.long
@pytest.mark.parametrize("decades, is_solved", [(12, False), (1, True)])
def test_a_derivative_that_conjugate_gradients_do_not_reach_is_nan(decades, is_solved):
    units = jnp.logspace(0, decades / 2, MOST_WRITTEN + 1)
    bowl = lambda x, c: jnp.sum((units * x) ** 2) / 2 - c * jnp.sum(units * x)  # noqa: E731
    moved = jax.grad(lambda c: gk.minimize(bowl, 1 / units, args=(c,)).params.sum())(1.0)
    np.testing.assert_allclose(moved, jnp.sum(1 / units) if is_solved else jnp.nan, rtol=1e-7)


def test_where_there_is_no_minimum_there_is_no_derivative():
    flat = jax.grad(lambda y: gk.minimize(lambda x, y: (x[0] + x[1] - y) ** 2, jnp.ones(2), args=(y,)).params.sum())(0.5)
    assert jnp.isnan(flat)


@pytest.mark.long
def test_complex_residuals_count_with_both_parts():
    turns = jnp.arange(5.0)

    def residuals(x):
        return x[1] * jnp.exp(1j * x[0] * turns) - 2.0 * jnp.exp(0.3j * turns)

    found = gk.minimize(residuals, jnp.array([0.1, 1.0]), residuals=True)
    assert found.status == Status.CONVERGED
    np.testing.assert_allclose(found.params, [0.3, 2.0], rtol=1e-9)
    whole = gk.minimize(lambda x: jnp.sum(jnp.abs(residuals(x)) ** 2) / 2, jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(whole.params, [0.3, 2.0], rtol=1e-6)


RIGHT = np.array([1.0, -2.0, 0.5])


def zero_at_the_right(size_fn, dtype):
    """``(start, right) -> end`` of a complex linear fit without noise, and starts, the first of which is its minimum."""
    randoms = np.random.default_rng(0)
    matrix = (randoms.normal(size=(6, 3)) + 1j * randoms.normal(size=(6, 3))).astype(np.result_type(dtype, np.complex64))
    starts = jnp.asarray(np.concatenate([RIGHT[None], randoms.normal(size=(7, 3))]), dtype)

    def sizes(x, right):
        # made complex here: jax 0.7 warns in the gradient where the product does so
        return size_fn(matrix @ (x - right).astype(matrix.dtype))

    return lambda start, right: gk.minimize(sizes, start, args=(right,)), starts


SIZES = pytest.mark.parametrize(
    "size_fn", [lambda z: jnp.sum(jnp.abs(z) ** 2), lambda z: jnp.linalg.norm(z) ** 2], ids=["abs", "norm"]
)


@pytest.mark.few(1)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@SIZES
def test_squares_whose_derivatives_fail_at_zero_itself_converge_to_zero(size_fn, dtype):
    found, starts = zero_at_the_right(size_fn, dtype)
    ends = jax.vmap(found, in_axes=(0, None))(starts, jnp.asarray(RIGHT, dtype))
    assert all(ends.status == Status.CONVERGED), ends.message
    np.testing.assert_allclose(ends.params, np.tile(RIGHT, (8, 1)), rtol=20 * np.finfo(dtype).eps)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@SIZES
def test_and_move_with_their_arguments(size_fn, dtype):
    found, starts = zero_at_the_right(size_fn, dtype)
    moved = jax.vmap(jax.jacrev(lambda right, start: found(start, right).params), in_axes=(None, 0))
    np.testing.assert_allclose(moved(jnp.asarray(RIGHT, dtype), starts), np.tile(np.eye(3), (8, 1, 1)), atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.sum((x - 1) ** 4),
        lambda x: jnp.sum(jnp.abs(x - 1) ** 2.1),
        lambda x: jnp.sum(jnp.where(x > 1, x - 1, 0) ** 2),
        lambda x: (x[0] - 1) ** 3 + (x[1] - 1) ** 2,
        lambda x: jnp.abs(x[0] * x[1] - 1 + 0j) ** 2,
        lambda x: jnp.abs(x[0] - 1 + 0j) ** 2,
    ],
    ids=["flatter", "hardly flatter", "one side", "inflection", "valley", "unused"],
)
def test_what_is_flat_at_zero_itself_stays_flat(fn):
    assert gk.minimize(fn, jnp.ones(2)).status == Status.FLAT


def test_a_complex_value_is_refused():
    with pytest.raises(ValueError, match="`fn` must return one floating scalar, got complex128"):
        gk.minimize(lambda x: jnp.sum(x) + 0j, jnp.ones(2))


def test_at_a_limit_the_error_is_not_said_to_be_small():
    problem = PROBLEMS["MGH10"]
    found = gk.minimize(
        lambda b: problem.model(b, problem.x) - problem.y, jnp.asarray(problem.starts[0]), residuals=True, max_steps=200
    )
    assert found.status == Status.LIMIT
    true_error = np.max(np.abs(found.params - problem.certified) / np.abs(found.params))
    assert found.error > 1e-3 * min(true_error, 1)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("fn", "start", "end", "max_steps", "is_stated"),
    [
        (lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, [-1.2, 1.0], [1.0, 1.0], 1, False),
        (lambda x: (x[0] - 1) ** 4 + (x[1] - 2) ** 2, [5.0, 5.0], [1.0, 2.0], 10, False),
        (lambda x: jnp.exp(-x[0]) + 1e-3 * x[0] + (x[1] - 1) ** 2, [-3.0, 5.0], [np.log(1e3), 1.0], 5, False),
        (lambda x: jnp.sum(jnp.logspace(0, 6, 70) * (x - 1) ** 2), [3.0] * 70, [1.0] * 70, 30, False),
        (lambda x: jnp.sum(jnp.array([1, 1e6, 1e-4]) * (x - jnp.array([1, 2, 3])) ** 2), [50.0] * 3, [1.0, 2.0, 3.0], 3, True),
    ],
    ids=["valley", "flatter than a parabola", "tail", "many parameters", "parabola"],
)
def test_at_a_limit_an_error_is_stated_only_if_it_is_about_the_truth(fn, start, end, max_steps, is_stated):
    found = gk.minimize(fn, jnp.array(start), max_steps=max_steps)
    assert found.status == Status.LIMIT
    true_error = np.max(np.abs(found.params - np.array(end)) / np.abs(found.params))
    np.testing.assert_allclose(found.error, true_error if is_stated else np.inf, rtol=0.1)
    assert ("relative error unknown" in repr(found)) == (not is_stated)


@pytest.mark.few(1)
@pytest.mark.parametrize("way", ["residuals", pytest.param("one number", marks=SLOW)])
@pytest.mark.parametrize("name", [name if name in ("MGH10", "Bennett5") else pytest.param(name, marks=SLOW) for name in PROBLEMS])
def test_hard_regressions_are_solved_from_both_starts(name, way):
    problem = PROBLEMS[name]

    def residuals(b):
        return problem.model(b, problem.x) - problem.y

    def value(b):
        return jnp.sum(residuals(b) ** 2) / 2

    is_least_squares = way == "residuals"
    fn = residuals if is_least_squares else value
    found = jax.vmap(lambda b: gk.minimize(fn, b, residuals=is_least_squares))(jnp.asarray(problem.starts))
    assert all(found.status == Status.CONVERGED)
    # some have equal minima elsewhere (terms that change places, signs), so the certified sum is compared
    np.testing.assert_allclose(2 * found.value, problem.sum_of_squares, rtol=1e-7)


def gaussian_process(num_points):
    """The negative log-likelihood of a Gaussian process in the logarithms of length, variance and noise."""
    places = jnp.linspace(-3, 3, num_points)
    values = jnp.sin(places) + 0.1 * jnp.cos(17 * places)

    def loss(params):
        length, variance, noise = jnp.exp(params)
        distances = (places[:, None] - places[None, :]) ** 2
        kernel = variance * jnp.exp(-distances / (2 * length**2)) + (noise + 1e-6) * jnp.eye(num_points)
        root = jnp.linalg.cholesky(kernel)
        whitened = jax.scipy.linalg.solve_triangular(root, values, lower=True)
        return whitened @ whitened / 2 + jnp.sum(jnp.log(jnp.diag(root)))

    return loss


def batched_decompositions(jaxpr):
    """Decompositions of more than one matrix in a jaxpr or in one inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("cholesky", "triangular_solve") and equation.invars[0].aval.ndim > 2:
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda each: hasattr(each, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from batched_decompositions(inner)


def test_decompositions_never_run_side_by_side():
    # on a CPU two batched ones at a time wait for each other for ever
    loss = gaussian_process(5)
    starts = jnp.zeros((4, 3))
    traced = jax.make_jaxpr(jax.vmap(lambda start: gk.minimize(loss, start)))(starts)
    assert uses_decompositions(traced)
    assert not list(batched_decompositions(traced.jaxpr))
    assert list(batched_decompositions(jax.make_jaxpr(jax.vmap(jax.hessian(loss)))(starts).jaxpr))  # the walk sees them


@pytest.mark.long
def test_many_starts_of_a_likelihood_with_a_large_cholesky_end():
    starts = jax.random.normal(jax.random.key(0), (16, 3))
    found = jax.jit(jax.vmap(lambda start: gk.minimize(gaussian_process(60), start)))(starts)
    assert np.isin(found.status, [Status.CONVERGED, Status.FLAT, Status.SADDLE]).all()
