"""Colours and ticks of charts."""

from __future__ import annotations

import pytest

from loratory.report import axes
from loratory.report.theme import DARK, LIGHT


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_of_series_stand_out_on_both_grounds() -> None:
    assert min(contrast(colour, "#ffffff") for colour in LIGHT) >= 3
    assert min(contrast(colour, "#15181c") for colour in DARK) >= 3


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro"])
@pytest.mark.parametrize("ends", [(0.5, 0.9), (0.84, 0.86), (0.901, 0.9032), (2.2451, 2.2612), (0.0, 400.0)])
def test_no_two_ticks_read_alike(metric: str, ends: tuple[float, float]) -> None:
    for ticks in range(4, 9):
        step = (ends[1] - ends[0]) / ticks / 2**0.5  # Vega's steps are no smaller
        for form in (axes.metric_format(metric, ends, ticks), axes.number_format(ends, ticks)):
            shown = [format(ends[0] + number * step, form) for number in range(ticks)]
            if step >= 10 ** -axes.digits(ends, ticks):
                assert len(set(shown)) == ticks
