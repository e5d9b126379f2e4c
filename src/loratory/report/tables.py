"""The comparison table: what each approach costs, and how good it is, one row a run, baselines below."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from loratory import units
from loratory.errors import SettingsError
from loratory.evaluation.baselines import Baseline
from loratory.evaluation.metrics import LEADING, METRICS
from loratory.problems import SINGLE, Problem, problem_in
from loratory.report.dominating import dominating
from loratory.report.notes import notes
from loratory.store.naming import Record, approaches, lookup
from loratory.store.record import TIME_PARTS
from loratory.study.measured import close_said

if TYPE_CHECKING:
    from rich.console import RenderableType

Value = str | int | float | None
Row = Mapping[str, Value]

SHARE = "Share: trainable ÷ all parameters."
TIMES = (
    "Training time: optimizer steps only; total time adds set-up, evaluation, saving and the check of what was saved, "
    "imports aside (baselines: fitting and predicting)."
)
MEMORY = {
    "resident": "Peak memory: largest resident set during the run, 1 GiB = 2^30 bytes.",
    "allocated": "Peak memory: most bytes allocated on the GPU by torch, 1 GiB = 2^30 bytes.",
}


MEANINGS = {
    "accuracy": "test examples whose label is predicted",
    "f1_macro": "test F1, plain mean over all classes",
}
"""Shorter than the metric's own."""

ENERGY = "Energy: what the whole device used during the optimizer steps, by its own counter; of several their sum."


@dataclass(frozen=True)
class Column:
    """One column: `key` names it in CSV and JSON, unit included; `show` gives a row's cell as a reader sees it."""

    key: str
    title: str
    align: Literal["left", "right"]
    meaning: str
    show: Callable[[Row], str]
    shown: bool = True
    """False: in CSV and JSON only."""


