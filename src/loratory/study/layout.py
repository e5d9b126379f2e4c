"""Where things stand in a study's directory, and how its small files are read and spelled."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loratory.disk.json_text import parsed
from loratory.errors import DamagedError, StorageError

STUDY = "study.yaml"
PLAN = "plan.json"
RUNS = "runs"
SELECTIONS = "selections"
SUMMARY = "summary.json"
FIGURES = "figures"
LOCK = ".study.lock"
LAUNCHER = ".study.json"
"""Who runs the study now: process, host, since when."""

SEAL = "sha256"
"""The key of a document that holds the SHA-256 of all the others."""

SCHEMA = 2
"""Of plans and selections; 1 had one choice a cell."""


def read_json(
    path: Path, *, remedy: str = "give the directory of a study that `loratory study run` made"
) -> dict[str, Any]:
    """The JSON object in `path`.

    Args:
        remedy: what to do where it is missing or damaged.

    Raises:
        DamagedError: it is not what was written.
        StorageError: it is missing, cannot be read, or is of another schema.
    """
    try:
        document = parsed(path.read_text("utf8"))
    except FileNotFoundError:
        raise StorageError(f"{path} is not there; {remedy}") from None
    except NotADirectoryError:
        raise StorageError(f"{path.parent} is not a directory; {remedy}") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}; {remedy}") from None
    except ValueError as error:
        raise DamagedError(f"{path} cannot be read ({type(error).__name__}: {error}); {remedy}") from None
    if not agrees(document):
        raise DamagedError(f"{path} is damaged: it differs from its own {SEAL}; {remedy}")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise StorageError(
            f"{path} is of another schema than {SCHEMA}; use the version that wrote it, or start in another directory"
        )
    return document


def plain_name(name: str) -> str:
    """`name`, once it leads to no other directory.

    Raises:
        ValueError: it may.
    """
    if Path(name).name != name:
        raise ValueError(f"{name!r} is not a plain name")
    return name


@contextmanager
def planned(directory: Path) -> Iterator[dict[str, Any]]:
    """The plan in `directory`, for a block that takes it apart.

    Raises:
        StorageError: it is missing, or the block found it damaged.
    """
    plan = read_json(directory / PLAN)
    try:
        yield plan
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{directory / PLAN} is damaged ({type(error).__name__}: {error}); run the study again: its runs are kept"
        ) from None


def digest_of(text: str) -> str:
    """The first 12 digits of the SHA-256 of a selection's text: its name."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document, and the SHA-256 of its text under :data:`SEAL`."""
    return {**document, SEAL: hashlib.sha256(as_json(dict(document)).encode()).hexdigest()}


def agrees(document: object) -> bool:
    """Whether a document is what its seal says; one that has none, as of an earlier version, is.

    A SHA-256 under another name is a seal whose name was damaged.
    """
    if not isinstance(document, Mapping):
        return True
    if SEAL not in document:
        return not any(isinstance(one, str) and re.fullmatch("[0-9a-f]{64}", one) for one in document.values())
    rest = {key: value for key, value in document.items() if key != SEAL}
    try:
        return bool(document == sealed(rest))
    except ValueError:  # a number that is none
        return False


def as_json(document: dict[str, Any]) -> str:
    """A document as it is stored."""
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
