"""BitFit: the biases alone (Ben Zaken, Goldberg & Ravfogel 2022, arXiv:2106.10199).

    y = W·x + b      b ← b − η·∇b, W frozen; norms' shifts are biases too

For small and medium data, where the paper found it on a par with standard; no layer is added.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from loratory.errors import SettingsError
from loratory.methods.base import TrainableModel, set_free
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from torch import nn

    from loratory.models.families import Family
    from loratory.models.load import Base


class BitFitSettings(MethodSettings):
    """Training the biases has no settings of its own."""

    name: str = "bitfit"


class BitFit:
    """Every bias of the encoder, and the head."""

    name = "bitfit"
    summary = "the encoder's biases, and the head"
    settings: type[MethodSettings] = BitFitSettings

    def default_lr(self, hidden_size: int) -> float:
        """1e-3, of the example that the authors' code gives: few numbers are trained, and from where they were; not
        searched."""
        return 1e-3

    def in_common(self, settings: MethodSettings) -> Hashable:
        """Nothing more: all train the same weights."""
        return ()

    def refuses(self, family: Family) -> str | None:
        """A family without biases."""
        return None if family.biases else _none_in(family)

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Set every bias free.

        Raises:
            SettingsError: the encoder has none.
        """
        parts = set_free(base.model, base.family, unfrozen=biases(base.model).__contains__)
        if "unfrozen" not in parts.values():  # a configuration may give a family biases that it mostly lacks
            raise SettingsError(_none_in(base.family))
        return TrainableModel(base.model, parts)


def _none_in(family: Family) -> str:
    return f"--method bitfit: {family.name} has no biases; use layernorm or lora"


def biases(model: nn.Module) -> set[str]:
    """The names of every bias."""
    return {name for name, _ in model.named_parameters() if name.endswith("bias")}
