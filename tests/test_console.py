"""Hostile text on a terminal, in CSV and in errors stays text; secrets stay where they are."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.table import Table

from loratory import console
from loratory.cli import main
from loratory.errors import StorageError, first_line
from loratory.report.predictions import Predicted, write_predictions
from loratory.report.tables import csv_cell

HOSTILE = "\x1b[31mred\x1b]8;;http://x\x07\x9b2J\u202e[red][link=http://x]:smile:"
RAW = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
TOKEN = "hf_CanaryCanaryCanaryCanary"


def table() -> Table:
    shown = Table(HOSTILE)
    shown.add_row(HOSTILE)
    return shown


def log_it() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(console.Lines())
    handler.emit(logging.LogRecord("loratory", logging.WARNING, "", 0, "%s", (HOSTILE,), None))


@pytest.mark.parametrize(
    "speak",
    [
        lambda: console.show(table()),
        lambda: console.show(HOSTILE),
        lambda: console.say(HOSTILE),
        lambda: console.tell(HOSTILE),
        lambda: console.fail(HOSTILE, 3, debug=False),
        lambda: console.print_json({HOSTILE: HOSTILE}),
        log_it,
    ],
    ids=["table", "text", "say", "tell", "fail", "json", "log"],
)
def test_no_control_character_and_no_markup_is_obeyed(speak: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    speak()
    text = "".join(capsys.readouterr())
    assert not RAW.search(text)
    assert "[red][link=http://x]:smile:" in text
    assert r"\x1b[31mred" in text or r"\u001b[31mred" in text


def test_an_error_with_a_traceback_commands_no_terminal_either(tmp_path: Path, capsys: Any) -> None:
    assert main(["predict", "--debug", "--model-path", str(tmp_path / HOSTILE.replace("/", ""))]) == 5
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert not RAW.search(err)


def test_a_terminal_without_utf8_is_written_to(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["models"], ["compare", str(run_directory), "--no-baselines"], ["models", "--json"]):
        shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", shown)
        assert main(words) == 0
        shown.flush()
        assert shown.buffer.getvalue().isascii()
    monkeypatch.setattr(sys, "stdout", shown := io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    console.print_json(["\U0001f600 é"])
    shown.flush()
    assert json.loads(shown.buffer.getvalue()) == ["\U0001f600 é"]


@pytest.mark.parametrize("added", [[], ["--json"], ["--markdown"]])
def test_a_reader_that_has_left_is_no_error(
    added: list[str], run_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        closed.reconfigure(line_buffering=True)
        assert main(["compare", str(run_directory), "--no-baselines", *added]) == 0
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


def test_tokens_are_in_no_line_and_in_no_file(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    secrets = {"HF_TOKEN": TOKEN, "WANDB_API_KEY": "canary-of-wandb", "MLFLOW_TRACKING_PASSWORD": "canary-of-mlflow"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    said = " ".join(secrets.values())

    def start(*arguments: Any, **named: Any) -> Any:
        raise ValueError(f"no login with {said} at https://me:pass-canary@host")

    command = ["train", "--method", "head", *flags, "--tracker", "tensorboard"]
    with monkeypatch.context() as patch:
        patch.setattr("accelerate.tracking.TensorBoardTracker.start", start)
        assert main([*command, "--output", str(tmp_path / "one"), "--debug"]) == 6
    with monkeypatch.context() as patch:  # while it trains: the run is recorded as failed
        patch.setattr("loratory.written.save", start)
        assert main([*command, "--output", str(tmp_path / "two")]) != 0
    assert main([*command, "--output", str(tmp_path / "three")]) == 0
    assert (tmp_path / "two" / "run.json").is_file()
    texts = [
        *capsys.readouterr(),
        *(path.read_bytes().decode("latin1") for path in tmp_path.rglob("*") if path.is_file()),
    ]
    for secret in (*secrets.values(), "pass-canary"):
        assert not [text[:80] for text in texts if secret in text]
    assert any("$WANDB_API_KEY" in text for text in texts)
    assert TOKEN not in str(StorageError(said))
    assert TOKEN not in first_line(ValueError(said))


FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff201",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_runs_no_text(text: str, tmp_path: Path) -> None:
    assert str(csv_cell(text)).startswith("'")
    said = Predicted("", (text, "b"), np.array([[0.9, 0.1]]))
    write_predictions(tmp_path / "p.csv", [text], [said], [{text: text}])
    with (tmp_path / "p.csv").open(encoding="utf8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.lstrip()[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20")]
    write_predictions(tmp_path / "p.jsonl", [text], [said])
    assert json.loads((tmp_path / "p.jsonl").read_text("utf8"))["text"] == text


@pytest.mark.parametrize("number", [-5, -0.25, "-5", "+1.5e-3", "-.5", None, 0])
def test_numbers_stay_numbers(number: Any) -> None:
    assert csv_cell(number, untyped=True) == number
