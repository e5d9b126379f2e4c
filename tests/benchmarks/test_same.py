"""The benchmark of sameness finds what is the same, and what is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def same(monkeypatch: pytest.MonkeyPatch, forked: Any) -> Any:
    """The script, whose processes are forks."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("same", ROOT / "benchmarks" / "same.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def trained(flags: dict[str, Any], output: Path, stop_after: int = 0) -> None:
        process = forked(lambda: module._child(flags, output, stop_after))
        error = process.communicate()[1]
        assert process.returncode == (143 if stop_after else 0), error

    monkeypatch.setattr(module, "_trained", trained)
    return module


WORDS = ["same.py", "--model", "tiny", "--processes", "2", "--steps", "4", "--interruptions", "1", "--dataset"]


def test_runs_are_the_same_in_fresh_processes_and_when_they_were_interrupted(
    same: Any, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*WORDS, str(tiny_csv)])
    assert same.main() == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| standard", "| lora", "| hyb"))]
    assert len(rows) == 3
    assert [row.count("the same bytes") for row in rows] == [3] * 3


def test_a_run_that_differs_is_told(
    same: Any, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, count = same._trained, iter(range(100))

    def other(flags: dict[str, Any], output: Path, stop_after: int = 0) -> None:
        before({**flags, "seed": next(count)}, output, stop_after)

    monkeypatch.setattr(same, "_trained", other)
    monkeypatch.setattr(sys, "argv", [*WORDS, str(tiny_csv), "--methods", "lora", "--interruptions", "0"])
    assert same.main() == 1
    assert "| lora | 2 | 2 different | 2 different |" in capsys.readouterr().out


@pytest.mark.parametrize(("other", "code"), [(False, 0), (True, 1)])
def test_each_family_is_trained_twice_and_one_that_differs_is_told(
    other: bool, code: int, same: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = same.fitted_twice
    monkeypatch.setattr(same, "FAMILIES", {name: same.FAMILIES[name] for name in ("albert",)})
    monkeypatch.setattr(same, "fitted_twice", lambda spec: ("one", "two") if other else before(spec))
    monkeypatch.setattr(sys, "argv", ["same.py", "--families"])
    monkeypatch.setenv("LORATORY_DATA", "")  # so that it is put back
    assert same.main() == code
    found = "different bytes" if other else "the same bytes"
    out = capsys.readouterr().out
    assert f"\n| albert | {found} | {found} | refused |\n" in out
    assert f"{found}: 2, refused: 1" in out
