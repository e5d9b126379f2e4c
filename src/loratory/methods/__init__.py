"""What is trained: one small file a method, found through one registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from loratory.errors import SettingsError, nearest
from loratory.methods.adalora import AdaLora
from loratory.methods.base import Method, Part, TrainableModel, in_common, refusal
from loratory.methods.bitfit import BitFit
from loratory.methods.head import Head
from loratory.methods.hybrid import Hybrid
from loratory.methods.ia3 import IA3
from loratory.methods.layernorm import LayerNorm
from loratory.methods.lora import Lora
from loratory.methods.peft_type import PREFIX, PeftType
from loratory.methods.prefix import Prefix
from loratory.methods.prompt import Prompt
from loratory.methods.prompted import check_room
from loratory.methods.rates import paced
from loratory.methods.standard import Standard
from loratory.spec import GROUPS, MethodSettings, RunSpec, Settings, group_of, validated

if TYPE_CHECKING:
    from loratory.models.load import Base

__all__ = [
    "METHODS",
    "Choice",
    "Method",
    "Part",
    "TrainableModel",
    "in_common",
    "method_named",
    "method_settings",
    "parse_spec",
    "prepare",
    "refusal",
    "spec_from_flags",
]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Standard(),
        Lora(),
        Hybrid(),
        Head(),
        BitFit(),
        LayerNorm(),
        IA3(),
        AdaLora(),
        Prefix(),
        Prompt(),
    )
}
"""Every method by name."""


class Choice(Settings):
    """Which method trains, as a flag."""

    method: str = Field("standard", description=f"one of: {', '.join(METHODS)}; or peft:TYPE")


def method_named(name: str) -> Method:
    """The method called `name`: one of the registry, or `peft:KIND`.

    Raises:
        SettingsError: no such method; the nearest name is given.
    """
    if name.startswith(PREFIX):
        return PeftType.named(name)
    if name not in METHODS:
        raise SettingsError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    return METHODS[name]


def prepare(base: Base, spec: RunSpec) -> TrainableModel:
    """Let the spec's method make `base.model` ready, in place; each parameter gets its rate and its first epoch.

    Raises:
        SettingsError: the settings do not fit the model, or each other.
    """
    method = method_named(spec.method.name)
    check_room(
        spec.method,
        max_length=spec.data.max_length,
        longest=base.family.longest(base.config),
        checkpointing=spec.hardware.activation_checkpointing == "on",
    )
    lr = spec.training.lr or method.default_lr(int(base.config.hidden_size))
    trainable = method.prepare(base, spec.method, seed=spec.seed)
    if trainable.companion is not None:
        _check_whole(spec)
    return paced(trainable, base.family, spec.method, lr=lr, epochs=spec.training.epochs)


def _check_whole(spec: RunSpec) -> None:
    """A method that does something over the whole run ends with the run's last step, and no earlier.

    Raises:
        SettingsError: the run may end earlier, or with an earlier epoch's weights.
    """
    name, training = spec.method.name, spec.training
    if training.patience is not None:
        raise SettingsError(f"--patience {training.patience}: {name} needs all its steps; leave one of the two out")
    if training.until is not None:
        raise SettingsError(f"--until {training.until}: {name} needs all its steps; leave one of the two out")
    if training.keep == "best":
        raise SettingsError(f"--keep best: {name} is done after its last epoch alone; leave one of the two out")


def method_settings(values: Mapping[str, Any]) -> MethodSettings:
    """The settings of the method that `values["name"]` names.

    Raises:
        SettingsError: an unknown method, or a setting it does not have.
    """
    method = method_named(str(values.get("name")))
    for key in values:
        if key not in method.settings.model_fields:
            owners = [other.name for other in METHODS.values() if key in other.settings.model_fields]
            owners = owners if method.name in METHODS else []
            hint = f"it belongs to {', '.join(owners)}" if owners else nearest(key, method.settings.model_fields)
            raise SettingsError(f"--{key.replace('_', '-')} is not a setting of {method.name}; {hint}")
    return validated(method.settings, {**values, "name": method.name})


def parse_spec(document: Mapping[str, Any]) -> RunSpec:
    """A run's spec from the form that records hold.

    Raises:
        SettingsError: one line with the first key at fault.
    """
    values = dict(document)
    for group, kind in GROUPS.items():
        values[group] = validated(kind, values.get(group, {}))
    values["method"] = method_settings(values.get("method", {}))
    return validated(RunSpec, values)


def spec_from_flags(flags: Mapping[str, Any]) -> RunSpec:
    """A run's spec from train's flags: `method`, the fields of every group, the method's own settings, and dotted keys
    (`training.lr`, `method.rank`) as `--set` gives them.

    Raises:
        SettingsError: an unknown flag or value; the nearest name is given.
    """
    document: dict[str, Any] = {"method": {}, **{group: {} for group in GROUPS}}
    for flag, value in flags.items():
        name, _, field = flag.partition(".")
        if flag == "method":
            document["method"]["name"] = value
        elif field and name in document:
            document[name][field] = value
        elif group := group_of(flag):
            document[group][flag] = value
        elif flag in RunSpec.model_fields:
            document[flag] = value
        elif str(flags.get("method")).startswith(PREFIX) or any(
            flag in method.settings.model_fields for method in METHODS.values()
        ):
            document["method"][flag] = value
        else:
            raise SettingsError(f"unknown setting {flag!r}; {nearest(flag, all_flags())}")
    document["method"].setdefault("name", Choice().method)
    return parse_spec(document)


def all_flags() -> list[str]:
    """Every name that `spec_from_flags` knows."""
    own = [field for method in METHODS.values() for field in method.settings.model_fields if field != "name"]
    groups = [field for kind in GROUPS.values() for field in kind.model_fields]
    return sorted({"method", "model", "seed", *groups, *own})
