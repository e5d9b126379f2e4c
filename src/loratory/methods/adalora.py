"""AdaLoRA: LoRA whose ranks are dealt out among the layers while it trains (Zhang et al. 2023, arXiv:2303.10512).

    W' = W + (α/r₀)·B·diag(λ)·A      λ: (r₀,), starts at zero

A share of each run every layer keeps its initial rank r₀; then, by importance (a moving average of |w·∇w|), entries of
λ become zero until the layers keep r on average; the rest of the run trains what is left. A penalty keeps A and B near
orthogonal: γ·mean of ‖A·Aᵀ − I‖ and ‖Bᵀ·B − I‖. For small budgets of rank,
where the paper found the most gain; its steps are never captured as CUDA graphs. Layers and importance are PEFT's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from loratory.errors import SettingsError
from loratory.methods.base import TrainableModel
from loratory.methods.injected import inject, stored_transposed
from loratory.methods.lora import Targets, find_targets
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from torch import Tensor

    from loratory.models.load import Base

SMOOTHED = ("exp_avg_ipt", "exp_avg_unc")
"""What PEFT's allocator calls its moving averages of importance and of uncertainty, by parameter."""

UNKNOWN = 1_000_000
"""Stands for the number of steps until it is known."""


class AdaLoraSettings(MethodSettings):
    """Settings of the update, and of how its rank is dealt out. Ranks and penalty are PEFT's defaults (the paper too
    begins at 1.5 times the target); shares stand in place of PEFT's numbers of steps, and were not searched."""

    name: str = "adalora"
    initial_rank: int = Field(12, ge=1, description="AdaLoRA: rank of every layer at first")
    target_rank: int = Field(8, ge=1, description="AdaLoRA: mean rank of the layers at last")
    adalora_alpha: float = Field(16.0, gt=0, description="AdaLoRA: α; the update is scaled by α/initial rank")
    targets: Targets = "attention"
    before_cutting: float = Field(0.1, ge=0, lt=1, description="AdaLoRA: share of the steps before ranks are cut")
    after_cutting: float = Field(0.3, ge=0, lt=1, description="AdaLoRA: share of the steps after they are cut")
    cut_every: int = Field(10, ge=1, description="AdaLoRA: steps from one cut to the next")
    orthogonal: float = Field(
        0.5, ge=0, description="AdaLoRA: γ, the weight of the penalty that keeps A and B orthogonal"
    )


class AdaLora:
    """LoRA with ranks by importance, and the head."""

    name = "adalora"
    summary = "LoRA whose ranks go where they matter, and the head"
    settings: type[MethodSettings] = AdaLoraSettings

    def default_lr(self, hidden_size: int) -> float:
        """2e-3 below 512 hidden units, as LoRA's; 1e-3 above, in the middle of what the authors' scripts for
        GLUE have (5e-4 to 2.2e-3); neither was searched."""
        return 2e-3 if hidden_size < 512 else 1e-3

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Put the update beside the targets; freeze all else but the head.

        Raises:
            SettingsError: targets match nothing, or ranks or shares leave nothing to cut.
        """
        from peft import AdaLoraConfig
        from torch import nn

        assert isinstance(settings, AdaLoraSettings)
        if settings.initial_rank <= settings.target_rank:
            raise SettingsError(
                f"--initial-rank {settings.initial_rank} leaves nothing to cut down to --target-rank "
                f"{settings.target_rank}; give more, or use lora"
            )
        if settings.before_cutting + settings.after_cutting >= 1:
            raise SettingsError(
                "--before-cutting and --after-cutting leave no steps to cut in; give less than 1 in all"
            )
        names = find_targets(base.model, base.family, settings.targets)
        if other := next((name for name in names if isinstance(base.model.get_submodule(name), nn.Embedding)), None):
            raise SettingsError(
                f"--targets {settings.targets}: {other} is an embedding, and AdaLoRA adapts linear layers"
            )
        config = AdaLoraConfig(
            init_r=settings.initial_rank,
            target_r=settings.target_rank,
            lora_alpha=settings.adalora_alpha,
            target_modules=names,
            fan_in_fan_out=stored_transposed(base.model, names),
            deltaT=settings.cut_every,
            orth_reg_weight=settings.orthogonal,
            total_step=UNKNOWN,
        )
        trainable = inject(base, config, seed=seed)
        return replace(trainable, companion=Allocation(trainable, settings))


@dataclass(frozen=True)
class Allocation:
    """Deals out the ranks after each step."""

    trainable: TrainableModel
    settings: AdaLoraSettings

    why_eager = "ranks are dealt out between the steps"

    @property
    def _tuner(self) -> Any:
        assert self.trainable.wrapper is not None
        return self.trainable.wrapper.base_model

    @contextmanager
    def over(self, total: int) -> Iterator[None]:
        """Deal them out over `total` steps; afterwards all ranks are saved, those that were cut as zeros."""
        own, saved = self._tuner.peft_config["default"], self.trainable.adapter
        for config in (own, saved):
            assert config is not None
            config.total_step = total
            config.tinit = int(total * self.settings.before_cutting)
            config.tfinal = max(1, int(total * self.settings.after_cutting))  # the last cut is made by a step, too
        yield
        own.rank_pattern = None

    def penalty(self) -> Tensor:
        """γ·mean of ‖A·Aᵀ − I‖ and ‖Bᵀ·B − I‖ over all layers (Frobenius), as PEFT adds it to a loss."""
        import torch

        apart = []
        for name, parameter in self.trainable.trainable().items():
            if ".lora_A." in name or ".lora_B." in name:
                product = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
                apart.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
        return self.settings.orthogonal * torch.stack(apart).mean()

    def after(self, step: int) -> None:
        """`step` counts from 0; its gradients are still there."""
        self._tuner.update_and_allocate(step)

    def state(self) -> dict[str, Tensor]:
        """The smoothed importances and their uncertainties, and which ranks are left once the last cut is made."""
        import torch

        allocator, pattern = self._tuner.rankallocator, self._tuner.peft_config["default"].rank_pattern or {}
        found = {f"{kind}/{name}": one for kind in SMOOTHED for name, one in getattr(allocator, kind).items()}
        return found | {f"left/{name}": torch.tensor(ranks) for name, ranks in pattern.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put them back where PEFT's allocator has them."""
        import torch

        allocator = self._tuner.rankallocator
        allocator.reset_ipt()
        device = next(self.trainable.model.parameters()).device
        pattern: dict[str, list[bool]] = {}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "left":
                pattern[name] = value.tolist()
            else:
                getattr(allocator, kind)[name] = value.to(device, copy=True)
                allocator.ipt.setdefault(name, torch.zeros_like(value))  # it is there once the others are
        if pattern:
            self._tuner.peft_config["default"].rank_pattern = pattern
