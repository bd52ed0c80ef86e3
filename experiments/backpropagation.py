"""Is backpropagation no more than the chain rule, one layer after the other?"""

from __future__ import annotations

import dataclasses
import sys
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import gradkit as gk
from experiments import datasets, stories
from gradkit.report.plots import BLUE, GRAY, RED

SLOPES = {"tanh": lambda z: 1 - jnp.tanh(z) ** 2, "relu": lambda z: (z > 0).astype(z.dtype), "identity": jnp.ones_like}
ACTIVATIONS = {"tanh": jnp.tanh, "relu": lambda z: jnp.maximum(z, 0), "identity": lambda z: z}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Differentiate a multi-layer perceptron by hand, layer by layer, beside jax.grad, and train with both.

    For each layer a = f(x W + b), from the last to the first, dL/da comes in, and dL/dx goes out: it is dL/da of the layer below.
    Prints both with the gradients of the parameters and their distance to jax.grad; writes a table and a figure.

    Examples:
      python -m experiments.backpropagation
      python -m experiments.backpropagation --activation relu --hidden 128 64 32
    """

    hidden: tuple[int, ...] = (32, 16)
    """Widths of the hidden layers, between the 64 pixels of a digit and the 10 classes."""
    activation: Literal["tanh", "relu"] = "tanh"
    """The nonlinearity of the hidden layers."""
    learning_rate: float = 0.2
    """The rate of plain gradient descent."""
    steps: int = 200
    """Updates with each gradient."""
    batch_size: int = 128
    """Examples per update."""
    seed: int = 0
    """Seeds the parameters and the order of the examples."""
    output: str = "results/backpropagation"
    """Where the table and the figure are written."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    """a = f(x W + b): W (d, k), b (k,), and the name of f."""

    weight: jax.Array
    bias: jax.Array
    activation: str = dataclasses.field(metadata={"static": True})


class Seen(NamedTuple):
    """What a layer saw on the way forward and needs on the way back: x (n, d), and z = x W + b (n, k)."""

    inputs: jax.Array
    sums: jax.Array


class Flow(NamedTuple):
    """The gradients at a layer: dL/da (n, k) comes in, dL/dx (n, d) goes out, and the parameters get dL/dW and dL/db."""

    incoming: jax.Array
    outgoing: jax.Array
    weight: jax.Array
    bias: jax.Array


def layers_of(params, activation: str) -> list[Layer]:
    """The layers of a perceptron of ``gk.models``, from the pixels to the scores."""
    hidden = [Layer(layer["weight"], layer["bias"], activation) for layer in params["hidden"]]
    return [*hidden, Layer(params["output"]["weight"], params["output"]["bias"], "identity")]


def forward(layers: list[Layer], values: jax.Array) -> tuple[jax.Array, list[Seen]]:
    """The scores (n, k), and what each layer saw."""
    seen = []
    for layer in layers:
        seen.append(Seen(values, values @ layer.weight + layer.bias[None, :]))
        values = ACTIVATIONS[layer.activation](seen[-1].sums)
    return values, seen


def cross_entropy(scores: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean loss of the examples."""
    return jax.vmap(gk.losses.softmax)(scores, targets).mean()


def cross_entropy_slope(scores: jax.Array, targets: jax.Array) -> jax.Array:
    """dL/d scores = (softmax - one-hot) / n."""
    odds = jnp.exp(scores - scores.max(axis=1, keepdims=True))
    is_target = targets[:, None] == jnp.arange(scores.shape[1])[None, :]
    return (odds / odds.sum(axis=1, keepdims=True) - is_target) / len(scores)


def pass_back(layer: Layer, seen: Seen, incoming: jax.Array) -> Flow:
    """The chain rule for one layer.

    dL/dz = dL/da * f'(z)    dL/dx = dL/dz W^T    dL/dW = x^T dL/dz    dL/db = sum of dL/dz over the examples
    """
    sums = incoming * SLOPES[layer.activation](seen.sums)
    return Flow(incoming, outgoing=sums @ layer.weight.T, weight=seen.inputs.T @ sums, bias=sums.sum(axis=0))


def backward(layers: list[Layer], seen: list[Seen], incoming: jax.Array) -> list[Flow]:
    """What flows through each layer on the way back, in the order of the layers."""
    flows = []
    for layer, each in zip(reversed(layers), reversed(seen)):
        flows.append(pass_back(layer, each, incoming))
        incoming = flows[-1].outgoing
    return flows[::-1]


def flow_by_hand(layers: list[Layer], inputs, targets) -> list[Flow]:
    """Forward and back."""
    scores, seen = forward(layers, inputs)
    return backward(layers, seen, cross_entropy_slope(scores, targets))


def flow_by_jax(layers: list[Layer], inputs, targets, grads: list[Layer]) -> list[Flow]:
    """The same, by jax.grad of the loss as a function of what enters each layer, beside the gradients of the parameters."""
    scores, seen = forward(layers, inputs)
    values = [*(each.inputs for each in seen), scores]
    above = [jax.grad(lambda x, i=i: cross_entropy(forward(layers[i:], x)[0], targets))(x) for i, x in enumerate(values)]
    return [Flow(*each, grad.weight, grad.bias) for *each, grad in zip(above[1:], above, grads)]


