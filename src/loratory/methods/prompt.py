"""Prompt tuning: trained vectors before the embeddings of each text (Lester, Al-Rfou & Constant 2021,
arXiv:2104.08691).

    encoder([P; E(x)])      P: (v, width of the embeddings), begins as the embeddings of v tokens drawn at random

The head reads the first row, which is now a trained one. For the smallest files of all; the paper found it on a par
with standard only for models of billions of parameters. Decoders have no such head: transformers finds no end of a
padded text that is given as vectors. Batches run padded. The forward pass is PEFT's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loratory.errors import SettingsError
from loratory.methods.base import TrainableModel
from loratory.methods.prompted import PromptedSettings, prepend
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from loratory.models.families import Family
    from loratory.models.load import Base


class PromptSettings(PromptedSettings):
    """How many tokens there are; 20, because the paper found little gain beyond (section 3.2)."""

    name: str = "prompt"


class Prompt:
    """v trained vectors before each text's embeddings, and the head."""

    name = "prompt"
    summary = "trained vectors before each text's embeddings, and the head"
    settings: type[MethodSettings] = PromptSettings

    def default_lr(self, hidden_size: int) -> float:
        """1e-2, not searched; the paper's 0.3 (section 3) is for Adafactor and T5."""
        return 1e-2

    def refuses(self, family: Family) -> str | None:
        """A decoder."""
        if not family.causal:
            return None
        return (
            f"--method prompt: {family.name} finds no end of a padded text that is given as vectors, in transformers' "
            "code; use prefix or lora"
        )

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Put the vectors before every text; freeze all else but the head.

        Raises:
            SettingsError: the model is a decoder.
        """
        from peft import PromptTuningConfig

        assert isinstance(settings, PromptSettings)
        if (reason := self.refuses(base.family)) is not None:
            raise SettingsError(reason)
        embeddings: Any = base.model.get_input_embeddings()  # type: ignore[operator]  # transformers' own
        config = PromptTuningConfig(
            task_type="SEQ_CLS",
            num_virtual_tokens=settings.virtual_tokens,
            token_dim=embeddings.weight.shape[1],
            num_layers=base.config.num_hidden_layers,
            num_attention_heads=base.config.num_attention_heads,
            prompt_tuning_init="SAMPLE_VOCAB",
        )
        return prepend(base, config, seed=seed)
