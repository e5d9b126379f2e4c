"""Data sets of the Hugging Face hub, or a directory in its layout, through `datasets` (an optional package)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loratory.data.files import LABEL, Columns, Wanted, require_columns
from loratory.errors import DataError, ResourceError

log = logging.getLogger("loratory")

_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"}
_PARTS["test"] = "test"


def read_hub(name: str, wanted: Wanted) -> tuple[dict[str, Columns], str | None]:
    """Load `NAME[/CONFIG]` and return its parts (train, and validation and test where it has them) and its revision.

    Labels of a `ClassLabel` column are given by name. A part whose labels are all withheld (-1) is left out.

    Raises:
        ResourceError: `datasets` is not installed.
        DataError: the data set cannot be reached or read, or lacks a train part or a column.
    """
    try:
        import datasets
    except ImportError:
        raise ResourceError(f'hub:{name} needs the package datasets; run: pip install "loratory[hub]"') from None
    loaded = _load(datasets, name)
    parts: dict[str, Columns] = {}
    revision: str | None = None
    for split, table in loaded.items():
        part = _PARTS.get(str(split))
        if part is None or part in parts:
            continue
        require_columns(f"hub:{name} ({split})", table.column_names, wanted)
        values = {
            flag: _label_values(table, column) if flag == LABEL else list(table[column])
            for flag, column in wanted.items()
        }
        if part != "train" and len(table) and all(label is None for label in values[LABEL]):
            log.warning("hub:%s: the labels of %s are withheld; this part is not used", name, split)
            continue
        parts[part] = Columns(values, list(range(1, len(table) + 1)), "row", untyped=False)
        revision = revision or _revision(table)
    if "train" not in parts or not parts["train"].rows:
        raise DataError(f"hub:{name}: no rows to train on; its parts: {', '.join(map(str, loaded)) or 'none'}")
    return parts, revision


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


def _load(datasets: Any, name: str) -> dict[str, Any]:
    if not all(name.strip("/").split("/")):
        raise DataError(f"hub:{name}: no data set is named; write hub:NAME or hub:NAME/CONFIG")
    complaints: list[str] = []
    for repository, configuration in _candidates(name):
        try:
            return dict(datasets.load_dataset(repository, configuration))
        # RuntimeError: a data set that needs a script; OSError: not there, or no network
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            complaints.append(" ".join(str(error).split())[:200].rstrip("."))
    raise DataError(f"hub:{name}: cannot be loaded ({complaints[-1]}); check the name and the network, or use a file")


def _label_values(table: Any, column: str) -> list[object]:
    values = list(table[column])
    names = getattr(table.features[column], "names", None)
    if names is None:
        return values
    return [None if value is None or value < 0 else names[value] for value in values]


def _revision(table: Any) -> str | None:
    """The commit the files came from: `datasets` keeps it in their addresses."""
    checksums = getattr(table.info, "download_checksums", None) or {}
    found = (re.search(r"@([0-9a-f]{40})/", str(address)) for address in checksums)
    return next((match.group(1) for match in found if match), None)
