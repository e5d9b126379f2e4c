"""LoRA: a low-rank update beside frozen weights (Hu et al. 2021, arXiv:2106.09685), and its variants.

    W' = W + s·B·A      A: (r, in), B: (out, r), B starts at zero, s = α/r

    rsLoRA   s = α/√r (Kalajdzievski 2023, arXiv:2312.03732)
    DoRA     W' = m ∘ (W + s·B·A) / ‖W + s·B·A‖, the norm of each row, m trained (Liu et al. 2024, arXiv:2402.09353)
    PiSSA    A and B start as W's r largest singular directions, W as what is left (Meng et al. 2024, arXiv:2404.02948)
    OLoRA    the same with a QR decomposition (Büyükakyüz 2024, arXiv:2406.01775)
    LoRA+    B learns λ times as fast as A (Hayou et al. 2024, arXiv:2402.12354)

For a small file a task, and less memory than standard; merged into W it costs nothing when it predicts. The layers are
PEFT's, injected in place; the trained part is saved in PEFT's format with the head inside it. PiSSA and OLoRA are saved
as updates of twice the rank, which belong to the base as it was.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from loratory.errors import SettingsError, nearest
from loratory.methods.base import TrainableModel
from loratory.methods.injected import inject, stored_transposed
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor, nn

    from loratory.models.families import Family
    from loratory.models.load import Base

Targets = Annotated[
    str,
    Field(
        min_length=1, description="LoRA, AdaLoRA: attention (query and value), all-linear, or module names with commas"
    ),
]
"""What :func:`find_targets` reads."""

STARTS = ("default", "gaussian", "orthogonal", "olora", "pissa")
"""How A and B may begin; and pissa_niter_N, PiSSA by N iterations of a randomised decomposition."""


class LoraSettings(MethodSettings):
    """Settings of the low-rank update."""

    name: str = "lora"
    rank: int = Field(8, ge=1, description="LoRA: rank r of the update")
    alpha: float = Field(16.0, gt=0, description="LoRA: α; the update is scaled by α/r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="LoRA: dropout on the adapters' input")
    targets: Targets = "attention"
    rslora: Literal["off", "on"] = Field("off", description="LoRA: scale by α/√r (rsLoRA)")
    dora: Literal["off", "on"] = Field("off", description="LoRA: train each row's norm apart (DoRA)")
    init: str = Field("default", description=f"LoRA: how A and B begin: {', '.join(STARTS)}, pissa_niter_N")
    lora_plus: float = Field(1.0, gt=0, description="LoRA: B's learning rate over A's (LoRA+)")
    rank_pattern: str = Field("", description="LoRA: other ranks, as value=4,layer.0.*query=2 by module name")
    alpha_pattern: str = Field("", description="LoRA: other α's, written as rank_pattern is")
    bias: Literal["none", "lora_only", "all"] = Field(
        "none", description="LoRA: biases trained too: those of the targets, or all of the encoder"
    )

    @field_validator("init")
    @classmethod
    def _known_start(cls, value: str) -> str:
        if value not in STARTS and not re.fullmatch(r"pissa_niter_[1-9]\d{0,3}", value):
            raise PydanticCustomError("init", "{hint}", {"hint": nearest(value, {*STARTS, "pissa_niter_N"})})
        return value

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _readable(cls, value: str, info: Any) -> str:
        for pattern, number in _entries(value):
            whole = info.field_name == "rank_pattern"
            wrong = "write it as NAME=VALUE,NAME=VALUE with " + (
                "whole numbers of 1 or more" if whole else "numbers above 0"
            )
            if (
                not pattern
                or not re.fullmatch(r"[1-9]\d{0,8}" if whole else r"\d{0,9}\.?\d{1,9}", number)
                or float(number) == 0
            ):
                raise PydanticCustomError("pattern", "{wrong}", {"wrong": wrong})
            try:
                re.compile(pattern)
            except re.error as error:
                raise PydanticCustomError(
                    "pattern", "{name} is no regular expression: {why}", {"name": repr(pattern), "why": str(error)}
                ) from None
        return value

    @property
    def ranks(self) -> dict[str, int]:
        """`rank_pattern`, read."""
        return {pattern: int(number) for pattern, number in _entries(self.rank_pattern)}

    @property
    def alphas(self) -> dict[str, float]:
        """`alpha_pattern`, read."""
        return {pattern: float(number) for pattern, number in _entries(self.alpha_pattern)}

    @property
    def mutates(self) -> bool:
        """Whether the adapter's start is taken out of the base's weights."""
        return self.init.startswith(("pissa", "olora"))


def _entries(patterns: str) -> list[tuple[str, str]]:
    """(pattern, number) of each entry of `NAME=VALUE,NAME=VALUE`."""
    parts = [part.strip().rpartition("=") for part in patterns.split(",")] if patterns else []
    return [(name.strip(), number.strip()) for name, _, number in parts]


class Lora:
    """LoRA on the chosen linear layers of the encoder, and the head."""

    name = "lora"
    summary = "a low-rank update beside frozen weights, and the head"
    settings: type[MethodSettings] = LoraSettings

    def default_lr(self, hidden_size: int) -> float:
        """2e-3 for models below 512 hidden units: the best of four on validation of hutto:movies with minilm
        (benchmarks/rates.py); 5e-4 above, as the LoRA paper used for RoBERTa-base on most tasks (Hu et al. 2021, table
        9). For the variants it was not searched."""
        return 2e-3 if hidden_size < 512 else 5e-4

    def in_common(self, settings: MethodSettings) -> Hashable | None:
        """The biases that are trained: those of all layers or none. The base is not changed, and A and B learn at one
        rate."""
        assert isinstance(settings, LoraSettings)
        return settings.bias if settings.bias != "lora_only" and is_plain(settings) else None

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Put the update beside the targets; freeze all else but the head."""
        assert isinstance(settings, LoraSettings)
        return adapt(base, settings, seed=seed)


