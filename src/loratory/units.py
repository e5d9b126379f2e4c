"""Numbers and names as a reader sees them. Counts are decimal (1k = 1000), memory is binary (1 GiB = 2^30 bytes)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

MISSING = "–"
"""How a table says that there is no number."""

MINUS = "−"
"""The sign before a negative number that is shown; in files it is the hyphen that programs read."""

# control, format (bidirectional overrides among them), surrogate, line and paragraph separators
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    """`text` on one line, with escape sequences and other invisible characters spelled out as `\\x1b`."""
    if text.isprintable():  # what Python calls so holds none of them: most text, ten times as fast
        return text
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in text
    )


def count(number: float | None) -> str:
    """A count: 512, 9,984, 73.7k, 22.7M, 1.3B."""
    if number is None:
        return MISSING
    if number < 1e4:
        return f"{number:,.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("B", 1e9)):
        if round(number / size, 1) < 1000:
            return f"{number / size:.1f}{unit}"
    return f"{number:.2e}"


def percent(share: float | None) -> str:
    """A share in [0, 1] as 0.65%, 12.3% or 100%."""
    if share is None:
        return MISSING
    if share in (0.0, 1.0):
        return f"{share:.0%}"
    return f"{share:.2%}" if share < 0.1 else f"{share:.1%}"


def percent_of(shares: Iterable[float | None]) -> Callable[[float | None], str]:
    """How a column of these shares is written: all with one digit after the point, or all with two where one is small.

    None at all and all there is stay 0% and 100%.
    """
    digits = 2 if any(share is not None and 0 < share < 0.01 for share in shares) else 1

    def show(share: float | None) -> str:
        if share is None or share in (0.0, 1.0):
            return percent(share)
        return f"{share:.{digits}%}"

    return show


def rate(value: float | None) -> str:
    """A learning rate as 5e-5 or 1.5e-3, always in powers of ten."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    digits, _, power = f"{value:.6e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"


def rates(seeds: Mapping[float, int]) -> str:
    """Learning rates with how many seeds take each: 5e-5 ×4, 1e-4 ×1; a rate that is the only one stands alone."""
    if len(seeds) == 1:
        return rate(*seeds)
    return ", ".join(f"{rate(lr)} ×{number}" for lr, number in seeds.items()) or MISSING


def accuracy(share: float | None) -> str:
    """A share in [0, 1] as 85.9%: one digit after the point, always."""
    return MISSING if share is None else f"{share:.1%}"


def fraction(value: float | None) -> str:
    """A number such as F1 or log loss, with three digits after the point and a true minus sign."""
    return MISSING if value is None else signed(f"{value:.3f}")


def signed(text: str) -> str:
    """A number's text with a true minus sign, and none before a zero."""
    return text.replace("-", MINUS) if text.strip("-0.") else text.lstrip("-")


def duration(seconds: float | None) -> str:
    """Seconds as <1 ms, 0.231 s, 4.57 s, 54.8 s, 3.2 min or 1.5 h."""
    if seconds is None:
        return MISSING
    if seconds < 0.001:
        return "<1 ms"
    for digits, below in ((3, 1), (2, 10), (1, 60)):
        if round(seconds, digits) < below:
            return f"{seconds:.{digits}f} s"
    if round(seconds / 60, 1) < 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def memory(number: float | None) -> str:
    """Bytes as 812 MiB or 1.3 GiB."""
    if number is None:
        return MISSING
    return f"{number / 2**20:.0f} MiB" if number < 1000 * 2**20 else f"{number / 2**30:.1f} GiB"


def energy(joules: float | None) -> str:
    """Joules as 512 J, 36.0 kJ or, from a million on, 1.2 kWh."""
    if joules is None:
        return MISSING
    if joules < 1000:
        return f"{joules:.0f} J"
    return f"{joules / 1e3:.1f} kJ" if joules < 1e6 else f"{joules / 3.6e6:.2f} kWh"


def price(amount: float | None) -> str:
    """An amount of money, currency aside: 12.40, 0.0031, <0.0001."""
    if amount is None:
        return MISSING
    if amount >= 1:
        return f"{amount:,.2f}"
    return f"{amount:.4f}" if amount >= 0.0001 or amount == 0 else "<0.0001"


def moment(iso: str) -> str:
    """An ISO 8601 time as 25 Nov 2026, 03:13 UTC; another text as it is."""
    try:
        when = datetime.fromisoformat(iso).astimezone(UTC)
    except ValueError:
        return iso
    return f"{when.day} {MONTHS[when.month - 1]} {when:%Y, %H:%M} UTC"


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""In English, whatever the machine speaks."""


NAME = 80
"""Characters of a name that a message shows; names come from data, and a cell may hold a megabyte."""


def cut(text: str, most: int = NAME) -> str:
    """`text`, or its beginning and `…`, in so many characters at most."""
    return text if len(text) <= most else text[: most - 1] + "…"


def quoted(name: object) -> str:
    """A name from data as a message shows it: on one line, and cut."""
    return cut(repr(name))
