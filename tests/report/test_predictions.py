"""Predictions in files: what their columns are called."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from loratory.report.predictions import Answers, Predicted, PredictedLabels, PredictedNumbers, write_predictions

SHARES = np.array([[0.2, 0.9]])
SAID = {
    "label": Predicted("", ("bad", "good"), SHARES),
    "labels": PredictedLabels("", ("bad", "good"), SHARES, np.array([0.5, 0.5])),
    "prediction": PredictedNumbers("", ("stars",), np.array([4.0])),
}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("ours", SAID)
def test_no_column_of_the_input_can_be_taken_for_what_a_model_says(ours: str, suffix: str, tmp_path: Path) -> None:
    said: Answers = SAID[ours]
    row = {"label": "theirs", "labels": "theirs", "prediction": "theirs", "id": "7"}
    path = tmp_path / f"said{suffix}"
    write_predictions(path, ["w0"], [said], [row])
    with path.open(encoding="utf8", newline="") as file:
        (found,) = csv.DictReader(file) if suffix == ".csv" else map(json.loads, file)
    assert found[ours] != "theirs"
    assert {name for name, value in found.items() if value == "theirs"} == {f"input_{name}" for name in SAID}
    assert found["id"] == "7"
