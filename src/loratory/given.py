"""Examples given as lists: checked as those of a file are, and written to one, so that they go the way of all data.

The file is called by the SHA-256 of its content: the same examples are one file, and whoever reads a run's record can
find, and check, what it was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from loratory.data import checked, data_directory
from loratory.data.files import LABEL, TEXT, Columns
from loratory.data.targets import recognised
from loratory.errors import DataError, StorageError
from loratory.store.files import write_durably

WHERE = "texts and labels"


def keep(texts: Iterable[Any], labels: Iterable[Any], problem: str | None = None) -> Path:
    """Write N texts and their N labels to `given/` in the data directory, where they are not there yet.

    Args:
        texts: a list, an array (N,), or a column of a data frame.
        labels: text, numbers or true/false, or lists of them; numpy's own are taken for Python's.
        problem: what `--problem` says; by default as the labels look.

    Returns:
        A JSONL file with the columns `text` and `label`, in the order given.

    Raises:
        DataError: no example, more of one than of the other, or a text or label that cannot be learned from; positions
            count from 0.
        StorageError: the file cannot be written.
    """
    given, named = as_list(texts, "texts"), as_list(labels, "labels")
    if len(given) != len(named):
        raise DataError(f"{WHERE}: {len(given):,} texts and {len(named):,} labels; give each text its label")
    if not given:
        raise DataError(f"{WHERE}: no example; give some")
    columns = Columns({TEXT: given, LABEL: named}, list(range(len(given))), "position", untyped=False)
    examples = checked(WHERE, columns, problem=recognised([columns], problem, None)[0])
    rows = zip(examples.texts, examples.labels, strict=True)
    content = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    path = data_directory() / "given" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.jsonl"
    try:
        there = path.is_file() and path.read_bytes() == content.encode()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if not there:
        write_durably(path, content)
    return path


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
