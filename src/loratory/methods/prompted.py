"""Virtual tokens that stock PEFT puts before every text, and saves in its own format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from loratory.errors import SettingsError
from loratory.methods.base import TrainableModel, set_free
from loratory.methods.injected import as_saved, peft_refusals
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from peft import PromptLearningConfig

    from loratory.models.load import Base


class PromptedSettings(MethodSettings):
    """How many tokens there are."""

    virtual_tokens: int = Field(20, ge=1, description="prompt, prefix: trained tokens before each text")


def prepend(base: Base, config: PromptLearningConfig, *, seed: int) -> TrainableModel:
    """Put the virtual tokens of `config` before every text; train them and the head.

    Args:
        seed: of what PEFT draws.

    Raises:
        SettingsError: PEFT cannot do so with the model.
    """
    import torch
    from peft import PeftModelForSequenceClassification
    from peft.utils import ModulesToSaveWrapper

    from loratory.models.prompted import call_through
    from loratory.models.source import quiet

    with quiet(), torch.random.fork_rng(devices=[]), peft_refusals(base):
        torch.manual_seed(seed)  # PEFT draws from the global generator
        wrapper = PeftModelForSequenceClassification(base.model, config)
    for name, module in list(base.model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # the head is trained in its own place
            base.model.set_submodule(name, module.original_module)
    call_through(base.model, wrapper, base.family)
    tokens = [name for name, _ in base.model.named_parameters() if name.startswith("prompt_encoder.")]
    parts = set_free(base.model, base.family, unfrozen=lambda name: False, adapter=tokens)
    return TrainableModel(base.model, parts, as_saved(base, config), wrapper)


def check_room(settings: MethodSettings, *, max_length: int, longest: int, checkpointing: bool) -> None:
    """Refuse virtual tokens for which the model has no places, or which would be computed twice.

    Args:
        longest: the most tokens that the model takes.
        checkpointing: whether layers compute again in backward.

    Raises:
        SettingsError: says what to give.
    """
    if not isinstance(settings, PromptedSettings):
        return
    if settings.virtual_tokens + max_length > longest:
        raise SettingsError(
            f"--virtual-tokens {settings.virtual_tokens}: the model takes {longest} tokens at most, --max-length is "
            f"{max_length}; give less of either"
        )
    if checkpointing and settings.name == "prefix":
        raise SettingsError("--activation-checkpointing on: a layer would keep the prefix twice; leave it off")
