"""A manifest vouches for a directory: `manifest.json` holds the SHA-256 and the size of every other file in it.

    seal: every file on the disk ─▶ its digest ─▶ manifest.json on the disk ─▶ the directory's names on the disk

It is written last, so a directory without it, or with half of it, is one that nobody finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loratory.disk.files import sync
from loratory.disk.json_text import parsed
from loratory.errors import DamagedError, StorageError

MANIFEST = "manifest.json"

RESTORE = "restore the directory from a copy, or remove it"
"""What to do about a damaged directory of which no more is known."""


@dataclass(frozen=True)
class Sealed:
    """What a manifest says of one file."""

    sha256: str
    bytes: int


def check_outside(output: Path) -> None:
    """Refuse a place in a directory for which a manifest vouches. Others call files of theirs `manifest.json` too, as
    web applications do: what is not of our form is nobody's voucher.

    Raises:
        StorageError: there is one.
    """
    for above in output.absolute().parents:
        found = None
        with suppress(StorageError):  # not of our form, or not ours to read
            found = read_manifest(above)
        if found is not None:
            raise StorageError(f"{output}: {above} holds what its manifest names and no more; choose another --output")


def seal(directory: Path) -> None:
    """Have the disk hold every file of `directory`, which has no folders in it, then a manifest of them all.

    Raises:
        OSError: the disk refuses; a manifest may be there in part.
    """
    names = sorted(path.name for path in directory.iterdir() if path.name != MANIFEST)
    files = {}
    for name in names:
        sync(directory / name)
        files[name] = {"sha256": digest_of_file(directory / name), "bytes": (directory / name).stat().st_size}
    (directory / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf8")
    sync(directory / MANIFEST)
    sync(directory)


def read_manifest(directory: Path, *, remedy: str = RESTORE) -> dict[str, Sealed] | None:
    """What the manifest of `directory` says, by file names; None where there is none.

    Args:
        remedy: what to do about a damaged one.

    Raises:
        DamagedError: it is not what was written.
        StorageError: it cannot be read.
    """
    path = directory / MANIFEST
    try:
        files: Mapping[str, Mapping[str, object]] = parsed(path.read_text("utf8"))["files"]
        found = {name: Sealed(str(one["sha256"]), int(str(one["bytes"]))) for name, one in files.items()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} is damaged; {remedy}") from error
    if any(Path(name).name != name for name in found):
        raise DamagedError(f"{path} is damaged: it names a file elsewhere; {remedy}")
    return found


def verified(directory: Path, *, remedy: str = RESTORE) -> dict[str, Sealed]:
    """What the manifest of `directory` says, once every file that it names agrees with it and nothing else is there.

    Names that begin with a dot are passed over: they are locks' and file systems' own, and nothing opens them.

    Args:
        remedy: what to do where a file does not agree.

    Raises:
        DamagedError: no manifest, a damaged one, or a file that is missing or differs from it.
        StorageError: something cannot be read, or there is something that the manifest does not name: a library could
            take it for a part of the whole. What it names may be as it was, so this is no damage.
    """
    found = read_manifest(directory, remedy=remedy)
    if found is None:
        raise DamagedError(f"{directory / MANIFEST} is not there; {remedy}")
    for name in _names(directory):
        if name not in found and name != MANIFEST and not name.startswith("."):
            raise StorageError(f"{directory / name} is not named by the manifest beside it; take it away")
    for name, sealed in found.items():
        vouch(directory / name, sealed, remedy=remedy)
    return found


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError as error:
        raise StorageError(f"{directory} cannot be read: {error.strerror}") from error


def vouch(path: Path, sealed: Sealed, *, remedy: str = RESTORE) -> None:
    """Check one file against what the manifest beside it says of it.

    Raises:
        DamagedError: it is missing, is a link, or differs.
        StorageError: it cannot be read.
    """
    try:
        if not path.is_file() or path.is_symlink():
            raise DamagedError(f"{path} is named by the manifest beside it and not there; {remedy}")
        if os.path.getsize(path) != sealed.bytes or digest_of_file(path) != sealed.sha256:
            raise DamagedError(f"{path} is damaged: it differs from the manifest beside it; {remedy}")
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def digest_of_file(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
