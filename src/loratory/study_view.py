"""What the commands of a study show: the plan before, the progress meanwhile, the status from elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loratory import units
from loratory.console import tell
from loratory.consoles import errors
from loratory.errors import counted

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from loratory.study.jobs import Job
    from loratory.study.plan import Plan
    from loratory.study.progress import CellProgress, Progress, Status


def plan_lines(plan: Plan, tuning: int, finals: int) -> list[str]:
    """The plan: runs by stage, which exist, and what the others will take, so many of each stage at once."""
    from loratory.study.plan import differences_said, said_of
    from loratory.study.progress import progress_of

    progress = progress_of(plan.to_dict(), plan.records)
    lines = [f"{plan.spec.name}: {said_of(plan)}"]
    if failed := len(plan.failed):
        lines.append(f"{counted(failed, 'run')} failed and will not be run again (--retry-failed does)")
    if progress.done < progress.runs:
        left = progress.seconds_until(tuning, finals)
        unknown = "unknown until the first run (loratory estimate, with the settings of one, says that run's)"
        seconds = unknown if left is None else f"about {units.duration(left)}"
        peak = progress.memory_bytes
        memory = "unknown until the first run" if peak is None else f"about {units.memory(peak)} a run"
        at_once = f"{counted(tuning, 'run')} at once"
        if finals != tuning:
            at_once = f"{counted(tuning, 'tuning run')} at once, then {counted(finals, 'final run')}"
        lines.append(f"Time: {seconds}; memory: {memory}; {at_once}")
        lines += differences_said(plan.spec)
    return lines


@contextmanager
def study_shown() -> Iterator[Callable[[Plan, Job], None]]:
    """A live bar on a terminal; a line for each run elsewhere. On standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    from loratory.study.progress import progress_of

    begun, ended = time.monotonic(), 0

    def line(plan: Plan, job: Job) -> None:
        nonlocal ended
        ended += 1
        progress = progress_of(plan.to_dict(), plan.records)
        said = f"{_run_said(plan, job, progress)}; {_so_far(progress, begun, ended)}"
        tell(said)

    if not errors.is_terminal:
        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    with Bar(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("runs", total=None, said="")

        def advance(plan: Plan, job: Job) -> None:
            nonlocal ended
            ended += 1
            progress = progress_of(plan.to_dict(), plan.records)
            bar.update(task, total=progress.runs, completed=progress.done, said=_so_far(progress, begun, ended))

        yield advance


def _run_said(plan: Plan, job: Job, progress: Progress) -> str:
    """One run and how it ended."""
    record, of = plan.records[job.id], plan.cell_of(job).id
    name = next(f"{cell.data} {cell.method}" for cell in progress.cells if cell.id == of)
    limit = f"limit {job.spec.data.limit or 'all'}, " if len(plan.spec.limits) > 1 else ""
    limit += f"fold {job.spec.data.fold} of {plan.spec.folds}, " if plan.spec.folds is not None else ""
    until = job.spec.training.until
    limit += f"{counted(until, 'epoch')} of {job.spec.training.epochs}, " if until is not None else ""
    setting = f"{limit}{job.place.stage}, lr {record.spec['training']['lr']:g}, seed {record.spec['seed']}"
    if record.status != "completed":
        return f"{name} ({setting}): {record.status.replace('_', ' ')}: {record.error}"
    score = record.quality["validation"][plan.spec.select]
    seconds = units.duration(record.seconds)
    return f"{name} ({setting}): validation {plan.spec.select} {score:.4g}, {seconds}"


def _so_far(progress: Progress, begun: float, ended: int) -> str:
    """Cells done, best so far, rate, time left."""
    minutes = (time.monotonic() - begun) / 60
    words = [f"{progress.done} of {counted(progress.runs, 'run')}"]
    words.append(f"{progress.cells_done} of {counted(len(progress.cells), 'cell')}")
    if progress.failed:
        words.append(f"{progress.failed} failed")
    if (best := progress.best) is not None:
        words.append(f"best {best.score:.4g} ({best.method})")
    if minutes > 0:
        words.append(f"{ended / minutes:.3g} runs a minute")
    if minutes > 0 and progress.done < progress.runs:
        words.append(f"{units.duration(60 * minutes / ended * (progress.runs - progress.done))} left")
    return ", ".join(words)


def result_shown(directory: Path) -> RenderableType:
    """What a study found: its table, and the sentences with which its page begins."""
    from rich.console import Group
    from rich.text import Text

    from loratory.report.prose import answers
    from loratory.report.study_table import study_table
    from loratory.study.document import Summary

    summary = Summary.read(directory)
    return Group(study_table(summary).to_rich(), *(Text(f"\n{answer}") for answer in answers(summary)), Text())


def _halving_said(cell: CellProgress) -> list[str]:
    """The trials of each rung, a line each, and the epochs trained in tuning, of how many; nothing of a cell whose
    rates are not halved."""
    if not cell.rungs:
        return [units.MISSING, units.MISSING]
    rungs = "\n".join(f"{rung.trials_done}/{rung.trials}, {counted(rung.epochs, 'epoch')}" for rung in cell.rungs)
    done, every = cell.tuning_epochs
    return [rungs, f"{done}/{every}"]


def status_table(status: Status) -> RenderableType:
    """A study's cells, how far each has come, and who runs the study."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    progress = status.progress
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    varied = [key for key in ("data", "model", "limit") if len({getattr(cell, key) for cell in progress.cells}) > 1]
    for name in ("cell", *varied, "method"):
        table.add_column(name.capitalize(), overflow="fold")
    halved = any(cell.rungs for cell in progress.cells)
    for name in ("Tuning", *(["Rungs", "Epochs of tuning"] if halved else []), "lr", "Final", "Failed", "Best"):
        table.add_column(name, justify="right", no_wrap=name not in ("lr", "Epochs of tuning"))
    for cell in progress.cells:
        rates = Counter(sorted(status.chosen[cell.id].values()))
        texts = [
            cell.id,
            *(str(getattr(cell, key) or "all") for key in varied),
            cell.method,
            f"{cell.trials_done}/{cell.trials}",
            *(_halving_said(cell) if halved else []),
        ]
        texts += [units.rates(rates), f"{cell.finals_done}/{cell.finals}", str(cell.failed)]
        texts.append(units.MISSING if cell.score is None else f"{cell.score:.4g}")
        table.add_row(*(Text("\n".join(map(units.printable, text.split("\n")))) for text in texts))
    said = f"{progress.name}: {progress.done} of {counted(progress.runs, 'run')}"
    launcher = status.launcher
    tuning, finals = (launcher.workers, launcher.finals or launcher.workers) if launcher is not None else (1, 1)
    if progress.done < progress.runs and (left := progress.seconds_until(tuning, finals)) is not None:
        said += f", about {units.duration(left)} left"
    who = str(status.launcher) if status.launcher is not None else "nobody is running it"
    return Group(table, Text(units.printable(f"{said}; {who}. Best: validation {progress.select}.")))
