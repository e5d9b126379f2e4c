"""Tables of the page, as values: the template draws all of them in one way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from loratory.study.measured import Spread
from loratory.study.parts import Pair
from loratory.units import MISSING, printable


@dataclass(frozen=True)
class Whisker:
    """A mean with its interval on a scale from 0 to 100, and what it is seen against: a line, and a band around it.

    `outer` is a wider interval, drawn thinner.
    """

    mean: float
    low: float | None
    high: float | None
    zero: float | None = None
    band: tuple[float, float] | None = None
    outer: tuple[float, float] | None = None


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        text: what stands there.
        sub: smaller, below it.
        value: what sorting goes by: a number, words, or None for nothing, which comes last; the text itself where it is
            "".
        shade: 0 to 10, how deep the background is.
        tag: the kind of verdict or status that the text names, for its mark.
        whole: the text in full, where a shorter one stands there.
    """

    text: str
    sub: str = ""
    value: float | str | None = ""
    whisker: Whisker | None = None
    shade: int | None = None
    tag: str = ""
    whole: str = ""

    @property
    def key(self) -> str:
        """What the page sorts by."""
        if self.value is None:
            return ""
        return f"{self.value:.7g}" if isinstance(self.value, float) else self.value


@dataclass(frozen=True)
class Heading:
    """A column's heading; `numeric` ones stand right and sort as numbers.

    Attributes:
        lead: its column stands beside the first one where the page is as narrow as a phone.
    """

    text: str
    numeric: bool = True
    meaning: str = ""
    lead: bool = False


@dataclass(frozen=True)
class Row:
    """One line: its entries, the first of them its name, and the ids of the cells it speaks of."""

    entries: tuple[Entry, ...]
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """A table with its caption; `foot` are rows that stay below the others.

    `wide` gives its whiskers more room, `dense` its columns no more than they need.
    """

    name: str
    caption: str
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    foot: tuple[Row, ...] = ()
    sortable: bool = True
    wide: bool = False
    dense: bool = False


def words(text: object) -> Entry:
    """Text from a record, on one line and without characters that nobody sees."""
    return Entry(printable(str(text)))


def number(value: float | None, show: Callable[[float | None], str], sub: str = "") -> Entry:
    """A number as a reader sees it, sorted by itself."""
    return Entry(show(value), sub, None if value is None else float(value))


def row(entries: Iterable[Entry], *cells: str) -> Row:
    """A line of a table."""
    return Row(tuple(entries), cells)


def whiskers(values: Sequence[Spread | None]) -> list[Whisker | None]:
    """Means and intervals drawn on one scale, from the lowest end to the highest."""
    ends = [end for v in values if v is not None for end in (v.mean, v.low, v.high) if end is not None]
    if len(ends) < 2 or max(ends) == min(ends):
        return [None for _ in values]
    low, high = min(ends), max(ends)

    def at(value: float | None) -> float | None:
        return None if value is None else round(4 + 92 * (value - low) / (high - low), 1)

    return [None if v is None else Whisker(at(v.mean) or 0.0, at(v.low), at(v.high)) for v in values]


def differences(pairs: Sequence[Pair], margin: float) -> list[Whisker | None]:
    """The pairs' differences on one scale with zero in its middle, and the margin around zero."""
    ends = [
        abs(end)
        for pair in pairs
        for end in (pair.difference, pair.low, pair.high, pair.family_low, pair.family_high)
        if end is not None
    ]
    reach = max([*ends, margin * 1.5, 1e-9])

    def at(value: float) -> float:
        return round(50 + 46 * value / reach, 1)

    def drawn(pair: Pair) -> Whisker | None:
        if pair.difference is None:
            return None
        low, high = (None if end is None else at(end) for end in (pair.low, pair.high))
        outer = None
        if pair.family > 1 and pair.family_low is not None and pair.family_high is not None:
            outer = at(pair.family_low), at(pair.family_high)
        return Whisker(at(pair.difference), low, high, 50.0, (at(-margin), at(margin)), outer)

    return [drawn(pair) for pair in pairs]


def missing() -> Entry:
    """Nothing there."""
    return Entry(MISSING, value=None)