def make_loss_by_hand(activation: str):
    """The loss with the gradient above in the place of JAX's own: gradkit takes it like any other."""

    def run(params, batch):
        inputs, targets = batch
        scores, seen = forward(layers_of(params, activation), inputs)
        return cross_entropy(scores, targets), (params, seen, scores, targets)

    def run_back(saved, slope):
        params, seen, scores, targets = saved
        flows = backward(layers_of(params, activation), seen, slope * cross_entropy_slope(scores, targets))
        *hidden, output = [{"weight": flow.weight, "bias": flow.bias} for flow in flows]
        return {"hidden": hidden, "output": output}, None

    loss_fn = jax.custom_vjp(lambda params, batch: run(params, batch)[0])
    loss_fn.defvjp(run, run_back)
    return loss_fn


def tabulate(layers: list[Layer], by_hand: list[Flow], by_jax: list[Flow], check: gk.gradients.GradientCheck):
    """A row per layer, from the last to the first, as the gradient flows; products are multiply-adds."""
    import pandas as pd

    names = [*(f"hidden[{index}]" for index in range(len(layers) - 1)), "output"]
    distance = lambda one, other: np.abs(one - other).max() / np.abs(other).max()  # noqa: E731
    off = {leaf.name: abs(leaf.given - leaf.measured) / max(abs(leaf.measured), leaf.error) for leaf in check.leaves}
    table = pd.DataFrame([layer.weight.shape for layer in layers], pd.Index(names, name="layer"), ["inputs", "outputs"])
    for field in Flow._fields:
        table[f"norm_{field}"] = [np.linalg.norm(getattr(flow, field)) for flow in by_hand]
    table["off_jax"] = [max(map(distance, *each)) for each in zip(by_hand, by_jax)]
    table["off_slopes"] = [max(off[f"params.{name}.weight"], off[f"params.{name}.bias"]) for name in names]
    table["products_there"] = [len(flow.incoming) * layer.weight.size for flow, layer in zip(by_hand, layers)]
    table["products_back"] = 2 * table.products_there
    return table[::-1].reset_index()


def tell_layers(table):
    """Print the table as the gradient flows: what comes into each layer, what goes out, what its parameters get."""
    heads = ("layer", "x -> a", "dL/da\nin", "dL/dx\nout", "dL/dW", "dL/db", "off by\njax.grad", "off by\nslopes")
    grid = Table(*heads, title="The norm of the gradient on its way back", title_justify="left", title_style="bold")
    for row in table.itertuples():
        norms = [f"{norm:.4f}" for norm in (row.norm_incoming, row.norm_outgoing, row.norm_weight, row.norm_bias)]
        grid.add_row(row.layer, f"{row.inputs} -> {row.outputs}", *norms, f"{row.off_jax:.0e}", f"{row.off_slopes:.0e}")
    Console().print(grid)


def judge_gradients(table, check: gk.gradients.GradientCheck) -> list[stories.Claim]:
    """The claims about one gradient."""
    rounding = 16 * float(jnp.finfo(jnp.zeros(()).dtype).eps)
    return [
        stories.Claim(
            "Layer by layer, the chain rule by hand gives what jax.grad gives, to rounding.",
            f"largest difference in any layer: {table.off_jax.max():.1e} of the largest entry (rounding: {rounding:.1e})",
            bool(table.off_jax.max() <= rounding)),
        stories.Claim(
            "It is the slope of the loss: finite differences in float64 say the same.",
            f"{check!r}, off by {table.off_slopes.max():.0e} at most", check.ok),
    ]  # fmt: skip


def judge_cost(layers: list[Layer], inputs, table) -> stories.Claim:
    """The claim about work: by hand from the shapes, and by XLA's count of all operations, activations included."""
    count = lambda fn, x: jax.jit(fn).lower(x).cost_analysis()["flops"]  # noqa: E731
    scores, seen = jax.jit(forward)(layers, inputs)
    ratio = count(lambda x: backward(layers, seen, x), scores) / count(lambda x: forward(layers, x), inputs)
    there, back, unneeded = table.products_there.sum(), table.products_back.sum(), table.products_there.iloc[-1]
    return stories.Claim(
        "The way back costs about twice the way there: x W returns as x^T dL/dz and dL/dz W^T.",
        f"multiply-adds by the shapes: {there:,} there, {back:,} back, ratio {back / there:.2f}; operations by XLA's count: "
        f"ratio {ratio:.2f}. Training needs no dL/d pixels, which leaves {(back - unneeded) / there:.2f}",
        bool(abs(ratio - 2) <= 0.2),
    )


def judge_training(by_hand: gk.Fit, by_jax: gk.Fit) -> stories.Claim:
    """The claim about many gradients; what rounding does to the first step, the later ones may amplify."""
    losses = by_jax.history["loss"]
    gap, bound = np.abs(by_hand.history["loss"] / losses - 1).max(), np.finfo(losses.dtype).eps ** 0.5
    return stories.Claim(
        "Training with it is training with jax.grad.",
        f"{len(losses)} steps, loss {losses[0]:.3f} to {losses[-1]:.3f}: {gap:.1e} of it apart at most (bound {bound:.1e})",
        bool(gap <= bound),
    )


