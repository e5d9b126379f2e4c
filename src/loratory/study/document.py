"""What a study says, as one value: `summary.json`. Every page and table is made from it and the runs beside it.

StudyRuns ─▶ summarise ─▶ Summary ─▶ write ─▶ summary.json ─▶ read ─▶ Summary ─▶ report

Its parts are in :mod:`loratory.study.parts`. It is checked where it is read, so that damage is one clear error there
and none further on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from loratory.disk.files import write_durably
from loratory.disk.json_text import parsed
from loratory.errors import DamagedError, StorageError
from loratory.evaluation.metrics import METRICS
from loratory.problems import Problem, problem_in
from loratory.store.directory import RECORD
from loratory.study.layout import SEAL, SUMMARY, agrees, as_json, sealed
from loratory.study.parts import (
    BaselineSummary,
    CellSummary,
    FailedRun,
    Front,
    GroupKey,
    Observation,
    Pair,
    size_of,
)
from loratory.study.spec import TuneSeeds

SCHEMA = 2
_REMEDY = "write it again from the study's runs"


@dataclass(frozen=True)
class Group:
    """The cells that compare: those of one data set, one model and one size of the training set."""

    key: str
    """Its name in a page: g1, g2 …"""
    data: str
    model: str
    limit: int | None
    cells: tuple[CellSummary, ...]
    size: str
    """What its cells were trained on, in words; "" where the study has one size only."""

    @property
    def title(self) -> str:
        """As a heading has it."""
        return f"{self.data} with {self.model}" + (f", {self.size}" if self.size else "")

    @property
    def ids(self) -> frozenset[str]:
        """The cells' ids."""
        return frozenset(cell.id for cell in self.cells)


@with_config(ConfigDict(strict=True, extra="ignore", allow_inf_nan=False))  # for its parts too, where it is read
@dataclass(frozen=True)
class Summary:
    """A study, summarised."""

    name: str
    select: str
    """The metric, a key of METRICS, by which rates were chosen and cells are compared."""
    margin: float
    """The difference in that metric, in its own unit, that counts as none."""
    seeds: tuple[int, ...]
    tune_seeds: TuneSeeds
    """Who chose the rates: each seed for itself, or the first for all."""
    confidence: float
    complete: bool
    """No run is missing."""
    missing: int
    failed: tuple[FailedRun, ...]
    cells: tuple[CellSummary, ...]
    pairs: tuple[Pair, ...]
    baselines: tuple[BaselineSummary, ...]
    fronts: tuple[Front, ...]
    observations: tuple[Observation, ...]
    environment: Mapping[str, Any] | None
    """Of the first final run."""
    data: tuple[Mapping[str, Any], ...]
    """`data` of a run's record for each data set, with the name it has in the study as `dataset`; where the study has
    several sizes of the training set for each of them, with its `limit`."""
    price_per_hour: float | None = None
    """Of the device, in any currency: times are then money, too."""
    folds: int | None = None
    """How many folds each seed has, whose tests together cover every example; None where the test is one for all."""
    schema: int = SCHEMA

    @property
    def problem(self) -> Problem:
        """What the labels are, the same in all data sets."""
        return problem_in(self.data[0].get("problem")) if self.data else METRICS[self.select].problems[0]

    @property
    def lone_seed(self) -> bool:
        """Whether it has one seed and no folds, so that no number has a spread and no pair a verdict."""
        return len(self.seeds) == 1 and self.folds is None

    @property
    def halved(self) -> bool:
        """Whether rates were dropped by successive halving, so that trials differ in their epochs."""
        return any(cell.tuning.rungs for cell in self.cells)

    @property
    def several_rates(self) -> bool:
        """Whether the seeds, or folds, of some cell chose different rates: it then has ×2 for what two chose."""
        return any(len(cell.tuning.chosen) > 1 for cell in self.cells)

    def cell(self, name: str) -> CellSummary:
        """The cell with this id."""
        return next(cell for cell in self.cells if cell.id == name)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The cells by data set, model and size, in the order of the plan."""
        members: dict[GroupKey, list[CellSummary]] = {}
        for cell in self.cells:
            members.setdefault(cell.group, []).append(cell)
        return tuple(
            Group(f"g{number}", *key, tuple(cells), size_of(cells) if self.sized else "")
            for number, (key, cells) in enumerate(members.items(), start=1)
        )

    @cached_property
    def sized(self) -> bool:
        """Whether its cells were trained on several sizes of the training set."""
        return len({cell.limit for cell in self.cells}) > 1

    def to_dict(self) -> dict[str, Any]:
        """The document as it is stored: JSON types only."""
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        return document

    def to_json(self) -> str:
        """The stored text."""
        return as_json(self.to_dict())

    def write(self, directory: Path) -> Path:
        """Store it in the study's directory, over an older one; the file is whole or as it was.

        Raises:
            StorageError: the disk refuses.
        """
        write_durably(directory / SUMMARY, as_json(sealed(self.to_dict())))
        return directory / SUMMARY

    @classmethod
    def read(cls, directory: Path) -> Summary:
        """The summary in the study's directory, checked; keys that it does not know are passed over.

        Raises:
            StorageError: there is none, it is damaged (the key is named), or another version wrote it.
        """
        path = directory / SUMMARY
        try:
            text = path.read_text("utf8")
            document = parsed(text)
        except (FileNotFoundError, NotADirectoryError):
            raise StorageError(_no_study(directory)) from None
        except (OSError, ValueError) as error:
            raise StorageError(f"{path}: cannot be read ({type(error).__name__}: {error}); {_REMEDY}") from None
        if not isinstance(document, dict):
            raise StorageError(f"{path}: not a study's summary; {_REMEDY}")
        if not agrees(document):
            raise DamagedError(f"{path}: damaged: it differs from its own {SEAL}; {_REMEDY}")
        if (schema := document.get("schema")) != SCHEMA:
            raise StorageError(f"{path}: schema {schema!r}, not {SCHEMA}; {_REMEDY}")
        try:
            found = _reader().validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise StorageError(f"{path}: damaged at {key} ({first['msg']}); {_REMEDY}") from None
        _check_names(found, path)
        return found


@cache
def _reader() -> TypeAdapter[Summary]:
    return TypeAdapter(Summary)


def _check_names(summary: Summary, path: Path) -> None:
    """Refuse a metric that is none, cells that are there twice, and mentions of cells that are not there."""
    if summary.select not in METRICS:
        raise StorageError(f"{path}: damaged at select ({summary.select!r} is no metric); {_REMEDY}")
    for one in summary.data:
        try:
            problem_in(one.get("problem"))
        except ValueError as error:
            raise StorageError(f"{path}: damaged at data ({error}); {_REMEDY}") from None
    known = [cell.id for cell in summary.cells]
    named = {name for pair in summary.pairs for name in (pair.a, pair.b)}
    named |= {point.cell for front in summary.fronts for point in front.points}
    named |= {name for one in summary.observations for name in one.cells} | {run.cell for run in summary.failed}
    twice = {name for name in known if known.count(name) > 1}
    if strange := sorted(named - set(known) | twice):
        raise StorageError(f"{path}: damaged: cells {', '.join(strange)} are unknown or twice; {_REMEDY}")


def _no_study(directory: Path) -> str:
    if (directory / RECORD).is_file():
        return f"{directory} is a run, not a study; `loratory compare {directory}` shows it"
    if directory.is_dir() and any(directory.glob(f"*/{RECORD}")):
        return f"{directory} holds runs, not a study; `loratory compare {directory}/*` shows them side by side"
    return f"{directory} holds no study (no {SUMMARY}); give a directory that `loratory study run` wrote"
