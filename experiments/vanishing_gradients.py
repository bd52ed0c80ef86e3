"""How does the gradient change on its way back through a deep network, and which networks train?"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import gradkit as gk
from experiments import datasets, stories
from gradkit import checks
from gradkit.report.plots import BLUE, GRAY, RED

ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu, "identity": lambda values: values}
COLORS = {"sigmoid": RED, "tanh": "#2a8c55", "relu": BLUE, "identity": GRAY}
TOLERANCE = {"plain": 0.03, "batch norm": 0.02, "residual": 0.03}
RATES = {"gradient_descent": (0.01, 1.0), "adam": (0.0004, 0.03)}
EDGE = 3  # layers next to the input and to the output, where the gradient has not settled into its course
VANISHED = 1e-3  # of the gradient at the last layer
FEATURES, CLASSES, TRAIN_SEEDS = 64, 10, 2
TRAINS_FROM = 0.3  # accuracy; guessing has 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure the gradient at every layer of deep networks at initialization, beside closed forms, and then train the networks.

    Each activation comes plain, with batch norm, and as the branch of residual layers, x + a f(Wx) with a = 1 / sqrt(depth).
    Training is tried at several rates, by plain gradient descent and by Adam, on handwritten digits. Writes a table of gains and
    accuracies, the gradient at each layer, and a figure.

    Examples:
      python -m experiments.vanishing_gradients --activations tanh --depths 10 20 40 --steps 1000
    """

    activations: tuple[Literal["sigmoid", "tanh", "relu"], ...] = ("sigmoid", "tanh", "relu")
    """ReLU weights start with the variance 2 / fan-in (He), the others with 1 / fan-in (LeCun)."""
    depths: tuple[int, ...] = (5, 10, 20)
    """Hidden layers of the networks that are measured; gains are read off the deepest, which are also trained."""
    width: int = 256
    """Units of their hidden layers."""
    examples: int = 256
    """Digits that the gradient is taken of."""
    seeds: int = 3
    """Initializations that are measured."""
    train_width: int = 32
    """Units per hidden layer of the networks that are trained, as deep as the deepest."""
    steps: int = 500
    """Updates at each rate."""
    batch_size: int = 32
    """Examples per update."""
    rates: int = 4
    """Learning rates tried, from 0.01 to 1 by gradient descent and from 0.0004 to 0.03 by Adam."""
    output: str = "results/vanishing_gradients"
    """Where the tables and the figure are written."""


class Network(NamedTuple):
    """A kind of hidden layer; ``branch`` is the scale a of a residual branch, None for 1 / sqrt(depth)."""

    activation: str
    arrangement: str
    branch: float | None = None

    def __str__(self) -> str:
        return f"{self.activation} {self.arrangement}" + (f", a = {self.branch:g}" if self.branch else "")

    @property
    def weight_scale(self) -> float:
        """Standard deviation of the weights times the root of the fan-in: He's for ReLU, else LeCun's."""
        return 2**0.5 if self.activation == "relu" else 1.0


UNSCALED = (Network("identity", "residual", 1.0), Network("relu", "residual", 1.0))


def init(network: Network, depth: int, width: int, seeds: int) -> dict[str, jax.Array]:
    """Normal weights and no biases, seeds first. Hidden layers are stacked: a deep network compiles as fast as a shallow one."""
    keys, scale = jax.random.split(jax.random.key(0), 3), network.weight_scale
    return {
        "first": scale / FEATURES**0.5 * jax.random.normal(keys[0], (seeds, FEATURES, width)),
        "hidden": scale / width**0.5 * jax.random.normal(keys[1], (seeds, depth - 1, width, width)),
        "output": 1 / width**0.5 * jax.random.normal(keys[2], (seeds, width, CLASSES)),
        "bias": jnp.zeros((seeds, depth, width)),
    }


def apply(network: Network, params, inputs, bias=None) -> jax.Array:
    """Scores (n, k). Batch norm takes the moments of the batch that is there, in evaluation, too.

    ``bias`` (depth, n, width) replaces the biases by one per example, whose gradient is that of the pre-activations.
    """
    bias = params["bias"][:, None] if bias is None else bias

    def branch(values, weight, bias):
        products = values @ weight
        is_normed = network.arrangement == "batch norm"
        return ACTIVATIONS[network.activation]((jax.nn.standardize(products, axis=0) if is_normed else products) + bias)

    def layer(values, weight_and_bias):
        new = branch(values, *weight_and_bias)
        return values + (network.branch or len(bias) ** -0.5) * new if network.arrangement == "residual" else new, None

    values = branch(inputs.reshape(len(inputs), -1), params["first"], bias[0])
    return jax.lax.scan(layer, values, (params["hidden"], bias[1:]))[0] @ params["output"]


