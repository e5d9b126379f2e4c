"""An audit hook that notes what a file may never make a program do. A hook stays, so it is set in a forked process."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from loratory.models import pth_child

INSTALLED = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
PLACES = (
    sys.prefix,
    sys.base_prefix,
    *sysconfig.get_paths().values(),
    *INSTALLED,
    str(Path(pth_child.__file__).parents[1]),
)
CODE = tuple({os.path.realpath(path) for path in PLACES})
"""Where code may come from: the interpreter, the installed packages, and this one."""

WRITERS = {
    "dataclasses",
    "collections",
    "ast",
    "importlib._bootstrap",
    "importlib._bootstrap_external",
    "inspect",
    "typing",
}
"""Modules of the standard library that compile what they wrote themselves."""

PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn")
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "shutil.rmtree"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """What was seen since it was last asked."""

    def __init__(self, place: Path) -> None:
        """
        Args:
            place: where files may be written.
        """
        self._place = os.path.realpath(place)
        self._seen: list[str] = []
        self._busy = False
        self._modules = set(sys.modules)
        sys.dont_write_bytecode = True
        sys.addaudithook(self._hook)

    def taken(self) -> list[str]:
        """What was seen, and modules that came from elsewhere, since the last call."""
        self._busy = True
        new = set(sys.modules) - self._modules
        self._modules |= new
        files = {name: getattr(sys.modules[name], "__file__", None) for name in new}
        strangers = [f"module {name} of {file}" for name, file in files.items() if file and not _ours(file)]
        seen, self._seen, self._busy = [*self._seen, *strangers], [], False
        return seen

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._busy:
            return
        self._busy = True  # what is asked below is seen by the hook, too
        try:
            if self._forbidden(event, arguments):
                self._seen.append(f"{event} {str(arguments)[:200]}")
        finally:
            self._busy = False

    def _forbidden(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event in ("exec", "compile"):
            file = arguments[0].co_filename if event == "exec" else arguments[1]
            caller = sys._getframe(2).f_globals.get("__name__")
            return not (caller in WRITERS or str(file).startswith("<frozen ") or _ours(os.fsdecode(file or "")))
        if event == "subprocess.Popen":
            return str(arguments[0]) != sys.executable or str(pth_child.__file__) not in map(str, arguments[1])
        if event == "pickle.find_class" or event.startswith(("socket.", *PROCESSES)):
            return True
        if event == "open":
            path, mode, flags = arguments
            writes = set(mode or "") & set("wxa+") or (flags or 0) & WRITING
            return bool(writes) and not isinstance(path, int) and not self._own(path)
        if event == "ctypes.dlopen":
            return isinstance(arguments[0], str) and os.path.isabs(arguments[0]) and not _ours(arguments[0])
        return event in CHANGES and not self._own(arguments[0])

    def _own(self, path: Any) -> bool:
        whole = os.path.realpath(os.fsdecode(path))
        return whole in (os.devnull, f"/proc/{os.getpid()}/clear_refs") or whole.startswith(self._place)


def _ours(file: str) -> bool:
    return os.path.realpath(file).startswith(CODE) if os.path.isabs(file) else False
