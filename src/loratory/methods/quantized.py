"""What may be trained beside a base in 8 or 4 bits: LoRA, and nothing that trains or changes the base's own weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loratory.errors import SettingsError
from loratory.methods.base import TrainableModel
from loratory.methods.lora import LoraSettings
from loratory.spec import MethodSettings, RunSpec

if TYPE_CHECKING:
    from loratory.models.families import Family


def check_quantized(kind: str, settings: MethodSettings, family: Family) -> None:
    """Refuse what is known without a model. `kind` is `8bit`, `4bit` or `off`.

    Raises:
        SettingsError: the method is no LoRA, or changes the base's weights, or the family is no decoder.
    """
    if kind == "off":
        return
    flag = f"--quantize {kind}"
    if not isinstance(settings, LoraSettings) or settings.rank == 0:
        raise SettingsError(f"{flag}: {settings.name} is no LoRA beside a frozen base; use --method lora")
    if settings.mutates:
        raise SettingsError(f"{flag}: --init {settings.init} changes the base's weights; leave one of the two out")
    if settings.bias != "none":
        raise SettingsError(f"{flag}: --bias {settings.bias} trains the base's biases; leave one of the two out")
    if kind == "8bit" and settings.dora == "on":
        raise SettingsError(
            f"{flag}: PEFT cannot train the norms of weights in 8 bits (--dora on); use --quantize 4bit"
        )
    if not family.causal:
        raise SettingsError(f"{flag}: it is for decoders, and {family.name} is none; leave it out")


def check_frozen(spec: RunSpec, trainable: TrainableModel) -> None:
    """Refuse a method that would train some of a quantised base's weights.

    Args:
        trainable: what the spec's method made of a model without values.

    Raises:
        SettingsError: it trains pretrained weights.
    """
    kind = spec.training.quantize
    if kind != "off" and "unfrozen" in trainable.parts.values():
        raise SettingsError(
            f"--quantize {kind}: {spec.method.name} trains some of the base's weights; use --method lora"
        )
