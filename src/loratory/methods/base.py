"""What a method is, and what it hands to the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from loratory.spec import MethodSettings

if TYPE_CHECKING:  # the commands read the methods' settings before torch is needed
    import torch
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn

    from loratory.models.families import Family
    from loratory.models.load import Base

Part = Literal["adapter", "head", "unfrozen"]
"""What a trainable parameter is: added by the method, the classifier head, or a pretrained weight set free."""


class Companion(Protocol):
    """What a method does beside the gradient of the loss, in every step."""

    why_eager: str
    """Why a step with it cannot be captured as a CUDA graph."""

    def over(self, total: int) -> AbstractContextManager[None]:
        """Be ready for `total` steps; at the end, leave what is to be saved."""
        ...

    def penalty(self) -> Tensor:
        """Added to each step's loss, a number."""
        ...

    def after(self, step: int) -> None:
        """Called after the optimizer, before the gradients are forgotten; `step` counts from 0."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on, by name."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Bring back what :meth:`state` gave."""
        ...


@dataclass(frozen=True)
class TrainableModel:
    """A model made ready by a method: the engine trains what `parts` names and nothing else.

    Attributes:
        model: the transformers classifier, adapters injected in place.
        parts: every trainable parameter's name and part; all others are frozen.
        adapter: PEFT's configuration with which the trained part is saved; None saves a whole model.
        wrapper: PEFT's model around `model`, where there is an adapter.
        rates: what the learning rate is multiplied by, for the parameters where that is not 1.
        starts: the first epoch in which a parameter is trained, where that is not 1.
        companion: what is done beside the gradient of the loss, where anything is.
        converted: where the base's own weights were changed: makes of the adapter's tensors those that belong to the
            unchanged base.
    """

    model: nn.Module
    parts: dict[str, Part]
    adapter: PeftConfig | None = None
    wrapper: PeftModel | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    starts: Mapping[str, int] = field(default_factory=dict)
    companion: Companion | None = None
    converted: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: parameter for name, parameter in self.model.named_parameters() if name in self.parts}

    def counts(self) -> dict[str, int]:
        """Numbers of parameters: total, trainable, adapter, head, unfrozen, frozen."""
        from loratory.models.quantized import numbers

        sizes = {name: numbers(parameter) for name, parameter in self.model.named_parameters()}
        by_part = Counter[str]()
        for name, part in self.parts.items():
            by_part[part] += sizes[name]
        total, trainable = sum(sizes.values()), by_part.total()
        parts = {part: by_part[part] for part in ("adapter", "head", "unfrozen")}
        return {"total": total, "trainable": trainable, **parts, "frozen": total - trainable}

    def hold_frozen(self, dtype: torch.dtype) -> None:
        """Hold the frozen linear weights in `dtype`; trainable weights keep fp32.

        Under autocast to the same `dtype` nothing changes in the result, because autocast rounds these weights so at
        every use; held so, they are not rounded anew and take half the memory. Where an adapter uses a weight in
        another way than in a product of its own (DoRA takes its norm), it stays as it is, and so do all where the
        base's weights were changed: what is saved belongs to the unchanged ones.
        """
        from peft.tuners.lora import LoraLayer
        from peft.tuners.tuners_utils import BaseTunerLayer
        from torch.nn import Linear

        if self.converted is not None:
            return
        used = {
            inner
            for module in self.model.modules()
            if isinstance(module, BaseTunerLayer) and not (isinstance(module, LoraLayer) and not module.lora_variant)
            for inner in module.modules()
        }
        for module in self.model.modules():
            if (
                isinstance(module, Linear)
                and module.weight.is_floating_point()  # not one that is held in fewer bits already
                and module not in used
                and not any(p.requires_grad for p in module.parameters())
            ):
                module.to(dtype)

    def trained_tensors(self) -> dict[str, Tensor]:
        """The trained values by the names PEFT's adapter files use (`adapter` set), or by the model's own names."""
        free = self.trainable()
        if self.wrapper is None:
            return {name: parameter.detach().cpu().contiguous() for name, parameter in free.items()}
        import torch
        from peft import get_peft_model_state_dict

        others = {name: free[name] for name, part in self.parts.items() if part != "adapter"}
        tensors: dict[str, Tensor]
        if self.wrapper.active_peft_config.is_prompt_learning:  # PEFT has the model there without one of its own within
            tensors = {"prompt_embeddings": self.wrapper.get_prompt_embedding_to_save("default")}
            tensors |= {"base_model." + name: tensor for name, tensor in others.items()}
        else:
            tensors = get_peft_model_state_dict(self.wrapper, save_embedding_layers=False)
            if self.converted is not None:
                tensors = self.converted(tensors)
            tensors |= {"base_model.model." + name: tensor for name, tensor in others.items()}
        # a copy of each: some kinds share memory between layers, which safetensors does not take
        return {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }


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


@runtime_checkable
class Particular(Protocol):
    """A method that does not run on every family."""

    def refuses(self, family: Family) -> str | None:
        """Why it does not run on `family`, as one line; None where it does."""
        ...


@runtime_checkable
class Sharing(Protocol):
    """A method whose runs leave most of the base as it is, so that several can be trained at once on one."""

    def in_common(self, settings: MethodSettings) -> Hashable | None:
        """What runs with such settings must have in common for that, besides the method; None where they cannot. The
        engine has the last word: it sees the models."""
        ...


def in_common(method: Method, settings: MethodSettings) -> Hashable | None:
    """What runs of `method` with such settings have in common if several can be trained at once on one base; else
    None."""
    return method.in_common(settings) if isinstance(method, Sharing) else None


def refusal(method: Method, family: Family) -> str | None:
    """Why `method` does not run on `family`, as one line; None where it does. No model is needed to know."""
    return method.refuses(family) if isinstance(method, Particular) else None


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
