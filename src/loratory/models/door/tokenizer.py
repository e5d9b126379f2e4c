"""`tokenizer_config.json` and the files beside it: classes that transformers registers, no code, no paths, no bombs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from loratory.errors import ModelError, SafetyError
from loratory.models.door.files import check_link, check_size, is_inert, read_object, shown
from loratory.models.door.pipeline import FILE, check_pipeline

CONFIG = "tokenizer_config.json"
MAX_CONFIG = 16 << 20
"""The largest `tokenizer_config.json`: it may hold a table of added tokens and a chat template."""

GENERIC = {"PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend"}
"""Classes of no model of their own, as files name them."""

STEERING = re.compile(
    r"auto_map|trust_remote_code|code_revision|custom_.*|.*_module|gguf_file|subfolder|revision|cache_dir|proxies",
    re.IGNORECASE,
)
FILES = {"tokenizer_file", "vocab_file", "merges_file"}
"""Keys by which some versions of transformers open a file: none that is here may be meant, outside the directory."""

ORIGIN = {"name_or_path", "_name_or_path", "special_tokens_map_file", *FILES}
"""Keys that say where the files once lay."""

NOT_OURS = ("model.", "pytorch_model.", "trainer_state.", "train_results.", "eval_results.", "all_results.")
"""How files begin that hold no tokenizer."""

TOKEN = {"content", "lstrip", "rstrip", "normalized", "single_word", "special", "__type", "id"}
"""What an object that is a token may say."""

TEXTS = re.compile(r"chat_template|.*_token|backend|processor_class|.*(prefix|suffix|separator|replacement|text).*")
"""Keys whose values are texts, of any characters."""


def check_tokenizer(directory: Path, *, vocabulary: int) -> None:
    """Refuse tokenizer files that a library should not see.

    Args:
        vocabulary: rows of the model's token table, which bound the files of the vocabulary.

    Raises:
        ModelError: no JSON object, or a class that transformers does not register.
        SafetyError: code, a path, a link that leaves the directory, or a file out of proportion.
    """
    most = (4 << 20) + 512 * vocabulary  # published: 25 to 140 bytes a token in tokenizer.json
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".txt", ".model", ".jinja", ".codes") and path.is_file():
            check_link(path)
            if not path.name.startswith(NOT_OURS):
                check_size(path, max(most, MAX_CONFIG) if path.name == CONFIG else most)
    templates = directory / "additional_chat_templates"
    if templates.exists():
        raise SafetyError(f"{templates}: templates are not read here; remove the folder")
    if (directory / CONFIG).is_file():
        _check(directory / CONFIG, read_object(directory / CONFIG, most=MAX_CONFIG))
    if (directory / FILE).is_file():
        check_pipeline(directory, most=most)
    for name in ("special_tokens_map.json", "added_tokens.json"):
        if (directory / name).is_file():
            _check_tokens(directory / name, read_object(directory / name, most=MAX_CONFIG))


def _check(path: Path, values: dict[str, Any]) -> None:
    for key, value in values.items():
        where = f"{path}: {shown(key)}"
        if value in (None, False) or value == [] or value == {}:
            continue
        if STEERING.fullmatch(key):
            raise SafetyError(f"{where} could make a library load or run something else; remove it")
        if key == "tokenizer_class":
            _check_class(where, value)
        elif key in ORIGIN:
            if not isinstance(value, str) or len(value) > 4096:
                raise SafetyError(f"{where} holds {shown(value)}; remove it")
            if key in FILES and _is_elsewhere(value, path.parent):
                raise SafetyError(
                    f"{where} names {shown(value)}, a file that is here and none of the model's; remove it"
                )
        elif key.endswith(("_file", "_files")) or key == "init_inputs":
            raise SafetyError(f"{where} names files of its own; remove it")
        elif key == "added_tokens_decoder":
            _check_added(where, value)
        elif key in ("extra_special_tokens", "additional_special_tokens", "model_specific_special_tokens"):
            for token in value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]:
                _check_token(where, token)
        elif isinstance(value, dict):
            _check_token(where, value)
        elif isinstance(value, str) and TEXTS.fullmatch(key):
            continue
        elif key == "model_max_length" and isinstance(value, int | float):
            continue  # published files say 10³⁰ for "any"
        elif key == "chat_template" and isinstance(value, list):
            continue
        elif not is_inert(value):
            raise SafetyError(f"{where} holds {shown(value)}, which no setting of a tokenizer may; remove it")


def _is_elsewhere(name: str, directory: Path) -> bool:
    """Whether there is such a file, and not in `directory`; no name is too long or too odd to be asked about."""
    return os.path.exists(name) and Path(name).resolve().parent != directory.resolve()


def _check_class(where: str, name: Any) -> None:
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    known: set[str] = set(GENERIC)
    for registered in TOKENIZER_MAPPING_NAMES.values():
        known |= {str(one) for one in (registered if isinstance(registered, tuple | list) else [registered]) if one}
    if not isinstance(name, str) or not {name, name.removesuffix("Fast"), f"{name}Fast"} & known:
        raise SafetyError(f"{where} is {shown(name)}, which is none of transformers' own; refused")


def _check_added(where: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ModelError(f"{where} holds {shown(value)}, not tokens by number")
    for number, token in value.items():
        if not re.fullmatch(r"\d{1,9}", number) or not isinstance(token, dict):
            raise ModelError(f"{where} holds {shown(number)}: {shown(token)}, not tokens by number")
        _check_token(where, token)


def _check_tokens(path: Path, values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, int) and not isinstance(value, bool):
            continue  # added_tokens.json: token → number
        for token in value if isinstance(value, list) else [value]:
            _check_token(f"{path}: {shown(key)}", token)


def _check_token(where: str, token: Any) -> None:
    if isinstance(token, str) or token is None:
        return
    if not isinstance(token, dict) or not set(token) <= TOKEN or not isinstance(token.get("content"), str):
        raise SafetyError(f"{where} holds {shown(token)}, which is no token; remove it")
