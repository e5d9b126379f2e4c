"""Where rows stand, as people are told of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Unit = Literal["line", "row", "position"]
"""What places count: `line`, from 1, where the row begins in the file (CSV, TSV, JSONL); `row`, its number from 1
(Parquet, hub); `position`, from 0, in a list."""

LISTED = 5
"""Rows that are named."""


def place_said(row: int, line: int | None) -> str:
    """How people are told of a row, which programs count from 0: `line 7`, or `row 6` where there are no lines."""
    return f"row {row + 1}" if line is None else f"line {line}"


def places_said(unit: str, count: int, places: Sequence[int]) -> str:
    """How people are told of several: `line 7`, `lines 3, 7`, `rows 3, 7, 8, 9, 12 and 4 more`.

    Args:
        unit: what places count, a :data:`Unit`, or `text`.
        count: how many there are.
        places: of the first of them, at most `LISTED` of which are named.
    """
    named = ", ".join(map(str, places[:LISTED]))
    more = count - min(len(places), LISTED)
    return f"{unit if count == 1 else f'{unit}s'} {named}{f' and {more:,} more' if more else ''}"
