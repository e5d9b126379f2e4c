"""The columns of a table that are read: which of them each flag means, and what stands there in a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from loratory.errors import ColumnError, DataError
from loratory.units import quoted

TEXT, PAIR, LABEL, GROUP = "--text-column", "--pair-column", "--label-column", "--group-column"

Wanted = Mapping[str, str]
"""The columns to read as the user says them, each under the flag that names it; there is always a `--text-column`.

A name, or a number from 0 where no column has that name; for the text also several with commas between them.
"""

Found = Mapping[str, Sequence[str]]
"""The names of the columns that each flag means."""


def of_header(where: str, header: list[str], wanted: Wanted) -> Found:
    """The columns that the flags mean, of a header in which no name may stand twice.

    Raises:
        DataError: as :func:`find_columns`; or one does.
    """
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise DataError(f"{where}: the header has {quoted(twice[0])} more than once; rename one")
    return find_columns(where, header, wanted)


def find_columns(where: str, known: Iterable[str], wanted: Wanted) -> Found:
    """The columns that the flags mean, among those there are.

    Raises:
        ColumnError: there is none of that name or number, with those there are and the flag that says which.
        DataError: two flags mean one.
    """
    names = list(known)
    found: dict[str, list[str]] = {}
    for flag, column in wanted.items():
        pieces = [column] if column in names else pieces_of(flag, column)
        found[flag] = [names[int(piece)] if _is_place(piece, names) else piece for piece in pieces]
    if said := lacking(names, found):
        asked = {name.strip().casefold() for columns in found.values() for name in columns if name not in names}
        alike = next((name for name in names if name.strip().casefold() in asked), None)
        remedy = "name one of these" if alike is None else f"did you mean {quoted(alike)}?"
        raise ColumnError(f"{where}: {said}; {remedy}")
    flags: dict[str, str] = {}
    for flag, column in ((flag, column) for flag, columns in found.items() for column in columns):
        if column in flags:
            raise DataError(f"{flags[column]} and {flag} are both {quoted(column)}; name two columns")
        flags[column] = flag
    return found


def lacking(known: Iterable[str], found: Found) -> str:
    """Which columns are not among the `known` ones, and which those are; empty where all are there."""
    names = list(known)
    absent = {flag: [name for name in columns if name not in names] for flag, columns in found.items()}
    lost = ", ".join(quoted(name) for columns in absent.values() for name in columns)
    flags = ", ".join(flag for flag, columns in absent.items() if columns)
    return f"no column {lost} ({flags}); it has {listed(names)}" if lost else ""


def pieces_of(flag: str, column: str) -> list[str]:
    """The columns that a flag names: several by commas of the text, else one."""
    return [piece.strip() for piece in column.split(",")] if flag == TEXT else [column]


def _is_place(piece: str, names: list[str]) -> bool:
    return piece not in names and piece.isdecimal() and int(piece) < len(names)


def joined(cells: Sequence[object]) -> object:
    """One cell as it is; of several the texts that are not empty, a line break between them; a cell that is no text
    comes back alone, for whoever refuses it.
    """
    if len(cells) == 1:
        return cells[0]
    wrong = [cell for cell in cells if not isinstance(cell, str) and cell is not None]
    return wrong[0] if wrong else "\n".join(cell for cell in cells if isinstance(cell, str) and cell.strip())


def of_columns(columns: Mapping[str, Sequence[object]], found: Found) -> Iterator[tuple[object, ...]]:
    """What stands under each flag, row by row, of columns as they are kept."""
    kept = [[columns[name] for name in names] for names in found.values()]
    for cells in zip(*(zip(*one, strict=True) for one in kept), strict=True):
        yield tuple([joined(one) for one in cells])


def listed(names: Sequence[str]) -> str:
    """Columns as an error names them."""
    return ", ".join(map(quoted, names[:20])) + (", …" if len(names) > 20 else "")
