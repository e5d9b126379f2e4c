"""`config.json`: which families, keys and sizes are let in.

What a key may be is told by transformers' own class of the family: its fields, their other names, and what it takes
from older files. Any other key passes where its value is inert (a number, a plain word, or a list of those) and the
class has nothing else of that name, since published files hold many that nothing reads; so does an object under a key
that is known to hold one. Names with which a file could have a library fetch or import code pass only where they hold
nothing.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from loratory.errors import ModelError, SafetyError, first_line
from loratory.models.door.files import is_inert, read_object, shown
from loratory.models.families import FAMILIES, family_of

STEERING = re.compile(
    r"_.*|auto_?map|trust_remote_code|.*code_revision|custom_.*|.*attn_implementation.*|.*experts_implementation.*"
    r"|use_kernels?|kernels?|kernel_.*|.*kernel_(config|mapping|repo).*|.*compression_config|transformers_weights"
    r"|configuration_files|.*_plan|device_map|distributed_config|per_layer_config|(base_)?adapter.*|peft.*|gguf_file"
    r"|extra_(config_)?files|subfolder|revision|cache_dir|token|proxies|state_dict|config|backbone.*|timm.*",
    re.IGNORECASE,
)
"""Keys by which a file says what a library should load, import or fetch besides the model."""

ORIGIN = {"_name_or_path", "_commit_hash", "_num_labels", "_attn_implementation_autoset", "_flash_attn_2_enabled"}
"""Keys of that form which libraries once wrote and no longer act on."""

OBJECTS = {"id2label", "label2id", "task_specific_params", "rope_scaling", "rope_parameters", "pruned_heads"}
"""Keys that hold an object, or may."""

OLDER = {"num_labels", "output_attentions", "torch_dtype", "use_return_dict", "rope_scaling", "name_or_path"}
"""What transformers' classes take from a file though it is no field of theirs."""

DTYPES = {"float32", "float16", "bfloat16", "float64", "auto"}

ROPE_KINDS = {"default", "linear", "dynamic", "yarn", "longrope", "llama3"}
"""transformers' ways to stretch rotary positions; each a formula over the numbers beside it."""

MOST = {
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_hidden_groups"), 256),
    "inner_group_num": 16,
    **dict.fromkeys(("hidden_size", "dim", "n_embd", "embedding_size", "pooler_hidden_size"), 32_768),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "n_inner"), 262_144),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_key_value_heads"), 1_024),
    **dict.fromkeys(("head_dim", "type_vocab_size", "conv_kernel_size", "relative_attention_num_buckets"), 4_096),
    "vocab_size": 2_097_152,
    "max_position_embeddings": 16_777_216,
    "n_positions": 32_768,  # GPT-2 held a square of as many truth values
    **dict.fromkeys(("max_relative_positions", "position_buckets"), 65_536),
    "num_labels": 100_000,
}
"""Sizes of a model, and the largest that is let in; what is published stands well below."""

AT_LEAST_ONE = set(MOST) - {
    *("type_vocab_size", "conv_kernel_size", "max_relative_positions", "position_buckets", "n_inner", "num_labels"),
}


def check_config(path: Path) -> dict[str, Any]:
    """What `path`, a model's `config.json`, says, once nothing stands in it that a library should not see.

    Raises:
        ModelError: no JSON object, an architecture outside the table of families, quantised weights, or a value that
            is none.
        SafetyError: a key or value could make a library run code or exhaust the machine.
    """
    values = read_object(path)
    kind = values.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(f"model {str(path.parent)!r}: its config.json names no model_type")
    _refuse_steering(path, values)
    if kind not in FAMILIES:
        _refuse_family(path, kind)
    _refuse_quantised(path, values)
    names = _names(kind)
    for key, value in values.items():
        where = f"{path}: {shown(key)}"
        if value is None or key in ("model_type", *ORIGIN, "quantization_config"):
            continue
        if key in names.taken:
            raise SafetyError(f"{where} is no setting of {kind} models; remove it")
        if key in OBJECTS and isinstance(value, dict):
            _check_object(where, key, value)
        elif not is_inert(value):
            raise SafetyError(f"{where} holds {shown(value)}, which no setting of a {kind} model may; remove it")
        elif names.field(key) in MOST or key in MOST:
            _check_size(where, names.field(key), value)
    _check_words(path, values, names)
    return values


@dataclasses.dataclass(frozen=True)
class _Names:
    """Names of a configuration class."""

    fields: frozenset[str]
    others: dict[str, str]
    """Another name of a field → the field."""
    taken: frozenset[str]
    """What the class has that no file may set."""

    def field(self, key: str) -> str:
        return self.others.get(key, key)


