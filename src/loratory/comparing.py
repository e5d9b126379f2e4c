"""Runs side by side, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loratory.data import dataset_of
from loratory.disk.manifest import MANIFEST
from loratory.errors import StorageError
from loratory.evaluation.baselines import Baseline, baselines
from loratory.report.tables import Table, check_price, comparison
from loratory.store.directory import counted_run, read_run
from loratory.store.record import RunRecord


def _compared(path: Path) -> RunRecord | None:
    """A run that is compared; None, with a line, where it was committed and is damaged."""
    return counted_run(path, read_run) if (path / MANIFEST).is_file() else read_run(path)


def compare(paths: Sequence[Path], *, with_baselines: bool = True, price_per_hour: float | None = None) -> Table:
    """The table of runs; the baselines stand below where all runs share one test split, else a note says why not.

    Of several runs those that are damaged are left out, with a line each.

    Raises:
        StorageError: a path holds no committed run, or none is whole.
    """
    check_price(price_per_hour)
    some = [read_run(path) for path in paths] if len(paths) == 1 else map(_compared, paths)
    found = [(path, record) for path, record in zip(paths, some, strict=True) if record is not None]
    records = [record for _, record in found]
    if not records:
        raise StorageError(f"none of these runs is whole: {', '.join(map(str, paths))}")
    documents = [{**record.to_dict(), "directory": str(path)} for path, record in found]
    shared = {record.data["digests"]["test"] for record in records}
    beside: list[Baseline] = []
    if with_baselines and any(not record.data["sizes"]["test"] for record in records):
        reason = "they are scored on the test split, and not every run has one"
        beside = [Baseline("Baselines", None, 0.0, 0, {}, reason)]
    elif with_baselines and len(shared) == 1:
        beside = baselines(dataset_of(documents[0]))
    elif with_baselines:
        beside = [Baseline("Baselines", None, 0.0, 0, {}, "they belong to one test split, and these runs have several")]
    return comparison(documents, beside, price_per_hour=price_per_hour)
