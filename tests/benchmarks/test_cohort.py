"""The benchmarks of cohorts run, on tiny models and a few texts: what they print is made of what they measured."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def _own_names() -> Iterator[None]:
    """Modules of benchmarks/ may have names that modules of tests have."""
    names = {path.stem for path in HERE.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in names.intersection(sys.modules)}
    yield
    for name in names.intersection(sys.modules):
        del sys.modules[name]
    sys.modules.update(others)


@pytest.fixture
def measured(
    _own_names: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """What benchmarks/cohort.py writes and prints with some flags."""
    texts, output = tmp_path / "texts.csv", tmp_path / "found.json"
    with texts.open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([["word " * (5 + i % 40) + str(i), i % 2] for i in range(80)])
    monkeypatch.syspath_prepend(HERE)
    cohort = importlib.import_module("cohort")

    def run(*flags: str) -> tuple[dict[str, Any], str]:
        given = ["--device", "cpu", "--model", "tiny", "--dataset", str(texts), "--workloads", "short"]
        given += ["--batch-size", "4", "--output", str(output), *flags]
        monkeypatch.setattr(sys, "argv", ["cohort.py", *given])
        cohort.main()
        (row,) = json.loads(output.read_text(encoding="utf8"))["rows"]
        return row, capsys.readouterr().out

    return run


def test_members_beside_solo_runs(measured: Any) -> None:
    row, printed = measured("--members", "3", "--steps", "4", "--warmup", "2")
    assert row["ranks"] == [1, 2, 4]
    assert row["engine"]["cohort"] == 3
    assert row["over_solo"] == pytest.approx(row["cohort_examples_per_second"] / row["solo_examples_per_second"])
    assert f"{row['over_solo']:.2f}×" in printed
    assert "tiny, random weights" in printed


def test_heads_beside_one(measured: Any) -> None:
    row, printed = measured("--probes", "3", "--texts", "24", "--epochs", "2")
    assert row["engine"]["cohort"] == 3
    assert row["engine"]["frozen_bottom"]["layers"] == row["one_engine"]["frozen_bottom"]["layers"] == "all"
    assert row["over_one"] == pytest.approx(row["many_seconds"] / row["one_seconds"])
    for count in ("one", "many"):
        assert 0 < row[f"{count}_phases"]["bottom"] < row[f"{count}_phases"]["train"] < row[f"{count}_seconds"]
        assert row[f"{count}_load_seconds"] > 0
    assert f"{row['over_one']:.2f}×" in printed
