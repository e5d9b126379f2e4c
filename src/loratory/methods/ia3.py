"""(IA)³: keys, values and the feed-forward's inner activations, each scaled by a learned vector (Liu et al. 2022,
arXiv:2205.05638).

    k ← l_k ∘ k      v ← l_v ∘ v      W₂·(l_ff ∘ gelu(W₁·x))      each l begins as ones

Where one layer computes query, key and value together, the query is scaled too. For few examples,
which it was made for, and for the smallest files. The layers are PEFT's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loratory.errors import SettingsError
from loratory.methods.base import TrainableModel
from loratory.methods.injected import inject, stored_transposed
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from loratory.models.load import Base


class IA3Settings(MethodSettings):
    """(IA)³ has no settings of its own: `peft:IA3` takes PEFT's."""

    name: str = "ia3"


class IA3:
    """A vector beside each layer's keys, values and inner activations, and the head."""

    name = "ia3"
    summary = "vectors that scale keys, values and inner activations, and the head"
    settings: type[MethodSettings] = IA3Settings

    def default_lr(self, hidden_size: int) -> float:
        """3e-3, of the authors' configuration (t-few, configs/ia3.json; Adafactor by default); not searched."""
        return 3e-3

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Put the vectors into every layer; freeze all else but the head.

        Raises:
            SettingsError: the family's layers are of another shape.
        """
        from peft import IA3Config

        blocks = base.family.blocks(base.model)
        layers = [name for name, module in base.model.named_modules() if module in blocks]
        down = [f"{layer}.{base.family.down}" for layer in layers]
        attention = [f"{layer}.{path}" for layer in layers for path in base.family.keys_and_values]
        modules = dict(base.model.named_modules())
        if missing := next((name for name in (*attention, *down) if name not in modules), None):
            raise SettingsError(
                f"--method ia3: {base.family.name} has no {missing}; use lora, or peft:IA3 with targets"
            )
        targets = [*attention, *down]
        turned = stored_transposed(base.model, targets)
        config = IA3Config(target_modules=targets, feedforward_modules=down, fan_in_fan_out=turned)
        return inject(base, config, seed=seed)
