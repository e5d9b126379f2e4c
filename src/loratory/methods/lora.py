"""LoRA: a low-rank update beside frozen weights (Hu et al. 2021, arXiv:2106.09685).

    W' = W + (α/r)·B·A      A: (r, in), B: (out, r), B starts at zero

The layers are PEFT's, injected in place; the trained part is saved in PEFT's format with the head inside it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from loratory.errors import SettingsError, nearest
from loratory.methods.base import TrainableModel, set_free
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from torch import nn

    from loratory.models.families import Family
    from loratory.models.load import Base


class LoraSettings(MethodSettings):
    """Settings of the low-rank update."""

    name: str = "lora"
    rank: int = Field(8, ge=1, description="LoRA: rank r of the update")
    alpha: float = Field(16.0, gt=0, description="LoRA: α; the update is scaled by α/r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="LoRA: dropout on the adapters' input")
    targets: str = Field(
        "attention",
        min_length=1,
        description="LoRA: attention (query and value), all-linear, or module names with commas",
    )


class Lora:
    """LoRA on the chosen linear layers of the encoder, and the head."""

    name = "lora"
    summary = "a low-rank update beside frozen weights, and the head"
    settings: type[MethodSettings] = LoraSettings

    def default_lr(self, hidden_size: int) -> float:
        """2e-3 for models below 512 hidden units: the best of four on validation of hutto:movies with minilm
        (benchmarks/rates.py); 5e-4 above, as the LoRA paper used for RoBERTa-base on most tasks (Hu et al. 2021, table
        9)."""
        return 2e-3 if hidden_size < 512 else 5e-4

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Put the update beside the targets; freeze all else but the head."""
        assert isinstance(settings, LoraSettings)
        return adapt(base, settings, seed=seed)


def adapt(
    base: Base,
    settings: LoraSettings,
    *,
    seed: int,
    unfrozen_modules: Sequence[str] = (),
    frozen_modules: Sequence[str] = (),
) -> TrainableModel:
    """Inject LoRA outside `unfrozen_modules`, which are trained fully, as the head is, and `frozen_modules`.

    Raises:
        SettingsError: the targets match nothing, or the rank is above a target's width.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    from loratory.models.source import quiet

    def inside(name: str, chosen: Sequence[str] = unfrozen_modules) -> bool:
        return any(name == module or name.startswith(module + ".") for module in chosen)

    outside = (*unfrozen_modules, *frozen_modules)
    names = [name for name in find_targets(base.model, base.family, settings.targets) if not inside(name, outside)]
    if not names:
        raise SettingsError(f"--targets {settings.targets}: no layer is left to adapt between unfrozen and frozen ones")
    modules = dict(base.model.named_modules())
    width = min(min(modules[name].weight.shape) for name in names)
    if settings.rank > width:
        raise SettingsError(
            f"--rank {settings.rank} is above the width {width} of the narrowest target; give at most {width}"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=names,
        fan_in_fan_out=any(isinstance(modules[name], Conv1D) for name in names),
    )
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # PEFT draws A from the global generator
        inject_adapter_in_model(config, base.model)
    adapters = [name for name, _ in base.model.named_parameters() if ".lora_" in name]
    parts = set_free(base.model, base.family, unfrozen=inside, adapter=adapters)
    saved = copy.deepcopy(config)
    saved.task_type = "SEQ_CLS"
    saved.modules_to_save = [*base.family.head, *unfrozen_modules]
    # a relative path would be another one, or a hub id, to whoever opens the adapter from elsewhere
    saved.base_model_name_or_path = str(Path(base.source).absolute()) if Path(base.source).is_dir() else base.source
    saved.inference_mode = True
    return TrainableModel(base.model, parts, saved)


def find_targets(model: nn.Module, family: Family, targets: str) -> list[str]:
    """The full names of the modules that `targets` means: linear (or embedding) layers of the encoder, never the head.

    Raises:
        SettingsError: a name matches nothing; the nearest names are suggested.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers

    def below_head(name: str) -> bool:
        return not any(name == head or name.startswith(head + ".") for head in family.head)

    kinds = (nn.Linear, Conv1D)
    linear = [name for name, module in model.named_modules() if isinstance(module, kinds) and below_head(name)]
    if targets == "all-linear":
        return linear
    if targets == "attention":
        return [name for name in linear if name.rsplit(".", 1)[-1] in family.attention]
    layers = [n for n, m in model.named_modules() if isinstance(m, (*kinds, nn.Embedding)) and below_head(n)]
    found: list[str] = []
    for wanted in (part.strip() for part in targets.split(",")):
        matches = [name for name in layers if name == wanted or name.endswith("." + wanted)]
        if not matches:
            known = {"attention", "all-linear", *(name.rsplit(".", 1)[-1] for name in layers)}
            raise SettingsError(
                f"--targets {wanted!r} matches no layer of {family.name}; {nearest(wanted, known)}; "
                f"all: {', '.join(sorted(known))}"
            )
        found += [name for name in matches if name not in found]
    return found
