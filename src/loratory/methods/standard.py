"""Standard fine-tuning: every weight is trained.

    W ← W − η·∇W

The measure of all others; AdamW keeps two numbers beside each weight and its gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loratory.methods.base import TrainableModel, set_free
from loratory.methods.rates import LayerSettings
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from loratory.models.load import Base


class StandardSettings(LayerSettings):
    """How fast the layers learn, and from when on."""

    name: str = "standard"


class Standard:
    """W ← W − η·∇W for every weight of the model."""

    name = "standard"
    summary = "every weight is trained"
    settings: type[MethodSettings] = StandardSettings

    def default_lr(self, hidden_size: int) -> float:
        """1e-4 for models below 512 hidden units (a trial on hutto:movies with minilm, no search); 2e-5 above,
        the middle of what BERT (Devlin et al. 2019, A.3) and RoBERTa (Liu et al. 2019, table 10) searched."""
        return 1e-4 if hidden_size < 512 else 2e-5

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Set every weight free."""
        return TrainableModel(base.model, set_free(base.model, base.family, unfrozen=lambda name: True))
