"""A small study on a tiny model, and what is asked of its directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory.store.directory import read_run
from loratory.store.record import RunRecord

SMALL = """
name: small
data: [{data}]
models: [{model}]
methods:
  - {{name: head, tune: {{lr: [1e-3, 5e-3]}}}}
  - {{name: lora, rank: 2, tune: {{lr: [5e-3, 1e-2]}}}}
seeds: [3, 4]
train: {{epochs: 1, max_length: 32, batch_size: 32, device: cpu, precision: fp32, threads: 1}}
"""


@pytest.fixture
def study_file(tiny_bert: Path, tiny_csv: Path, tmp_path: Path) -> Callable[..., Path]:
    """(text=SMALL) -> a study file of the tiny model and data."""

    def write(text: str = SMALL) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text.format(data=tiny_csv, model=tiny_bert), encoding="utf8")
        return path

    return write


@pytest.fixture
def records() -> Callable[[Path], dict[str, RunRecord]]:
    """(directory) -> every run of a study by its id, each checked against its manifest."""

    def read(directory: Path) -> dict[str, RunRecord]:
        places = [path for path in (directory / "runs").iterdir() if path.name[0] != "."]
        found = {path.name: read_run(path) for path in places}
        assert all(record.id == name for name, record in found.items())
        return found

    return read


@pytest.fixture
def plan() -> Callable[[Path], dict[str, Any]]:
    """(directory) -> plan.json."""
    return lambda directory: json.loads((directory / "plan.json").read_text("utf8"))
