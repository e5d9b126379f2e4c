"""The floating-point operations that training asks for: linear layers and attention, of real tokens only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from loratory.models.flat import Classifier
from loratory.models.quantized import numbers


def operations(classifier: Classifier, lengths: NDArray[np.int64], *, epochs: int) -> float:
    """Of `epochs` epochs over sequences of `lengths` (N,), training what is free in the classifier's model.

    A product of (T, a) and (a, b) is 2·T·a·b. Backward costs it once more for the input's gradient, where anything
    below is trained, and once more for the weight's, where that is trained. Attention is two products of L·L·H forward
    and four backward. Where batches are flat, what lies below the first trained weight runs forward once, whatever the
    epochs. Padding, element-wise work and the optimizer do not count.
    """
    tokens, pairs = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
    model, family = classifier.model, classifier.family
    config: Any = model.config
    blocks = family.blocks(model) * (int(config.num_hidden_layers) if family.shared else 1)
    named = dict(model.named_modules())
    head = [named[name] for name in family.head if name in named]
    inside = {id(parameter) for module in (*blocks, *head) for parameter in module.parameters()}
    encoder = [parameter for parameter in family.encoder(model).parameters() if id(parameter) not in inside]
    below = any(parameter.requires_grad for parameter in encoder)  # embeddings come first
    hidden = int(config.hidden_size)
    total = 0.0
    for block in blocks:
        trained = any(parameter.requires_grad for parameter in block.parameters())
        attention = 4 * pairs * hidden
        if not below and not trained:
            once = attention + sum(2 * _size(layer) * tokens for _, layer in _products(block))
            total += once * (1 if classifier.flat else epochs)
            continue
        total += 3 * attention * epochs
        entrance = {*family.attention, *(path.rpartition(".")[2] for path in family.keys_and_values)}
        for name, layer in _products(block):
            first = not below and not entrance.isdisjoint(name.split("."))
            passes = 1 + (not first) + _weight(layer).requires_grad
            total += 2 * _size(layer) * tokens * passes * epochs
        below = True
    for module in head:
        for _, layer in _products(module):
            total += 2 * _size(layer) * len(lengths) * 3 * epochs
    return total


def _products(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that multiply by a matrix, by name: linear layers, PEFT's A and B among them."""
    named = ((name, one) for name, one in module.named_modules() if not list(one.children()))
    return [(name, one) for name, one in named if _is_product(one)]


def _is_product(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, nn.Parameter)
        and weight.dim() == 2
        and not isinstance(module, nn.Embedding)
        and "norm" not in type(module).__name__.lower()
    )


def _weight(module: nn.Module) -> nn.Parameter:
    assert isinstance(module.weight, nn.Parameter)
    return module.weight


def _size(module: nn.Module) -> int:
    return numbers(_weight(module))