@dataclass(frozen=True)
class Table:
    """Rows of raw values by column key, and the notes that belong under them."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns for readers."""
        return tuple(column for column in self.columns if column.shown)

    def to_markdown(self) -> str:
        """A GitHub-flavoured Markdown table, then a list of the notes."""
        lines = [
            _markdown_row(column.title for column in self.shown),
            "|" + "|".join("---:" if column.align == "right" else "---" for column in self.shown) + "|",
            *(_markdown_row(column.show(row) for column in self.shown) for row in self.rows),
            "",
            *(f"- {_markdown_text(note)}" for note in self.notes),
        ]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """CSV with every column, numbers in full, in the unit that the key names; no notes."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        for row in self.rows:
            writer.writerow([csv_cell(row.get(column.key)) for column in self.columns])
        return file.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """`columns` (key, title, meaning), `rows` (raw values by key) and `notes`, ready for JSON."""
        return {
            "columns": [{"key": one.key, "title": one.title, "meaning": one.meaning} for one in self.columns],
            "rows": [{column.key: row.get(column.key) for column in self.columns} for row in self.rows],
            "notes": list(self.notes),
        }

    def to_rich(self) -> RenderableType:
        """For a terminal of 80 columns or more."""
        from loratory.report.terminal import ComparisonTable

        return ComparisonTable(self)


def comparison(
    records: Sequence[Record], baselines: Sequence[Baseline] = (), *, price_per_hour: float | None = None
) -> Table:
    """Build the table of `records` (each a `run.json`, read), in their order, and of `baselines` after them.

    Runs that did not complete have a row that says so. Rows that do not compare are noted below the table; baselines
    that were left out are a note as well. A number that a record lacks is None.

    Args:
        price_per_hour: of one device, in whatever currency; total time is then money, too.
    """
    names = approaches(records)
    metrics = _leading(records, baselines)
    rows = [_run_row(record, name, metrics) for record, name in zip(records, names, strict=True)]
    rows += [_baseline_row(baseline, metrics) for baseline in baselines if baseline.quality is not None]
    parameters = [SHARE, *coefficients_said((one.name, one.parameters) for one in baselines)]
    for row in rows:
        row["price"] = priced(row.get("total_seconds"), price_per_hour, devices=row.get("devices"))
    energy = [ENERGY] if any(row.get("energy_joules") is not None for row in rows) else []
    several = any(isinstance(row.get("devices"), int) and row["devices"] != 1 for row in rows)
    money = [] if price_per_hour is None else price_said(price_per_hour, rows, several=several)
    memory = [text for kind, text in MEMORY.items() if kind in _memory_kinds(rows)]
    memory += close_said([(_number(row.get("peak_memory_bytes")), row.get("peak_memory_kind")) for row in rows])
    noted = notes(records, names, baselines, price=price_per_hour is not None)
    said = (*noted, *dominating(records, names), *parameters, TIMES, *memory)
    return Table(_columns(rows, metrics), tuple(rows), (*said, *energy, *money))


def _leading(records: Sequence[Record], baselines: Sequence[Baseline]) -> list[str]:
    """The metrics that these rows are compared by: those of each of their problems."""
    problems: list[Problem] = [problem_in(lookup(record, "data", "problem")) for record in records]
    problems += [one.quality.problem for one in baselines if one.quality is not None]
    return list(dict.fromkeys(name for problem in problems or [SINGLE] for name in LEADING[problem]))


def check_price(per_hour: float | None) -> None:
    """Refuse a price that is none.

    Raises:
        SettingsError: it is negative or no finite number.
    """
    if per_hour is not None and not 0 <= per_hour < math.inf:
        raise SettingsError(f"--price-per-hour {per_hour}: give an amount of 0 or more")


def coefficients_said(baselines: Iterable[tuple[str, int]]) -> list[str]:
    """What the parameters of baselines are, of each by its name that has more than a constant; said once."""
    names = dict.fromkeys(name for name, parameters in baselines if parameters > 1)
    return [f"Parameters of {name}: its coefficients and intercepts." for name in names]


def price_said(per_hour: float, rows: Sequence[Row], *, several: bool = False) -> list[str]:
    """What stands under a table of `rows`; nothing where none has a price.

    Args:
        several: whether a row's run had several devices.
    """
    if all(row.get("price") is None for row in rows):
        return []
    return [f"Price: total time at {per_hour:g} an hour{' for each device' if several else ''}."]


def priced(seconds: Value, per_hour: float | None, *, devices: Value = None) -> float | None:
    """What so many seconds cost at so much an hour.

    Args:
        devices: how many of that price; None for one.
    """
    if per_hour is None or not isinstance(seconds, (int, float)):
        return None
    return seconds / 3600 * per_hour * (devices if isinstance(devices, int) else 1)


def _memory_kinds(rows: Sequence[Row]) -> set[Value]:
    return {kind for row in rows if (kind := row.get("peak_memory_kind")) is not None}


def _run_row(record: Record, name: str, metrics: Sequence[str]) -> dict[str, Value]:
    total, trainable = (_number(lookup(record, "parameters", key)) for key in ("total", "trainable"))
    allocated, resident = (
        _number(lookup(record, "cost", "peak_memory_bytes", key)) for key in ("allocated", "resident")
    )
    return {
        "approach": name,
        "status": str(record.get("status", "unknown")),
        "id": str(record.get("id", "")),
        "seed": _number(lookup(record, "spec", "seed")),
        "trainable": trainable,
        "total": total,
        "trainable_share": trainable / total if trainable is not None and total else None,
        **{key: _number(lookup(record, "parameters", key)) for key in ("adapter", "head", "unfrozen")},
        **{key: _number(lookup(record, "cost", key)) for key in ("train_seconds", "total_seconds", "energy_joules")},
        "devices": _devices(record),
        **{f"{part}_seconds": _number(lookup(record, "cost", "time_parts_seconds", part)) for part in TIME_PARTS},
        "peak_memory_bytes": allocated or resident,
        "peak_memory_kind": "allocated" if allocated else "resident" if resident else None,
        **{key: _number(lookup(record, "quality", "test", key)) for key in metrics},
    }


def _devices(record: Record) -> int | float | None:
    """How many devices a run had; of one that does not say it, one for each of its processes."""
    found = _number(lookup(record, "cost", "devices"))
    return _number(lookup(record, "environment", "processes")) if found is None else found


def _baseline_row(baseline: Baseline, metrics: Sequence[str]) -> dict[str, Value]:
    quality = baseline.quality
    return {
        "approach": baseline.name,
        "status": "baseline",
        "trainable": baseline.parameters,
        "total_seconds": baseline.seconds,
        **{key: None if quality is None else quality.value(key) for key in metrics},
    }


def _number(value: object) -> int | float | None:
    """A finite number as it is; None for anything else, so that a damaged record cannot break the table."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def _columns(rows: Sequence[Row], metrics: Sequence[str]) -> tuple[Column, ...]:
    mixed = len(_memory_kinds(rows)) > 1  # each cell then says its own

    def show_approach(row: Row) -> str:
        status = "" if row["status"] in ("completed", "baseline") else f" ({row['status']})".replace("_", " ")
        return units.printable(f"{row['approach']}{status}")

    def show_memory(row: Row) -> str:
        text = units.memory(_number(row.get("peak_memory_bytes")))
        return f"{text} {row['peak_memory_kind']}" if mixed and row.get("peak_memory_kind") else text

    def column(key: str, title: str, show: Callable[[float | None], str], meaning: str, shown: bool = True) -> Column:
        return Column(key, title, "right", meaning, lambda row: show(_number(row.get(key))), shown)

    def text(key: str, title: str, meaning: str) -> Column:
        return Column(key, title, "left", meaning, lambda row: units.printable(str(row.get(key) or "")), shown=False)

    def has(key: str) -> bool:
        return any(row.get(key) is not None for row in rows)

    show_share = units.percent_of(_number(row.get("trainable_share")) for row in rows)
    unfrozen = any(row.get("unfrozen") for row in rows)
    measured = (
        column(name, f"{METRICS[name].title} (test)", METRICS[name].shown, MEANINGS.get(name, METRICS[name].meaning))
        for name in metrics
    )
    return (
        Column("approach", "Approach", "left", "method and settings, or baseline", show_approach),
        text("status", "Status", "how the run ended; baseline for a baseline"),
        text("id", "Run", "the run's id"),
        column("seed", "Seed", units.count, "the run's seed", shown=False),
        column("trainable", "Trainable parameters", units.count, "parameters that training changes"),
        column("total", "Total", units.count, "all parameters", shown=False),
        column("trainable_share", "Share", show_share, "trainable of all parameters"),
        column("adapter", "Adapter", units.count, "trainable parameters added by the method"),
        column("head", "Head", units.count, "parameters of the classifier head"),
        column("unfrozen", "Unfrozen", units.count, "trainable parameters of the pretrained model", shown=unfrozen),
        column("train_seconds", "Training time", units.duration, "time of the optimizer steps alone"),
        *(
            column(f"{part}_seconds", part.capitalize(), units.duration, f"training time: {part}", shown=False)
            for part in TIME_PARTS
        ),
        column("total_seconds", "Total time", units.duration, "with set-up and evaluation"),
        Column("peak_memory_bytes", "Peak memory", "right", "allocated on CUDA, resident set on CPU", show_memory),
        text("peak_memory_kind", "Memory kind", "allocated or resident"),
        column("devices", "Devices", units.count, "GPUs that trained, or machines without", shown=False),
        column("energy_joules", "Energy", units.energy, "of whole devices in training", shown=has("energy_joules")),
        column("price", "Price", units.price, "of the total time", shown=has("price")),
        *measured,
    )


def _markdown_row(cells: Any) -> str:
    return "| " + " | ".join(_markdown_text(cell) for cell in cells) + " |"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|`*\[\]<>])", r"\\\1", units.printable(text))


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What begins a formula; some spreadsheets take the wide forms, too."""


def csv_cell(value: Value, *, untyped: bool = False) -> Value:
    """Text that a spreadsheet would run as a formula is given a leading apostrophe; numbers stay as they are, and
    what is invisible is spelled out. Every cell of CSV that we write comes from here: CSV is for spreadsheets, and
    whoever joins by text takes JSONL or Parquet, whose texts are those that were given.

    Args:
        untyped: text that is a number, such as -5, is one: a file of text alone held it.
    """
    if not isinstance(value, str) or (untyped and _NUMBER.fullmatch(value)):
        return value
    risky = value.startswith(("\t", "\r", "\n")) or value.lstrip().startswith(_FORMULA)
    return f"'{units.printable(value)}" if risky else units.printable(value)
