"""What commands say on standard error and output: progress, results as JSON, and the one line of an error."""

from __future__ import annotations

import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from loratory.spec import RunSpec

errors = Console(stderr=True, highlight=False)


def rank() -> int:
    """This process's number among those that `torchrun` started together, 0 without it."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def fail(message: str, code: int, debug: bool) -> int:
    """Print `message` as one line, and the traceback before it where `debug` asks for it; gives back `code`."""
    if debug:
        traceback.print_exc()
    line = " ".join(message.split())
    where = f"process {rank()}: " if rank() > 0 else ""
    print(f"error: {where}" + "".join(c if c.isprintable() else "?" for c in line), file=sys.stderr)
    return code


def print_json(document: Any) -> None:
    """One document on standard output; what a terminal could obey stands in it as JSON's own escapes."""
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    typer.echo(re.sub(r"[^\n -~]", lambda found: _escaped(found[0]), text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]


@contextmanager
def progress_shown(spec: RunSpec) -> Iterator[Callable[[Any], None]]:
    """A live bar on a terminal; a line every tenth of the way elsewhere. On standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
                errors.print(f"step {progress.step} of {progress.total_steps}, epoch {progress.epoch}", markup=False)

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
                description=f"{spec.method.name}: epoch {progress.epoch} of {spec.training.epochs}",
                rate=f"{speed * spec.training.batch_size:,.0f} examples/s" if speed else "",
            )

        yield advance
