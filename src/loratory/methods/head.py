"""The classifier head alone: the encoder stays as it was pretrained.

    ŷ = head(h), h = encoder(x) as it is

The cheapest of all, and what the others must beat: where batches run flat, the encoder runs once for
each text, not once an epoch.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from loratory.methods.base import TrainableModel, set_free
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from loratory.models.load import Base


class HeadSettings(MethodSettings):
    """Training the head has no settings of its own."""

    name: str = "head"


class Head:
    """A linear probe, or a small network where the family's head has a pooler: what the frozen features can do."""

    name = "head"
    summary = "only the classifier head is trained"
    settings: type[MethodSettings] = HeadSettings

    def default_lr(self, hidden_size: int) -> float:
        """1e-3, AdamW's own default (Kingma & Ba 2015, section 2)."""
        return 1e-3

    def in_common(self, settings: MethodSettings) -> Hashable:
        """Nothing more: every head sees the same features."""
        return ()

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Freeze all but the head."""
        return TrainableModel(base.model, set_free(base.model, base.family, unfrozen=lambda name: False))
