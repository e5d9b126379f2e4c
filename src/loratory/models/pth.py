"""`.pth`: a plain state dict of tensors, as the study saved its models, and nothing that could run code.

Beside `model.pth` stands `model.json`, which says what the tensors alone cannot: base, labels, length, data.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loratory.errors import ModelError, SafetyError
from loratory.models import pth_child
from loratory.models.door.files import read_object
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
            document = read_object(path)
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
        except ModelError as error:
            raise ModelError(f"{path}: does not describe a model: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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
    """The tensors in `path`, by name. A process of its own, confined, says where in the file each lies; this one never
    reads the pickle.

    Raises:
        ModelError: missing, truncated, or not a `.pth` file.
        SafetyError: too large, or it holds anything but tensors by name.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist or is not a file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SafetyError(f"{path}: {size >> 30} GiB is above the limit of {MAX_BYTES >> 30} GiB for .pth files")
    return tensors_of(path, _asked(path))


def _asked(path: Path) -> dict[str, Any]:
    """What the confined process says of `path`.

    Raises:
        SafetyError: it was ended for the memory or the time it took.
    """
    command = [sys.executable, "-I", "-S", str(Path(pth_child.__file__)), str(path.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10 * pth_child.MAX_SECONDS, check=False)
        answer: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise SafetyError(f"{path}: takes more memory or time to read than a file of tensors needs; refused") from error
    return answer


def tensors_of(path: Path, answer: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of `path` that lie where `answer`, of :mod:`loratory.models.pth_child`, says.

    Raises:
        ModelError: the answer is that the file is damaged.
        SafetyError: the answer is that it is unsafe.
    """
    if "unsafe" in answer:
        raise SafetyError(f"{path}: {answer['unsafe']}; refused")
    if "tensors" not in answer:
        raise ModelError(f"{path}: {answer['damaged']}") if answer["damaged"] else _damaged(path)
    found: dict[str, Tensor] = {}
    with path.open("rb") as file:
        for name, tensor in answer["tensors"].items():
            dtype: torch.dtype = getattr(torch, tensor["dtype"])
            numbers = bytearray(tensor["span"] * dtype.itemsize)
            file.seek(tensor["begin"])
            if file.readinto(numbers) != len(numbers):
                raise _damaged(path)
            flat = torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
            found[name] = flat.as_strided(tensor["shape"], tensor["strides"])
    return found


def _damaged(path: Path) -> ModelError:
    return ModelError(f"{path}: damaged or truncated; copy it again, or export the run again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
