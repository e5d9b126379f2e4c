"""What a study's directory gets once its runs are there: runs ─▶ summary.json ─▶ report.html, tables, figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loratory.errors import StorageError
from loratory.report.study import write
from loratory.study.document import Summary
from loratory.study.layout import PLAN, RUNS, SUMMARY
from loratory.study.results import load_study
from loratory.study.summary import summarise


def finish(directory: Path) -> list[Path]:
    """Summarise the runs of the study in `directory`, as many as there are, and write its report over an older one.

    A copy of a study without its plan or its runs keeps its summary, and has its report written from it.

    Returns:
        The files written: the page first.

    Raises:
        ResourceError: a package that charts need is not installed.
        StorageError: no study, something in it is damaged, or a file cannot be written.
    """
    if not _has_runs(directory):
        return write(directory, Summary.read(directory))
    summary = _timed_as_before(summarise(load_study(directory)), directory)
    stored = summary.write(directory)
    return [*write(directory, summary), stored]


def _timed_as_before(summary: Summary, directory: Path) -> Summary:
    """Baselines that score as before keep the time that was measured first: what is finished again stays the same."""
    try:
        before = Summary.read(directory)
    except StorageError:  # none yet, or damaged: all is written anew
        return summary
    seconds = {replace(one, seconds=None): one.seconds for one in before.baselines}
    kept = [replace(one, seconds=seconds.get(replace(one, seconds=None), one.seconds)) for one in summary.baselines]
    return replace(summary, baselines=tuple(kept))


def _has_runs(directory: Path) -> bool:
    """Whether a summary made now would say what the study found; one of a plan alone is better than none."""
    planned, stored = (directory / PLAN).is_file(), (directory / SUMMARY).is_file()
    return planned and ((directory / RUNS).is_dir() or not stored)
