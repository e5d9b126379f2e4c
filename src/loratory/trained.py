"""What is done with a trained model: open it, evaluate it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from loratory.data import Dataset, Labelled, load_source, make_dataset, shared
from loratory.data.columns import Coded, Text, are_pairs
from loratory.data.packaged import given_digest
from loratory.data.targets import Numbers, Target, as_array, as_targets, listed
from loratory.data.tokens import encode
from loratory.engine.hardware import Hardware
from loratory.engine.predict import predict as predict_logits
from loratory.errors import DataError, LoratoryError, SettingsError, StorageError, counted
from loratory.evaluation.metrics import score
from loratory.evaluation.quality import AnyQuality
from loratory.methods import parse_spec
from loratory.models.flat import Classifier
from loratory.models.load import Base, Bases, load_state, load_trained
from loratory.models.pth import Card, read_pth
from loratory.problems import FLAG_OF, IN_WORDS, MULTI, SINGLE, Problem, Targets
from loratory.setup import quantized
from loratory.spec import DataSpec, HardwareSpec, validated
from loratory.store.directory import read_run
from loratory.store.record import RunRecord

if TYPE_CHECKING:
    pass

log = logging.getLogger("loratory")


@dataclass(frozen=True)
class Trained:
    """A trained model, ready to use."""

    base: Base
    labels: tuple[str, ...]
    """Class names in id order."""
    data: DataSpec
    """The data it was trained on."""
    hardware: Hardware
    digests: Mapping[str, str]
    """SHA-256 of that data's `source` and of its `train` split; none where a `.pth` file does not say."""
    problem: Problem = SINGLE
    thresholds: NDArray[np.float64] | None = None
    """(C,) from which probability each label is predicted, where a text may have several; chosen on validation."""

    def logits(self, texts: Sequence[Text]) -> Tensor:
        """Logits (N, C) of N texts or pairs, in their order; of a regression the numbers (N, 1).

        Raises:
            DataError: they are pairs and the model was trained on single texts, or the other way round.
        """
        check_kind(self.data, pairs=are_pairs(texts), as_values=True)
        table = encode(texts, self.base.tokenizer, self.data.max_length, types=self.base.types)
        return self._logits(Labelled(table, np.zeros(len(table), dtype=np.int64)))

    def _logits(self, data: Labelled) -> Tensor:
        classifier = Classifier(self.base.model, self.base.family, self.base.pad_id)
        return predict_logits(classifier, data, hardware=self.hardware)


def check_kind(learned: DataSpec, *, pairs: bool, as_values: bool = False) -> None:
    """Refuse pairs for a model of single texts, which `learned` says, and single texts for one of pairs.

    Args:
        as_values: whether the texts were given as a list, and not in a table's columns.

    Raises:
        DataError: says what to give.
    """
    if learned.pair_column is not None and not pairs:
        table = "give a table with both columns (of predict: --input FILE) and --pair-column NAME"
        remedy = "give tuples of two texts" if as_values else table
        raise DataError(f"the model was trained on pairs of texts, and these are single ones; {remedy}")
    if learned.pair_column is None and pairs:
        remedy = "give strings" if as_values else "leave out --pair-column"
        raise DataError(f"the model was trained on single texts, and these are pairs; {remedy}")


@dataclass(frozen=True)
class Evaluation:
    """How good a trained model is on one split."""

    path: Path
    dataset: str
    """The data set, or the file of the split where it has one of its own."""
    split: str
    quality: AnyQuality
    trained_on: int | None
    """Examples whose normalised text stands in the run's training split; None where that cannot be read again."""

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "model_path": str(self.path),
            "dataset": self.dataset,
            "split": self.split,
            "examples": self.quality.examples,
            "trained_on": self.trained_on,
            "quality": self.quality.record(),
        }


def open_trained(
    path: Path, *, hardware: HardwareSpec, model: str | None = None, data: DataSpec | None = None
) -> Trained:
    """Load a run's directory, or a `.pth` file.

    Args:
        model: for a `.pth` without its card: the base whose architecture the tensors have (default: minilm).
        data: for a `.pth` without its card: the data whose labels it predicts (default: hutto:movies).

    Raises:
        ModelError, SafetyError, StorageError: it cannot be opened, or should not be.
    """
    check_there(path)
    if path.suffix == ".pth":
        return _open_pth(path, hardware, model, data)
    return open_run(path, with_weights(path), hardware=hardware)


