"""Where examples come from: `hutto:NAME` (packaged), a file, or `hub:NAME[/CONFIG]`. All end in one shape, checked."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from loratory.data import hutto
from loratory.data.cells import Reading, recognised
from loratory.data.columns import Coded, Texts
from loratory.data.files import SUFFIXES, read_table
from loratory.data.gathering import Columns, Examples, checked, gathered
from loratory.data.header import GROUP, LABEL, PAIR, TEXT, Wanted
from loratory.data.hub import read_hub
from loratory.data.packaged import PACKAGED
from loratory.errors import DataError, SettingsError, nearest
from loratory.problems import FLAG_OF, FLAGS, IN_WORDS, MULTI, REGRESSION, SINGLE, Problem
from loratory.spec import DataSpec

log = logging.getLogger("loratory")


@dataclass(frozen=True)
class Source:
    """Everything read for one data set, before it is divided."""

    name: str
    revision: str | None
    """The exact version: a commit of the hub, or a pinned package; None for files, which have only their digest."""
    digest: str
    """SHA-256 of the files' bytes, or of the content where there are no files."""
    parts: dict[str, Examples]
    """`all`, or `train` with `validation` or `test` or both."""
    dropped: int = 0
    """Examples left out because the task has no class for them (hutto polarity: a rating of zero)."""
    problem: Problem = SINGLE


def load_source(spec: DataSpec) -> Source:
    """Read the data set that `spec` names, with the validation and test files it names.

    Raises:
        DataError: a source is missing, malformed, empty, or has texts or labels that cannot be learned from.
        ResourceError: a package is missing, or the packaged data cannot be downloaded.
        SafetyError, StorageError: as :func:`loratory.data.packaged.fetch`.
    """
    wanted = _wanted(spec)
    name = spec.dataset
    if spec.splits and not name.startswith("hub:"):
        flags = " and ".join(f"--{part}-split" for part in spec.splits)
        raise DataError(f"{flags}: only a data set of the hub has named splits, not {name}; leave it out")
    if name.startswith("hutto:"):
        source = _hutto(spec)
    elif name.startswith("hub:"):
        source = _hub(spec, wanted)
    else:
        return _files(spec, wanted)
    given = _given_files(spec, wanted, source.problem)
    if given:
        source = _with_files(source, given, spec)
    if set(source.parts) == {"train"}:
        return replace(source, parts={"all": source.parts["train"]})
    return source


def _reading(spec: DataSpec, train: Columns) -> Reading:
    """How labels are read: by what was said, or by the training examples alone, as those of a test have no say."""
    if spec.label_separator is not None and spec.problem not in (None, FLAG_OF[MULTI]):
        raise SettingsError(f"--label-separator: it makes several labels of one cell, and --problem is {spec.problem}")
    return recognised(train.labels, spec.problem, spec.label_separator)


def _tell(spec: DataSpec, how: Reading) -> None:
    """Where labels look like no single classes, the log says so and how to change it."""
    if how.why is not None:
        log.info("%s: %s: %s; --problem says otherwise", spec.dataset, how.why, IN_WORDS[how.problem])


def _wanted(spec: DataSpec) -> Wanted:
    """The columns that `spec` names, each under its flag."""
    named = {TEXT: spec.text_column, PAIR: spec.pair_column, LABEL: spec.label_column, GROUP: spec.group_column}
    return {flag: column for flag, column in named.items() if column is not None}


def _hutto(spec: DataSpec) -> Source:
    if spec.group_column is not None:
        raise DataError(f"{GROUP}: {spec.dataset} has no columns (its documents are known); leave it out")
    if spec.pair_column is not None:
        raise DataError(f"{PAIR}: {spec.dataset} has no columns, and no second text; leave it out")
    problem: Problem = REGRESSION if spec.task == "rating" else SINGLE
    if spec.problem is not None and FLAGS[spec.problem] != problem:
        said = f"--task {spec.task} is {IN_WORDS[problem]}"
        raise DataError(f"--problem {spec.problem}: {spec.dataset} with {said}; leave it out, or set --task")
    rated = hutto.read_ratings(spec.dataset.removeprefix("hutto:"))
    targets = [hutto.target_of(one, spec.task, spec.neutral_band) for one in rated.ratings]
    kept = [row for row, target in enumerate(targets) if target is not None]
    labels = [target for target in targets if target is not None]
    examples = Examples(
        texts=Texts.of(rated.texts[row] for row in kept),
        labels=np.array(labels, dtype=np.float64) if problem == REGRESSION else Coded.of(labels),
        rows=kept,
        groups=Coded.of(rated.documents[row] for row in kept) if rated.documents is not None else None,
    )
    dropped = len(rated.texts) - len(kept)
    return Source(spec.dataset, PACKAGED["hutto"].requirement, rated.digest, {"all": examples}, dropped, problem)


