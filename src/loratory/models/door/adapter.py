"""`adapter_config.json`: an adapter of one of PEFT's kinds, in plain settings of that kind.

Which keys there are, and of which types, PEFT's own class says; what could run code, read another file or exhaust the
machine is refused before PEFT sees it. The name of the base is never followed: the run's record says what it is.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from loratory.errors import ModelError, SafetyError, first_line
from loratory.models.door.files import is_plain, read_object, shown
from loratory.models.door.weights import Entry

if TYPE_CHECKING:
    from peft import PeftConfig

CONFIG = "adapter_config.json"

PROMPTS = {"PROMPT_TUNING", "PREFIX_TUNING"}
UNSAFE = {"XLORA": "loads other adapters by name", "SHADOW": "runs a second model beside the first"}
"""Kinds that are no adapter alone."""

CODE = re.compile(
    r"auto_mapping|runtime_config|layer_replication|megatron_.*|(eva|corda|loftq|velora|lora_ga|arrow)_config"
    r"|tokenizer_.*|.*_path|.*_file|prompt_tuning_init_text|revision|save_.*|cache_.*"
)
"""Settings by which an adapter says what else is loaded, imported or computed; they must be as PEFT leaves them."""

STARTS = re.compile(r"gaussian|orthogonal|olora|pissa(_niter_\d{1,4})?|mini|bat|kappatune\w*", re.IGNORECASE)
"""How an update may begin, where it is a word."""

NO_SIZE = re.compile(
    r".*(seed|key|step|warmup|interval|alpha|niter|lambda|terms|indices).*|tinit|tfinal|deltaT|layers_.*"
)
"""Whole numbers that say how, not how many: nothing is allocated by them."""

NAMES = {
    *("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save", "layers_pattern"),
    "target_parameters",
}
"""Settings that are lists of layers' names."""

SMALL = 256
"""A size below which a number may be anything; above it a tensor of the file must be as long."""

PATTERN = re.compile(r"[\w.^$\\|*+?()\[\]-]{1,200}")


