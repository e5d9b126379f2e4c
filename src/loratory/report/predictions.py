"""Predictions for people: a table on the terminal, CSV or JSONL in a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loratory.errors import SettingsError, StorageError
from loratory.report.tables import csv_cell
from loratory.units import printable

if TYPE_CHECKING:
    from rich.console import RenderableType


class Labelled(Protocol):
    """A text with its label and each class's probability."""

    @property
    def text(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def probabilities(self) -> dict[str, float]: ...


def predictions_table(rows: Sequence[Labelled]) -> RenderableType:
    """One line a text: its label, the probability of that label, and the text cut to the width."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("Label", overflow="fold", max_width=24)
    table.add_column("Probability", justify="right", no_wrap=True)
    table.add_column("Text", overflow="ellipsis", no_wrap=True, ratio=1)  # the width that the others leave
    for row in rows:
        shown = Text(printable(" ".join(row.text.split())))
        table.add_row(Text(printable(row.label)), f"{row.probabilities[row.label]:.3f}", shown)
    return table


def write_predictions(
    path: Path, rows: Sequence[Labelled], others: Sequence[Mapping[str, object]] | None = None
) -> None:
    """Write `rows` in their order, as CSV or JSONL by the path's suffix. Cells a spreadsheet would run are quoted.

    Args:
        others: the other cells of each one's row by column, which follow ours; a column with the name of one of ours
            becomes `input_` and its name.

    Raises:
        SettingsError: another suffix.
        StorageError: the file cannot be written.
    """
    if path.suffix == ".jsonl":
        lines = _lines([{"probabilities": row.probabilities} for row in rows], rows, others)
        content = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
    elif path.suffix == ".csv":
        shares = [{f"probability_{name}": share for name, share in row.probabilities.items()} for row in rows]
        lines = _lines(shares, rows, others)
        columns = list(dict.fromkeys(column for line in lines for column in line))
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(csv_cell, columns))
        writer.writerows([_cell(line.get(column)) for column in columns] for line in lines)
        content = file.getvalue()
    else:
        raise SettingsError(f"--output {path}: the suffix must be .csv or .jsonl")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf8") as target:
            target.write(content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _lines(
    shares: Sequence[Mapping[str, object]], rows: Sequence[Labelled], others: Sequence[Mapping[str, object]] | None
) -> list[dict[str, object]]:
    """Text, label and `shares` of each row, then its other cells."""
    ours = [{"text": row.text, "label": row.label, **share} for row, share in zip(rows, shares, strict=True)]
    if others is None:
        return ours
    taken, names = set(ours[0]), {}
    for column in dict.fromkeys(column for other in others for column in other):
        names[column] = column
        while names[column] in taken:
            names[column] = f"input_{names[column]}"
        taken.add(names[column])
    return [
        own | {names[column]: value for column, value in other.items()} for own, other in zip(ours, others, strict=True)
    ]


def _cell(value: object) -> str | int | float | None:
    """A cell of CSV; text that is a number, such as -5, is no formula."""
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    try:
        float(text)
    except ValueError:
        return str(csv_cell(text))
    return text