def check_there(path: Path) -> None:
    """Refuse a path of a trained model where nothing is.

    Raises:
        StorageError: says what to give.
    """
    if not path.exists():
        exported = f"; `loratory export --model-path RUN --output {path}` makes it from a run's directory"
        raise StorageError(
            f"{path} does not exist{exported if path.suffix == '.pth' else '; give a run directory or a .pth file'}"
        )


def open_run(path: Path, record: RunRecord, *, hardware: HardwareSpec, bases: Bases | None = None) -> Trained:
    """The run in `path`, whose record was read by :func:`with_weights`.

    Args:
        bases: what gives an adapter's base, where several share it.

    Raises:
        LoratoryError: as :func:`load_run`; or the device is not there.
    """
    where = Hardware.of(hardware)
    base = load_run(path, record, bases=bases, hardware=where)
    base.to(where.device)
    data = parse_spec(record.spec).data
    return Trained(
        base,
        record.labels,
        data,
        where.suited(base.family, hardware),
        digests_of(record),
        record.problem,
        _cuts(record.thresholds),
    )


def _cuts(thresholds: Sequence[float] | None) -> NDArray[np.float64] | None:
    return None if thresholds is None else np.array(thresholds)


def with_weights(path: Path) -> RunRecord:
    """The record of a run that has its weights, once every file agrees with its manifest.

    Raises:
        StorageError: it did not complete, its weights were not kept, or a file is damaged.
    """
    record = read_run(path)
    if record.status != "completed":
        raise StorageError(f"{path}: the run ended as {record.status} and has no weights ({record.error})")
    if not record.weights:
        raise StorageError(f"{path}: the run's weights were not kept; train it again, or keep them in the study (keep)")
    return record


def digests_of(record: RunRecord) -> dict[str, str]:
    """SHA-256 of the data's `source` and of its `train` split, as :class:`Trained` and `.pth` cards hold them."""
    return {"source": record.data["digest"], "train": record.data["digests"]["train"]}


def load_run(
    path: Path,
    record: RunRecord,
    *,
    merge: bool = False,
    flat_tokens: bool = True,
    bases: Bases | None = None,
    hardware: Hardware | None = None,
) -> Base:
    """The model of the run in `path`, as :func:`loratory.models.load.load_trained` gives it.

    Args:
        hardware: where a quantised base is to be; by default on whatever is there.

    Raises:
        ResourceError: the run's base is quantised, and there is no CUDA device or no bitsandbytes.
        ModelError: the weights are damaged; or the adapter's base has other weights, another configuration or another
            tokenizer than the one it was trained on.
    """
    spec = parse_spec(record.spec)
    return load_trained(
        path,
        adapter=record.adapted,
        model=spec.model,
        labels=record.labels,
        problem=record.problem,
        merge=merge,
        flat_tokens=flat_tokens,
        bases=bases,
        quantization=quantized(spec, hardware),
        digest=str(record.environment["model_digest"]),
    )


def _open_pth(path: Path, hardware: HardwareSpec, model: str | None, data: DataSpec | None) -> Trained:
    state = read_pth(path)
    card = Card.read(path.with_suffix(".json"))
    if card is not None:
        card.check(path)
    spec = validated(DataSpec, card.data) if card is not None else data or DataSpec()
    name = model or (card.model if card is not None else "minilm")
    if card is None:
        log.warning(
            "%s: no %s beside it, which says its base and labels (`loratory export` writes both files); "
            "taken for %s with the labels of %s",
            *(path, path.with_suffix(".json").name, name, spec.dataset),
        )
    if card is not None:
        labels, problem, thresholds = card.labels, card.problem, card.thresholds
    else:
        dataset = make_dataset(spec)
        labels, problem, thresholds = tuple(map(str, dataset.labels)), dataset.problem, None
        if problem == MULTI:
            log.warning("%s: nothing says from which probability on a label is predicted; 0.5 is taken", path)
            thresholds = (0.5,) * len(labels)
    base = load_state(state, name=name, labels=labels, problem=problem, where=str(path))
    where = Hardware.of(hardware).suited(base.family, hardware)
    base.model.to(where.device)
    return Trained(base, labels, spec, where, card.digests if card is not None else {}, problem, _cuts(thresholds))


