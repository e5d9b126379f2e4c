"""One writer at a time: a lock that ends with its process, and a number that a process which lost it no longer has.

    hold: the kernel's lock ─▶ the next number, on the disk ─▶ what smaller numbers left is taken away ─▶ work

The lock is the operating system's, so it ends with the process that holds it, however that ends. It is not enough by
itself: somebody may remove the lock's file while its holder is stopped, and another process then takes the place.
Therefore each holder has a number (a fencing token), and looks before every rename into place whether the lock's file
is still the one it holds and the number is still its own. What it writes bears the number in its temporary name, and
its successor takes that away first: a process that is stopped between look and rename has nothing left to rename.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from loratory.disk.files import check_writable, make_directory, refused, write_durably
from loratory.disk.locks import NO_LOCKS, kernel_lock, lacks_locks
from loratory.disk.manifest import check_outside
from loratory.errors import StorageError


@dataclass(frozen=True)
class Held:
    """A place that this process holds."""

    lock: Path
    number: int
    """Larger than that of everyone who held the place before, as long as the file with the number is there."""
    identity: tuple[int, int]
    """Device and inode of the lock's file: no other file has them while this process has it open."""

    def check(self) -> None:
        """Refuse to go on where the place has been lost.

        Raises:
            StorageError: the lock's file is gone or another, or the number is.
        """
        if not self.is_ours():
            raise StorageError(
                f"{self.lock} was removed while this process held it, and another may have taken its place; nothing "
                "more is written: start it again"
            )

    def is_ours(self) -> bool:
        """Whether the place has not been lost."""
        return _identity(self.lock) == self.identity and _number(self.lock) == self.number

    def write(self, path: Path, text: str) -> None:
        """:func:`loratory.disk.files.write_durably`, by the holder of the place alone.

        Raises:
            StorageError: the place has been lost, or the disk refuses.
        """
        write_durably(path, text, check=self.check, mark=f"-{self.number}")


@contextmanager
def hold(lock: Path, *, patience: float, taken: Callable[[], str], lasting: bool = False) -> Iterator[Held]:
    """Hold a place for one process; the number lies beside `lock`, under the same name with `.fence`.

    Args:
        patience: seconds after which a place that another process holds is given up; more than one try, because its
            holder may be taking the file away at this moment, or somebody only look who holds it.
        taken: says that another process holds it.
        lasting: whether the lock's file and the number stay when the place is left; not in a directory that was made
            for them and holds nothing else, which goes, too.

    Raises:
        StorageError: another process holds it, the place cannot be written, or its file system has no locks.
    """
    check_outside(lock)
    kernel = kernel_lock(lock, timeout=patience)
    made = not lock.parent.exists()
    try:
        make_directory(lock.parent)
        kernel.acquire()
    except Timeout:
        check_writable(lock)  # where no file can be made, the library goes on trying
        raise StorageError(taken()) from None
    except OSError as error:
        if lacks_locks(error):
            _undo(lock, made=made)
            raise StorageError(f"{lock.parent}: {NO_LOCKS}; choose another --output, or mount it with them") from error
        raise refused(lock.parent, error) from error
    try:
        identity, number = _identity(lock), _number(lock) + 1
        if identity is None:
            raise StorageError(taken())  # removed in this moment: whoever comes next makes it anew
        for left in lock.parent.glob(f".{_fence(lock).name}.*.new"):  # of one killed just here
            left.unlink(missing_ok=True)
        write_durably(_fence(lock), f"{number}\n")
        held = Held(lock, number, identity)
        try:
            yield held
        finally:
            if held.is_ours():  # another's is not ours to remove
                empty = made and {*lock.parent.iterdir()} <= {lock, _fence(lock)}
                if empty or not lasting:
                    for path in (_fence(lock), lock):  # while it is held; who opened it before sees that it is gone
                        with suppress(OSError):
                            path.unlink()
                if empty:
                    with suppress(OSError):
                        lock.parent.rmdir()
    finally:
        kernel.release()


def _undo(lock: Path, *, made: bool) -> None:
    """Leave nothing of a lock that could not be had; nobody else can have it either."""
    with suppress(OSError):
        lock.unlink(missing_ok=True)
        if made:
            lock.parent.rmdir()


def is_held(lock: Path) -> bool:
    """Whether a process holds the place now; nobody does where the file system has no locks. Only looks: nothing is
    made, a directory may be read-only."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return not lacks_locks(error)
    else:
        return False
    finally:
        os.close(descriptor)


def _fence(lock: Path) -> Path:
    return lock.with_suffix(".fence")


def _number(lock: Path) -> int:
    """The number written last; 0 where there is none that can be read."""
    try:
        return int(_fence(lock).read_text("ascii"))
    except (OSError, ValueError):
        return 0


def _identity(lock: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(lock)
    except OSError:
        return None
    return found.st_dev, found.st_ino
