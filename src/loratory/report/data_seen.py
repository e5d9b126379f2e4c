"""The page's section on the data: what stands in them, where they are at hand and are what the runs saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loratory import units
from loratory.data import Dataset
from loratory.data.profile import Lengths, Profile, profile
from loratory.data.rows import PARTS
from loratory.errors import LoratoryError
from loratory.report.at_hand import data_at_hand, model_at_hand
from loratory.report.evidence import Evidence
from loratory.report.findings import ROWS_SAID, Finding, findings
from loratory.report.grids import Grid, Heading, number, row, words
from loratory.report.profiled import reader_of
from loratory.spec import DataSpec, validated
from loratory.store.record import RunRecord
from loratory.study.document import Summary

LONGEST = 200
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class DataSeen:
    """One data set of a study.

    Attributes:
        name: what the study calls it.
        findings: what was found; none where it is not at hand.
        lengths: tokens of its texts by split; None also where the model is not at hand.
        note: how to find rows, or why there is nothing.
    """

    name: str
    findings: tuple[Finding, ...]
    lengths: Grid | None
    note: str


def data_seen(study: Summary, evidence: Evidence) -> list[DataSeen]:
    """Each data set of the study, at the largest size, with the tokens of the first model that was trained on it."""
    first: dict[str, RunRecord | None] = {cell.data: None for cell in study.cells}
    for cell in sorted(study.cells, key=lambda cell: -(cell.train_examples or 0)):
        records = [evidence.records[name] for name in cell.runs if name in evidence.records]
        first[cell.data] = first[cell.data] or next(iter(records), None)
    read = evidence.inputs.dataset
    return [_seen(name, record, f"data-{n}", read) for n, (name, record) in enumerate(first.items(), start=1)]


def _seen(name: str, record: RunRecord | None, key: str, read: Callable[[DataSpec], Dataset]) -> DataSeen:
    show = "loratory data show says what is in a data set."
    if record is None:
        return DataSeen(name, (), None, f"No run of it is here that would say how it was divided. {show}")
    try:
        spec = validated(DataSpec, record.spec["data"])
        if not data_at_hand(spec):
            absent = "The data were not at hand without network when this page was written."
            return DataSeen(name, (), None, f"{absent} {show}")
        dataset = read(spec)
        if dataset.record()["digests"] != record.data.get("digests"):
            return DataSeen(name, (), None, f"The data are no longer what the runs saw. {show}")
        model = str(record.spec["model"])
        reader = reader_of(model) if model_at_hand(model) else None
    except (LoratoryError, KeyError, TypeError) as error:
        return DataSeen(name, (), None, f"The data could not be read when this page was written: {error}")
    found = profile(dataset, reader, spec.max_length)
    return DataSeen(name, tuple(findings(found, _sizes(dataset))), _lengths(found, key), ROWS_SAID)


def _sizes(dataset: Dataset) -> dict[str, int]:
    return {part: len(dataset.split(part)) for part in PARTS}


def _lengths(found: Profile, key: str) -> Grid | None:
    if found.tokens is None:
        return None
    headings = ("Texts", "Mean", "Median", "95%", "99%", "Longest")

    def line(part: str, one: Lengths) -> tuple[float, ...]:
        return one.texts, one.mean, one.median, one.percentile_95, one.percentile_99, one.longest

    rows = [
        row([words(part), *(number(value, _shown) for value in line(part, one))])
        for part, one in found.tokens.lengths.items()
    ]
    caption = f"Tokens of {units.printable(found.tokens.model)} by text, special ones included"
    return Grid(
        f"{key}-lengths",
        caption,
        (Heading("Split", numeric=False), *map(Heading, headings)),
        tuple(rows),
        sortable=False,
        dense=True,
    )


def _shown(value: float | None) -> str:
    return units.MISSING if value is None else f"{value:,.1f}" if value % 1 else f"{value:,.0f}"


def one_line(text: str) -> str:
    """A text as the section shows it, cut to `LONGEST` characters."""
    return units.cut(" ".join(text.split()), LONGEST)