def measure_profile(network: Network, params, batch) -> jax.Array:
    """log10 of the root mean square of dL/dz at the pre-activations z of every hidden layer, from inputs to scores: (depth,)."""
    depth, width = params["bias"].shape
    objective = gk.objective(gk.losses.softmax, lambda bias, inputs: apply(network, params, inputs, bias))
    grads = jax.grad(objective)(jnp.zeros((depth, len(batch[0]), width)), batch)
    largest = jnp.abs(grads).max(axis=(1, 2), keepdims=True)  # squares alone might be too small for float32
    return jnp.log10(largest[:, 0, 0]) + jnp.log10(jnp.mean((grads / largest) ** 2, axis=(1, 2))) / 2


@functools.partial(jax.jit, static_argnums=0)
def moments(activation: str, variance) -> tuple[jax.Array, jax.Array, jax.Array]:
    """E f(z), E f(z)^2 and E f'(z)^2 for z normal with mean 0."""
    normal = (jnp.arange(-4000, 4000) + 0.5) * 2e-3
    values, slopes = jax.vmap(jax.value_and_grad(ACTIVATIONS[activation]))(jnp.sqrt(variance) * normal)
    weights = jax.nn.softmax(-(normal**2) / 2)
    return weights @ values, weights @ values**2, weights @ slopes**2


def expected_profile(network: Network, depth: int, power: float) -> np.ndarray:
    """What :func:`measure_profile` gives for very wide layers, up to a constant: the closed form of mean field theory.

    Back through a layer, the mean square of the gradient changes by the factor

        plain       s^2 E f'(z)^2
        residual    1 + a^2 s^2 E f'(z)^2
        batch norm  E f'(z)^2 / Var f(z), which is at least 1 for every f

    where s is the scale of the weights and z is normal, with variance 1 under batch norm, else s^2 times the mean square of what
    enters the layer, ``power`` at the first. It takes f'(z) and W for independent; in residual layers of ReLUs they are not.

    References:
        Schoenholz et al. 2017, https://arxiv.org/abs/1611.01232; Yang et al. 2019, https://arxiv.org/abs/1902.08129
    """
    is_normed, factors, squares, mean = network.arrangement == "batch norm", [], [], 0.0
    for layer in range(depth):
        skip, scale = (1, network.branch or depth**-0.5) if network.arrangement == "residual" and layer else (0, 1.0)
        mean_f, square_f, slope = map(float, moments(network.activation, 1.0 if is_normed else network.weight_scale**2 * power))
        squares.append(scale**2 * slope)
        factors.append(slope / (square_f - mean_f**2) if is_normed else skip + network.weight_scale**2 * squares[-1])
        power = skip * (power + 2 * scale * mean * mean_f) + scale**2 * square_f
        mean = skip * mean + scale * mean_f
    return (np.log10(squares) + np.append(np.cumsum(np.log10(factors[:0:-1]))[::-1], 0.0)) / 2


def gain(profile) -> float:
    """By what factor the gradient grows per layer on its way back: the slope of a profile away from its ends."""
    inner = np.asarray(profile)[EDGE:-EDGE]
    return float(10 ** -np.polyfit(np.arange(len(inner)), inner, 1)[0])


def measure(network: Network, depth: int, settings: Settings, batch) -> pd.DataFrame:
    """A row per layer: the gradient there as measured, averaged over seeds, and as expected."""
    profiles = jax.jit(jax.vmap(lambda params: measure_profile(network, params, batch)))
    measured = np.asarray(profiles(init(network, depth, settings.width, settings.seeds)), np.float64).mean(axis=0)
    expected = expected_profile(network, depth, float(jnp.mean(batch[0] ** 2)))
    return pd.DataFrame({
        "network": str(network), "activation": network.activation, "arrangement": network.arrangement, "depth": depth,
        "layers_back": np.arange(depth)[::-1], "log10_rms": measured, "log10_expected": expected - expected[-1] + measured[-1],
    })  # fmt: skip