def draw(fits: list[gk.Fit], trained: list[Layer], table, inputs, targets):
    """Above, one example on its way there and back; below, the norms per layer, and both trainings."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    draw_example(above, trained, inputs, targets)
    left, right = below.subplots(1, 2)
    draw_norms(left, table)
    right.semilogy(fits[0].history["loss"], color=RED, linewidth=4, alpha=0.4, label="by hand")
    right.semilogy(fits[1].history["loss"], color=BLUE, linewidth=1, label="by jax.grad")
    right.set(xlabel="step", ylabel="training loss of the batch", title="Training with either gradient")
    right.legend(fontsize=8)
    return figure


def draw_example(figure, layers: list[Layer], inputs, targets):
    """What each layer sees of the example with the highest loss, and the gradient of the loss with respect to it."""
    losses = jax.jit(jax.vmap(gk.losses.softmax))(jax.jit(forward)(layers, inputs)[0], targets)
    inputs, targets = (jnp.asarray(part)[None, losses.argmax()] for part in (inputs, targets))
    (scores, seen), flows = jax.device_get((jax.jit(forward)(layers, inputs), jax.jit(flow_by_hand)(layers, inputs, targets)))
    values = [*(each.inputs for each in seen), scores]
    slopes = [*(flow.outgoing for flow in flows), flows[-1].incoming]
    names = ["pixels", *(f"hidden[{index}]" for index in range(len(flows) - 1)), "scores"]
    panels = figure.subplots(2, len(names))
    for above, below, name, value, slope in zip(*panels, names, values, slopes):
        draw_units(above, name, value, "viridis", value.min(), value.max())
        draw_units(below, f"dL/d {name}", slope, "RdBu_r", -np.abs(slope).max(), np.abs(slope).max())
    figure.suptitle(f"After training, the worst: a digit {targets[0]}, taken for {scores.argmax()}; forward, and back")


def draw_units(ax, title: str, values, colors: str, low, high):
    """The units of a layer as an image, eight to a row where that works out; else in one row, numbered."""
    image = np.reshape(values, (-1, 8) if values.size % 8 == 0 else (1, -1))
    shown = ax.imshow(image, cmap=colors, vmin=low, vmax=high)
    ax.figure.colorbar(shown, ax=ax, orientation="horizontal", shrink=0.8)
    ax.set(xticks=range(image.size) if len(image) == 1 else [], yticks=[], title=title)


def draw_norms(ax, table):
    """Incoming, outgoing and weight gradient of each layer, from the last to the first."""
    fields = {"incoming": ("dL/da comes in", BLUE), "outgoing": ("dL/dx goes out", RED), "weight": ("dL/dW stays", GRAY)}
    for shift, (field, (label, color)) in enumerate(fields.items()):
        ax.bar(np.arange(len(table)) + 0.27 * (shift - 1), table[f"norm_{field}"], 0.25, color=color, label=label)
    ax.set_xticks(np.arange(len(table)), [f"{row.layer}\n{row.outputs} to {row.inputs}" for row in table.itertuples()])
    ax.set(ylabel="norm", title="What goes out of a layer comes into the one below")
    ax.legend(fontsize=8)


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    try:
        output, parts = stories.make_output(settings.output), datasets.load("digits")
        train, validation = ((jnp.asarray(x).reshape(len(x), -1), jnp.asarray(y)) for x, y in parts[:2])
        model = gk.models.mlp((64, *settings.hidden, 10), activation=settings.activation)
        losses = make_loss_by_hand(settings.activation), gk.objective(gk.losses.softmax, model.apply)
        optimizer = gk.optimizers.gradient_descent(settings.learning_rate)
        options = {"steps": settings.steps, "batch_size": settings.batch_size, "key": settings.seed, "progress": False}
        fits = [gk.fit(gk.descent(loss_fn, model.init, optimizer), train, **options) for loss_fn in losses]
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    params, batch = jax.jit(model.init)(jax.random.key(settings.seed)), tuple(part[: settings.batch_size] for part in train)
    layers, grads = (layers_of(tree, settings.activation) for tree in (params, jax.jit(jax.grad(losses[1]))(params, batch)))
    flows = jax.device_get((jax.jit(flow_by_hand)(layers, *batch), jax.jit(flow_by_jax)(layers, *batch, grads)))
    check = gk.gradients.check(losses[0], params, batch)
    table = tabulate(layers, *flows, check)
    tell_layers(table)
    claims = judge_cost(layers, batch[0], table), judge_training(*fits)
    held = stories.tell(__doc__, [*judge_gradients(table, check), *claims])
    figure = draw(fits, layers_of(fits[0].params, settings.activation), table, *validation)
    files = stories.write_table(table, output / "table")
    files.append(stories.write_figure(figure, output / "backpropagation.png"))
    print("written: " + ", ".join(map(str, files)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
