"""The norms alone (Qi et al. 2022, arXiv:2211.08682; Zhao et al. 2023, arXiv:2312.11420).

    LN(x) = γ ∘ (x − μ)/σ + β      γ and β are trained, all else of the encoder is frozen; RMS norms have γ alone

For the fewest trained numbers without a new layer; every family has norms, also those that have no biases.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from loratory.methods.base import TrainableModel, set_free
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from torch import nn

    from loratory.models.load import Base

KINDS = ("LayerNorm", "RMSNorm")
"""How the classes of norms are called in torch and in every family of transformers."""


class LayerNormSettings(MethodSettings):
    """Training the norms has no settings of its own."""

    name: str = "layernorm"


class LayerNorm:
    """Scale and shift of every norm of the encoder, and the head."""

    name = "layernorm"
    summary = "the encoder's norms, and the head"
    settings: type[MethodSettings] = LayerNormSettings

    def default_lr(self, hidden_size: int) -> float:
        """1e-3, as BitFit's, which trains about as few numbers; not searched."""
        return 1e-3

    def in_common(self, settings: MethodSettings) -> Hashable:
        """Nothing more: all train the same weights."""
        return ()

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Set every norm free."""
        return TrainableModel(base.model, set_free(base.model, base.family, unfrozen=norms(base.model).__contains__))


def norms(model: nn.Module) -> set[str]:
    """The names of the parameters of every norm."""
    return {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if type(module).__name__.endswith(KINDS)
        for own, _ in module.named_parameters(recurse=False)
    }
