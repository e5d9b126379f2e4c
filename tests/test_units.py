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
        (units.duration, 0.004, "0.0 s"),
        (units.duration, 54.8, "54.8 s"),
        (units.duration, 59.97, "1.0 min"),
        (units.duration, 192, "3.2 min"),
        (units.duration, 3599, "1.0 h"),
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