def _files(spec: DataSpec, wanted: Wanted) -> Source:
    path = Path(spec.dataset)
    if not path.exists() and not path.suffix and path.name == spec.dataset:
        known = [*(f"hutto:{domain}" for domain in hutto.DOMAINS), "hub:NAME", *(f"FILE{end}" for end in SUFFIXES)]
        raise DataError(f"unknown data set {spec.dataset!r}; {nearest(spec.dataset, known)}")
    train = gathered(read_table(path, wanted), spec.problem, spec.label_separator)
    how = _reading(spec, train)
    tables = {"train": train, **_given_files(spec, wanted, how.problem)}
    digests = {part: columns.digest for part, columns in tables.items()}
    _refuse_twice(spec, digests)
    whole = how.problem == SINGLE and _as_whole_numbers(tables.values())
    parts = {
        part: checked(spec.where(part), columns, how, as_int=whole and columns.labels.untyped)
        for part, columns in tables.items()
    }
    _tell(spec, how)
    if set(parts) == {"train"}:
        return Source(spec.dataset, None, train.digest, {"all": parts["train"]}, problem=how.problem)
    return Source(spec.dataset, None, _joined_digest(digests), parts, problem=how.problem)


def _hub(spec: DataSpec, wanted: Wanted) -> Source:
    name = spec.dataset
    read, revision = read_hub(name.removeprefix("hub:"), wanted, spec.splits)
    train = gathered(read.pop("train"), spec.problem, spec.label_separator)
    how = _reading(spec, train)
    others = {part: gathered(table, FLAG_OF[how.problem], spec.label_separator) for part, table in read.items()}
    tables = {"train": train, **others}
    examples = {part: checked(f"{name} ({part})", columns, how) for part, columns in tables.items()}
    _tell(spec, how)
    return Source(name, revision, _content_digest(examples), examples, problem=how.problem)


def _given_files(spec: DataSpec, wanted: Wanted, problem: Problem) -> dict[str, Columns]:
    """The files of single parts, whose labels are read as those of `problem`."""
    named = {"validation": spec.validation, "test": spec.test}
    return {
        part: gathered(read_table(Path(file), wanted), FLAG_OF[problem], spec.label_separator)
        for part, file in named.items()
        if file is not None
    }


def _refuse_twice(spec: DataSpec, digests: Mapping[str, str]) -> None:
    """Refuse two parts with the same bytes, whatever their files are called."""
    for first, second in combinations(digests, 2):
        if digests[first] == digests[second]:
            other = f"{'--dataset' if first == 'train' else f'--{first}'} ({spec.where(first)})"
            raise DataError(f"{spec.where(second)}: --{second} has the rows of {other}; give others, or leave it out")


def _with_files(source: Source, given: dict[str, Columns], spec: DataSpec) -> Source:
    """`source` with the parts that stand in files of the user's, which come before its own."""
    digests = {part: columns.digest for part, columns in given.items()}
    _refuse_twice(spec, digests)
    own = {"train" if part == "all" else part: examples for part, examples in source.parts.items()}
    coded = [examples.labels for examples in own.values() if isinstance(examples.labels, Coded)]
    whole = source.problem == SINGLE and all(isinstance(label, int) for labels in coded for label in labels.values)
    how = Reading(source.problem, spec.label_separator)

    def as_int(columns: Columns) -> bool:
        return whole and _as_whole_numbers([columns]) and columns.labels.untyped

    parts = own | {
        part: checked(spec.where(part), columns, how, as_int=as_int(columns)) for part, columns in given.items()
    }
    digest = _joined_digest({"source": source.digest} | digests)
    return Source(source.name, source.revision, digest, parts, source.dropped, source.problem)


_WHOLE_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0+)?")  # no leading zeros: a code such as 007 is a name


def _as_whole_numbers(tables: Iterable[Columns]) -> bool:
    """Whether labels in cells without type are whole numbers, `1.0` too, as a column that had a gap once is written:
    all of them read so, and no typed label is text."""
    cells = [columns.labels for columns in tables]
    labels = [(label, one.untyped) for one in cells for label in one.values.values]
    return all(
        _WHOLE_NUMBER.fullmatch(str(label).strip()) if untyped else not isinstance(label, str)
        for label, untyped in labels
    )


def _joined_digest(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _content_digest(parts: dict[str, Examples]) -> str:
    state = hashlib.sha256()
    for part in sorted(parts):
        for text, label in zip(parts[part].texts, parts[part].labels, strict=True):
            state.update(json.dumps([part, text, label]).encode() + b"\n")
    return state.hexdigest()
