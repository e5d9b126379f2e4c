"""What commands say on standard error and output: progress, results as JSON, and the one line of an error.

All of it goes through here, so that text from data, files' names and other libraries stays text: what a terminal could
obey is spelled out (`\\x1b`), Rich's markup is not read, and secrets of the environment do not show.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from loratory.errors import redacted
from loratory.units import printable

if TYPE_CHECKING:
    from loratory.spec import RunSpec


def show(renderable: object) -> None:
    """Print a table, or anything that Rich draws, on standard output."""
    from loratory.consoles import console

    console().print(renderable)


def say(line: str) -> None:
    """Print one line on standard output, however long it is."""
    typer.echo(printable(redacted(line)))


def tell(line: str) -> None:
    """Print one line on standard error, however long it is."""
    from loratory.consoles import errors

    errors.print(redacted(line), soft_wrap=True)


def spelled(text: str) -> str:
    """Lines as :func:`loratory.units.printable` has each of them."""
    return "\n".join(map(printable, text.split("\n")))


class Lines(logging.Formatter):
    """A message of the log as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """What the log says, for a terminal."""
        return printable(redacted(super().format(record)))


def any_encoding() -> None:
    """Let a terminal that is not UTF-8 have `\\u2013` for what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def rank() -> int:
    """This process's number among those that `torchrun` started together, 0 without it."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def fail(message: str, code: int, debug: bool) -> int:
    """Print `message` as one line, and the traceback before it where `debug` asks for it; gives back `code`."""
    if debug:
        print(spelled(redacted(traceback.format_exc())), file=sys.stderr, end="")
    line = " ".join(redacted(message).split())
    where = f"process {rank()}: " if rank() > 0 else ""
    print(f"error: {where}{printable(line)}", file=sys.stderr)
    return code


def print_json(document: Any) -> None:
    """One document on standard output; what a terminal could obey, or cannot show, stands in it as JSON's own
    escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf8"

    def escaped(found: re.Match[str]) -> str:
        character = found[0]
        try:
            character.encode(encoding)
        except UnicodeEncodeError:
            return json.dumps(character)[1:-1]
        return character if character.isprintable() else json.dumps(character)[1:-1]

    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    typer.echo(re.sub(r"[^\n -~]", escaped, text))


@contextmanager
def progress_shown(spec: RunSpec) -> Iterator[Callable[[Any], None]]:
    """A live bar on a terminal; a line every tenth of the way elsewhere. On standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from loratory.consoles import errors

    if rank() > 0:
        yield lambda progress: None
        return
    if not errors.is_terminal:
        shown = 0

        def line(progress: Any) -> None:
            nonlocal shown
            tenth = 10 * progress.step // progress.total_steps
            if tenth > shown:
                shown = tenth
                tell(f"step {progress.step} of {progress.total_steps}, epoch {progress.epoch}")

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(f"{spec.method.name}: setting up", total=None, rate="")

        def advance(progress: Any) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task,
                total=progress.total_steps,
                completed=progress.step,
                description=f"{spec.method.name}: epoch {progress.epoch} of {spec.training.last_epoch}",
                rate=f"{speed * spec.training.batch_size:,.0f} examples/s" if speed else "",
            )

        yield advance
