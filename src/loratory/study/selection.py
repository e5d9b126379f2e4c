"""Choosing a learning rate for a cell from trials of one seed, and keeping what was chosen from what.

A selection is written to disk before any run that it chose sees the test split. Such a run's record names the
selection by the SHA-256 of its content, which holds the trials' runs and scores: so the choice was made first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.disk.files import write_durably
from loratory.errors import StorageError
from loratory.evaluation.metrics import Metric
from loratory.store.record import RunRecord
from loratory.study.layout import SCHEMA, SELECTIONS, as_json, digest_of, plain_name, read_json
from loratory.study.spec import Cell


@dataclass(frozen=True)
class Tried:
    """One rate and its finished run."""

    lr: float
    record: RunRecord
    epochs: int | None = None
    """How many it was trained, where the trials differ in that."""

    def score(self, metric: Metric) -> float | None:
        """What validation gave; None where the run did not complete."""
        value = self.record.quality.get("validation", {}).get(metric.name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class Selection:
    """What was chosen for seeds of one cell."""

    digest: str
    """The first 12 digits of the SHA-256 of its file."""
    lr: float


@dataclass(frozen=True)
class Kept:
    """A selection as it lies on disk."""

    path: Path
    lr: float
    """The chosen rate."""
    tried: Mapping[str, tuple[int | None, float, float | None]]
    """The epochs (None where they do not differ), the rate and the score of each trial, by its run; none where there
    was nothing to choose."""

    def follows(self, metric: Metric) -> bool:
        """Whether the choice is the best of its trials, and, where there are rungs, whether those that went on to each
        are the best of the one before."""
        if not self.tried:
            return True
        rungs: dict[int | None, list[tuple[float, float | None]]] = {}
        for epochs, lr, score in self.tried.values():
            rungs.setdefault(epochs, []).append((lr, score))
        found = [rungs[epochs] for epochs in sorted(rungs, key=lambda epochs: epochs or 0)]
        gone_on = [{lr for lr, _ in rung} for rung in found[1:]]
        best = [set(ranked(before, metric)[: len(after)]) for before, after in zip(found, gone_on, strict=False)]
        return best == gone_on and choose(found[-1], metric) == self.lr


def read_selection(directory: Path, digest: str) -> Kept:
    """The selection that `digest` names, in the study's directory.

    Raises:
        StorageError: it is missing, damaged, or not what its name says.
        ValueError: the name would lead elsewhere.
    """
    path = directory / SELECTIONS / f"{plain_name(digest)}.json"
    remedy = "run the study again, or restore it from a copy"
    document = read_json(path, remedy=remedy)
    if digest_of(path.read_text("utf8")) != digest:
        raise StorageError(f"{path} is not what its name says: it was changed; {remedy}")
    try:
        tried = {str(one["run"]): (one.get("epochs"), float(one["lr"]), one["score"]) for one in document["trials"]}
        lr = document["chosen"]["lr"]
        if isinstance(lr, bool) or not isinstance(lr, int | float):
            raise TypeError(f"the chosen lr is {lr!r}")
        return Kept(path, float(lr), tried)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} is damaged ({type(error).__name__}: {error}); {remedy}") from None


def choose(scores: Iterable[tuple[float, float | None]], metric: Metric) -> float | None:
    """The rate with the best validation score, the smaller one of equals; None where no trial completed.

    Args:
        scores: each rate, and its score; None where its run did not complete.
    """
    return next(iter(ranked(scores, metric)), None)


def ranked(scores: Iterable[tuple[float, float | None]], metric: Metric) -> list[float]:
    """The rates whose trial completed, the best validation score first, of equals the smaller rate.

    Args:
        scores: as :func:`choose`.
    """
    sign = -1 if metric.higher_is_better else 1
    completed = [(sign * score, lr) for lr, score in scores if score is not None]
    return [lr for _, lr in sorted(completed)]


def keep(
    directory: Path,
    cell: Cell,
    metric: Metric,
    trials: Sequence[Tried],
    lr: float,
    *,
    write: Callable[[Path, str], None] = write_durably,
) -> Selection:
    """Write the selection of `lr` for `cell` into the study's directory.

    Args:
        trials: what it was chosen from; none where there was nothing to choose.
        write: writes its file, as the holder of the directory.

    Raises:
        StorageError: the disk refuses.
    """
    tried = [
        {
            "lr": one.lr,
            **({} if one.epochs is None else {"epochs": one.epochs}),
            "run": one.record.id,
            "status": one.record.status,
            "score": one.score(metric),
        }
        for one in trials
    ]
    document = {
        "schema": SCHEMA,
        "cell": cell.describe(),
        "select": metric.name,
        "seed": trials[0].record.spec["seed"] if trials else None,  # not those it is for: with more it stays the same
        "trials": tried,
        "chosen": {"lr": lr},
    }
    text = as_json(document)
    digest = digest_of(text)
    path = directory / SELECTIONS / f"{digest}.json"
    if not path.is_file() or path.read_bytes() != text.encode():  # one that was changed is no selection
        write(path, text)
    return Selection(digest, lr)
