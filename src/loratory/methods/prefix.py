"""Prefix tuning: trained keys and values before those of each text, in every layer (Li & Liang 2021,
arXiv:2101.00190).

    softmax(q·[P_k; k]ᵀ/√d)·[P_v; v]      P_k, P_v: (v, width), in each layer; the rest of it is frozen

The paper's network that makes the prefix in training is left out. For small files where more is needed than a prompt:
2·v·width numbers a layer. It needs an encoder that takes keys and values from outside. Batches run padded. The forward
pass is PEFT's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loratory.errors import SettingsError
from loratory.methods.base import TrainableModel
from loratory.methods.prompted import PromptedSettings, prepend
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from loratory.models.families import Family
    from loratory.models.load import Base


class PrefixSettings(PromptedSettings):
    """How many tokens there are."""

    name: str = "prefix"


class Prefix:
    """v trained keys and values before those of each text, in every layer, and the head."""

    name = "prefix"
    summary = "trained keys and values before those of each text, and the head"
    settings: type[MethodSettings] = PrefixSettings

    def default_lr(self, hidden_size: int) -> float:
        """1e-2, not searched."""
        return 1e-2

    def refuses(self, family: Family) -> str | None:
        """A family whose encoder takes no keys and values from outside."""
        if family.takes_keys:
            return None
        return f"--method prefix: {family.name} takes no keys and values from outside; use lora, or prompt"

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Put the keys and values into every layer; freeze all else but the head.

        Raises:
            SettingsError: the family's encoder takes none from outside.
        """
        from peft import PrefixTuningConfig

        assert isinstance(settings, PrefixSettings)
        if (reason := self.refuses(base.family)) is not None:
            raise SettingsError(reason)
        config = PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=settings.virtual_tokens)
        return prepend(base, config, seed=seed)
