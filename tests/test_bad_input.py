"""Bad input: one line that begins with `error: `, the right exit code, and nothing on disk changed."""

from __future__ import annotations

import io
import runpy
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bad import CASES, Bench, Case

from loratory.cli import main

ERRORS = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "errors.py"))
WRITTEN = ERRORS["PAGE"].read_text("utf8") if ERRORS["PAGE"].is_file() else ""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_csv: Path, _ran: Path) -> Path:
    """A folder with one run, one adapter, one study and some files, which must survive all of it."""
    place = tmp_path_factory.mktemp("bad")
    shutil.copy(tiny_csv, place / "good.csv")
    for name in ("file", "nan.json"):
        (place / name).write_text("mine")
    (place / "full").mkdir()
    for name in ("run.json", ".study.lock"):
        (place / "full" / name).write_text("{}")
    shutil.copytree(tiny_bert, place / "base")
    shutil.copytree(_ran, place / "study")
    (place / "s.yaml").write_text(
        f"name: s\ndata: {place}/good.csv\nmodels: {tiny_bert}\nmethods: [head]\nseeds: [0]\n"
        "train: {epochs: 1, max_length: 32, device: cpu, precision: fp32, threads: 1}\n"
    )
    small = ["--epochs", "1", "--max-length", "32", "--device", "cpu", "--precision", "fp32"]
    for method, name, model in (("head", "run", tiny_bert), ("lora", "lora", place / "base")):
        given = ["--model", str(model), "--dataset", str(place / "good.csv"), "--output", str(place / name)]
        assert main(["train", "--method", method, *small, *given]) == 0
    return place


@pytest.fixture
def bench(place: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with ExitStack() as held:
        yield Bench(place, tiny_bert, tmp_path / "given", monkeypatch, held)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_bad_input_is_one_line_the_right_code_and_nothing_written(
    case: Case, bench: Bench, place: Path, snapshot: Any, capsys: Any, record_property: Any
) -> None:
    bench.given = bench.given.with_name(case.given)
    if case.make is not None:
        case.make(bench)
    before, lines = snapshot(place), []
    for command in case.commands:
        capsys.readouterr()
        code = main(bench.command(command))
        out, err = capsys.readouterr()
        assert (code, out) == (case.code, ""), f"{command}: {err}"
        assert err.count("\n") == 1, err
        said = err.rstrip("\n")
        assert said.startswith("error: "), err
        assert "Traceback" not in err
        names = {"place": place, "given": bench.given}
        assert [part for part in case.says if part.format(**names) not in said] == [], f"{command}: {err}"
        assert snapshot(place) == before, command
        lines.append(said.removeprefix("error: "))
    called = {"": place, "model": bench.model, case.given: bench.given, "cwd": Path.cwd()}
    line = ERRORS["shortened"](case, lines[0], called)
    record_property(case.what, line)
    assert ERRORS["row"](case, line) in WRITTEN, "run python docs/errors.py"


def test_the_page_of_errors_has_every_case_and_nothing_else() -> None:
    """Each row is compared with what is said where its case runs."""
    rows = [line for line in WRITTEN.splitlines() if line.startswith("| ")]
    assert len({case.what for case in CASES}) == len(CASES) >= 70
    shown = ERRORS["page"](dict.fromkeys((case.what for case in CASES), "")).splitlines()
    assert [row.split(" | ")[:2] for row in shown if row.startswith("| ")] == [row.split(" | ")[:2] for row in rows]
    assert [line for line in shown if not line.startswith("| ")] == [
        line for line in WRITTEN.splitlines() if not line.startswith("| ")
    ]
