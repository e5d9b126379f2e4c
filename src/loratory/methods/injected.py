"""Adapters that stock PEFT puts beside a model's modules, in place, and saves in its own format."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from loratory.errors import SettingsError, first_line
from loratory.methods.base import TrainableModel, set_free

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from loratory.models.load import Base


def stored_transposed(model: nn.Module, names: Iterable[str]) -> bool:
    """Whether a module among `names` keeps its weight as (in, out), as GPT-2's do; PEFT wants to be told."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(model.get_submodule(name), Conv1D) for name in names)


def inject(
    base: Base,
    config: PeftConfig,
    *,
    seed: int,
    unfrozen: Callable[[str], bool] | None = None,
    unfrozen_modules: Sequence[str] = (),
) -> TrainableModel:
    """Let PEFT adapt `base.model` as `config` says; train what it added, the head, and what `unfrozen` chooses.

    Args:
        seed: of what PEFT draws.
        unfrozen: the names, as they are after the injection, of pretrained weights that are trained too; by default
            those that PEFT leaves free.
        unfrozen_modules: modules that are trained whole and so saved whole.

    Raises:
        SettingsError: PEFT cannot adapt the model so.
    """
    import torch
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    from loratory.models.source import quiet

    before = {id(parameter) for parameter in base.model.parameters()}
    saved = copy.deepcopy(config)
    with quiet(), torch.random.fork_rng(devices=[]), peft_refusals(base):
        torch.manual_seed(seed)  # PEFT draws from the global generator
        wrapper = PeftModel(base.model, config)
    fixed = tuple(  # on the meta device PEFT forgets that these are not trained
        f"{name}.{other}."
        for name, module in base.model.named_modules()
        if isinstance(module, BaseTunerLayer)
        for other in module.other_param_names
    )
    free = {
        name: parameter
        for name, parameter in base.model.named_parameters()
        if parameter.requires_grad and not name.startswith(fixed)
    }
    added = [name for name, parameter in free.items() if id(parameter) not in before]
    parts = set_free(base.model, base.family, unfrozen=unfrozen or free.__contains__, adapter=added)
    saved.modules_to_save = [*base.family.head, *unfrozen_modules]
    return TrainableModel(base.model, parts, as_saved(base, saved), wrapper)


@contextmanager
def peft_refusals(base: Base) -> Iterator[None]:
    """Turn what PEFT says of a model that it cannot adapt into our own error."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise SettingsError(f"PEFT cannot adapt {base.family.name} so: {first_line(error)}") from error


def as_saved(base: Base, config: PeftConfig) -> PeftConfig:
    """A copy of `config` as an adapter of `base` is saved with."""
    saved = copy.deepcopy(config)
    saved.task_type = "SEQ_CLS"
    # a relative path would be another one, or a hub id, to whoever opens the adapter from elsewhere
    saved.base_model_name_or_path = str(Path(base.source).absolute()) if Path(base.source).is_dir() else base.source
    saved.inference_mode = True
    return saved
