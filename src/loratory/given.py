"""Examples given as lists: checked as those of a file are, and written to one, so that they go the way of all data.

The file is called by the SHA-256 of its content: the same examples are one file, and whoever reads a run's record can
find, and check, what it was trained on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loratory.data import checked, data_directory, gathered
from loratory.data.cells import absent, recognised
from loratory.data.columns import are_pairs, parts
from loratory.data.files import Row, Table
from loratory.data.header import LABEL, PAIR, TEXT
from loratory.data.packaged import GIVEN_FILE, given_file
from loratory.disk.files import write_durably
from loratory.errors import DataError, StorageError
from loratory.rewording import reworded

WHERE = "texts and labels"


@contextmanager
def called(name: str = WHERE) -> Iterator[None]:
    """Errors that pass here, and what is logged meanwhile, call examples that were given `name`, not by their file, and
    say their positions, not its lines."""
    known = re.compile(rf"{re.escape(str(data_directory()))}[/\\]{GIVEN_FILE}|{WHERE}")

    def said(message: str) -> str:
        own, count = known.subn(name, message)
        return _LINES.sub(_positions, own) if count else message

    with reworded(said):
        yield


_LINES = re.compile(r"\(line(s?) (\d+(?:, \d+)*)")


def _positions(found: re.Match[str]) -> str:
    return f"(position{found[1]} {', '.join(str(int(line) - 1) for line in found[2].split(', '))}"


def keep(texts: Iterable[Any], labels: Iterable[Any], problem: str | None = None) -> Path:
    """Write N texts and their N labels to `given/` in the data directory, where they are not there yet.

    Args:
        texts: a list, an array (N,), or a column of a data frame; or N pairs, two texts each, an array (N, 2).
        labels: text, numbers or true/false, or lists of them; numpy's own are taken for Python's.
        problem: what `--problem` says; by default as the labels look.

    Returns:
        A JSONL file with the columns `text`, `pair` where they are pairs, and `label`, in the order given.

    Raises:
        DataError: no example, more of one than of the other, or a text or label that cannot be learned from; positions
            count from 0.
        StorageError: the file cannot be written.
    """
    given, named = as_texts(texts, "texts"), as_list(labels, "labels")
    if len(given) != len(named):
        raise DataError(f"{WHERE}: {len(given):,} texts and {len(named):,} labels; give each text its label")
    if not given:
        raise DataError(f"{WHERE}: no example; give some")
    paired = are_pairs(given)
    values = zip(*zip(*given, strict=True), named, strict=True) if paired else zip(given, named, strict=True)
    rows: Iterator[Row] = ((place, cells, {}) for place, cells in enumerate(values))
    flags = (TEXT, PAIR, LABEL) if paired else (TEXT, LABEL)
    columns = gathered(Table(flags, rows, "position", untyped=False), problem)
    examples = checked(WHERE, columns, recognised(columns.labels, problem, None))
    labelled = zip(map(parts, examples.texts), examples.labels, strict=True)
    content = "".join(json.dumps({**texts, "label": label}) + "\n" for texts, label in labelled)
    path = given_file(hashlib.sha256(content.encode()).hexdigest())
    try:
        there = path.is_file() and path.read_bytes() == content.encode()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if not there:
        write_durably(path, content)
    return path


def as_texts(values: Iterable[Any], name: str) -> list[Any]:
    """Texts, or pairs of them as tuples: Python's own, whatever they are.

    Raises:
        DataError: as :func:`as_list`; or some are pairs and others are not, which is said by the first position.
    """
    if getattr(values, "ndim", 1) == 2 and getattr(values, "shape", (0, 0))[1] == 2:
        return [tuple(as_list(pair, name)) for pair in getattr(values, "to_numpy", lambda: values)()]
    found = as_list(values, name)
    paired = bool(found) and isinstance(found[0], tuple | list)
    for position, text in enumerate(found):
        if isinstance(text, tuple | list) != paired or (paired and len(text) != 2):
            what = f"{len(text)} values" if isinstance(text, tuple | list) else type(text).__name__
            expected = "two texts, as at position 0" if paired else "one text, as at position 0"
            raise DataError(f"{name}: {what} at position {position}; give {expected}")
    return [tuple(pair) for pair in found] if paired else found


def not_text(text: object) -> str | None:
    """What is no string in a text or a pair: its type, or that nothing stands there; None where all is."""
    wrong = (one for one in (text if isinstance(text, tuple) else (text,)) if not isinstance(one, str))
    return next((f"no text ({one})" if absent(one) else type(one).__name__ for one in wrong), None)


def as_list(values: Iterable[Any], name: str) -> list[Any]:
    """The values as Python's own: numpy's scalars become what they hold.

    Raises:
        DataError: a single string, or something without order or dimension.
    """
    if isinstance(values, str | bytes | Mapping | AbstractSet) or not isinstance(values, Iterable):
        raise DataError(f"{name}: {type(values).__name__} given; give a list, an array or a column")
    if getattr(values, "ndim", 1) != 1:
        raise DataError(f"{name}: {getattr(values, 'ndim', 0)} dimensions; give one")
    return [value.item() if getattr(value, "ndim", None) == 0 else value for value in values]
