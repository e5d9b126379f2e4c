"""A record trained again: the same settings, data and model, and whether the same came out.

read ─▶ find data and model by their digests ─▶ train ─▶ compare weights, predictions, scores ─▶ say what differs
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from loratory.data import data_directory, load_source
from loratory.engine.processes import Processes
from loratory.errors import DataError, LoratoryError, ModelError, SettingsError, StorageError
from loratory.evaluation import predictions
from loratory.methods import parse_spec
from loratory.models.source import pretrained
from loratory.run import train
from loratory.spec import DataSpec, RunSpec
from loratory.store.directory import PREDICTIONS, read_run
from loratory.store.naming import Record, lookup
from loratory.store.record import Place, RunRecord
from loratory.store.surroundings import FACTS


@dataclass(frozen=True)
class Difference:
    """One thing in which the two runs differ: what, as it was in the first, and in the second."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Rerun:
    """A run and what training it again gave.

    Attributes:
        directory: of the first run.
        output: of the second, where it was kept.
        same: whether all that could be compared is the same, byte for byte.
        weights: whether each file of weights is; None where the first run's were not kept.
        tensors: those that differ, by name, with the largest difference of a number; infinite where shape or name does.
        predictions: whether they are; None where the run keeps none (a tuning run).
        logits: by split, the largest difference of a logit; none where the predictions are the same or of other rows.
        changed: by split, how many predictions are others.
        scores: those that differ, as `part metric`, with both values.
        differences: between the two in environment, code, data, model; also where the same came out.
        first, second: both records.
    """

    directory: Path
    output: Path | None
    same: bool
    weights: bool | None
    tensors: dict[str, float]
    predictions: bool | None
    logits: dict[str, float]
    changed: dict[str, int]
    scores: dict[str, tuple[float, float]]
    differences: tuple[Difference, ...]
    first: RunRecord
    second: RunRecord

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        found = {key: value for key, value in vars(self).items() if key not in ("first", "second", "differences")}
        return {
            **found,
            "directory": str(self.directory),
            "output": None if self.output is None else str(self.output),
            "scores": {name: [_finite(value) for value in both] for name, both in self.scores.items()},
            "tensors": {name: _finite(value) for name, value in self.tensors.items()},
            "differences": [asdict(one) for one in self.differences],
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
        }

    def lines(self) -> list[tuple[str, str]]:
        """What was compared, and what came of it, for a reader."""
        said = [("weights", _weights_said(self)), ("predictions", _predictions_said(self))]
        said.append(("scores", "the same" if not self.scores else f"{len(self.scores):,} differ"))
        said += [(name, f"{one:.6g} → {two:.6g} ({two - one:+.2g})") for name, (one, two) in self.scores.items()]
        return said + [(one.what, f"{one.before} → {one.after}") for one in self.differences]

    @property
    def verdict(self) -> str:
        """One line."""
        if self.same:
            parts = "weights, predictions and scores" if self.weights else "predictions and scores"
            if self.predictions is None:
                parts = "scores" if self.weights is None else "weights and scores"
            return f"{self.directory} came out the same: {parts}"
        why = ", ".join(one.what for one in self.differences)
        remedy = f"what differs: {why}" if why else "nothing recorded differs; --deterministic trains so that it would"
        return f"{self.directory} did not come out the same; {remedy}"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _weights_said(found: Rerun) -> str:
    if found.weights is None:
        return "not kept: predictions and scores alone are compared"
    if found.weights:
        return "the same bytes"
    if not found.tensors:
        return "other bytes, the same tensors"
    return f"{len(found.tensors):,} tensors differ, numbers by at most {max(found.tensors.values()):.2g}"


def _predictions_said(found: Rerun) -> str:
    if found.predictions is None:
        return "a tuning run keeps none"
    if found.predictions:
        return "the same bytes"
    if not found.logits:
        return "of other examples"
    return "; ".join(
        f"{part}: {found.changed[part]:,} others, logits by at most {apart:.2g}" for part, apart in found.logits.items()
    )


def rerun(directory: Path, *, output: Path | None = None) -> Rerun:
    """Train the run in `directory` again, and compare.

    Its data are sought by their digest: where its settings name them, from here and from every folder above the run,
    and among the texts that Python gave; so is its model. Where no bytes of that digest are found, what has the name
    is taken, and the difference is told.

    Args:
        output: where the second run is kept, with its weights, though the first one's may have been dropped; by
            default it is removed.

    Raises:
        StorageError: no completed run; or something stands in `output`.
        SettingsError: several processes trained it.
        LoratoryError: as :func:`loratory.run.train`.
    """
    first = read_run(directory)
    _check(directory, first, output)
    spec = _found(parse_spec(first.spec), first, directory)
    place = None if first.study is None else replace(Place(**first.study), runs_at_once=None)
    keep = first.weights or (output is not None and (place is None or place.stage == "final"))
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory(prefix="loratory-") if output is None else nullcontext() as folder:
            target = output if output is not None else Path(str(folder)) / "run"
            every = "never" if output is None else None
            second = train(spec, output=target, place=place, keep_weights=keep, checkpoint_every=every).record
            return _compared(directory, target, output, first, second)
    finally:
        torch.set_num_threads(threads)


def _check(directory: Path, record: RunRecord, output: Path | None) -> None:
    if record.status != "completed":
        raise StorageError(f"{directory}: the run ended as {record.status}; there is nothing to compare with")
    together = max(int(record.environment.get("processes", 1)), Processes.here().count)
    if together > 1:
        raise SettingsError(f"{directory}: {together} processes train it together, and rerun is for one; use torchrun")
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise StorageError(f"{output} is there already; choose another --output")


