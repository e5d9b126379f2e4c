"""Any other adapter that PEFT knows, by the name of its kind: `peft:VERA`, `peft:OFT`, `peft:LOHA`, `peft:FOURIERFT` …

Its settings are the fields of PEFT's own configuration, with PEFT's defaults, types and checks; `targets` stands in
place of `target_modules`. The layers are PEFT's, and stock modules compute them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError, create_model, model_serializer
from pydantic_core import PydanticCustomError

from loratory.errors import SettingsError, first_line, nearest
from loratory.methods.base import TrainableModel
from loratory.methods.injected import inject
from loratory.methods.lora import Targets, find_targets
from loratory.spec import MethodSettings

if TYPE_CHECKING:
    from peft import PeftConfig

    from loratory.models.load import Base

PREFIX = "peft:"
OURS = {
    *("task_type", "peft_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
    *("modules_to_save", "target_modules", "peft_version"),
}
"""Fields of PEFT's configurations that are not the user's to set."""
ELSEWHERE = {"LORA": "lora", "ADALORA": "adalora", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt"}
"""Kinds that have a method of their own, because PEFT's configuration alone does not train and save them."""
UNFIT = {
    "FROD": "its sparse tensors cannot be saved as safetensors",
    "POLY": "it needs the number of a task with each text",
    "SHADOW": "it runs a second model beside the first, in padded batches",
    "TRAINABLE_TOKENS": "it trains rows of the token table, and no layers",
}
"""Kinds that cannot be, and why."""

STEPPED = {"ADAMSS": "use_asa"}
"""Settings of kinds that PEFT must be told of every step for, which only a method of its own could do."""

Scalar = int | float | bool | str | None


class PeftSettings(MethodSettings):
    """Base of the settings of each kind; a setting that is None is left to PEFT's default, and not written down."""

    @model_serializer(mode="wrap")
    def _given(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.model_dump(),)  # the class of a kind is made anew in another process


def _rebuilt(values: dict[str, Any]) -> MethodSettings:
    return PeftType.named(str(values["name"])).settings.model_validate(values)


class PeftType:
    """An adapter of one of PEFT's kinds on the chosen layers, and the head."""

    def __init__(self, kind: str, config: type[PeftConfig], settings: type[MethodSettings]) -> None:
        self.name, self.settings, self._kind, self._config = PREFIX + kind, settings, kind, config
        self.summary = f"PEFT's {config.__name__.removesuffix('Config')}, and the head"

    @staticmethod
    def named(name: str) -> PeftType:
        """The method called `peft:KIND`.

        Raises:
            SettingsError: PEFT has no such kind, or it does not adapt the layers of a model.
        """
        return _made(name.removeprefix(PREFIX).upper().replace("-", "_"))

    def default_lr(self, hidden_size: int) -> float:
        """LoRA's rates, whatever the kind; not searched."""
        return 2e-3 if hidden_size < 512 else 5e-4

    def prepare(self, base: Base, settings: MethodSettings, *, seed: int) -> TrainableModel:
        """Let PEFT adapt the targets; freeze all else but the head and what PEFT's configuration sets free.

        Raises:
            SettingsError: targets match nothing, or PEFT does not take the settings or the model.
        """
        values = settings.model_dump(exclude=set(MethodSettings.model_fields))
        names = find_targets(base.model, base.family, values.pop("targets", "attention"))
        given = {key: _read(value) for key, value in values.items()}
        if given.get(stepped := STEPPED.get(self._kind, "")):
            raise SettingsError(f"--method {self.name}: {stepped} needs PEFT to be told of every step; leave it out")
        try:
            config = self._config(target_modules=names, **given)
        except (ValueError, TypeError, ImportError) as error:
            raise SettingsError(f"--method {self.name}: {first_line(error)}") from error
        return inject(base, config, seed=seed)


@cache
def _made(kind: str) -> PeftType:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTuner

    configs = {str(one.value): config for one, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    tuners = {str(one.value): tuner for one, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()}
    if kind in ELSEWHERE:
        raise SettingsError(f"--method {PREFIX}{kind}: use --method {ELSEWHERE[kind]}")
    if kind not in configs:
        raise SettingsError(f"PEFT has no kind {kind!r}; {nearest(kind, set(configs) - set(ELSEWHERE))}")
    fields = {field.name for field in dataclasses.fields(configs[kind])}
    if "target_modules" not in fields or not issubclass(tuners[kind], BaseTuner):
        raise SettingsError(f"--method {PREFIX}{kind}: it is no adapter beside a model's layers; use another kind")
    if kind in UNFIT:
        raise SettingsError(f"--method {PREFIX}{kind}: {UNFIT[kind]}; use another kind")
    return PeftType(kind, configs[kind], _settings(kind, configs[kind], fields - OURS))


def _settings(kind: str, config: type[PeftConfig], fields: set[str]) -> type[MethodSettings]:
    """The settings of a kind: PEFT's fields, each None until it is given."""
    hints = get_type_hints(config)
    own: dict[str, Any] = {
        field: (Annotated[Scalar, BeforeValidator(_scalar), AfterValidator(_checker(hints[field]))], None)
        for field in sorted(fields)
    }
    own |= {"name": (str, PREFIX + kind), "targets": (Targets, "attention")}
    return create_model(f"{kind.title()}Settings", __base__=PeftSettings, **own)


def _scalar(value: Any) -> Any:
    """A flag's text as the number, truth value or text that it means; lists and mappings stay JSON."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return value if isinstance(read, list | dict) else read


def _read(value: Scalar) -> Any:
    """A setting as PEFT takes it."""
    return json.loads(value) if isinstance(value, str) and value.startswith(("[", "{")) else value


def _checker(hint: Any) -> Callable[[Scalar], Scalar]:
    """What refuses a value that is not of the type that PEFT's configuration declares."""

    def check(value: Scalar) -> Scalar:
        try:
            taken = TypeAdapter(hint).validate_python(_read(value))
        except (ValidationError, ValueError) as error:
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
            raise PydanticCustomError("peft", "{said}", {"said": said[0].lower() + said[1:]}) from None
        return taken if isinstance(taken, int | float | bool | str) else value

    return check
