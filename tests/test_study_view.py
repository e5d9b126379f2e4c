"""What a terminal shows of a study while it runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loratory.cli import main
from loratory.study.document import Summary
from loratory.study.progress import progress_of


def test_a_terminal_shows_a_bar_with_cells_best_rate_and_time(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("loratory.study_view.errors", Console(file=shown, force_terminal=True, width=160))
    path = tmp_path / "s.yaml"
    path.write_text(
        f"name: s\ndata: {tiny_csv}\nmodels: {tiny_bert}\nmethods: [{{name: head, tune: {{lr: [1e-3, 1e-2]}}}}]\n"
        "seeds: [0]\ntrain: {epochs: 1, max_length: 32, device: cpu, precision: fp32}\n",
        encoding="utf8",
    )
    assert main(["study", "run", str(path), "--output", str(tmp_path / "out")]) == 0
    text = shown.getvalue()
    for part in ("3/3", "1 of 1 cell", "best 0.", "runs a minute", "left"):
        assert part in text
    last = next(line for line in reversed(text.splitlines()) if "3 of 3 runs" in line)
    assert "left" not in last[last.index("3 of 3 runs") :]
    out, err = capsys.readouterr()
    assert "s: 1 cell: 2 tuning runs and 1 final run, none exists yet" in out
    assert "Time: unknown until the first run (loratory estimate, with the settings of one, says that run's)" in out
    assert err == ""
    assert main(["study", "run", str(path), "--output", str(tmp_path / "out"), "--set", "seeds=[0, 1]"]) == 0
    out = capsys.readouterr().out
    assert "4 tuning runs and 2 final runs, 3 exist" in out
    assert "Time: about " in out
    assert "a run; 1 run at once" in out


def test_status_and_table_call_a_cell_the_same(ran: Path, plan: Any) -> None:
    document = plan(ran)
    assert [cell.method for cell in progress_of(document, {}).cells] == ["head", "lora r=2 attention"]
    assert [cell.approach for cell in Summary.read(ran).cells] == ["head", "lora r=2 attention"]
    head, lora = document["cells"]
    more = {**lora, "id": "c3", "method": {**lora["method"], "alpha": 99.0}}
    elsewhere = {**more, "id": "c4", "data": "other.csv"}
    names = [cell.method for cell in progress_of({**document, "cells": [head, lora, more, elsewhere]}, {}).cells]
    alpha = lora["method"]["alpha"]
    both = [f"lora r=2 attention, alpha={alpha}", "lora r=2 attention, alpha=99.0"]
    assert names == ["head", *both, "lora r=2 attention"]
