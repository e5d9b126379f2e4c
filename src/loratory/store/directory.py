"""A run's directory: built under another name beside its place, sealed by its manifest, then renamed into place.

    claim (lock) ─▶ stage (temporary directory) ─▶ files … ─▶ manifest.json (SHA-256 of each) ─▶ rename

Its manifest is its commit: a reader accepts what the manifest vouches for and nothing else. Beside `run` stand, while
it is made, `.run.lock`, `.run.fence`, `.run.*.partial` and `.run.replaced`; the next claim clears away what a killed
process left.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

from loratory.disk.files import FULL, make_directory, refused, sync
from loratory.disk.manifest import MANIFEST, read_manifest, seal, verified, vouch
from loratory.errors import DamagedError, StorageError
from loratory.store.lock import Held, hold
from loratory.store.record import RunRecord

log = logging.getLogger("loratory")

RECORD = "run.json"
HISTORY = "history.jsonl"
PREDICTIONS = "predictions.parquet"

REMEDY = "restore the directory from a copy, or remove it and train again"
"""What to do about a damaged run."""

NAMELESS = {getattr(errno, name) for name in ("EIO", "EROFS", "EFBIG", "ESTALE", "ENODEV", "EMFILE", "ENFILE")}
"""What else a disk answers to a write, whose OSError then names no file; of one that is read it may name it."""

_STAGE = r"\.[a-z0-9_]{8}(?:-(\d+))?\.partial"
"""How the name of a stage ends, after a point and the name of its place; the number is that of who held the place."""


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
        DamagedError: not committed, or a file that is missing or differs from the manifest.
        StorageError: no directory, something cannot be read, or is there and not named by the manifest.
    """
    if not directory.is_dir():
        raise StorageError(f"{directory} is not a directory; give a run's directory")
    manifest = read_manifest(directory, remedy=REMEDY)
    if manifest is None:
        raise DamagedError(f"{directory} holds no committed run (no {MANIFEST}); give a run's directory")
    if RECORD not in manifest:
        raise DamagedError(f"{directory / MANIFEST} is damaged: it does not name {RECORD}; {REMEDY}")
    verified(directory, remedy=REMEDY)
    return RunRecord.read(directory / RECORD)


def glance(directory: Path, *, also: Collection[str] = ()) -> RunRecord | None:
    """The record of the run committed in `directory`, its other files left unread; None where there is no run.

    Args:
        also: files that are read too, and compared with the manifest where it names them.

    Raises:
        DamagedError: the record, or one of these files, differs from the run's manifest.
        StorageError: something cannot be read.
    """
    manifest = read_manifest(directory, remedy=REMEDY)
    if manifest is None:
        return None
    if RECORD not in manifest:
        raise DamagedError(f"{directory / MANIFEST} is damaged: it does not name {RECORD}; {REMEDY}")
    for name in (RECORD, *also):
        if name in manifest:
            vouch(directory / name, manifest[name], remedy=REMEDY)
        elif os.path.lexists(directory / name):
            raise DamagedError(f"{directory / name} is not named by the manifest beside it; {REMEDY}")
    return RunRecord.read(directory / RECORD)


def whole_run(directory: Path) -> RunRecord | None:
    """The run in the place `directory`, every file of it; None where there is none. What is damaged is set aside.

    Raises:
        StorageError: another process trains there, there is a file, something cannot be read or renamed, or is there
            and not named by the manifest: the run may be whole.
    """
    try:
        if directory.is_dir() and any(directory.iterdir()):
            return read_run(directory)
    except DamagedError as error:
        with claim(directory):
            set_aside(directory, str(error).removesuffix(f"; {REMEDY}"))
        return None
    return find_run(directory)


def counted_run(directory: Path, read: Callable[[Path], RunRecord | None] | None = None) -> RunRecord | None:
    """The run in `directory` for somebody who only looks: a damaged one is left where it is, told, and not counted.

    Args:
        read: how it is read; by default its record, history and predictions, and no weights.

    Raises:
        StorageError: something cannot be read.
    """
    try:
        return read(directory) if read is not None else glance(directory, also=(HISTORY, PREDICTIONS))
    except DamagedError as error:
        log.warning("%s; left out", str(error).removesuffix(f"; {REMEDY}"))
        return None


