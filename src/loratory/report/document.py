"""`summary.json` as the report reads it: frozen, checked where it is read, so that damage is one clear error.

Only what the report uses is declared; other keys may stand beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from loratory.errors import StorageError

SUMMARY = "summary.json"
SCHEMA = 1
_REMEDY = "write it again from the study's runs"

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class Mean(_Part):
    """A metric over seeds: mean, and the 95% interval where there are two seeds or more."""

    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()


class Median(_Part):
    """A cost over seeds: median, smallest and largest. `kind` says which memory was measured."""

    median: float
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()
    kind: str | None = None


class Trial(_Part):
    """One learning rate that was tried, and its validation score; none where the run failed."""

    lr: float
    score: float | None = None
    status: str = "completed"
    run: str | None = None


class ExpectedBest(_Part):
    """The validation score to expect of the best of so many trials."""

    trials: int
    score: float


class Tuning(_Part):
    """How the learning rate was chosen."""

    trials: tuple[Trial, ...] = ()
    expected_best: tuple[ExpectedBest, ...] = ()


class Cell(_Part):
    """All seeds of one setting."""

    id: str
    data: str
    model: str
    method: dict[str, Any]
    approach: str
    lr: float | None = None
    seeds: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    parameters: dict[str, int] | None = None
    quality: dict[str, dict[str, Mean | None]] = {}
    cost: dict[str, Median | None] = {}
    memory_parts_bytes: dict[str, float] | None = None
    padding_share: float | None = None
    tuning: Tuning | None = None
    failed: tuple[str, ...] = ()

    def score(self, metric: str, split: str = "test") -> Mean | None:
        """The metric's mean over seeds, or None where no seed has it."""
        return self.quality.get(split, {}).get(metric)

    def parameter(self, part: str) -> int | None:
        """A number of parameters, by its name in the record."""
        return (self.parameters or {}).get(part)

    @property
    def share(self) -> float | None:
        """Trainable of all parameters."""
        total, trainable = self.parameter("total"), self.parameter("trainable")
        return trainable / total if total and trainable is not None else None


class Pair(_Part):
    """Two cells compared: `difference` is a minus b in the metric's own unit, with the interval for this pair alone."""

    a: str
    b: str
    metric: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    verdict: Verdict | None = None
    why_none: str | None = None
    seeds: int
    examples: int | None = None


class BaselineRow(_Part):
    """What needs no transformer at all; `reason` says why there is no number."""

    data: str
    name: str
    accuracy: float | None = None
    f1_macro: float | None = None
    seconds: float | None = None
    reason: str | None = None


class FrontPoint(_Part):
    """One cell on the plane of quality and cost.

    Attributes:
        on_front: no cell that costs no more is better beyond a tie.
        tied_with: cells of which this one is neither better nor worse.
    """

    cell: str
    cost: float
    quality: float
    low: float | None = None
    high: float | None = None
    on_front: bool = False
    tied_with: tuple[str, ...] = ()


class Front(_Part):
    """Quality against one cost, within one data set and model."""

    data: str
    model: str
    axis: str
    points: tuple[FrontPoint, ...] = ()

    def tied_with_cheaper(self, point: FrontPoint) -> bool:
        """Whether the point is on the front by a tie alone: a cheaper cell is as good as can be told."""
        return point.on_front and any(one.cell in point.tied_with and one.cost < point.cost for one in self.points)


class Observation(_Part):
    """A sentence that the statistics allow, and the cells it speaks of."""

    text: str
    cells: tuple[str, ...] = ()
    verdict: str | None = None


class FailedRun(_Part):
    """A run that did not complete."""

    run: str
    cell: str
    stage: Literal["tuning", "final"] = "final"
    status: str
    error: str | None = None


class Study(_Part):
    """The whole of `summary.json`."""

    name: str
    select: Literal["accuracy", "f1_macro", "f1_weighted", "mcc", "log_loss", "ece"] = "accuracy"
    margin: float
    seeds: tuple[int, ...] = ()
    confidence: float = 0.95
    complete: bool = True
    missing: int = 0
    failed: tuple[FailedRun, ...] = ()
    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...] = ()
    baselines: tuple[BaselineRow, ...] = ()
    fronts: tuple[Front, ...] = ()
    observations: tuple[Observation, ...] = ()
    environment: dict[str, Any] | None = None
    data: tuple[dict[str, Any], ...] = ()

    def cell(self, name: str) -> Cell:
        """The cell with this id."""
        return next(cell for cell in self.cells if cell.id == name)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The cells by data set and model, in the order of the plan."""
        keys = dict.fromkeys((cell.data, cell.model) for cell in self.cells)
        return tuple(
            Group(
                key=f"g{number}",
                data=data,
                model=model,
                cells=tuple(cell for cell in self.cells if (cell.data, cell.model) == (data, model)),
            )
            for number, (data, model) in enumerate(keys, start=1)
        )


class Group(_Part):
    """The cells that compare: those of one data set and one model."""

    key: str
    data: str
    model: str
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        """As a heading has it."""
        return f"{self.data} with {self.model}"

    @property
    def ids(self) -> frozenset[str]:
        """The cells' ids."""
        return frozenset(cell.id for cell in self.cells)


def read_summary(directory: Path) -> dict[str, Any]:
    """The document in the study's directory.

    Raises:
        StorageError: there is none, or it is not JSON.
    """
    path = directory / SUMMARY
    try:
        document = json.loads(path.read_text("utf8"))
    except FileNotFoundError:
        raise StorageError(_no_study(directory)) from None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read ({type(error).__name__}: {error}); {_REMEDY}") from None
    if not isinstance(document, dict):
        raise StorageError(f"{path}: not a study's summary; {_REMEDY}")
    return document


def _no_study(directory: Path) -> str:
    if (directory / "run.json").is_file():
        return f"{directory} is a run, not a study; `loratory compare {directory}` shows it"
    if directory.is_dir() and any(directory.glob("*/run.json")):
        return f"{directory} holds runs, not a study; `loratory compare {directory}/*` shows them side by side"
    return f"{directory} holds no study (no {SUMMARY}); give a directory that `loratory study run` wrote"


def parse(document: Mapping[str, Any], where: Path) -> Study:
    """The study that `document` describes.

    Args:
        where: the directory it belongs to, for the error.

    Raises:
        StorageError: a key is missing, a value is not of its kind, or another version wrote it.
    """
    if document.get("schema") != SCHEMA:
        raise StorageError(f"{where / SUMMARY}: schema {document.get('schema')!r}, not {SCHEMA}; {_REMEDY}")
    try:
        study = Study.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"{where / SUMMARY}: damaged at {key} ({first['msg']}); {_REMEDY}") from None
    known = [cell.id for cell in study.cells]
    named = {name for pair in study.pairs for name in (pair.a, pair.b)}
    named |= {point.cell for front in study.fronts for point in front.points}
    named |= {name for one in study.observations for name in one.cells} | {run.cell for run in study.failed}
    if len(set(known)) < len(known) or named - set(known):
        strange = sorted(named - set(known)) or known
        raise StorageError(f"{where / SUMMARY}: damaged: cells {', '.join(strange)} are unknown or twice; {_REMEDY}")
    return study
