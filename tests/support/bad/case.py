"""A case of bad input, the bench on which it is made, and the commands that take it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Make = Callable[["Bench"], None]


@dataclass(frozen=True)
class Case:
    """One thing that is wrong, and what must be said of it."""

    what: str
    """In words; no other case has them."""
    commands: tuple[str, ...]
    """Each must say the same; those of :data:`TRAIN` and the like are made whole by :meth:`Bench.command`."""
    code: int
    says: tuple[str, ...]
    """Parts of the line."""
    given: str = "given"
    """What the file is called."""
    make: Make | None = None
    """Makes it."""
    theirs: str = ""
    """A pattern of what another library says in the line: it differs by its version, and is no part of the page."""


@dataclass
class Bench:
    """Where a case is made and run: one run, one study, one tiny model, which no case may change."""

    place: Path
    model: Path
    given: Path
    patch: pytest.MonkeyPatch
    held: ExitStack
    """Closed when the case is over."""

    def command(self, command: str) -> list[str]:
        """Its words. The last of two equal flags counts: a case's own come after those of a small run."""
        name, *words = command.split()
        small = "--model {model} --dataset {place}/good.csv --epochs 1 --max-length 32 --device cpu --precision fp32"
        if name in ("train", "estimate"):
            words = ["--method", "head", *small.split(), *words]
        names = {"place": self.place, "model": self.model, "given": self.given, "run": self.place / "run"}
        return [name, *(word.format(**names, study=self.place / "study", file=self.place / "s.yaml") for word in words)]

    def write(self, content: str | bytes) -> None:
        """The case's file."""
        self.given.write_bytes(content if isinstance(content, bytes) else content.encode("utf8", "surrogatepass"))

    def copied(self, name: str) -> Path:
        """A copy of something of the bench, to be spoilt."""
        return Path(shutil.copytree(self.model if name == "model" else self.place / name, self.given))

    def refuse(self, number: int) -> None:
        """Nothing can be written below this place any more, as on a disk that is full or may only be read."""
        make, open_, makes = os.open, open, os.mkdir

        def error(path: Any) -> OSError:
            return OSError(number, os.strerror(number), str(path))

        def low(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & os.O_CREAT and str(path).startswith(str(self.place)):
                raise error(path)
            return make(path, flags, *rest, **more)

        def high(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if set(mode) & set("wxa") and str(path).startswith(str(self.place)):
                raise error(path)
            return open_(path, mode, *rest, **more)

        def directory(path: Any, *rest: Any, **more: Any) -> None:
            if str(path).startswith(str(self.place)):
                raise error(path)
            makes(path, *rest, **more)

        self.patch.setattr("os.open", low)
        self.patch.setattr("io.open", high)
        self.patch.setattr("builtins.open", high)
        self.patch.setattr("os.mkdir", directory)


# Commands, by what they take.
TRAIN = ("train --dataset {given}",)
LEARN = (*TRAIN, "estimate --dataset {given}", "data show {given} --model {model}")
STUDY = ("study run {file} --output {place}/new --set data={given}",)
SCORE = ("evaluate --model-path {run} --dataset {given}",)
LABEL = ("predict --model-path {run} --input {given}",)
ANY = (*LEARN, *STUDY, *SCORE)
"""All that read a text and its label."""
ALL = (*ANY, *LABEL)
"""All that read a text."""
MODEL = ("train --model {given}",)
BASE = (*MODEL, "estimate --model {given}", "data show {place}/good.csv --model {given}")
RUN = ("evaluate --model-path {given}", "predict --model-path {given} w1")
RUNS = (*RUN, "compare {given}", "export --model-path {given} --output {place}/new.pth")
DIRECTORY = ("study status {given}", "report {given}")
