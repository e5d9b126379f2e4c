"""The layer whose outputs are the logits, and the scale of a regression's numbers in it.

A regression is trained on z = (y - μ)/σ, with mean and standard deviation of the training targets: a head that starts
near 0 would else need thousands of AdamW's steps, each of the size of the learning rate, to reach a mean of 100. Then
the scale is folded into the layer, W' = σW and b' = σb + μ, so that whoever opens the model reads numbers as they are
in the data. A layer without bias (a decoder's) has no place for μ: there z = y/σ, with σ the root mean square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loratory.models.families import Family
from loratory.problems import Targets


@dataclass(frozen=True)
class Scale:
    """y = sd · z + mean."""

    mean: float
    sd: float

    @classmethod
    def of(cls, targets: Targets, layer: nn.Linear) -> Scale:
        """That of the training targets (N,), as far as the output layer has room for it."""
        if layer.bias is None:
            return cls(0.0, float(np.sqrt(np.square(targets).mean())))
        return cls(float(targets.mean()), float(targets.std()))

    def to(self, targets: Tensor) -> Tensor:
        """Targets (B,) as they are trained on, in fp32."""
        return ((targets - self.mean) / self.sd).float()

    def back(self, outputs: Tensor) -> Tensor:
        """Numbers from what a model gives that is trained on this scale."""
        return outputs * self.sd + self.mean

    def fold(self, layer: nn.Linear) -> None:
        """Let the layer give numbers on their own scale."""
        with torch.no_grad():
            layer.weight.mul_(self.sd)
            if layer.bias is not None:
                layer.bias.mul_(self.sd).add_(self.mean)


def output_layer(model: Any, family: Family) -> nn.Linear:
    """The last linear layer of the head that is in use: of a head that an adapter holds, the adapter's."""
    layers = [
        module
        for path in family.head
        for module in model.get_submodule(path).modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ]
    return layers[-1]


def in_fp32(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer's forward without autocast: bf16 has 8 bits, in which 1000 and 1003 are one number."""

    def forward(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if layer.bias is None else layer.bias.float()
            return F.linear(hidden.float(), layer.weight.float(), bias)

    return forward
