"""Gradients of deep networks against differences in NumPy, gains against closed forms, and claims that can fail."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from experiments import datasets
from experiments import vanishing_gradients as vanishing
from experiments.vanishing_gradients import Network

ARRANGEMENTS = ["plain", "batch norm", "residual"]
NUMPY = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z))}
SMALL = ["--activations", "sigmoid", "--depths", "2", "16", "--width", "128", "--examples", "64", "--seeds", "6"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of the whole experiment in small, with accuracies made up: its exit status, its folder and its table."""
    folder = tmp_path_factory.mktemp("vanishing_gradients")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vanishing, "train", lambda network, *_: (0.1, 0.1 if network.arrangement == "plain" else 0.9))
        status = vanishing.main([*SMALL, "--output", str(folder)])
    return status, folder, pd.read_csv(folder / "table.csv", index_col="network")


def make_batch(n, features=64):
    """Normal inputs and random classes."""
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(n, features))), jnp.asarray(rng.integers(0, 10, n))


def numpy_loss(network, params, batch, shifts):
    """The mean cross-entropy with pre-activations shifted by (depth, n, width)."""

    def branch(values, weight, shift):
        products = values @ weight
        if network.arrangement == "batch norm":
            products = (products - products.mean(axis=0)) / np.sqrt(products.var(axis=0) + 1e-5)
        return NUMPY[network.activation](products + shift)

    inputs, targets = map(np.asarray, batch)
    values = branch(inputs, params["first"], shifts[0])
    for weight, shift in zip(params["hidden"], shifts[1:]):
        new = branch(values, weight, shift)
        values = values + len(shifts) ** -0.5 * new if network.arrangement == "residual" else new
    scores = values @ params["output"]
    return np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(targets)), targets])


@pytest.mark.long
@pytest.mark.few(1)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_gradients_of_the_layers_are_difference_quotients_of_a_loss_in_numpy(x64, arrangement):
    network, depth, n, width = Network("tanh", arrangement), 3, 4, 5
    params, batch = {name: leaf[0] for name, leaf in vanishing.init(network, depth, width, 1).items()}, make_batch(n)
    slopes, step = np.zeros((depth, n, width)), 1e-5
    for place in np.ndindex(slopes.shape):
        shift = np.zeros_like(slopes)
        shift[place] = step
        higher, lower = (numpy_loss(network, {k: np.asarray(v) for k, v in params.items()}, batch, s) for s in (shift, -shift))
        slopes[place] = (higher - lower) / (2 * step)
    expected = np.log10(np.sqrt(np.mean(slopes**2, axis=(1, 2))))
    np.testing.assert_allclose(vanishing.measure_profile(network, params, batch), expected, atol=1e-6)


def test_gradients_whose_squares_underflow_are_still_measured():
    rng = np.random.default_rng(0)
    shapes = {"first": (64, 64), "hidden": (39, 64, 64), "output": (64, 10)}
    params = {name: jnp.asarray(rng.normal(size=shape) / 8, jnp.float32) for name, shape in shapes.items()}
    params |= {"bias": jnp.zeros((40, 64))}
    profile = np.asarray(vanishing.measure_profile(Network("sigmoid", "plain"), params, make_batch(32)))
    assert profile[0] < -23 and vanishing.gain(profile) == pytest.approx(0.236, rel=0.05)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("identity", (0, 2.25, 1)),
        ("relu", (1.5 / np.sqrt(2 * np.pi), 2.25 / 2, 0.5)),
    ],
)
def test_moments_are_those_of_the_half_normal_and_the_normal_distribution(activation, expected):
    np.testing.assert_allclose(vanishing.moments(activation, 1.5**2), expected, rtol=1e-4, atol=1e-5)


def test_moments_of_curved_activations_are_those_of_a_hermite_quadrature():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    tanh, sigmoid = np.tanh(nodes), 1 / (1 + np.exp(-nodes))
    for name, values, slopes in (("tanh", tanh, 1 - tanh**2), ("sigmoid", sigmoid, sigmoid * (1 - sigmoid))):
        expected = [weights @ values, weights @ values**2, weights @ slopes**2]
        np.testing.assert_allclose(vanishing.moments(name, 1.0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Network("sigmoid", "plain"), 0.2361),
        (Network("relu", "plain"), 1.0),
        (Network("identity", "residual", 1.0), 2**0.5),
        (Network("identity", "residual", 0.5), 1.25**0.5),
        (Network("identity", "residual"), (1 + 1 / 20) ** 0.5),
        (Network("relu", "batch norm"), (np.pi / (np.pi - 1)) ** 0.5),
    ],
)
def test_the_expected_gain_is_the_closed_form(network, expected):
    assert vanishing.gain(vanishing.expected_profile(network, 20, 1.0)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("network", "tolerance"),
    [
        (Network("sigmoid", "plain"), 0.03),
        (Network("tanh", "plain"), 0.03),
        (Network("relu", "plain"), 0.03),
        (Network("relu", "batch norm"), 0.02),
        (Network("identity", "residual", 0.5), 0.03),
        (Network("sigmoid", "residual", 1.0), 0.03),
    ],
)
def test_the_measured_gain_is_the_expected_one(network, tolerance):
    settings = vanishing.Settings(width=128, seeds=6)
    layers = vanishing.measure(network, 16, settings, make_batch(128))
    assert vanishing.gain(layers.log10_rms) == pytest.approx(vanishing.gain(layers.log10_expected), rel=tolerance)
    assert layers.log10_rms.iloc[-1] == layers.log10_expected.iloc[-1] and layers.layers_back.tolist() == [*range(15, -1, -1)]


