"""The same networks in PyTorch, written as its users write them."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

from experiments.bench.cases import NUM_CLASSES, VOCABULARY, Case


def build(case: Case) -> nn.Module:
    """The network of a case."""
    if case.name == "transformer":
        return Transformer(case.data[0].shape[1])
    if case.name == "cnn":
        return convolutions()
    return Residual(case.sizes) if case.name == "resnet" else perceptron(case.sizes)


def perceptron(sizes: tuple[int, ...]) -> nn.Module:
    """Linear layers with ReLUs between them."""
    layers = [layer for shape in itertools.pairwise(sizes) for layer in (nn.Linear(*shape), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def convolutions() -> nn.Module:
    """Two convolutions with pooling, and a linear layer; images come without an axis of channels."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28)),
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 49, NUM_CLASSES),
    )  # fmt: skip


class Residual(nn.Module):
    """Hidden layers ``x + relu(norm(x W))``, and a linear layer."""

    def __init__(self, sizes: tuple[int, ...]):
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(*shape, bias=False) for shape in itertools.pairwise(sizes[:-1]))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in sizes[1:-1])
        self.last = nn.Linear(*sizes[-2:])

    def forward(self, values):
        """Inputs to scores."""
        for linear, norm in zip(self.hidden, self.norms):
            values = values + functional.relu(norm(linear(values)))
        return self.last(values)


class Block(nn.Module):
    """Causal attention and a perceptron, each normalized before and added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_key_value, self.mix = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        self.before_attention, self.before_mlp = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)

    def forward(self, values):
        """Values of all tokens to values of all tokens."""
        n, length, width = values.shape
        split = self.query_key_value(self.before_attention(values)).view(n, length, 3, self.heads, -1)
        query, key, value = (split[:, :, index].transpose(1, 2) for index in range(3))
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        values = values + self.mix(attended.transpose(1, 2).reshape(n, length, width))
        return values + self.down(functional.relu(self.up(self.before_mlp(values))))


class Transformer(nn.Module):
    """Tokens to scores of the next ones."""

    def __init__(self, length: int, width: int = 64, heads: int = 4, blocks: int = 2):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.randn(length, width) * length**-0.5)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.last, self.scores = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens):
        """Tokens ``[n, length]`` to scores ``[n, length, vocabulary]``."""
        return self.scores(self.last(self.blocks(self.tokens(tokens) + self.positions)))
