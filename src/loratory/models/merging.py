"""Adapters folded into the weights that they adapt."""

from __future__ import annotations

from torch import nn

from loratory.errors import ModelError, first_line


def merged(model: nn.Module) -> None:
    """Fold every adapted layer into its weights, in place: as PEFT's `merge_and_unload`, which for some tuners does not
    take a head of several modules.

    Raises:
        ModelError: the adapter is of a kind that cannot be folded in.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            try:
                module.merge()
            except (NotImplementedError, AttributeError, ValueError) as error:
                kind = type(module).__module__.split(".")[2]
                raise ModelError(f"an adapter of {kind} cannot be folded into its base: {first_line(error)}") from error
            model.set_submodule(name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            (adapter,) = module.active_adapters
            model.set_submodule(name, module.modules_to_save[adapter])
