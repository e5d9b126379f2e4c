"""Hybrid: LoRA below, the top layers trained fully, and, where asked for, the bottom ones left as they were.

    layers 0 … f−1:     W
    layers f … n−k−1:   W' = W + (α/r)·B·A, W frozen     (r = 0: W)
    layers n−k … n−1:   W ← W − η·∇W

With r = 0 there is no update below, and k = 0 … n goes from the head alone to all layers; embeddings stay frozen. What
`--also-unfrozen` names is trained as it is, beside the update and outside the bottom f layers:

    layernorm    γ and β of every norm, as LongLoRA found to matter (Chen et al. 2024, arXiv:2309.12307)
    biases       b of every layer and norm, as BitFit (Ben Zaken et al. 2022, arXiv:2106.10199)
    embeddings   every table of the encoder: of tokens, positions, segments (LongLoRA too)

For what lies between LoRA and standard: more weights near the task, where they are cheapest to train.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from loratory.errors import SettingsError, counted, nearest
from loratory.methods.base import TrainableModel, set_free
from loratory.methods.bitfit import biases
from loratory.methods.layernorm import norms
from loratory.methods.lora import LoraSettings, adapt, find_targets, inside, is_plain
from loratory.methods.rates import LayerSettings
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from torch import nn

    from loratory.models.families import Family
    from loratory.models.load import Base

KINDS = ("layernorm", "biases", "embeddings")
"""What may be trained beside the update."""


class HybridSettings(LoraSettings, LayerSettings):
    """LoRA's settings, how many layers are trained fully, and what else is."""

    name: str = "hybrid"
    rank: int = Field(8, ge=0, description="LoRA: rank r of the update; hybrid: 0 leaves the layers below as they were")
    unfrozen_layers: int = Field(1, ge=0, description="hybrid: top layers trained fully, LoRA below them")
    frozen_layers: int = Field(0, ge=0, description="hybrid: bottom layers left as they were, without LoRA")
    also_unfrozen: str = Field(
        "", description="hybrid: trained too beside the update: layernorm, biases, embeddings, with commas"
    )

    @field_validator("also_unfrozen")
    @classmethod
    def _known_kinds(cls, value: str) -> str:
        given = [kind.strip() for kind in value.split(",")] if value.strip() else []
        for kind in given:
            if kind not in KINDS:
                raise PydanticCustomError("also", "{hint}", {"hint": nearest(kind, KINDS)})
        return ",".join(kind for kind in KINDS if kind in given)  # one spelling for one setting

    @property
    def kinds(self) -> list[str]:
        """`also_unfrozen`, read."""
        return self.also_unfrozen.split(",") if self.also_unfrozen else []


class Hybrid:
    """LoRA on the lower layers, standard fine-tuning of the top k layers, of what is named, and of the head."""

    name = "hybrid"
    summary = "LoRA below, the top layers trained fully"
    settings: type[MethodSettings] = HybridSettings

    def default_lr(self, hidden_size: int) -> float:
        """Between standard's and LoRA's, as one rate serves both parts: 3e-4 below 512 hidden units, 1e-4 above; not
        searched."""
        return 3e-4 if hidden_size < 512 else 1e-4

    def in_common(self, settings: MethodSettings) -> Hashable | None:
        """The kinds of weights that are trained beside updates, norms and biases, where no layer is trained fully; and
        whether there are updates, without which the encoder may run once for all."""
        assert isinstance(settings, HybridSettings)
        few = not settings.unfrozen_layers and not settings.frozen_layers and "embeddings" not in settings.kinds
        plain = is_plain(settings) and settings.bias == "none"
        return (settings.also_unfrozen, settings.rank > 0) if few and plain else None

    def refuses(self, family: Family) -> str | None:
        """A family without a list of layers, of which the top ones are unfrozen where nothing else is said."""
        return _no_list(family) if family.shared else None

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Set the top layers and what is named free, and adapt the layers below, down to the frozen ones.

        Raises:
            SettingsError: the family shares one layer's weights and layers are named, or has too few layers; or it has
                nothing of what is to be trained too.
        """
        assert isinstance(settings, HybridSettings)
        layers = layer_names(base) if settings.unfrozen_layers or settings.frozen_layers else []
        most = len(layers) - (settings.rank > 0)
        if settings.unfrozen_layers > max(most, 0):
            raise SettingsError(
                f"--unfrozen-layers {settings.unfrozen_layers}: the model has {counted(len(layers), 'layer')}, so at "
                f"most {most} can be unfrozen{' with LoRA below' if settings.rank else ''}; use --method standard to "
                "train all"
            )
        top = len(layers) - settings.unfrozen_layers
        if settings.rank == 0:
            return without_lora(base, settings, layers[top:])
        if settings.frozen_layers and settings.frozen_layers >= top:
            raise SettingsError(
                f"--frozen-layers {settings.frozen_layers}: no layer is left for LoRA between them and the "
                f"{counted(settings.unfrozen_layers, 'unfrozen layer')} of {len(layers)}; give at most {top - 1}"
            )
        frozen = layers[: settings.frozen_layers]
        also = named_too(base, settings, frozen=frozen)
        for target in find_targets(base.model, base.family, settings.targets):
            if f"{target}.weight" in also:
                raise SettingsError(
                    f"--also-unfrozen embeddings: --targets {settings.targets} adapts {target}; leave one out"
                )
        return adapt(base, settings, seed=seed, unfrozen_modules=layers[top:], frozen_modules=frozen, also=also)


def without_lora(base: Base, settings: HybridSettings, top: Sequence[str]) -> TrainableModel:
    """The layers `top`, what is named and the head trained, all else left as it was.

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
    also = named_too(base, settings)
    free = set_free(base.model, base.family, unfrozen=lambda name: name in also or inside(name, top))
    return TrainableModel(base.model, free)


def named_too(base: Base, settings: HybridSettings, *, frozen: Sequence[str] = ()) -> set[str]:
    """The names of the weights that `also_unfrozen` means, outside the modules `frozen`.

    Raises:
        SettingsError: the family has none of a kind.
    """
    found: set[str] = set()
    for kind in settings.kinds:
        names = {"layernorm": norms, "biases": biases, "embeddings": embeddings}[kind](base.model)
        names = {name for name in names if not inside(name, [*base.family.head, *frozen])}
        if not names:
            raise SettingsError(f"--also-unfrozen {kind}: {base.family.name} has none; leave it out")
        found |= names
    return found


def embeddings(model: nn.Module) -> set[str]:
    """The names of every table of embeddings."""
    from torch import nn

    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}


def _no_list(family: Family) -> str:
    return (
        f"--method hybrid: {family.name} shares one layer's weights among all layers; give --unfrozen-layers 0, "
        "or use lora or standard"
    )


def layer_names(base: Base) -> list[str]:
    """The full names of the encoder's layers, bottom first.

    Raises:
        SettingsError: the family has no list of layers.
    """
    if base.family.shared:
        raise SettingsError(_no_list(base.family))
    path = f"{base.model.base_model_prefix}.{base.family.layers}"
    layers = base.model.get_submodule(path)
    return [f"{path}.{name}" for name, _ in layers.named_children()]
