"""How fast each weight learns, and from which epoch on.

    η(w) = η_part(w) · δ^d(w)      d: 0 for head and adapters, 1 for the top layer, … n for the bottom one of n,
                                   n + 1 for what stands below the layers

`--head-lr`, `--adapter-lr` and `--unfrozen-lr` are the peak rates η_part of each part; one that is not given is the
run's. δ is `--layer-decay`, for the unfrozen weights of standard and hybrid: each layer learns δ times as fast as the
one above, as if the head were one more layer (discriminative rates, Howard & Ruder 2018, arXiv:1801.06146, with 1/2.6;
ELECTRA, Clark et al. 2020, arXiv:2003.10555: its code has 0.8, for the large model 0.9, and δ² at the top layer, for a
pooler that it no longer has). Norms behind the last layer count as the top layer. The schedule multiplies all rates
alike.

`--gradual-unfreezing N` trains head and adapters alone in the first epoch, and sets N more of the unfrozen layers free
before each further one, from the top (Howard & Ruder 2018, with N = 1); what stands below the layers is the last of
them. A weight that is still frozen has no gradient: it does not decay, and AdamW's averages and their bias correction
begin with its first own step, while the schedule is the run's. Every weight must be free by the last epoch. Steps are
never captured as CUDA graphs then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from pydantic import Field

from loratory.errors import SettingsError, counted
from loratory.methods.base import Part, TrainableModel
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from torch import nn

    from loratory.models.families import Family

WITHOUT: dict[Part, str] = {"adapter": "no adapter is trained", "unfrozen": "no pretrained weight is unfrozen"}


class LayerSettings(MethodSettings):
    """Settings of methods that train layers fully."""

    layer_decay: float = Field(
        1.0, gt=0, le=1, description="standard, hybrid: an unfrozen layer's learning rate over that of the layer above"
    )
    gradual_unfreezing: int = Field(
        0, ge=0, description="standard, hybrid: layers set free before each epoch but the first, from the top; 0: all"
    )


def paced(
    trainable: TrainableModel, family: Family, settings: MethodSettings, *, lr: float, epochs: int
) -> TrainableModel:
    """`trainable` with the rate and the first epoch of each parameter.

    Args:
        lr: the run's peak rate.
        epochs: of the run.

    Raises:
        SettingsError: a part has a rate and no parameters; layers are asked for that are not there or not apart; or
            the epochs do not suffice to set all free.
    """
    own = {"head": settings.head_lr, "adapter": settings.adapter_lr, "unfrozen": settings.unfrozen_lr}
    for part, without in WITHOUT.items():
        if own[part] is not None and part not in trainable.parts.values():
            raise SettingsError(f"--{part}-lr {own[part]}: {without}; leave it out")
    decay = getattr(settings, "layer_decay", 1.0)
    layers = getattr(settings, "gradual_unfreezing", 0)
    unfrozen = [name for name, part in trainable.parts.items() if part == "unfrozen"]
    for flag, given in (("--layer-decay", decay != 1), ("--gradual-unfreezing", layers > 0)):
        if given and not unfrozen:
            raise SettingsError(f"{flag}: no layer is unfrozen; leave it out")
        if given and family.shared:
            raise SettingsError(f"{flag}: {family.name} shares one layer's weights among all layers; leave it out")
    depth = depths(trainable.model, family, unfrozen) if decay != 1 or layers else {}
    rates = dict(trainable.rates)
    for name, part in trainable.parts.items():
        rate = own[part]
        factor = (1.0 if rate is None else rate / lr) * decay ** depth.get(name, 0)
        if factor != 1:
            rates[name] = rates.get(name, 1.0) * factor
    return replace(trainable, rates=rates, starts=_starts(depth, layers, epochs) if layers else {})


def _starts(depth: dict[str, int], layers: int, epochs: int) -> dict[str, int]:
    """The first epoch of each parameter, `layers` more of the depths that there are before each but the first."""
    order = sorted(set(depth.values()))
    last = 1 + math.ceil(len(order) / layers)
    if last > epochs:
        enough = f"give at least {math.ceil(len(order) / (epochs - 1))}, or " if epochs > 1 else "give "
        raise SettingsError(
            f"--gradual-unfreezing {layers}: the last of {counted(len(order), 'layer')}, embeddings counted as one, is "
            f"free in epoch {last}, and --epochs is {epochs}; {enough}more epochs"
        )
    first = {one: 1 + math.ceil(place / layers) for place, one in enumerate(order, 1)}
    return {name: first[one] for name, one in depth.items()}


def depths(model: nn.Module, family: Family, names: Iterable[str]) -> dict[str, int]:
    """How many layers stand above each parameter of the encoder, its own counted: 1 for the top layer and what follows
    the layers, n + 1 for what stands below them or beside them all."""
    encoder, blocks = family.encoder(model), family.blocks(model)
    of_layer = {id(p): len(blocks) - place for place, block in enumerate(blocks) for p in block.parameters()}
    holder = encoder.get_submodule(family.layers.partition(".")[0])
    children = list(encoder.children())
    before = list(takewhile(lambda child: child is not holder, children))
    behind = {id(p) for child in children[len(before) + 1 :] for p in child.parameters()}
    parameters = dict(model.named_parameters())
    return {
        name: of_layer.get(id(parameters[name]), 1 if id(parameters[name]) in behind else len(blocks) + 1)
        for name in names
    }
