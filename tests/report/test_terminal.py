"""Tables of one model on a terminal: its metrics, and what it predicts."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from loratory.evaluation.metrics import metrics_of, score
from loratory.problems import SINGLE
from loratory.report.predictions import Predicted, PredictedNumbers, predictions_table
from loratory.report.tables import Column, Table
from loratory.report.terminal import ComparisonTable, quality_table

LOGITS = np.array([[0.0, 2], [0, 2], [0, 2], [2, 0], [0, 2]])
"""Of five examples in two classes; the first is wrong."""


def test_quality_table_shows_metrics_classes_and_confusion(render: Any) -> None:
    text = render(
        quality_table(score(np.array([0, 1, 1, 0, 1]), LOGITS, None, ("negative", "positive")), "lora \x1b[31m, test")
    )
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    for metric in metrics_of(SINGLE).values():
        assert metric.title in text
    for word in ("negative", "positive", "Precision", "80.0%", "0.762"):
        assert word in text


LONG = tuple(f"a class with a long name, number {number}" for number in range(12))


@pytest.mark.parametrize(
    ("names", "width", "heading", "first"),
    [
        (("negative", "neutral", "positive"), 60, ["negative", "neutral", "positive"], ["negative", "2", "0", "0"]),
        (LONG, 80, [str(number) for number in range(1, 13)], ["1", "2", *["0"] * 11]),
        (LONG[:4], 60, ["1", "2", "3", "4"], ["1", "2", "0", "0", "0"]),
    ],
)
def test_the_confusion_matrix_fits_by_name_or_by_number(
    names: tuple[str, ...], width: int, heading: list[str], first: list[str], render: Any
) -> None:
    logits = np.eye(len(names))[[0, *range(len(names))]]
    text = render(quality_table(score(np.array([0, *range(len(names))]), logits, None, names), "test"), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    lines = [line.split() for line in text.splitlines()]
    start = lines.index(["True", *heading])
    assert lines[start + 2] == first
    assert len(lines) == start + 2 + len(names)
    assert ("by No." in text) is (heading[0] == "1")
    for name in names:
        assert name.split()[-1] in text


def test_a_confusion_matrix_too_wide_even_by_number_is_left_to_json(render: Any) -> None:
    text = render(
        quality_table(score(np.arange(40), np.eye(40), None, tuple(f"c{number}" for number in range(40))), "test")
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "The confusion matrix of 40 classes is in --json." in text


def test_predictions_keep_label_and_text_at_80_columns(render: Any) -> None:
    names = [f"class number {number}" for number in range(9)]
    probabilities = np.full((2, 9), 0.05)
    probabilities[:, 3] = 0.6
    texts = ["A quiet,\nfunny \x1b[31m film.", "long " * 100]
    text = render(predictions_table(texts, [Predicted("", tuple(names), probabilities)]))
    assert max(map(len, text.splitlines())) <= 80
    lines = text.splitlines()
    assert [" ".join(line.split()) for line in lines if line.strip()][2] == (
        r"class number 3 0.600 A quiet, funny \x1b[31m film."
    )
    assert re.search(r"class number 3 +0\.600 +long long .*…", text)


def test_a_number_has_no_probability_beside_it(render: Any) -> None:
    number = PredictedNumbers("", ("stars",), np.array([-3.25]))
    lines = [line.split() for line in render(predictions_table(["A film."], [number])).splitlines() if line.strip()]
    assert (lines[0], lines[2]) == (["Prediction", "Text"], ["\N{MINUS SIGN}3.25", "A", "film."])
    label = Predicted("b", ("good",), np.array([[1.0]]))
    text = render(predictions_table(["A film."], [number, label]))
    assert text.split()[:4] == ["Prediction", "b", "Probability", "Text"]


def test_every_table_of_a_learning_curve_says_which_size(render: Any) -> None:
    columns = (
        Column("train_examples", "Training examples", "right", "", lambda row: str(row["train_examples"])),
        Column("approach", "Approach", "left", "", lambda row: str(row["approach"])),
        Column("lr", "Learning rate", "right", "", lambda row: str(row["lr"])),
    )
    rows = [{"train_examples": size, "approach": "head", "lr": 0.001} for size in (60, 7398)]
    shown = render(ComparisonTable(Table(columns, tuple(rows), ())), width=200)
    _, _, chosen = shown.partition("Chosen")
    assert [line.split() for line in chosen.splitlines() if "head" in line] == [
        ["60", "head", "0.001"],
        ["7398", "head", "0.001"],
    ]