def is_plain(settings: LoraSettings) -> bool:
    """Whether an update is A and B alone, which learn at one rate, beside weights that it did not change."""
    return settings.dora == "off" and settings.lora_plus == 1 and not settings.mutates


def adapt(
    base: Base,
    settings: LoraSettings,
    *,
    seed: int,
    unfrozen_modules: Sequence[str] = (),
    frozen_modules: Sequence[str] = (),
    also: Container[str] = (),
) -> TrainableModel:
    """Inject LoRA outside `unfrozen_modules`, which are trained fully, as the head is, and `frozen_modules`.

    Args:
        also: names of pretrained weights, as they are before the injection, that are trained beside the update.

    Raises:
        SettingsError: targets or a pattern match nothing, a rank is above its target's width, or the settings do not
            go together.
    """
    from dataclasses import replace

    from peft import LoraConfig, get_peft_model_state_dict

    outside = (*unfrozen_modules, *frozen_modules)
    names = [name for name in find_targets(base.model, base.family, settings.targets) if not inside(name, outside)]
    if not names:
        raise SettingsError(f"--targets {settings.targets}: no layer is left to adapt between unfrozen and frozen ones")
    _check_ranks(base.model, settings, names)
    with warnings.catch_warnings():  # PEFT's conversion of what rsLoRA and patterns give; ours knows them
        warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with rank_pattern")
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=names,
            fan_in_fan_out=stored_transposed(base.model, names),
            use_rslora=settings.rslora == "on",
            use_dora=settings.dora == "on",
            init_lora_weights=True if settings.init == "default" else settings.init,
            rank_pattern=settings.ranks,
            alpha_pattern=settings.alphas,
            bias=settings.bias,
        )

    def unfrozen(name: str) -> bool:
        if inside(name, unfrozen_modules) or name.replace(".base_layer.", ".") in also:
            return True
        if settings.bias == "none" or not name.endswith("bias") or inside(name, frozen_modules):
            return False
        return settings.bias == "all" or name.removesuffix(".base_layer.bias") in names

    trainable = inject(base, config, seed=seed, unfrozen=unfrozen, unfrozen_modules=unfrozen_modules)
    if settings.lora_plus != 1:
        of_b = [name for name in trainable.parts if ".lora_B." in name or ".lora_embedding_B." in name]
        trainable = replace(trainable, rates=dict.fromkeys(of_b, settings.lora_plus))
    if settings.mutates:
        start = get_peft_model_state_dict(trainable.wrapper, save_embedding_layers=False)
        trainable = replace(trainable, adapter=_widened(trainable.adapter), converted=_apart(start))
    return trainable


