"""A run's directory: built under another name beside its place, sealed by its manifest, then renamed into place.

    claim (lock) ─▶ stage (temporary directory) ─▶ files … ─▶ manifest.json (SHA-256 of each) ─▶ rename

Its manifest is its commit: a reader accepts what the manifest vouches for and nothing else. Beside `run` stand, while
it is made, `.run.lock`, `.run.*.partial` and `.run.replaced`; the next claim clears away what a killed process left.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from loratory.errors import StorageError
from loratory.store.files import sync
from loratory.store.manifest import MANIFEST, read_manifest, seal, verified, vouch
from loratory.store.record import RunRecord

RECORD = "run.json"
HISTORY = "history.jsonl"
PREDICTIONS = "predictions.parquet"

REMEDY = "restore the directory from a copy, or remove it and train again"
"""What to do about a damaged run."""


def find_run(directory: Path) -> RunRecord | None:
    """The record of the run committed in `directory`; None where there is nothing yet.

    Raises:
        StorageError: there is something else, which must not be overwritten.
    """
    if not os.path.lexists(directory):
        return None
    if not directory.is_dir():
        raise StorageError(f"{directory} is a file; choose another --output")
    if not (directory / MANIFEST).is_file():
        if any(directory.iterdir()):
            raise StorageError(f"{directory} is not empty and holds no run; choose another --output")
        return None
    return read_run(directory)


def read_run(directory: Path) -> RunRecord:
    """The record of a committed run, once every file agrees with its manifest.

    Raises:
        StorageError: no run, not committed, or a file that is missing or differs from the manifest.
    """
    if not directory.is_dir():
        raise StorageError(f"{directory} is not a directory; give a run's directory")
    if read_manifest(directory, remedy=REMEDY) is None:
        raise StorageError(f"{directory} holds no committed run (no {MANIFEST}); give a run's directory")
    if RECORD not in verified(directory, remedy=REMEDY):
        raise StorageError(f"{directory / MANIFEST} is damaged: it does not name {RECORD}; {REMEDY}")
    return RunRecord.read(directory / RECORD)


def glance(directory: Path) -> RunRecord | None:
    """The record of the run committed in `directory`, its other files left unread; None where there is no run.

    Raises:
        StorageError: the record differs from the run's manifest.
    """
    manifest = read_manifest(directory, remedy=REMEDY)
    if manifest is None:
        return None
    if RECORD not in manifest:
        raise StorageError(f"{directory / MANIFEST} is damaged: it does not name {RECORD}; {REMEDY}")
    vouch(directory / RECORD, manifest[RECORD], remedy=REMEDY)
    return RunRecord.read(directory / RECORD)


def drop_weights(directory: Path) -> RunRecord:
    """Commit a run anew without its weights and tokenizer, and give its record.

    Killed at any moment, one of the two is there once the place is claimed again.

    Raises:
        StorageError: there is no such run, or the disk refuses.
    """
    with claim(directory):
        record = replace(read_run(directory), weights=False)
        with staging(directory) as stage:
            for name in (HISTORY, PREDICTIONS):
                shutil.copyfile(directory / name, stage / name)
            (stage / RECORD).write_text(record.to_json(), encoding="utf8")
            commit(stage, directory, anew=True)
    return record


def settle(parent: Path) -> None:
    """Clear away what killed processes left in the directory of runs `parent`.

    Raises:
        StorageError: another process trains there still, or something cannot be removed.
    """
    left = re.compile(r"\.(.+?)(\.lock|\.replaced|\.[a-z0-9_]{8}\.partial)")
    names = {found.group(1) for path in parent.glob(".*") if (found := left.fullmatch(path.name))}
    for name in sorted(names):
        with claim(parent / name):
            pass


@contextmanager
def claim(output: Path, *, doing: str = "training in") -> Iterator[None]:
    """Hold the place of `output` for one process, and clear away what a killed one left there.

    The lock is the operating system's, so it ends with the process that holds it, however that ends.

    Args:
        doing: what its holder does there, for the error's line.

    Raises:
        StorageError: another process holds it, or the place cannot be written.
    """
    path = output.parent / f".{output.name}.lock"
    lock = FileLock(path, timeout=0.2)  # more than one try: its holder may be taking the file away at this moment
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StorageError(f"another process is {doing} {output}; wait for it, or choose another --output") from None
    except OSError as error:
        raise StorageError(f"cannot write to {output.parent}: {error.strerror}; choose another --output") from error
    try:
        _clear(output)
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held; who opened it before sees that it is gone, and opens it anew
        lock.release()


def _clear(output: Path) -> None:
    """Remove the stages of killed processes; finish or undo a replacement that was cut short."""
    stage = re.compile(rf"\.{re.escape(output.name)}\.[a-z0-9_]{{8}}\.partial")
    try:
        for path in output.parent.iterdir():
            if stage.fullmatch(path.name):
                shutil.rmtree(path)
        _settle(output)
    except OSError as error:
        raise StorageError(f"cannot clear away {error.filename}, left by a killed run: {error.strerror}") from error


def _replaced(output: Path) -> Path:
    return output.parent / f".{output.name}.replaced"


def _settle(output: Path) -> None:
    """Take the replaced record away once a new one is in its place; put it back where none came."""
    old = _replaced(output)
    if not old.is_dir():
        return
    if os.path.lexists(output):
        shutil.rmtree(old)
    else:
        os.rename(old, output)


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A temporary directory beside `output`, removed at the end whatever happens; `commit` moves it into place.

    Raises:
        StorageError: the place cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    except OSError as error:
        raise StorageError(f"cannot write to {output.parent}: {error.strerror}; choose another --output") from error
    try:
        yield stage
    except OSError as error:
        if error.filename is not None and str(error.filename).startswith(str(stage)):
            raise StorageError(f"cannot write {error.filename}: {error.strerror}") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # a full disk does not say which file
            raise StorageError(f"cannot write to {output.parent}: {error.strerror}") from error
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)  # nothing is there any more once it was committed


def commit(stage: Path, output: Path, *, anew: bool = False) -> None:
    """Seal `stage` with a manifest and rename it to `output`; the record of a run that did not complete gives way.

    Args:
        anew: a completed run gives way too, to itself in another form.

    Raises:
        StorageError: another run stands there, or the disk refuses.
    """
    try:
        seal(stage)
        _open_as_umask_says(stage, MANIFEST)
        before = find_run(output)
        try:
            if before is not None and (anew or before.status != "completed"):
                os.rename(output, _replaced(output))
            os.rename(stage, output)  # refuses to replace a directory that is not empty
            sync(output.parent)
        finally:
            _settle(output)
    except OSError as error:
        raise StorageError(f"cannot commit the run to {output}: {error.strerror}") from error


def publish(stage: Path, output: Path, *, last: str) -> None:
    """Rename a stage that is no run, and has no manifest, to `output`, which may be an empty directory.

    Args:
        last: the file that was written last, by Python's own `open`.

    Raises:
        StorageError: something else stands there, or the disk refuses.
    """
    try:
        for path in stage.iterdir():
            sync(path)
        sync(stage)
        _open_as_umask_says(stage, last)
        os.rename(stage, output)
        sync(output.parent)
    except OSError as error:
        raise StorageError(f"cannot write {output}: {error.strerror}") from error


def publish_files(stage: Path, files: Mapping[str, Path]) -> None:
    """Rename files of a stage to where they belong, in their order: all of them, or none.

    Args:
        files: by its name in the stage, where each goes; all into one directory. What stands there is never replaced.

    Raises:
        StorageError: something stands there, or the disk refuses.
    """
    placed: list[Path] = []
    try:
        for name in files:
            sync(stage / name)
        for name, path in files.items():
            if os.path.lexists(path):  # a rename would replace it
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.rename(stage / name, path)
            placed.append(path)
            sync(path.parent)
    except BaseException as error:  # an interruption too must leave no half of it
        for path in placed:
            path.unlink()
        if isinstance(error, OSError):
            where = files[name]
            raise StorageError(f"cannot write {where}: {error.strerror}; choose another --output") from error
        raise


def _open_as_umask_says(stage: Path, example: str) -> None:
    """Give the stage and its files the mode of `example`: mkdtemp and safetensors make theirs private."""
    mode = (stage / example).stat().st_mode & 0o666
    for path in stage.iterdir():
        path.chmod(mode)
    stage.chmod(mode | (mode & 0o444) >> 2)  # who may read may enter
