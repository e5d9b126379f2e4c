"""The benchmark runs, on a tiny model and a few texts: its figures are there and make sense."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "benchmarks" / "engine.py"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    with path.open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([["word " * (5 + i % 40) + str(i), i % 2] for i in range(80)])
    return path


def test_quick_measures_rival_and_loratory(texts: Path) -> None:
    flags = ["--quick", "--model", "tiny", "--device", "cpu", "--dataset", str(texts), "--batch-size", "4", "--json"]
    flags += ["--methods", "lora", "--workloads", "short", "--contenders", "tuned,loratory"]
    done = subprocess.run(
        [sys.executable, ENGINE, *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=texts.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(row["method"], row["contender"]) for row in report["rows"]] == [("lora", "tuned"), ("lora", "loratory")]
    for row in report["rows"]:
        assert "error" not in row, row["error"]
        assert row["examples_per_second"] > 0
        assert row["tokens_per_second"] > row["examples_per_second"]
        assert row["peak_bytes"] > 1e6
        assert row["setup_seconds"] >= 0
        assert 0 < row["rate_share"] < 1
        assert row["speed_over_best_rival"] > 0
    assert report["rows"][0]["speed_over_best_rival"] == 1
    assert report["workloads"]["short"]["rivals"]["tuned"]["bf16"] == (report["environment"]["precision"] == "bf16")
    assert report["environment"]["threads"] == 1