def _found(spec: RunSpec, record: RunRecord, directory: Path) -> RunSpec:
    """The spec with the paths where its data and its model are found by their digests now."""
    folders = [Path(), *directory.resolve().parents, data_directory() / "given"]
    return spec.model_copy(
        update={"data": _data(spec.data, str(record.data["digest"]), folders), "model": _model(spec, record, folders)}
    )


def _moved(name: str, folders: list[Path]) -> Iterator[str]:
    """The path `name`, as it stands and from each folder; of an absolute one the file's own name there."""
    yield name
    path = Path(name)
    for folder in folders[1:]:
        place = folder / (path.name if path.is_absolute() else path)
        if place.exists():
            yield str(place)


def _data(data: DataSpec, digest: str, folders: list[Path]) -> DataSpec:
    files = {part: getattr(data, part) for part in ("dataset", "validation", "test") if getattr(data, part) is not None}
    packaged = data.dataset.startswith(("hutto:", "hub:"))
    readable: DataSpec | None = None
    fault: LoratoryError | None = None
    for folder in [Path(), *([] if packaged and len(files) == 1 else folders[1:])]:
        names = {part: name if part == "dataset" and packaged else _at(name, folder) for part, name in files.items()}
        there = data.model_copy(update=names)
        if folder != Path() and there == data:
            continue
        try:
            found = load_source(there).digest
        except LoratoryError as error:
            fault = fault or error
            continue
        if found == digest:
            return there
        readable = readable or there
    if readable is None:
        raise fault or DataError(f"{data.dataset}: not found")
    return readable


def _at(name: str, folder: Path) -> str:
    """Where a file called `name` stands as seen from `folder`; `name` where it does not."""
    if folder == Path():
        return name
    place = folder / (Path(name).name if Path(name).is_absolute() else name)
    return str(place) if place.is_file() else name


def _model(spec: RunSpec, record: RunRecord, folders: list[Path]) -> str:
    readable: str | None = None
    fault: LoratoryError | None = None
    for name in _moved(spec.model, folders):
        try:
            digest = pretrained(name).digest
        except ModelError as error:
            fault = fault or error
            continue
        if digest == record.environment.get("model_digest"):
            return name
        readable = readable or name
    if readable is None:
        assert fault is not None
        raise fault
    return readable


def _compared(directory: Path, target: Path, output: Path | None, first: RunRecord, second: RunRecord) -> Rerun:
    weights, tensors = (None, {}) if not first.weights else _weights(directory, target)
    said, logits, changed = _predictions(directory, target)
    scores = _scores(first.quality, second.quality)
    same = weights is not False and said is not False and not scores
    return Rerun(
        directory, output, same, weights, tensors, said, logits, changed, scores, _differences(first, second), first,
        second,
    )  # fmt: skip


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights(one: Path, two: Path) -> tuple[bool, dict[str, float]]:
    """Whether the files of weights are the same, and which tensors are not."""
    names = sorted({path.name for place in (one, two) for path in place.glob("*.safetensors")})
    apart: dict[str, float] = {}
    same = True
    for name in names:
        if _sha256(one / name) == _sha256(two / name):
            continue
        same = False
        ours, theirs = ({} if not (place / name).is_file() else load_file(place / name) for place in (one, two))
        for key in sorted({*ours, *theirs}):
            if key not in ours or key not in theirs or ours[key].shape != theirs[key].shape:
                apart[key] = float("inf")
            elif not torch.equal(ours[key], theirs[key]):
                apart[key] = float((ours[key].double() - theirs[key].double()).abs().max())
    return same, apart


def _predictions(one: Path, two: Path) -> tuple[bool | None, dict[str, float], dict[str, int]]:
    if not (one / PREDICTIONS).is_file():
        return None, {}, {}
    if _sha256(one / PREDICTIONS) == _sha256(two / PREDICTIONS):
        return True, {}, {}
    ours, theirs = predictions.read(one / PREDICTIONS), predictions.read(two / PREDICTIONS)
    if any(part not in theirs or ours[part].logits.shape != theirs[part].logits.shape for part in ours):
        return False, {}, {}
    logits = {part: float(np.abs(ours[part].logits - theirs[part].logits).max()) for part in ours}
    changed = {
        part: int((ours[part].predictions != theirs[part].predictions).reshape(len(ours[part].rows), -1).any(1).sum())
        for part in ours
    }
    return False, logits, changed


def _scores(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The numbers in which two records' qualities differ, by part and metric."""
    ours, theirs = dict(_numbers(one)), dict(_numbers(two))
    return {name: (ours[name], theirs.get(name, float("nan"))) for name in ours if ours[name] != theirs.get(name)}


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name} {key}".strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def _differences(first: RunRecord, second: RunRecord) -> tuple[Difference, ...]:
    """What the two records differ in that decides what comes out."""
    one: Record = first.to_dict()
    two: Record = second.to_dict()
    found = [Difference(fact.title, fact.of(one), fact.of(two)) for fact in FACTS]
    if first.cohort is not None:
        found.append(Difference("training at once with others", f"{len(first.cohort['members'])} in a cohort", "alone"))
    found.append(Difference("model", *(str(lookup(each, "environment", "model_digest"))[:12] for each in (one, two))))
    for what, path in (
        ("data", ("digest",)),
        *((f"{part} split", ("digests", part)) for part in first.data["digests"]),
    ):
        found.append(Difference(what, *(str(lookup(each, "data", *path))[:12] for each in (one, two))))
    return tuple(each for each in found if each.before != each.after and each.before is not None)
