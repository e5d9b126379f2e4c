"""`.pth`: a plain state dict of tensors, as the study saved its models, and nothing that could run code.

Beside `model.pth` stands `model.json`, which says what the tensors alone cannot: base, labels, length, data.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loratory.errors import ModelError, SafetyError
from loratory.problems import SINGLE, Problem, problem_in

MAX_BYTES = 8 << 30
"""The largest file that is opened."""

SEAL = "card_sha256"
"""The key of a card that holds the SHA-256 of all the others; cards of earlier versions have none."""


@dataclass(frozen=True)
class Card:
    """What `model.json` says of `model.pth`."""

    model: str
    """Name of the base whose architecture and tokenizer the tensors need."""
    labels: tuple[str, ...]
    data: dict[str, Any]
    """The data part of the run's spec."""
    sha256: str
    """Of the `.pth` file."""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the data's source and of its training split; empty where the card does not say."""
    problem: Problem = SINGLE
    thresholds: tuple[float, ...] | None = None
    """From which probability each label is predicted, where a text may have several."""

    @classmethod
    def read(cls, path: Path) -> Card | None:
        """The card in `path`, or None where there is none.

        Raises:
            ModelError: it is not one.
        """
        if not path.is_file():
            return None
        try:
            document = json.loads(path.read_text("utf8"))
            if SEAL in document and document[SEAL] != _digest(document):
                raise ValueError(f"it differs from its own {SEAL}")
            labels = tuple(str(name) for name in document["labels"])
            digests = document.get("digests") and {part: str(document["digests"][part]) for part in ("source", "train")}
            cuts = document.get("thresholds")
            return cls(
                model=str(document["model"]),
                labels=labels,
                data=dict(document["data"]),
                sha256=str(document["sha256"]),
                digests=digests or {},
                problem=problem_in(document.get("problem")),
                thresholds=None if cuts is None else tuple(map(float, cuts)),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path}: does not describe a model ({type(error).__name__}: {error})") from error

    def check(self, path: Path) -> None:
        """Refuse a `.pth` that is not the one this card was written for.

        Raises:
            ModelError: its bytes are others.
        """
        if _sha256(path) != self.sha256:
            name = path.with_suffix(".json").name
            raise ModelError(f"{path}: not the file that {name} describes (other SHA-256); export the run again")


def save_pth(
    model: nn.Module,
    path: Path,
    *,
    base: str,
    labels: tuple[str, ...],
    data: dict[str, Any],
    digests: dict[str, str],
    problem: Problem = SINGLE,
    thresholds: tuple[float, ...] | None = None,
) -> None:
    """Write the model's tensors to `path` and its card beside it."""
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, path)
    card = Card(base, labels, data, _sha256(path), digests, problem, thresholds)
    document = asdict(card)
    document[SEAL] = _digest(document)
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf8")


def _digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of what a card says, its own seal aside."""
    said = {key: value for key, value in document.items() if key != SEAL}
    return hashlib.sha256(json.dumps(said, indent=1).encode()).hexdigest()


def read_pth(path: Path) -> dict[str, Tensor]:
    """The tensors in `path`, by name.

    Raises:
        ModelError: missing, truncated, or not a `.pth` file.
        SafetyError: too large, or it holds anything but tensors by name.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist or is not a file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SafetyError(f"{path}: {size >> 30} GiB is above the limit of {MAX_BYTES >> 30} GiB for .pth files")
    _check_unpacked(path, size)
    try:
        with warnings.catch_warnings(action="ignore"):  # on pickles of other protocols than torch's own
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_pickle(path):
            raise SafetyError(f"{path}: holds something other than tensors, which could run code; refused") from error
        raise ModelError(f"{path}: not a .pth file of tensors") from error
    except Exception as error:  # whatever a damaged pickle makes torch's reader do
        raise _damaged(path) from error
    if not isinstance(state, Mapping) or not state:
        raise SafetyError(f"{path}: holds a {type(state).__name__}, not tensors by name; refused")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise SafetyError(f"{path}: entry {str(name)[:80]!r} is a {type(tensor).__name__}, not a tensor; refused")
    # tensors may be views of less data than their shape says: what they would unfold to is bounded by the file
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > size:
        raise SafetyError(f"{path}: its tensors claim more bytes than the file holds; refused")
    return dict(state)


def _damaged(path: Path) -> ModelError:
    return ModelError(f"{path}: damaged or truncated; copy it again, or export the run again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_pickle(path: Path) -> bool:
    """Whether a file is one of torch's: a zip with a pickle in it, or, of old, a pickle (protocol 2 or later)."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO


def _check_unpacked(path: Path, size: int) -> None:
    """torch never compresses what it writes; what is compressed could unpack to more than memory holds."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path) from error
    if unpacked > size:
        raise SafetyError(f"{path}: unpacks to more bytes than the file holds; refused")
