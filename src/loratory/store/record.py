"""`run.json`: what was asked for, what was done, what it cost, how good it became."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from loratory.disk.json_text import parsed
from loratory.errors import StorageError
from loratory.problems import Problem, problem_in

SCHEMA = 1
_AGAIN = "if another version wrote it, train again with this one"

Stage = Literal["tuning", "final"]
Status = Literal["completed", "failed", "out_of_memory", "diverged", "interrupted"]


MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "rest")
"""What `cost.memory_parts_bytes` is made of, in order."""

TIME_PARTS = ("forward", "backward", "optimizer", "communication", "data", "gaps")
"""What `cost.time_parts_seconds` is made of, in order; `communication` where several processes train."""


@dataclass(frozen=True)
class Place:
    """A run's place in a study."""

    stage: Stage
    """Tuning runs choose a setting and never see the test split; final runs are scored on it."""
    selection: str | None = None
    """Of a final run: the selection, written before, that chose its setting (12 digits of its SHA-256)."""
    runs_at_once: int | None = None
    """At most how many of the study's runs, this one among them, its device (one GPU, or the CPU) had at once while it
    ran, a cohort counted as one: promised by the launcher before it began. None where nobody knows. No part of what
    makes the run this run."""
    apart: str | None = None
    """Why it was trained alone though it was to be in a cohort; None where it was not to be. No part of it either."""

    @property
    def sees(self) -> tuple[str, ...]:
        """The parts of the data that the run may see."""
        return ("train", "validation") if self.stage == "tuning" else ("train", "validation", "test")


@dataclass(frozen=True)
class RunRecord:
    """One run. Its parts are documented where they are made: spec, dataset, counts, meter, quality, hardware."""

    id: str
    fingerprint: str
    """SHA-256 over spec, data, model, code version, device and library versions: equal ones are the same run."""
    status: Status
    spec: dict[str, Any]
    data: dict[str, Any]
    parameters: dict[str, int]
    cost: dict[str, Any]
    quality: dict[str, Any]
    environment: dict[str, Any]
    error: str | None = None
    study: dict[str, Any] | None = None
    """Its :class:`Place` in a study; None outside of one."""
    weights: bool = True
    """Whether a run that completed left its weights."""
    cohort: dict[str, Any] | None = None
    """Of a run that trained at once with others: their names, and its share of what all of them took; see
    :class:`loratory.engine.share.Share`. Then `cost` says what it takes alone."""
    schema: int = field(default=SCHEMA)

    def __repr__(self) -> str:
        """In short: id, status, method, model, and the score that its epochs were judged by, on test or else on
        validation; every field stands in :meth:`to_dict`."""
        method = (self.spec.get("method") or {}).get("name")
        said = f"{self.id!r}, {self.status}, method={method!r}, model={self.spec.get('model')!r}"
        metric = (self.spec.get("training") or {}).get("select")
        for part in ("test", "validation"):
            if (score := (self.quality.get(part) or {}).get(metric)) is not None:
                return f"RunRecord({said}, {part} {metric}={score:.4g})"
        return f"RunRecord({said})"

    def to_dict(self) -> dict[str, Any]:
        """The document as it is stored."""
        return asdict(self)

    def to_json(self) -> str:
        """The stored text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in id order."""
        return tuple(str(label) for label in self.data["labels"])

    @property
    def adapted(self) -> bool:
        """Whether its weights are an adapter's; else they are a whole model's."""
        return self.parameters.get("adapter", 0) > 0

    @property
    def epochs(self) -> int | None:
        """How many epochs it was to train; None where its spec does not say."""
        training = self.spec.get("training") or {}
        return training.get("until") or training.get("epochs")

    @property
    def seconds(self) -> float:
        """How long it took, all in all; of one that trained in a cohort its share of that. 0 where nobody knows."""
        if self.cohort is not None:
            return float(sum(self.cohort["share_seconds"].values()))
        return float(self.cost.get("total_seconds") or 0.0)

    @property
    def problem(self) -> Problem:
        """What its labels are."""
        return problem_in(self.data.get("problem"))

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The probability from which each label is predicted, where a text may have several; chosen on validation."""
        found = self.quality.get("validation", {}).get("thresholds")
        return None if found is None else tuple(map(float, found))

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """The record in `path`.

        Raises:
            StorageError: not a record, or of another schema.
        """
        try:
            document = parsed(path.read_text("utf8"))
            record = cls(**document)
            problem_in(record.data.get("problem"))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StorageError(f"{path}: not a run's record ({type(error).__name__}: {error}); {_AGAIN}") from error
        if record.schema != SCHEMA or record.status not in get_args(Status):
            raise StorageError(f"{path}: schema {record.schema}, status {record.status!r}; {_AGAIN}")
        return record
