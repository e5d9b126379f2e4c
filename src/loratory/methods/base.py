"""What a method is, and what it hands to the engine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from loratory.spec import MethodSettings

if TYPE_CHECKING:  # the commands read the methods' settings before torch is needed
    import torch
    from peft import LoraConfig
    from torch import Tensor, nn

    from loratory.models.families import Family
    from loratory.models.load import Base

Part = Literal["adapter", "head", "unfrozen"]
"""What a trainable parameter is: added by the method, the classifier head, or a pretrained weight set free."""


@dataclass(frozen=True)
class TrainableModel:
    """A model made ready by a method: the engine trains what `parts` names and nothing else.

    Attributes:
        model: the transformers classifier, adapters injected in place.
        parts: every trainable parameter's name and part; all others are frozen.
        adapter: PEFT's configuration with which the trained part is saved; None saves a whole model.
    """

    model: nn.Module
    parts: dict[str, Part]
    adapter: LoraConfig | None = None

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: parameter for name, parameter in self.model.named_parameters() if name in self.parts}

    def counts(self) -> dict[str, int]:
        """Numbers of parameters: total, trainable, adapter, head, unfrozen, frozen."""
        sizes = {name: parameter.numel() for name, parameter in self.model.named_parameters()}
        by_part = Counter[str]()
        for name, part in self.parts.items():
            by_part[part] += sizes[name]
        total, trainable = sum(sizes.values()), by_part.total()
        parts = {part: by_part[part] for part in ("adapter", "head", "unfrozen")}
        return {"total": total, "trainable": trainable, **parts, "frozen": total - trainable}

    def hold_frozen(self, dtype: torch.dtype) -> None:
        """Hold the frozen linear weights in `dtype`; trainable weights keep fp32.

        Under autocast to the same `dtype` nothing changes in the result, because autocast rounds these weights so at
        every use; held so, they are not rounded anew and take half the memory.
        """
        from torch.nn import Linear

        for module in self.model.modules():
            if isinstance(module, Linear) and not any(p.requires_grad for p in module.parameters()):
                module.to(dtype)

    def trained_tensors(self) -> dict[str, Tensor]:
        """The trained values by the names PEFT's adapter files use (`adapter` set), or by the model's own names.

        PEFT's file names are the model's names behind `base_model.model.`, without the adapter's name ("default").
        """
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in self.trainable().items()}
        if self.adapter is None:
            return tensors
        return {"base_model.model." + re.sub(r"\.default(?=\.|$)", "", name): value for name, value in tensors.items()}


class Method(Protocol):
    """One way of fine-tuning. A new one is a new file with a class like this, a row in the registry and in the docs."""

    name: str
    summary: str
    """One line for help texts and the docs."""
    settings: type[MethodSettings]

    def default_lr(self, hidden_size: int) -> float:
        """The peak learning rate used where none is given; the docstring names its source."""
        ...

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Freeze, unfreeze and adapt `base.model`, in place.

        Raises:
            SettingsError: the settings do not fit the model.
        """
        ...


def set_free(
    model: nn.Module, family: Family, *, unfrozen: Callable[[str], bool], adapter: Iterable[str] = ()
) -> dict[str, Part]:
    """Make the head, the parameters named in `adapter` and those that `unfrozen` chooses trainable; freeze the rest.

    Returns:
        The part of every trainable parameter, by name.
    """
    adapters = set(adapter)
    parts: dict[str, Part] = {}
    for name, parameter in model.named_parameters():
        if name in adapters:
            parts[name] = "adapter"
        elif any(name.startswith(head + ".") for head in family.head):
            parts[name] = "head"
        elif unfrozen(name):
            parts[name] = "unfrozen"
        parameter.requires_grad_(name in parts)
    return parts