def _names(kind: str) -> _Names:
    from transformers import CONFIG_MAPPING

    configuration = CONFIG_MAPPING[kind]
    others = dict(configuration.attribute_map)
    fields = frozenset(field.name for field in dataclasses.fields(configuration))
    return _Names(fields, others, frozenset(dir(configuration)) - fields - set(others) - OLDER)


def _refuse_steering(path: Path, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if key not in ORIGIN and value not in (None, False, [], {}) and STEERING.fullmatch(key):
            raise SafetyError(f"{path}: {shown(key)} could make a library load or run something else; remove it")


def _refuse_family(path: Path, kind: str) -> None:
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[kind]()
    except Exception as error:  # whatever a class wants that is none of ours
        raise ModelError(
            f"model {str(path.parent)!r}: architecture {shown(kind)} is not supported; "
            "`loratory models` lists those that are"
        ) from error
    family_of(config)  # says what it lacks


def _refuse_quantised(path: Path, values: dict[str, Any]) -> None:
    held = values.get("quantization_config")
    if held is not None:
        kind = held.get("quant_method", "") if isinstance(held, dict) else ""
        raise ModelError(
            f"model {str(path.parent)!r}: its weights are quantised already ({str(kind)[:40]}); give the model that "
            "they were made of, and --quantize where it should be"
        )


def _check_size(where: str, field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(f"{where} is {shown(value)}, not a whole number")
    if value > MOST[field]:
        raise SafetyError(f"{where} is {value:,}, above the limit of {MOST[field]:,}; refused")
    if value < 1 and field in AT_LEAST_ONE:
        raise ModelError(f"{where} is {value}; a model has at least 1")


def _check_object(where: str, key: str, value: dict[str, Any]) -> None:
    if key == "pruned_heads" and value:
        raise ModelError(f"{where}: pruned heads are not supported; give the model as it was")
    if len(value) > MOST["num_labels"]:
        raise SafetyError(f"{where} has {len(value):,} entries, above the limit of {MOST['num_labels']:,}; refused")
    if key in ("id2label", "label2id"):
        numbers = list(value) if key == "id2label" else list(value.values())
        words = list(value.values()) if key == "id2label" else list(value)
        if not all(re.fullmatch(r"-?\d{1,9}", str(number)) for number in numbers):
            raise ModelError(f"{where}: classes are numbered by whole numbers")
        if not all(isinstance(word, str | int | float) for word in words):  # a class may be called anything
            raise ModelError(f"{where}: classes have names")
        return
    for name, inner in value.items():
        within = f"{where}, {shown(name)}"
        if isinstance(inner, dict):
            _check_object(within, "", inner)
        elif key == "task_specific_params" or not name.startswith("rope") or not isinstance(inner, str):
            if not (is_inert(inner) or (key != "rope_parameters" and isinstance(inner, str) and len(inner) <= 1024)):
                raise SafetyError(f"{within} holds {shown(inner)}; remove it")
        elif inner not in ROPE_KINDS:
            raise ModelError(f"{within}: no kind of rotary positions is called {shown(inner)}")
    if key in ("rope_scaling", "rope_parameters") and (kind := value.get("type", "default")) not in ROPE_KINDS:
        raise ModelError(f"{where}: no kind of rotary positions is called {shown(kind)}")


def _check_words(path: Path, values: dict[str, Any], names: _Names) -> None:
    """Settings whose words choose a function or a type."""
    from transformers.activations import ACT2CLS

    for key in ("dtype", "torch_dtype"):
        if values.get(key) is not None and values[key] not in DTYPES:
            raise ModelError(f"{path}: {key} is {shown(values[key])}; known: {', '.join(sorted(DTYPES))}")
    for key in ("hidden_act", "hidden_activation", "activation", "activation_function", "classifier_activation"):
        if key in values and key in names.fields and values[key] not in ACT2CLS:
            raise ModelError(f"{path}: {key} is {shown(values[key])}, which transformers has no function for")


def configured(values: dict[str, Any], *, source: str, **extra: Any) -> Any:
    """transformers' configuration of checked `values`, as its `AutoConfig` gives it for `source`.

    Raises:
        ModelError: transformers does not take them.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    given = {key: value for key, value in values.items() if key != "_commit_hash"}
    try:
        return CONFIG_MAPPING[values["model_type"]].from_dict(given, name_or_path=source, **extra)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"model {source!r}: {first_line(error)}") from error
