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

from loratory.errors import DataError
from loratory.models.families import Family
from loratory.problems import Targets

LARGEST = 1e18
"""Squares of larger targets come near the end of fp32's range."""

MOST_APART = 1e5
"""Standard deviations between 0 and the targets' mean: fp32 has 1.2e-7 of relative precision, so that beyond this a
hundredth of a deviation is lost."""


@dataclass(frozen=True)
class Scale:
    """y = sd · z + mean."""

    mean: float
    sd: float

    @classmethod
    def of(cls, targets: Targets, layer: nn.Linear) -> Scale:
        """That of the training targets (N,), as far as the output layer has room for it.

        Raises:
            DataError: fp32, in which a model computes, does not hold them, or does not tell them apart.
        """
        if not np.abs(targets).max() < LARGEST:
            raise DataError(
                f"targets up to {np.abs(targets).max():.3g} are beyond what a model computes with; scale them"
            )
        if abs(float(targets.mean())) > MOST_APART * float(targets.std()):
            raise DataError(
                f"targets have mean {targets.mean():.6g} and standard deviation {targets.std():.3g}: too far from 0 "
                "for a model to tell them apart; subtract a constant from them"
            )
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
