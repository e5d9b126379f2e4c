"""Predictions for people: a table on the terminal; CSV, JSONL or Parquet in a file."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Text, on_one_line, parts
from loratory.disk.files import check_writable, new_file, refused
from loratory.disk.manifest import check_outside
from loratory.errors import SettingsError, StorageError
from loratory.report.tables import csv_cell
from loratory.units import printable, signed

if TYPE_CHECKING:
    from rich.console import RenderableType

SEPARATOR = ";"
"""What stands between the labels of a text in a cell of CSV, and alone where there is none."""

OURS = ("label", "labels", "prediction")
"""What a model's own column may be called: the input's columns of these names are renamed, whatever the model says."""

NAMED = 12
"""Labels whose thresholds are named in a line."""

Cells = Mapping[str, object]
"""Cells of a row by column."""


@dataclass(frozen=True)
class Answers(ABC):
    """What one model says of N texts."""

    name: str
    """The model's, for its columns; empty where it is the only one."""
    labels: tuple[str, ...]
    """Class names in id order; of a regression what the number is called."""

    @property
    @abstractmethod
    def chosen(self) -> list[Any]:
        """What each text is given."""

    @abstractmethod
    def columns(self) -> dict[str, list[Any]]:
        """Columns of N values by their names, the model's name before them where it has one."""

    @abstractmethod
    def documents(self) -> Iterator[dict[str, Any]]:
        """The same of each text."""

    @property
    @abstractmethod
    def headings(self) -> tuple[str, ...]:
        """Of a table's columns: what a text is given, and how sure that is where the model says it."""

    @abstractmethod
    def cells(self, number: int) -> tuple[str, ...]:
        """What stands under them for text `number`."""

    @property
    def rule(self) -> str | None:
        """By what labels are given, in a sentence; None where it is the most probable one, or a number."""
        return None

    @property
    def before(self) -> str:
        """What stands before the name of each column."""
        return f"{self.name}:" if self.name else ""


@dataclass(frozen=True)
class Predicted(Answers):
    """One class for each text."""

    probabilities: NDArray[np.float64]
    """(N, C)."""

    @cached_property
    def chosen(self) -> list[str]:
        """The label of each text: the most probable one."""
        return [self.labels[number] for number in self.probabilities.argmax(axis=1).tolist()]

    def columns(self) -> dict[str, list[Any]]:
        """`label`, and `probability_` and its name for each class."""
        return {f"{self.before}label": self.chosen} | _probabilities(self.before, self.labels, self.probabilities)

    def documents(self) -> Iterator[dict[str, Any]]:
        """`label` and `probabilities` of each text."""
        for label, row in zip(self.chosen, self.probabilities.tolist(), strict=True):
            yield {"label": label, "probabilities": dict(zip(self.labels, row, strict=True))}

    @property
    def headings(self) -> tuple[str, ...]:
        """A label, and its probability."""
        return "Label", "Probability"

    def cells(self, number: int) -> tuple[str, ...]:
        """The label and its probability."""
        return self.chosen[number], f"{self.probabilities[number].max():.3f}"


@dataclass(frozen=True)
class PredictedLabels(Answers):
    """A set of labels for each text: those from their thresholds on; it may be empty."""

    probabilities: NDArray[np.float64]
    """(N, C), each label's own."""
    thresholds: NDArray[np.float64]
    """(C,)."""
    on_validation: bool = True
    """Whether these were chosen there; else nothing says so."""

    @cached_property
    def sets(self) -> NDArray[np.int64]:
        """(N, C), 1 for the labels of each text."""
        return (self.probabilities >= self.thresholds).astype(np.int64)

    @cached_property
    def chosen(self) -> list[list[str]]:
        """The labels of each text, in the order of `labels`."""
        return [[self.labels[number] for number in np.flatnonzero(row).tolist()] for row in self.sets]

    def columns(self) -> dict[str, list[Any]]:
        """`labels`, and `probability_` and its name for each label."""
        return {f"{self.before}labels": self.chosen} | _probabilities(self.before, self.labels, self.probabilities)

    def documents(self) -> Iterator[dict[str, Any]]:
        """`labels`, `probabilities` and `thresholds` of each text."""
        cuts = dict(zip(self.labels, self.thresholds.tolist(), strict=True))
        for labels, row in zip(self.chosen, self.probabilities.tolist(), strict=True):
            yield {"labels": labels, "probabilities": dict(zip(self.labels, row, strict=True)), "thresholds": cuts}

    @property
    def rule(self) -> str:
        """From which probability on each label is given; of many labels the first."""
        cuts = zip(self.labels[:NAMED], self.thresholds.tolist(), strict=False)
        shown = ", ".join(f"{printable(label)} {cut:.3f}" for label, cut in cuts)
        more = len(self.labels) - NAMED
        rest = f", and {more:,} more (--json has all)" if more > 0 else ""
        of = f"of {printable(self.name)} " if self.name else ""
        chosen = ", chosen on validation" if self.on_validation else ""
        return f"Thresholds {of}(the probability from which on a label is given{chosen}): {shown}{rest}"

    @property
    def headings(self) -> tuple[str, ...]:
        """Labels, and the probability of each."""
        return "Labels", "Probability"

    def cells(self, number: int) -> tuple[str, ...]:
        """The labels and their probabilities."""
        found = self.probabilities[number][self.sets[number] == 1]
        return ", ".join(self.chosen[number]) or "(none)", ", ".join(f"{one:.3f}" for one in found)