def test_with_relu_a_residual_layer_exceeds_the_closed_form_of_linear_ones():
    layers = vanishing.measure(Network("relu", "residual", 1.0), 16, vanishing.Settings(width=128, seeds=6), make_batch(128))
    assert vanishing.gain(layers.log10_rms) > 1.03 * 2**0.5


def test_a_gain_is_the_slope_without_the_layers_at_the_ends():
    profile = np.log10(2.0) * np.arange(10)[::-1]
    assert vanishing.gain(profile + np.where(np.arange(10) % 9 < 1, 7.0, 0.0)) == pytest.approx(2.0)


@pytest.mark.long
@pytest.mark.parametrize(("arrangement", "low", "high"), [("plain", 0.0, 0.25), ("residual", 0.5, 1.0)])
def test_the_plain_sigmoid_does_not_train_and_residual_layers_do(arrangement, low, high):
    settings = vanishing.Settings(depths=(8,), steps=150, rates=3)
    rate, accuracy = vanishing.train(Network("sigmoid", arrangement), "gradient_descent", settings, datasets.load("digits"))
    assert low < accuracy < high and 0.01 <= rate <= 1.0


@pytest.mark.long
def test_the_share_that_arrives_falls_with_the_depth(small_run):
    table = small_run[2]
    assert table["first/last of 2"]["sigmoid plain"] == pytest.approx(0.236, rel=0.2)
    assert table["first/last of 16"]["sigmoid plain"] == pytest.approx(0.236**15, rel=0.5)


@pytest.mark.long
def test_a_run_writes_its_tables_and_figure_and_tells_by_its_status(small_run):
    status, folder, table = small_run
    assert status == (0 if all(claim.held for claim in vanishing.judge(table)) else 1)
    assert {path.name for path in folder.iterdir()} >= {"table.csv", "table.parquet", "profiles.csv", "vanishing_gradients.png"}


def make_table():
    """A table for which every claim holds."""
    rows = [
        ("sigmoid", "plain", 0.236, 0.236, 1e-9, 0.1, 0.1),
        ("sigmoid", "batch norm", 1.03, 1.02, 2.0, 0.8, 0.8),
        ("sigmoid", "residual", 1.02, 1.02, 2.0, 0.9, 0.9),
        ("identity", "residual", 1.42, 1.414, 700.0, np.nan, np.nan),
        ("relu", "residual", 1.54, 1.414, 4000.0, np.nan, np.nan),
    ]
    columns = ["activation", "arrangement", "gain", "closed_form", "first/last of 20", *vanishing.RATES]
    table = pd.DataFrame(rows, columns=columns)
    table["tolerance"] = table.arrangement.map(vanishing.TOLERANCE)
    scales = [", a = 1" if activation in ("identity", "relu") else "" for activation in table.activation]
    return table.set_index(table.activation + " " + table.arrangement + scales)


@pytest.mark.parametrize(
    ("position", "network", "column", "value"),
    [
        (0, "sigmoid plain", "gain", 0.25),
        (0, "sigmoid batch norm", "gain", 1.045),
        (1, "sigmoid batch norm", "gain", 0.999),
        (2, "relu residual, a = 1", "gain", 1.42),
        (3, "sigmoid plain", "adam", 0.6),
        (3, "sigmoid plain", "first/last of 20", 0.5),
        (4, "sigmoid batch norm", "adam", 0.95),
    ],
)
def test_each_claim_fails_on_a_figure_against_it(position, network, column, value):
    held = lambda table: [claim.held for claim in vanishing.judge(table)]  # noqa: E731
    table = make_table()
    assert all(held(table))
    table.loc[network, column] = value
    assert not held(table)[position]


def test_no_vanishing_network_is_told_as_such():
    table = make_table()
    table.loc["sigmoid plain", ["first/last of 20", *vanishing.RATES]] = [2.5, 0.5, 0.4]
    claim = vanishing.judge(table)[3]
    assert claim.held and claim.measured == "no such network; others: at least 2.00, accuracy at least 0.40"


@pytest.mark.parametrize("depths", [["1", "20"], ["5", "7"]])
def test_depths_without_a_middle_are_refused(depths, tmp_path):
    message = r"`depths` must be at least 2, and one of them 8, got \(.*\)\. The deepest network is judged without 3 layers"
    with pytest.raises(SystemExit, match=message):
        vanishing.main(["--depths", *depths, "--output", str(tmp_path)])
