"""Where things stand in a study's directory, and how its small files are written: whole, or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from loratory.errors import StorageError

STUDY = "study.yaml"
PLAN = "plan.json"
RUNS = "runs"
SELECTIONS = "selections"
LOCK = ".study.lock"
LAUNCHER = ".study.json"
"""Who runs the study now: process, host, since when."""

SCHEMA = 1


def write_durably(path: Path, text: str) -> None:
    """Write beside `path`, reach the disk, rename: after a crash the file is the old one or the new one.

    Raises:
        StorageError: the disk refuses.
    """
    work = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with work.open("w", encoding="utf8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def read_json(
    path: Path, *, remedy: str = "give the directory of a study that `loratory study run` made"
) -> dict[str, Any]:
    """The JSON object in `path`.

    Args:
        remedy: what to do where it is missing or damaged.

    Raises:
        StorageError: it is missing, damaged or of another schema.
    """
    try:
        document = json.loads(path.read_text("utf8"))
    except FileNotFoundError:
        raise StorageError(f"{path} is not there; {remedy}") from None
    except NotADirectoryError:
        raise StorageError(f"{path.parent} is not a directory; {remedy}") from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({type(error).__name__}: {error}); {remedy}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise StorageError(f"{path} is of another schema than {SCHEMA}; use the version that wrote it")
    return document


def as_json(document: dict[str, Any]) -> str:
    """A document as it is stored."""
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
