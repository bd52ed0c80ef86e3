"""Backpropagation by hand against closed forms and differences in NumPy, and claims that fail when the chain rule is broken."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import gradkit as gk
from experiments import backpropagation

NUMPY = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "identity": lambda z: z}


def make_net(activation, sizes=(5, 4, 3, 3), n=6):
    """Parameters of a small net with biases that are not zero, and a batch."""
    keys = jax.random.split(jax.random.key(1), 3)
    params = jax.jit(gk.models.mlp(sizes, activation=activation).init)(keys[0])
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    return params, (jax.random.normal(keys[1], (n, sizes[0])), jax.random.randint(keys[2], (n,), 0, sizes[-1]))


def numpy_loss(layers, values, targets):
    """The mean cross-entropy of examples that enter at the first of these layers."""
    for layer in layers:
        values = NUMPY[layer.activation](values @ np.asarray(layer.weight) + np.asarray(layer.bias))
    return np.mean(np.log(np.exp(values).sum(axis=1)) - values[np.arange(len(values)), targets])


def differences(fn, array, step=1e-6):
    """Central differences of a function with respect to every entry."""
    slopes = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        shift = np.zeros_like(array)
        shift[index] = step
        slopes[index] = (fn(array + shift) - fn(array - shift)) / (2 * step)
    return slopes


@pytest.mark.few(1)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_every_gradient_of_every_layer_is_the_difference_quotient_of_a_loss_in_numpy(x64, activation):
    params, (inputs, targets) = make_net(activation)
    layers = backpropagation.layers_of(params, activation)
    scores, seen = jax.jit(backpropagation.forward)(layers, inputs)
    values = [np.asarray(x) for x in (*(each.inputs for each in seen), scores)]
    for index, flow in enumerate(jax.jit(backpropagation.flow_by_hand)(layers, inputs, targets)):
        layer, above = layers[index], layers[index + 1 :]

        def with_layer(x, index=index, **new):
            return numpy_loss([dataclasses.replace(layers[index], **new), *layers[index + 1 :]], x, targets)

        expected = {
            "incoming": differences(lambda x, above=above: numpy_loss(above, x, targets), values[index + 1]),
            "outgoing": differences(with_layer, values[index]),
            "weight": differences(lambda w, f=with_layer, x=values[index]: f(x, weight=w), np.asarray(layer.weight)),
            "bias": differences(lambda b, f=with_layer, x=values[index]: f(x, bias=b), np.asarray(layer.bias)),
        }
        for name, slopes in expected.items():
            np.testing.assert_allclose(getattr(flow, name), slopes, atol=1e-8, err_msg=f"layer {index}, {name}")


def test_a_single_layer_of_zeros_has_the_gradient_of_softmax_regression():
    inputs, targets = jnp.arange(6.0).reshape(3, 2), jnp.array([0, 1, 1])
    layer = backpropagation.Layer(jnp.zeros((2, 2)), jnp.zeros(2), "identity")
    (flow,) = jax.jit(backpropagation.flow_by_hand)([layer], inputs, targets)
    half = (0.5 - jax.nn.one_hot(targets, 2)) / 3
    np.testing.assert_allclose(flow.incoming, half, rtol=1e-6)
    np.testing.assert_allclose(flow.weight, inputs.T @ half, rtol=1e-6)
    np.testing.assert_allclose(flow.bias, half.sum(axis=0), rtol=1e-6)
    assert not flow.outgoing.any()


def test_the_loss_by_hand_stands_in_for_the_loss_of_the_library_also_inside_another():
    params, batch = make_net("tanh")
    by_hand = backpropagation.make_loss_by_hand("tanh")
    by_jax = gk.objective(gk.losses.softmax, gk.models.mlp((5, 4, 3, 3), activation="tanh").apply)
    both = [jax.jit(jax.value_and_grad(lambda params, fn=fn: 3 * fn(params, batch)))(params) for fn in (by_hand, by_jax)]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), *both)


def dissect(activation):
    """The table of a small net, and its check."""
    params, batch = make_net(activation)
    loss_by_hand = backpropagation.make_loss_by_hand(activation)
    by_jax = gk.objective(gk.losses.softmax, gk.models.mlp((5, 4, 3, 3), activation=activation).apply)
    layers = backpropagation.layers_of(params, activation)
    grads = backpropagation.layers_of(jax.jit(jax.grad(by_jax))(params, batch), activation)
    by_hand = jax.jit(lambda layers, *batch: backpropagation.flow_by_hand(layers, *batch))  # not the cached one: tests break it
    flows = by_hand(layers, *batch), jax.jit(backpropagation.flow_by_jax)(layers, *batch, grads)
    check = gk.gradients.check(loss_by_hand, params, batch)
    return backpropagation.tabulate(layers, *jax.device_get(flows), check), check


@pytest.mark.few(1)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_both_claims_hold_and_the_table_counts_by_the_shapes(activation):
    table, check = dissect(activation)
    assert [claim.held for claim in backpropagation.judge_gradients(table, check)] == [True, True]
    assert list(table.layer) == ["output", "hidden[1]", "hidden[0]"]
    assert list(table.products_there) == [6 * 3 * 3, 6 * 4 * 3, 6 * 5 * 4]
    assert (table.products_back == 2 * table.products_there).all()
    assert list(table.norm_outgoing)[:-1] == list(table.norm_incoming)[1:]


def test_a_forgotten_slope_of_the_activation_is_found_in_the_layers_that_have_one(monkeypatch):
    monkeypatch.setitem(backpropagation.SLOPES, "tanh", jnp.ones_like)
    table, check = dissect("tanh")
    assert [claim.held for claim in backpropagation.judge_gradients(table, check)] == [False, False]
    assert {leaf.name.rsplit(".", 1)[0] for leaf in check.leaves if leaf.verdict == "wrong"} == {
        "params.hidden[0]",
        "params.hidden[1]",
    }
    assert list(table.off_jax > 1e-3) == [False, True, True]


def judge_cost(sizes=(64, 32, 10)):
    """The claim about work for a net of these sizes and 128 examples."""
    params, (inputs, _) = make_net("tanh", sizes, n=128)
    products = pd.Series([128 * d * k for d, k in itertools.pairwise(sizes)][::-1])
    table = pd.DataFrame({"products_there": products, "products_back": 2 * products})
    return backpropagation.judge_cost(backpropagation.layers_of(params, "tanh"), inputs, table)


def test_the_way_back_costs_twice_the_way_there():
    claim = judge_cost()
    assert claim.held
    assert "ratio 2.00; operations by XLA's count" in claim.measured
    assert claim.measured.endswith(f"leaves {2 - 64 * 32 / (64 * 32 + 32 * 10):.2f}")


def test_a_way_back_that_forgets_the_weights_is_told_from_one_that_costs_twice(monkeypatch):
    whole = backpropagation.backward
    monkeypatch.setattr(backpropagation, "backward", lambda *args: [flow.outgoing for flow in whole(*args)])
    assert not judge_cost().held


@pytest.mark.parametrize(("factor", "held"), [(1 + 1e-5, True), (1.01, False)])
def test_curves_that_part_are_told_from_rounding(factor, held):
    losses = np.geomspace(2, 0.1, 20).astype(np.float32)
    one, other = (SimpleNamespace(history={"loss": each}) for each in (losses, losses * np.float32(factor)))
    assert backpropagation.judge_training(one, other).held == held


@pytest.mark.long
def test_the_story_is_told_and_written(capsys, tmp_path):
    assert backpropagation.main(["--hidden", "8", "--steps", "20", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("The norm of the gradient on its way back")
    assert text.count("yes") == 4
    assert "GradientCheck: 4 of 4 leaves" in text
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(zip(table.inputs, table.outputs)) == [(8, 10), (64, 8)]
    assert (tmp_path / "backpropagation.png").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "0"], "`sizes` must be a whole number of at least 1, got 0"),
        (["--batch-size", "5000"], "`batch_size` must be at most 1258, the number of examples, got 5000"),
        (["--steps", "0"], "`steps` must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        backpropagation.main([*arguments, "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())