def check_adapter(path: Path, entries: Mapping[str, Entry]) -> PeftConfig:
    """PEFT's configuration of `path`, an `adapter_config.json`.

    Args:
        entries: the tensors of the adapter's file, to which its sizes must fit.

    Raises:
        ModelError: no JSON object, no kind of PEFT's, or a value that PEFT does not take.
        SafetyError: it could run code, read other files or exhaust the machine.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    values = read_object(path)
    kinds = {str(kind.value): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = values.get("peft_type")
    if not isinstance(kind, str) or kind not in kinds:
        raise ModelError(f"{path}: peft_type is {shown(kind)}, which PEFT has no kind of; is it an adapter of PEFT's?")
    known = {field.name: field for field in dataclasses.fields(kinds[kind])}
    if kind in UNSAFE or (kind not in PROMPTS and "target_modules" not in known):
        raise SafetyError(f"{path}: an adapter of {kind} {UNSAFE.get(kind, 'is no change of a layer')}; refused")
    longest = max([SMALL, *(side for entry in entries.values() for side in entry.shape)])
    taken: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}: {shown(key)}"
        if key == "auto_mapping":
            _check_origin(where, value)
        elif key not in known:
            if value not in (None, False, "", [], {}):
                raise ModelError(f"{where} is no setting of PEFT's {kind}; it may be of a newer PEFT: upgrade it")
        elif value != _default(known[key]) and value is not None:
            _check(where, key, value, longest)
            taken[key] = value
    return _made(path, kinds[kind], taken)


def _made(path: Path, config: type[PeftConfig], values: dict[str, Any]) -> PeftConfig:
    """PEFT's configuration, each value of the type that it declares."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    hints = get_type_hints(config)
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]) or key in ("peft_type", "task_type"):
            continue
        if key.endswith("alpha") and isinstance(value, float):
            continue  # declared as whole numbers, and written as others where PEFT folds an adapter's start into it
        try:
            TypeAdapter(hints[key], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except (ValidationError, ValueError) as error:
            said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
            raise ModelError(f"{path}: {shown(key)} is {shown(value)}: {said}") from None
    values = {**values, "base_model_name_or_path": None}
    try:
        return config(**values)
    except (TypeError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise ModelError(f"{path}: PEFT does not take it: {first_line(error)}") from error


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    return dataclasses.asdict(made) if dataclasses.is_dataclass(made) and not isinstance(made, type) else made


def _check_origin(where: str, value: Any) -> None:
    """PEFT writes down the class of the model; it is left out, as PEFT's own Auto classes import what it names."""
    if value is None:
        return
    module = value.get("parent_library") if isinstance(value, dict) else None
    own = isinstance(module, str) and re.fullmatch(r"transformers(\.\w+){0,6}", module) and len(value) == 2
    if not own or not isinstance(value.get("base_model_class"), str) or not value["base_model_class"].isidentifier():
        raise SafetyError(f"{where} names code outside transformers; remove it")


def _check(where: str, key: str, value: Any, longest: int) -> None:
    """Refuse a value that is not PEFT's default and could do harm."""
    if key == "base_model_name_or_path":
        if not isinstance(value, str) or len(value) > 4096:
            raise ModelError(f"{where} is {shown(value)}, not a name")
    elif CODE.fullmatch(key) and value not in ({}, []):
        raise SafetyError(f"{where} could make PEFT load or run something else; remove it")
    elif key in NAMES:
        _check_names(where, key, value)
    elif key.startswith("init_") and isinstance(value, str):
        if not STARTS.fullmatch(value):
            raise SafetyError(f"{where} is {shown(value)}, which computes the start from elsewhere; write true")
    elif isinstance(value, dict):
        if not key.endswith("_pattern") and value:
            raise SafetyError(f"{where} holds {shown(value)}; remove it")
        for name, inner in value.items():
            _check_pattern(where, name)
            for number in inner if isinstance(inner, list) else [inner]:
                _check_number(f"{where}, {shown(name)}", key, number, longest)
    elif isinstance(value, str):
        if not is_plain(value):
            raise SafetyError(f"{where} is {shown(value)}; remove it")
    elif isinstance(value, list):
        if len(value) > 4096:
            raise SafetyError(f"{where} has {len(value):,} entries; refused")
        for number in value:
            _check_number(where, "layers_" if key.startswith("layers_") else key, number, longest)
    else:
        _check_number(where, key, value, longest)


def _check_names(where: str, key: str, value: Any) -> None:
    """Lists of names; a text alone would be a pattern, which is tried on every layer."""
    names = [value] if isinstance(value, str) and (key == "layers_pattern" or value == "all-linear") else value
    if isinstance(names, str):
        raise SafetyError(f"{where} is a pattern, {shown(value)}; write the names of the layers")
    if not isinstance(names, list) or len(names) > 50_000:
        raise ModelError(f"{where} is {shown(value)}, not a list of names")
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,200}", name):
            raise SafetyError(f"{where} holds {shown(name)}, which is no name of a layer; refused")


def _check_pattern(where: str, pattern: str) -> None:
    """A pattern for layers' names that takes no more than some tries: no repeated group, few open repeats."""
    if (
        not PATTERN.fullmatch(pattern)
        or re.search(r"\)[*+?{]|\\\d|\(\?", pattern)
        or len(re.findall(r"[*+]", pattern)) > 3
    ):
        raise SafetyError(
            f"{where} holds the pattern {shown(pattern)}, which could take for ever; write the layer's name"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ModelError(f"{where} holds {shown(pattern)}, which is no pattern: {error}") from None


def _check_number(where: str, key: str, value: Any, longest: int) -> None:
    if isinstance(value, bool) or value is None:
        return
    if not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 2**53:
        raise SafetyError(f"{where} holds {shown(value)}, which no setting of an adapter may; remove it")
    if isinstance(value, int) and value > longest and not NO_SIZE.fullmatch(key):
        raise SafetyError(f"{where} is {value:,}, which no tensor of the adapter's file is as long as; refused")