def train(network: Network, optimizer: str, settings: Settings, parts: datasets.Parts) -> tuple[float, float]:
    """The rate with the lowest validation loss, and its validation accuracy."""
    run, starts = functools.partial(apply, network), init(network, max(settings.depths), settings.train_width, TRAIN_SEEDS)
    loss_fn = gk.objective(gk.losses.softmax, run)

    def make(h):
        start = jax.tree.map(lambda leaf: leaf[h.seed], starts)
        return gk.descent(loss_fn, start, getattr(gk.optimizers, optimizer)(h.learning_rate))

    sweep = gk.sweep(
        make, parts.train, gk.grid(learning_rate=gk.geomspace(*RATES[optimizer], settings.rates), seed=range(TRAIN_SEEDS)),
        steps=settings.steps, batch_size=settings.batch_size, validation=parts.validation,
        evaluate=lambda params, batch: {"accuracy": gk.losses.accuracy(run(params, batch[0]), batch[1])},
    )  # fmt: skip
    best = sweep.best()
    return best.hyper["learning_rate"], float(np.mean([sweep[member].metrics["accuracy"] for member in best.members]))


def tabulate(profiles: pd.DataFrame, results: dict) -> pd.DataFrame:
    """A row per network: gain per layer and closed form, first over last gradient at each depth, accuracies with their rates."""
    rows = []
    for names, own in profiles.groupby(["network", "activation", "arrangement"], sort=False):
        deepest = own[own.depth == own.depth.max()]
        row = dict(zip(("network", "activation", "arrangement"), names))
        row |= {"gain": gain(deepest.log10_rms), "closed_form": gain(deepest.log10_expected), "tolerance": TOLERANCE[names[2]]}
        row |= {f"first/last of {d}": 10 ** (r.log10_rms.iloc[0] - r.log10_rms.iloc[-1]) for d, r in own.groupby("depth")}
        for optimizer in RATES:
            row[f"{optimizer}_rate"], row[optimizer] = results.get((names[0], optimizer), (np.nan, np.nan))
        rows.append(row)
    return pd.DataFrame(rows).set_index("network")


def judge(table: pd.DataFrame) -> list[stories.Claim]:
    """The claims: about gains, then about training."""
    errors, trained = (table.gain / table.closed_form - 1).abs(), table.dropna(subset=[*RATES])
    linear, relu = map(str, UNSCALED)
    close, normed = errors.drop(index=relu), table.gain[table.arrangement == "batch norm"]
    arriving = trained.filter(like="first/last").iloc[:, -1]
    lost, kept = (trained.assign(share=arriving)[mask] for mask in (arriving < VANISHED, arriving >= VANISHED))
    told = [f"{row.Index} {row.share:.0e}, accuracy {max(row.gradient_descent, row.adam):.2f}" for row in lost.itertuples()]
    accuracies = [trained.pivot(index="activation", columns="arrangement", values=optimizer) for optimizer in RATES]
    leads = pd.concat([each["residual"] - each[["plain", "batch norm"]].max(axis=1) for each in accuracies], keys=[*RATES])
    return [
        stories.Claim("The gradient changes per layer by the factor of the closed form, within 3 % (batch norm: 2 %).",
                      "; ".join(f"{name} {table.gain[name]:.3f} ({table.closed_form[name]:.3f})" for name in close.index)
                      + f"; at most {close.max():.1%} off", bool((close <= table.tolerance[close.index]).all())),
        stories.Claim("Batch norm without skips makes gradients explode, whatever the activation.",
                      listed(normed, ".3f") + " per layer", bool((normed > 1).all())),
        stories.Claim("sqrt(1 + a^2) is for linear branches; with ReLU, whose slope follows its weights, x + a f(Wx) exceeds it.",
                      f"a = 1: linear {table.gain[linear]:.3f}, ReLU {table.gain[relu]:.3f}; sqrt(2) = {2**0.5:.3f}",
                      errors[linear] < TOLERANCE["residual"] < table.gain[relu] / table.closed_form[relu] - 1),
        stories.Claim(f"Where less than {VANISHED:g} of the gradient at the last layer arrives at the first, neither optimizer "
                      "trains the network; both train all others.",
                      f"{', '.join(told) or 'no such network'}; others: at least {kept.share.min():.2f}, accuracy at least "
                      f"{kept[[*RATES]].min(axis=None):.2f}",
                      bool((lost[[*RATES]] < TRAINS_FROM).all(axis=None) and (kept[[*RATES]] >= TRAINS_FROM).all(axis=None))),
        stories.Claim("With each activation and optimizer, residual layers train best.",
                      f"ahead in accuracy by {listed(leads, '+.2f')}", bool((leads > 0).all())),
    ]  # fmt: skip