def evaluate(
    path: Path, trained: Trained, *, given: Mapping[str, Any] = MappingProxyType({}), split: str = "test"
) -> Evaluation:
    """Score a trained model on one split of its own data, or of the data that `given` names.

    The data it was trained on is known by its content, whatever its file is called now, and is divided as it was then.
    A split that has a file of its own, and a data set that is one file the model was not trained on, are scored whole.

    Args:
        given: fields of :class:`DataSpec` that differ from the run's.

    Raises:
        SettingsError: no such split.
        DataError: the data has a label the model does not know, or no such split.
    """
    if split not in ("train", "validation", "test"):
        raise SettingsError(f"--split {split!r}: give train, validation or test")
    named = trained.data.model_copy(update={"dataset": given.get("dataset", trained.data.dataset)})
    learned = _read_as(named, trained)
    own = "dataset" not in given or _is_source(learned, trained)
    spec = validated(DataSpec, {**(learned.model_dump() if own else {"max_length": learned.max_length}), **given})
    check_kind(trained.data, pairs=spec.pair_column is not None, as_values=given_digest(spec.dataset) is not None)
    spec = _read_as(spec, trained)
    source = learned if own else trained.data
    then = divided_then(source, trained.digests)
    where = spec.where(split)
    if where != spec.dataset or (spec.is_one_file and not own):
        alone = spec.model_copy(update={"dataset": where, "validation": None, "test": None})
        found = load_source(_read_as(alone, trained))
        shown = split if where != spec.dataset else "all rows"
        texts: Sequence[Text] = found.parts["all"].texts
        targets, problem = found.parts["all"].labels, found.problem
    else:
        dataset = then if then is not None and spec == source else make_dataset(spec)
        part, shown = dataset.split(split), split
        if not len(part):
            raise DataError(f"{where}: it has no {split} split (--test-fraction 0); score another split, or other data")
        texts, targets, problem = part.texts, as_targets(part.labels, dataset.labels), dataset.problem
    labels = _as_trained(targets, problem, trained, where)
    seen = None if then is None else shared(texts, then.train.texts)
    if seen is None:
        log.warning("%s: whether the model was trained on these texts cannot be checked: %s", where, _GONE)
    elif seen:
        log.warning("%s: the model was trained on %s of %s", where, f"{seen:,}", counted(len(texts), "text"))
    tokens = encode(texts, trained.base.tokenizer, spec.max_length, types=trained.base.types)
    logits = trained._logits(Labelled(tokens, labels))
    quality = score(labels, logits.numpy(), None, trained.labels, thresholds=trained.thresholds)
    return Evaluation(path, where, shown, quality, seen)


def _read_as(spec: DataSpec, trained: Trained) -> DataSpec:
    """`spec`, its labels read as what the model gives, unless it says what they are; a file of whole numbers alone may
    be of a regression.

    Raises:
        SettingsError: it says what stands between labels, and the model gives one.
    """
    if spec.problem is not None or spec.dataset.startswith("hutto:"):
        return spec
    if spec.label_separator is not None and trained.problem != MULTI:
        kind = IN_WORDS[trained.problem]
        raise SettingsError(f"--label-separator: it makes several labels of one cell, and the model is of {kind}")
    return spec.model_copy(update={"problem": FLAG_OF[trained.problem]})


def _as_trained(targets: Coded[Target] | Numbers, problem: Problem, trained: Trained, where: str) -> Targets:
    """The labels of N examples as the model has them.

    Raises:
        DataError: they are of another problem, or one is unknown to the model.
    """
    if problem != trained.problem:
        raise DataError(
            f"{where}: its labels are of {IN_WORDS[problem]}, and the model is of {IN_WORDS[trained.problem]}; "
            "give data of that kind (--problem, or --task of hutto)"
        )
    if not isinstance(targets, Coded):
        return targets
    used, codes = np.unique(targets.codes, return_inverse=True)
    named = [tuple(str(label) for label in listed(targets.values[code])) for code in used.tolist()]
    unknown = sorted({name for names in named for name in names} - set(trained.labels))
    if unknown:
        raise DataError(
            f"{where}: label {unknown[0]!r} is unknown to the model, which knows {', '.join(trained.labels)}; "
            "leave such rows out, or train with them"
        )
    of: list[Target] = [*named] if problem == MULTI else [name for (name,) in named]
    return as_array(Coded(tuple(of), codes.astype(np.int32)), trained.labels, problem)


def _is_source(spec: DataSpec, trained: Trained) -> bool:
    """Whether `spec` reads what the model was trained on."""
    if not trained.digests:
        return spec.dataset == trained.data.dataset
    try:
        return load_source(spec).digest == trained.digests["source"]
    except LoratoryError:  # it is told where the data is read to be scored
        return False


_GONE = "its training data is not there any more, has changed, or is not known"


def divided_then(spec: DataSpec, digests: Mapping[str, str]) -> Dataset | None:
    """The data a model was trained on, divided as it was then; None where `spec` does not give it any more."""
    if not digests:
        return None
    try:
        dataset = make_dataset(spec)
    except LoratoryError:
        return None
    return dataset if dataset.train.digest == digests["train"] else None
