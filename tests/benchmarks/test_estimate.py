"""The benchmark of estimates sets the largest batch beside what runs with it, and with more, are measured to need."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, whose work is done in this process."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("estimate", ROOT / "benchmarks" / "estimate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_alone", lambda work, *args: work(*args))
    return module


@pytest.fixture
def printed(
    benchmark: Any, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """(flags) -> what the script prints of a tiny model."""
    words = f"estimate.py --models tiny --workloads short --methods lora --dataset {tiny_csv}".split()

    def run(*flags: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", [*words, *flags])
        benchmark.main()
        return capsys.readouterr().out.splitlines()

    return run


def test_a_largest_batch_is_trained_and_1_25_times_as_many(
    benchmark: Any, printed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: dict[str, Any] = {}

    def trained(spec: Any, output: str) -> dict[str, Any]:
        run[str(spec.training.batch_size)] = spec
        peak = 2**20 * (50 + 10 * spec.training.batch_size)  # of the 128 MiB below
        return {"cost": {"peak_memory_bytes": {"allocated": None, "resident": peak}}}

    monkeypatch.setattr(benchmark, "_trained", trained)
    monkeypatch.setattr(benchmark, "_estimated", lambda spec, memory: {"largest_batch": memory // 2**24})
    lines = printed("--memory", "128MiB,1MiB", "--examples", "40")
    assert [*run] == ["8", "10"]
    assert "| tiny | short | lora | 128 MiB | 8 | 130 MiB | 102% | 10 | 150 MiB | 117% |" in lines
    assert "| tiny | short | lora | 1 MiB | 0 | – | – | 0 | – | – |" in lines
    assert "within the memory with the largest batch: 0 of 1" in lines
    assert "above it with 1.25 times as many: 1 of 1" in lines
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == {11}


def test_all_examples_in_a_step_are_a_largest_batch_too(printed: Any) -> None:
    lines = printed("--memory", "64GiB", "--examples", "16")
    (row,) = [line for line in lines if line.startswith("| tiny")]
    cells = row.strip("| ").split(" | ")
    assert (cells[4], cells[7:]) == ("16", ["20", "–", "–"])
    assert "within the memory with the largest batch: 1 of 1" in lines


def test_an_estimate_is_set_beside_its_run(printed: Any) -> None:
    lines = printed("--steps", "2")
    assert len([line for line in lines if line.startswith("| tiny | short | lora |") and "| exact |" in line]) == 2