def inside(name: str, modules: Iterable[str]) -> bool:
    """Whether `name` is that of one of `modules`, or of something in one."""
    return any(name == module or name.startswith(module + ".") for module in modules)


def _check_ranks(model: nn.Module, settings: LoraSettings, names: Sequence[str]) -> None:
    """Each pattern gives some target its number, and each rank fits its target."""
    from peft.utils.other import get_pattern_key

    for flag, given in (("--rank-pattern", settings.ranks), ("--alpha-pattern", settings.alphas)):
        taken = {get_pattern_key(given, name) for name in names}
        for pattern in given:
            if pattern not in taken:
                known = {*names, *(name.rsplit(".", 1)[-1] for name in names)}
                close = nearest(pattern, known) if len(known) < 12 else f"targets are such as {names[0]!r}"
                raise SettingsError(f"{flag} {pattern!r} is the first match of no adapted layer; {close}")
    modules: dict[str, Any] = dict(model.named_modules())
    ranks = {name: settings.ranks.get(get_pattern_key(settings.ranks, name), settings.rank) for name in names}
    widths = {name: min(_shape(modules[name])) for name in names}
    for name in sorted(names, key=widths.__getitem__):
        if ranks[name] > widths[name]:
            flag = "--rank" if ranks[name] == settings.rank else "--rank-pattern"
            raise SettingsError(
                f"{flag} {ranks[name]} is above the width {widths[name]} of the narrowest target; "
                f"give at most {widths[name]}"
            )
    if settings.init == "orthogonal" and (odd := next((rank for rank in ranks.values() if rank % 2), None)):
        raise SettingsError(f"--init orthogonal: the rank must be even, and {odd} is not")
    if settings.mutates and settings.dora == "on":
        raise SettingsError(
            f"--init {settings.init}: it changes the weights whose norms --dora on trains; leave one out"
        )


def _shape(module: Any) -> tuple[int, ...]:
    """A layer's width on either side; a weight in 4 bits has another shape."""
    from torch import nn

    return (module.out_features, module.in_features) if isinstance(module, nn.Linear) else tuple(module.weight.shape)


def _widened(config: LoraConfig) -> LoraConfig:
    """`config` for an update of twice the rank and the same scale."""
    more = 2**0.5 if config.use_rslora else 2
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, more * config.lora_alpha, True
    config.rank_pattern = {pattern: 2 * rank for pattern, rank in config.rank_pattern.items()}
    config.alpha_pattern = {pattern: more * alpha for pattern, alpha in config.alpha_pattern.items()}
    return config


def _apart(start: Mapping[str, Tensor]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """What makes B·A − B₀·A₀ = [B, −B₀]·[A; A₀] of B·A: the update of the base as it was before its start A₀, B₀ was
    taken out of it; PEFT's own conversion of PiSSA and OLoRA (`subtract_mutated_init`)."""
    import torch

    start = {name: tensor.detach().cpu().clone() for name, tensor in start.items()}

    def converted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        made = {}
        for name, tensor in tensors.items():
            is_a = ".lora_A." in name or name.endswith(".lora_embedding_A")
            is_b = ".lora_B." in name or name.endswith(".lora_embedding_B")
            if is_a or is_b:
                both = [tensor.detach().cpu(), start[name] if is_a else -start[name]]
                tensor = torch.cat(both, dim=0 if is_a else 1)
            made[name] = tensor
        return made

    return converted


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
            close = nearest(wanted, known)
            every = f"; all: {', '.join(sorted(known))}" if close.startswith("did you mean") else ""
            raise SettingsError(f"--targets {wanted!r} matches no layer of {family.name}; {close}{every}")
        found += [name for name in matches if name not in found]
    return found
