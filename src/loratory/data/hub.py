"""Data sets of the Hugging Face hub, or a directory in its layout, through `datasets` (an optional package)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loratory.data.files import Row, Table
from loratory.data.header import LABEL, Found, Wanted, find_columns, of_columns
from loratory.errors import DataError, ResourceError

log = logging.getLogger("loratory")

_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
_PARTS["test"] = "test"


def read_hub(name: str, wanted: Wanted, splits: Mapping[str, str]) -> tuple[dict[str, Table], str | None]:
    """Load `NAME[/CONFIG][@REVISION]` and return its parts (train, and validation and test where it has them) and its
    revision.

    Labels of a `ClassLabel` column are given by name. A part whose labels are all withheld (-1) is left out.

    Args:
        splits: which of its splits is a part, by the part's name; a part that is not named here is the split that is
            commonly called so, unless it is another part.

    Raises:
        ResourceError: `datasets` is not installed.
        DataError: the data set cannot be reached or read, or lacks a train part, a split or a column.
    """
    try:
        import datasets
    except ImportError:
        raise ResourceError(f'hub:{name} needs the package datasets; run: pip install "loratory[hub]"') from None
    name, revision = _versioned(name)
    loaded = _load(datasets, name, revision)
    parts: dict[str, Table] = {}
    for part, split in _splits(name, list(map(str, loaded)), splits).items():
        table = loaded[split]
        found = find_columns(f"hub:{name} ({split})", table.column_names, wanted)
        if part != "train" and len(table) and _withheld(table, found):
            log.warning("hub:%s: the labels of %s are withheld; this part is not used", name, split)
            continue
        if len(table) or part != "train":
            parts[part] = Table(tuple(wanted), _rows(table, found), "row", untyped=False)
        revision = _revision(table) or revision
    if "train" not in parts:
        raise DataError(f"hub:{name}: no rows to train on; its parts: {', '.join(map(str, loaded)) or 'none'}")
    return parts, revision


_AT_ONCE = 4096  # rows of a data set that are held together


def _rows(table: Any, found: Found) -> Iterator[Row]:
    """The rows of a part, which `datasets` keeps in a mapped file."""
    named = [name for names in found.values() for name in names]
    (label,) = found[LABEL]
    number = 0
    for batch in table.select_columns(named).iter(_AT_ONCE):
        columns = {**batch, label: _names(table, label, batch[label])}
        for values in of_columns(columns, found):
            number += 1
            yield number, values, {}


def _withheld(table: Any, found: Found) -> bool:
    """Whether no row of a part has its label."""
    (label,) = found[LABEL]
    batches = table.select_columns([label]).iter(_AT_ONCE)
    return all(value is None for batch in batches for value in _names(table, label, batch[label]))


def _versioned(name: str) -> tuple[str, str | None]:
    """`NAME@REVISION` as its two parts; a directory has no revision."""
    before, mark, after = name.rpartition("@")
    return (before, after) if mark and not Path(name).is_dir() else (name, None)


def _splits(name: str, there: list[str], asked: Mapping[str, str]) -> dict[str, str]:
    """The split of each part."""
    for part, split in asked.items():
        if split not in there:
            raise DataError(f"hub:{name}: no split {split!r}; splits: {', '.join(there)}; set --{part}-split")
    found = dict(asked)
    for split in there:
        usual = _PARTS.get(split)
        if usual is not None and usual not in found and split not in asked.values():
            found[usual] = split
    return found


def _candidates(name: str) -> Iterator[tuple[str, str | None]]:
    """The (repository, configuration) pairs that `name` can mean, the likeliest first.

    `a/b` is a repository of the owner `a`, or the configuration `b` of an old data set without owner.
    """
    pieces = name.split("/")
    if Path(name).is_dir() or len(pieces) == 1:
        yield name, None
    elif len(pieces) == 2:
        yield name, None
        yield pieces[0], pieces[1]
    else:
        yield "/".join(pieces[:2]), "/".join(pieces[2:])


def _load(datasets: Any, name: str, revision: str | None) -> dict[str, Any]:
    if not all(name.strip("/").split("/")) or revision == "":
        raise DataError(f"hub:{name}: no data set is named; write hub:NAME, hub:NAME/CONFIG or hub:NAME@REVISION")
    complaints: list[str] = []
    for repository, configuration in _candidates(name):
        try:
            loaded = datasets.load_dataset(repository, configuration, **({"revision": revision} if revision else {}))
            return {str(split): table for split, table in loaded.items()}
        # RuntimeError: a data set that needs a script; OSError: not there, or no network
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            complaints.append(" ".join(str(error).split())[:200].rstrip("."))
    raise DataError(f"hub:{name}: cannot be loaded ({complaints[-1]}); check the name and the network, or use a file")


def _names(table: Any, column: str, values: list[object]) -> list[object]:
    """The labels of some rows, by their names where the column has names, or lists of what has names."""
    feature = table.features[column]
    inner = getattr(getattr(feature, "feature", None), "names", None)  # a list of classes
    if inner is not None:
        return [_all_named(value, inner) if isinstance(value, list) else None for value in values]
    names = getattr(feature, "names", None)
    if names is None:
        return values
    return [names[value] if isinstance(value, int) and value >= 0 else None for value in values]


def _all_named(numbers: list[object], names: Sequence[str]) -> list[str] | None:
    """The names of a row's labels; None where it has one that is none (-1, as withheld splits have)."""
    found = [names[one] for one in numbers if isinstance(one, int) and one >= 0]
    return found if len(found) == len(numbers) else None


def _revision(table: Any) -> str | None:
    """The commit the files came from: `datasets` keeps it in their addresses."""
    checksums = getattr(table.info, "download_checksums", None) or {}
    found = (re.search(r"@([0-9a-f]{40})/", str(address)) for address in checksums)
    return next((match.group(1) for match in found if match), None)
