"""What a page shows of the run directories themselves: records, learning curves, each prediction on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loratory.disk.json_text import parsed
from loratory.errors import StorageError
from loratory.evaluation import predictions
from loratory.evaluation.measures import ECE_BINS, log_softmax
from loratory.evaluation.predictions import Predictions
from loratory.inputs import Inputs
from loratory.problems import SINGLE, Problem
from loratory.store.directory import HISTORY, PREDICTIONS, counted_run
from loratory.store.record import RunRecord
from loratory.study.document import Summary
from loratory.study.folds import pooled
from loratory.study.layout import RUNS
from loratory.study.parts import CellSummary


@dataclass(frozen=True)
class Bin:
    """One bin of confidence: mean confidence and accuracy of the predictions in it, and their share of all."""

    confidence: float
    accuracy: float
    share: float


@dataclass(frozen=True, eq=False)
class CellEvidence:
    """What the S finished runs of a cell left; N test examples, C classes.

    Attributes:
        labels: class names in the order of their numbers.
        histories: each run's rows, one an epoch, seeds in order.
        tests: each seed's test predictions, of folds all together, in the order of the source's rows.
    """

    labels: tuple[str, ...]
    histories: tuple[tuple[dict[str, Any], ...], ...]
    tests: tuple[Predictions, ...]

    @cached_property
    def confusion(self) -> npt.NDArray[np.float64]:
        """(C, C) examples, true classes by predicted ones, mean over seeds."""
        classes = len(self.labels)
        total = np.zeros((classes, classes))
        for test in self.tests:
            np.add.at(total, (test.labels, test.predictions), 1)
        return total / max(1, len(self.tests))

    @cached_property
    def right(self) -> npt.NDArray[np.int64]:
        """(N,) how many seeds predict the true class, or all labels and no other."""
        counts: npt.NDArray[np.int64] = np.sum([self._correct(test) for test in self.tests], axis=0)
        return counts

    @property
    def problem(self) -> Problem:
        """What the labels are."""
        return self.tests[0].problem

    @staticmethod
    def _correct(test: Predictions) -> npt.NDArray[np.bool_]:
        right = test.predictions == test.labels
        whole: npt.NDArray[np.bool_] = right.all(axis=-1) if right.ndim == 2 else right
        return whole

    @cached_property
    def of_labels(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where a text may have several labels, of each (C,): hits, true examples and predicted ones of all seeds."""
        pairs = [(test.labels, test.predictions) for test in self.tests]
        hits = sum((true * said).sum(axis=0) for true, said in pairs)
        return np.asarray(hits), *(np.sum([one[at].sum(axis=0) for one in pairs], axis=0) for at in (0, 1))

    @cached_property
    def reliability(self) -> tuple[Bin, ...]:
        """Confidence against accuracy in the bins of the ECE, all seeds' predictions together; empty bins left out.

        Of single labels alone: the others have no confidence in one class.
        """
        if self.problem != SINGLE:
            return ()
        confidence = np.concatenate([np.exp(log_softmax(test.logits).max(axis=1)) for test in self.tests])
        correct = np.concatenate([test.predictions == test.labels for test in self.tests])
        bins = np.digitize(confidence, np.linspace(0.0, 1.0, ECE_BINS + 1)[1:-1], right=True)
        sizes, confidences, rights = (
            np.bincount(bins, weights=weights, minlength=ECE_BINS) for weights in (None, confidence, correct)
        )
        return tuple(
            Bin(float(confidences[i] / sizes[i]), float(rights[i] / sizes[i]), float(sizes[i] / len(bins)))
            for i in range(ECE_BINS)
            if sizes[i]
        )


@dataclass(frozen=True)
class Evidence:
    """What was found below a study's `runs`.

    Attributes:
        records: the record of every run that the summary names and whose directory is there, by id.
        cells: of each cell with such a finished run, by id.
        absent: ids of finished runs that the summary names and whose directory is not there, or is damaged.
        inputs: reads what the runs learned from, once.
    """

    records: dict[str, RunRecord]
    cells: dict[str, CellEvidence]
    absent: tuple[str, ...]
    inputs: Inputs = field(default_factory=Inputs, compare=False)

    def of(self, cells: Sequence[CellSummary]) -> dict[str, CellEvidence]:
        """The evidence of these cells, in their order."""
        return {cell.id: self.cells[cell.id] for cell in cells if cell.id in self.cells}


def gather(directory: Path, study: Summary, inputs: Inputs | None = None) -> Evidence:
    """Read the runs of `study` in `directory`.

    Args:
        inputs: what was read for the study before.

    Raises:
        StorageError: a file of a run cannot be read, or is of another study.
    """
    root = directory / RUNS
    trials = [trial.run for cell in study.cells for trial in cell.tuning.trials]
    names = [*trials, *(name for cell in study.cells for name in (*cell.runs, *cell.failed))]
    found = {name: counted_run(root / name) for name in dict.fromkeys(names) if _is_there(root, name)}
    records = {name: record for name, record in found.items() if record is not None}
    finished = [name for cell in study.cells for name in cell.runs]
    cells = {
        cell.id: _cell_evidence(root, [records[name] for name in cell.runs if name in records])
        for cell in study.cells
        if any(name in records for name in cell.runs)
    }
    absent = tuple(name for name in finished if name not in records)
    return Evidence(records, cells, absent, inputs or Inputs())


def _is_there(root: Path, name: str) -> bool:
    if Path(name).name != name:
        raise StorageError(f"{root}: a run called {name!r} cannot be there; write the summary again")
    return (root / name).is_dir()


def _cell_evidence(root: Path, records: Sequence[RunRecord]) -> CellEvidence:
    labels, tests = records[0].labels, dict[tuple[Any, Any], Predictions]()
    for record in records:
        path = root / record.id / PREDICTIONS
        test = predictions.read(path).get("test")
        if test is None or record.labels != labels or test.logits.shape[1] != len(labels):
            raise StorageError(f"{path}: no test split with the classes of {records[0].id}; train the run again")
        tests[record.spec.get("seed"), (record.spec.get("data") or {}).get("fold")] = test
    by_seed = {seed: {fold: test for (one, fold), test in tests.items() if one == seed} for seed, _ in tests}
    most = max(map(len, by_seed.values()))  # a seed without some fold's run cannot stand beside the others
    whole = [pooled(list(one.values()), list(one)).test for one in by_seed.values() if len(one) == most]
    return CellEvidence(labels, tuple(_history(root / record.id / HISTORY) for record in records), tuple(whole))


def _history(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        rows = [parsed(line) for line in path.read_text("utf8").splitlines()]
        for row in rows:
            float(row["train_seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: damaged ({type(error).__name__}: {error}); train the run again") from None
    return tuple(rows)
