"""Predictions for people: a table on the terminal, CSV or JSONL in a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from loratory.errors import SettingsError, StorageError
from loratory.report.tables import csv_cell
from loratory.report.units import printable

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


def write_predictions(path: Path, rows: Sequence[Labelled]) -> None:
    """Write `rows` in their order, as CSV or JSONL by the path's suffix. Cells a spreadsheet would run are quoted.

    Raises:
        SettingsError: another suffix.
        StorageError: the file cannot be written.
    """
    if path.suffix == ".jsonl":
        lines = ({"text": row.text, "label": row.label, "probabilities": row.probabilities} for row in rows)
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    elif path.suffix == ".csv":
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "label", *(csv_cell(f"probability_{name}") for name in rows[0].probabilities)])
        for row in rows:
            writer.writerow([csv_cell(row.text), csv_cell(row.label), *row.probabilities.values()])
        content = file.getvalue()
    else:
        raise SettingsError(f"--output {path}: the suffix must be .csv or .jsonl")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf8") as target:
            target.write(content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
