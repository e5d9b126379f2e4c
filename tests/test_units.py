import sys
import unicodedata

import pytest

from loratory import units


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (units.count, 0, "0"),
        (units.count, 9_984, "9,984"),
        (units.count, 887_811, "887.8k"),
        (units.count, 999_960, "1.0M"),
        (units.count, 124_647_939, "124.6M"),
        (units.count, 1_300_000_000, "1.3B"),
        (units.percent, 0.0071, "0.71%"),
        (units.percent, 0.123, "12.3%"),
        (units.percent, 1.0, "100%"),
        (units.accuracy, 1.0, "100.0%"),
        (units.duration, 0.0004, "<1 ms"),
        (units.duration, 0.004, "0.004 s"),
        (units.duration, 0.2314, "0.231 s"),
        (units.duration, 0.9996, "1.00 s"),
        (units.duration, 4.567, "4.57 s"),
        (units.duration, 9.996, "10.0 s"),
        (units.fraction, -0.0124, "−0.012"),
        (units.fraction, -0.0004, "0.000"),
        (units.rate, 5e-5, "5e-5"),
        (units.rate, 0.0002, "2e-4"),
        (units.rate, 0.00125, "1.25e-3"),
        (units.percent_of([0.064, 0.2]), 0.064, "6.4%"),
        (units.percent_of([0.064, 0.2, 1.0]), 1.0, "100%"),
        (units.percent_of([0.0071, 0.2]), 0.2, "20.00%"),
        (units.duration, 54.8, "54.8 s"),
        (units.duration, 59.97, "1.0 min"),
        (units.duration, 192, "3.2 min"),
        (units.duration, 3599, "1.0 h"),
        (units.moment, "2026-11-25T03:13:59+00:00", "25 Nov 2026, 03:13 UTC"),
        (units.moment, "2026-03-01T01:30:00+02:00", "28 Feb 2026, 23:30 UTC"),
        (units.moment, "yesterday", "yesterday"),
        (units.memory, 512 * 2**20, "512 MiB"),
        (units.memory, int(1.3 * 2**30), "1.3 GiB"),
        (units.memory, None, units.MISSING),
    ],
)
def test_numbers(show, value: float, text: str) -> None:
    assert show(value) == text


def test_what_cannot_be_printed_is_spelled_out() -> None:
    assert units.printable("a\x1b[0m\n\u202eb\ud800") == r"a\x1b[0m\n\u202eb\ud800"
    assert units.printable("Größe 漢字 👍") == "Größe 漢字 👍"  # letters of any script stay


def test_text_stays_as_it_is_but_for_characters_that_cannot_be_seen() -> None:
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    for character in map(chr, range(sys.maxunicode + 1)):
        seen = unicodedata.category(character) not in hidden
        assert (units.printable(character) == character) == seen
        assert units.printable(f"a{character}") == f"a{units.printable(character)}"