def listed(values: pd.Series, form: str) -> str:
    """Values with their names, in words."""
    return ", ".join(f"{name if isinstance(name, str) else ' '.join(name)} {value:{form}}" for name, value in values.items())


def draw(profiles: pd.DataFrame, table: pd.DataFrame):
    """Four panels: the gradient against the distance from the output for each arrangement, and the accuracies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 4.6), layout="constrained")
    *panels, right = figure.subplots(1, 4)
    for ax, (arrangement, own) in zip(panels, profiles.groupby("arrangement", sort=False)):
        for (network, depth), layers in own.groupby(["network", "depth"], sort=False):
            is_deepest, color = depth == profiles.depth.max(), COLORS[layers.activation.iloc[0]]
            style = {"color": color, "linewidth": 1.2 if is_deepest else 0.4, "marker": "^" if "a =" in network else "."}
            name = network.replace(f" {arrangement}", "") if is_deepest else None
            ax.plot(layers.layers_back, 10**layers.log10_rms, markersize=4, label=name, **style)
            if is_deepest:
                ax.plot(layers.layers_back, 10**layers.log10_expected, "--", color="black", linewidth=0.8)
        ax.set(yscale="log", xlabel="layers back from the last", ylabel="root mean square of dL/dz")
        ax.set_title(f"{arrangement} (dashed: closed form)")
        ax.legend(frameon=False, fontsize=8)
    draw_accuracies(right, table.dropna(subset=[*RATES])[::-1])
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.2)
    return figure


def draw_accuracies(ax, trained: pd.DataFrame):
    """The best accuracy of each network under each optimizer."""
    for shift, optimizer, color in zip((0.2, -0.2), RATES, (BLUE, RED)):
        ax.barh(np.arange(len(trained)) + shift, trained[optimizer], height=0.38, color=color)
    ax.axvline(1 / CLASSES, color="black", linewidth=0.8, linestyle=":")
    ax.set_yticks(np.arange(len(trained)), trained.index)
    ax.set(xlim=(0, 1), xlabel="validation accuracy (dotted: guessing)", title="gradient descent (blue) and Adam (red)")


def main(arguments: list[str] | None = None) -> int:
    """Run the experiment; the exit status is 0 if all claims held."""
    settings = stories.settings(Settings, arguments)
    networks = [Network(activation, arrangement) for activation in settings.activations for arrangement in TOLERANCE]
    try:
        checks.require(min(settings.depths) >= 2 and max(settings.depths) >= 2 * EDGE + 2, "depths",
                       f"be at least 2, and one of them {2 * EDGE + 2}", settings.depths,
                       f"The deepest network is judged without {EDGE} layers at either end.")  # fmt: skip
        output, parts = stories.make_output(settings.output), datasets.load("digits")
        inputs, targets = (jnp.asarray(part[: settings.examples]) for part in parts.train)
        batch, pairs = (inputs.reshape(-1, FEATURES), targets), [(each, depth) for each in networks for depth in settings.depths]
        pairs += [(each, max(settings.depths)) for each in UNSCALED]
        profiles = pd.concat([measure(*pair, settings, batch) for pair in pairs], ignore_index=True)
        results = {(str(each), name): train(each, name, settings, parts) for each in networks for name in RATES}
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
    table = tabulate(profiles, results)
    held = stories.tell(__doc__, judge(table))
    print(table.drop(columns=["activation", "arrangement"]).rename_axis(None).to_string(float_format="{:.3g}".format, na_rep="-"))
    files = stories.write_table(table.reset_index(), output / "table") + stories.write_table(profiles, output / "profiles")
    files.append(stories.write_figure(draw(profiles, table), output / "vanishing_gradients.png"))
    print("written: " + ", ".join(map(str, files)))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