def set_aside(path: Path, why: str) -> Path:
    """Rename what is damaged to a name beside it that nothing reads, and say so.

    Returns:
        Where it is now.

    Raises:
        StorageError: the disk refuses.
    """
    places = (path.with_name(f".{path.name.lstrip('.')}.damaged-{number}") for number in count(1))
    place = next(place for place in places if not os.path.lexists(place))
    try:
        os.rename(path, place)
        sync(place.parent)
    except OSError as error:
        raise StorageError(f"cannot set {path} aside, which is damaged: {error.strerror}") from error
    log.warning("%s; set aside as %s", why, place)
    return place


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
    left = re.compile(rf"\.(.+?)(\.lock|\.fence|\.replaced|{_STAGE})")
    names = {found.group(1) for path in parent.glob(".*") if (found := left.fullmatch(path.name))}
    for name in sorted(names):
        with claim(parent / name):
            pass


_CLAIMED: dict[Path, Held] = {}
"""The places that this process has claimed: the kernel's locks are the process's, too."""


@contextmanager
def claim(output: Path, *, doing: str = "training in") -> Iterator[None]:
    """Hold the place of `output` for one process, and clear away what a killed one left there.

    Args:
        doing: what its holder does there, for the error's line.

    Raises:
        StorageError: another process holds it, or the place cannot be written.
    """

    def taken() -> str:
        return f"another process is {doing} {output}; wait for it, or choose another --output"

    place = output.absolute()
    with hold(output.parent / f".{output.name}.lock", patience=0.2, taken=taken) as held:
        _CLAIMED[place] = held
        try:
            _clear(output, held.number)
            yield
        finally:
            del _CLAIMED[place]


def _clear(output: Path, number: int) -> None:
    """Remove the stages of those that held the place before; finish or undo a replacement that was cut short."""
    stage = re.compile(rf"\.{re.escape(output.name)}{_STAGE}")
    try:
        for path in output.parent.iterdir():
            if (found := stage.fullmatch(path.name)) and int(found[1] or 0) < number:
                _take_away(path, output)
        _settle(output)
    except OSError as error:
        raise StorageError(f"cannot clear away {error.filename}, left by a killed run: {error.strerror}") from error


def _take_away(stage: Path, output: Path) -> None:
    """Remove a stage, under another name first: a process that writes there still has nothing more to rename."""
    gone = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix="-0.partial", dir=output.parent))
    os.rename(stage, gone)
    shutil.rmtree(gone)


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
        sync(output.parent)


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A temporary directory beside `output`, removed at the end whatever happens; `commit` moves it into place.

    Raises:
        StorageError: the place cannot be written.
    """
    held = _CLAIMED.get(output.absolute())
    suffix = ".partial" if held is None else f"-{held.number}.partial"
    try:
        make_directory(output.parent)
        stage = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=suffix, dir=output.parent))
    except OSError as error:
        raise refused(output, error) from error
    try:
        yield stage
    except OSError as error:
        check_claim(output)  # of a place that was lost the stage is gone too
        ours = error.filename is not None and str(error.filename).startswith(str(stage))
        if ours or error.errno in FULL or (error.filename is None and error.errno in NAMELESS):
            raise refused(output, error) from error
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)  # nothing is there any more once it was committed


def place_of(stage: Path) -> Path:
    """The place beside which :func:`staging` made `stage`: the one that people know."""
    found = re.fullmatch(rf"\.(.+){_STAGE}", stage.name)
    return stage.with_name(found[1]) if found is not None else stage


def check_claim(output: Path) -> None:
    """Refuse a place that this process has claimed, and lost.

    Raises:
        StorageError: it has.
    """
    held = _CLAIMED.get(output.absolute())
    if held is not None:
        held.check()


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
        check_claim(output)
        if before is not None and (anew or before.status != "completed"):
            _replace(stage, output)
        else:
            os.rename(stage, output)  # refuses to replace a directory that is not empty
        sync(output.parent)
    except OSError as error:
        check_claim(output)
        raise refused(output, error) from error


def _replace(stage: Path, output: Path) -> None:
    """Rename the stage to where a run stands; one of the two is there once the place is claimed again."""
    os.rename(output, _replaced(output))
    try:
        os.rename(stage, output)
        sync(output.parent)  # before the old one goes
    finally:
        _settle(output)


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
        check_claim(output)
        os.rename(stage, output)
        sync(output.parent)
    except OSError as error:
        raise refused(output, error) from error


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
            raise refused(files[name], error) from error
        raise


def _open_as_umask_says(stage: Path, example: str) -> None:
    """Give the stage and its files the mode of `example`: mkdtemp and safetensors make theirs private."""
    mode = (stage / example).stat().st_mode & 0o666
    for path in stage.iterdir():
        path.chmod(mode)
    stage.chmod(mode | (mode & 0o444) >> 2)  # who may read may enter
