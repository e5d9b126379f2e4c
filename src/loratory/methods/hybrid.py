"""Hybrid: LoRA below, the top layers trained fully, and, where asked for, the bottom ones left as they were.

    layers 0 … f−1:     W
    layers f … n−k−1:   W' = W + (α/r)·B·A, W frozen     (r = 0: W)
    layers n−k … n−1:   W ← W − η·∇W

With r = 0 there is no update below, and k = 0 … n goes from the head alone to all layers; embeddings stay frozen.
For what lies between LoRA and standard: more weights near the task, where they are cheapest to train.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from loratory.errors import SettingsError, counted
from loratory.methods.base import TrainableModel, set_free
from loratory.methods.lora import LoraSettings, adapt
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from loratory.models.families import Family
    from loratory.models.load import Base


class HybridSettings(LoraSettings):
    """LoRA's settings, and how many layers are trained fully."""

    name: str = "hybrid"
    rank: int = Field(8, ge=0, description="LoRA: rank r of the update; hybrid: 0 leaves the layers below as they were")
    unfrozen_layers: int = Field(1, ge=0, description="hybrid: top layers trained fully, LoRA below them")
    frozen_layers: int = Field(0, ge=0, description="hybrid: bottom layers left as they were, without LoRA")


class Hybrid:
    """LoRA on the lower layers, standard fine-tuning of the top k layers and the head."""

    name = "hybrid"
    summary = "LoRA below, the top layers trained fully"
    settings: type[MethodSettings] = HybridSettings

    def default_lr(self, hidden_size: int) -> float:
        """Between standard's and LoRA's, as one rate serves both parts: 3e-4 below 512 hidden units, 1e-4 above."""
        return 3e-4 if hidden_size < 512 else 1e-4

    def refuses(self, family: Family) -> str | None:
        """A family without a list of layers."""
        if not family.shared:
            return None
        return f"--method hybrid: {family.name} shares one layer's weights among all layers; use lora or standard"

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Set the top layers free and adapt those below, down to the frozen ones.

        Raises:
            SettingsError: the family shares one layer's weights, or has too few layers.
        """
        assert isinstance(settings, HybridSettings)
        if (reason := self.refuses(base.family)) is not None:
            raise SettingsError(reason)
        layers = layer_names(base)
        most = len(layers) - (settings.rank > 0)
        if settings.unfrozen_layers > most:
            raise SettingsError(
                f"--unfrozen-layers {settings.unfrozen_layers}: the model has {counted(len(layers), 'layer')}, so at "
                f"most {most} can be unfrozen{' with LoRA below' if settings.rank else ''}; use --method standard to "
                "train all"
            )
        if settings.rank == 0:
            return without_lora(base, settings, layers)
        top = len(layers) - settings.unfrozen_layers
        if settings.frozen_layers >= top:
            raise SettingsError(
                f"--frozen-layers {settings.frozen_layers}: no layer is left for LoRA between them and the "
                f"{counted(settings.unfrozen_layers, 'unfrozen layer')} of {len(layers)}; give at most {top - 1}"
            )
        return adapt(
            base, settings, seed=seed, unfrozen_modules=layers[top:], frozen_modules=layers[: settings.frozen_layers]
        )


def without_lora(base: Base, settings: HybridSettings, layers: list[str]) -> TrainableModel:
    """The top layers and the head trained, all else left as it was.

    Raises:
        SettingsError: layers are to be frozen that are frozen anyway, or a variant of LoRA is asked for.
    """
    plain = HybridSettings()
    for name in ("rslora", "dora", "init", "lora_plus", "rank_pattern", "alpha_pattern", "bias"):
        if getattr(settings, name) != getattr(plain, name):
            raise SettingsError(f"--{name.replace('_', '-')}: with --rank 0 there is no LoRA; leave it out")
    if settings.frozen_layers:
        raise SettingsError(
            f"--frozen-layers {settings.frozen_layers}: with --rank 0 every layer below the unfrozen ones is frozen; "
            "leave it out"
        )
    top = tuple(name + "." for name in layers[len(layers) - settings.unfrozen_layers :])
    return TrainableModel(base.model, set_free(base.model, base.family, unfrozen=lambda name: name.startswith(top)))


def layer_names(base: Base) -> list[str]:
    """The full names of the encoder's layers, bottom first."""
    path = f"{base.model.base_model_prefix}.{base.family.layers}"
    layers = base.model.get_submodule(path)
    return [f"{path}.{name}" for name, _ in layers.named_children()]