@dataclass(frozen=True)
class PredictedNumbers(Answers):
    """A number for each text."""

    numbers: NDArray[np.float64]
    """(N,)."""

    @property
    def chosen(self) -> list[float]:
        """The number of each text."""
        return list(map(float, self.numbers))

    def columns(self) -> dict[str, list[Any]]:
        """`prediction`."""
        return {f"{self.before}prediction": self.chosen}

    def documents(self) -> Iterator[dict[str, Any]]:
        """`prediction` of each text."""
        return ({"prediction": number} for number in self.chosen)

    @property
    def headings(self) -> tuple[str, ...]:
        """A number: nothing says how sure it is."""
        return ("Prediction",)

    def cells(self, number: int) -> tuple[str, ...]:
        """The number."""
        return (signed(f"{self.numbers[number]:.4g}"),)


def _probabilities(before: str, labels: Sequence[str], found: NDArray[np.float64]) -> dict[str, list[Any]]:
    return {f"{before}probability_{label}": row for label, row in zip(labels, found.T.tolist(), strict=True)}


def predictions_table(texts: Sequence[Text], models: Sequence[Answers]) -> RenderableType:
    """One line a text: what each model says, and the text cut to the width."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text as Line

    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True)
    for model in models:
        heading, *sure = model.headings
        table.add_column(Line(printable(model.name or heading)), overflow="fold", max_width=24)
        for title in sure:
            table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Text", overflow="ellipsis", no_wrap=True, ratio=1)  # the width that the others leave
    for number, text in enumerate(texts):
        cells = [Line(printable(cell)) for model in models for cell in model.cells(number)]
        table.add_row(*cells, Line(printable(on_one_line(text))))
    return table


def predictions_document(texts: Sequence[Text], models: Sequence[Answers]) -> list[dict[str, Any]]:
    """`text` (and `pair`, of pairs), `label` and `probabilities` of each; of several models by name under `models`."""
    said = zip(*(model.documents() for model in models), strict=True)
    return [
        {**parts(text), **(one[0] if len(models) == 1 else {"models": dict(zip(_names(models), one, strict=True))})}
        for text, one in zip(texts, said, strict=True)
    ]


def _names(models: Sequence[Answers]) -> list[str]:
    return [model.name for model in models]


def check_output(path: Path) -> None:
    """What can be known of a file for predictions before there are any.

    Raises:
        StorageError: it is there already, or cannot be written there.
        SettingsError: its suffix names no format.
    """
    if path.exists():
        raise StorageError(f"{path} exists already; choose another --output")
    if path.suffix not in WRITERS:
        *most, last = WRITERS
        raise SettingsError(f"--output {path}: the suffix must be {', '.join(most)} or {last}")
    check_outside(path)
    check_writable(path)


def write_predictions(
    path: Path, texts: Sequence[Text], models: Sequence[Answers], others: Sequence[Cells] | None = None
) -> None:
    """Write what `models` say in the order of `texts`, in the format of the path's suffix, all or nothing.

    Args:
        others: the other cells of each text's row, which follow ours; a column with the name of one of ours, or of
            those in :data:`OURS`, becomes `input_` and its name.

    Raises:
        SettingsError, StorageError: as :func:`check_output`; or the file cannot be written.
    """
    check_output(path)
    try:
        with new_file(path) as file:
            WRITERS[path.suffix](file, texts, models, others or [])
    except OSError as error:
        raise refused(path, error) from error


def _write_jsonl(file: IO[bytes], texts: Sequence[Text], models: Sequence[Answers], others: Sequence[Cells]) -> None:
    lines = predictions_document(texts, models)
    names = _renamed(lines[0] if lines else {}, others)
    for number, line in enumerate(lines):
        added = {names[column]: value for column, value in others[number].items()} if others else {}
        file.write(json.dumps(line | added, ensure_ascii=False, default=str).encode("utf8", "backslashreplace") + b"\n")


def _write_csv(file: IO[bytes], texts: Sequence[Text], models: Sequence[Answers], others: Sequence[Cells]) -> None:
    columns = _columns(texts, models, others)
    lines = csv.writer(_Encoded(file), lineterminator="\n")
    lines.writerow(map(csv_cell, columns))
    lines.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))


def _write_parquet(file: IO[bytes], texts: Sequence[Text], models: Sequence[Answers], others: Sequence[Cells]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def typed(values: list[Any]) -> Any:
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # values of several types: each as JSON
            shown = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
            return pa.array(shown, pa.string())

    columns = {name: typed(values) for name, values in _columns(texts, models, others).items()}
    pq.write_table(pa.table(columns), file)


Writer = Callable[[IO[bytes], Sequence[Text], Sequence[Answers], Sequence[Cells]], None]

WRITERS: dict[str, Writer] = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
"""How predictions are written, by the file's suffix."""


class _Encoded:
    """A file of bytes as `csv` writes to it: UTF-8."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())


def _columns(texts: Sequence[Text], models: Sequence[Answers], others: Sequence[Cells]) -> dict[str, list[Any]]:
    """Every column with its N values: the text, each model's, then the input's others."""
    read = [parts(text) for text in texts]
    columns: dict[str, list[Any]] = {name: [one[name] for one in read] for name in (read[0] if read else ["text"])}
    for model in models:
        columns |= model.columns()
    names = _renamed(columns, others)
    return columns | {new: [cells.get(old) for cells in others] for old, new in names.items()}


def _renamed(ours: Mapping[str, object], others: Sequence[Cells]) -> dict[str, str]:
    """What each of the input's other columns is called beside ours."""
    taken, names = {*ours, *OURS}, {}
    for column in dict.fromkeys(column for cells in others for column in cells):
        names[column] = column
        while names[column] in taken:
            names[column] = f"input_{names[column]}"
        taken.add(names[column])
    return names


def _cell(value: object) -> str | int | float | None:
    """A cell of CSV, as :func:`csv_cell` has it."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, list):
        value = SEPARATOR.join(map(str, value)) or SEPARATOR  # as `--label-separator` reads it
    return csv_cell(str(value), untyped=True)
