"""The benchmark of several devices runs, with two processes and on two nodes, and checks what it should."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

ROOT = Path(__file__).parents[2]
WORDS = ["scaling.py", "--device", "cpu", "--processes", "1,2", "--tiny"]


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch, forked: Any) -> Any:
    """The script, whose processes are forks: nothing is loaded anew."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("LORATORY_DATA", os.environ["LORATORY_DATA"])  # the script sets it
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("scaling", "together", "spread"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def together(launch: Any, processes: int) -> None:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id="test", rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", start_method="fork", max_restarts=0,
        )  # fmt: skip
        ended(lambda: elastic_launch(config, module.together.work)(launch) and None)

    def ended(work: Callable[[], None]) -> None:
        process = forked(work)
        error = process.communicate()[1]
        assert process.returncode == 0, error

    def study(study: Any) -> None:
        def work() -> None:
            os.environ.update(module.spread.environment(study))
            module.spread.work(study)

        ended(work)

    monkeypatch.setattr(module.together, "launched", together)
    monkeypatch.setattr(module.spread, "launched", study)
    return module


def test_processes_that_train_together_give_the_losses_of_one(
    scaling: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    words = ["--part", "data-parallel", "--methods", "lora", "--output", str(file)]
    monkeypatch.setattr(sys, "argv", [*WORDS, *words])
    assert scaling.main() == 0
    one, two = json.loads(file.read_text("utf8"))["together"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["examples"] == 2 * one["examples"]
    assert one["efficiency"] == 1
    assert two["efficiency"] == pytest.approx(two["examples_per_second"] / (2 * one["examples_per_second"]))
    assert two["difference"] < scaling.together.TOLERANCE
    assert len(two["curve"]) == scaling.together.EPOCHS
    assert two["moved"] > scaling.together.MOVED
    assert sum(line.startswith("| lora |") for line in capsys.readouterr().out.splitlines()) == 2


def test_losses_that_differ_are_told(scaling: Any) -> None:
    row = {"method": "lora", "processes": 2, "seconds": 1.0, "examples": 24, "curves": {"4": [0.7, 0.5]}}
    for curve, same in (([0.7, 0.501], True), ([0.7, 0.51], False), ([0.7, 0.7], False)):
        one = {**row, "processes": 1, "examples": 12, "curves": {"8": curve}}
        judged = scaling.together._judged(row, [one, row], 3, 4)
        assert judged["same"] == same
        assert judged["efficiency"] == 1


def test_runs_that_shared_a_device_are_told(scaling: Any) -> None:
    marks = [
        {"device": "a", "begin": 0.0, "end": 2.0, "visible": 1},
        {"device": "b", "begin": 1, "end": 3, "visible": 1},
    ]
    after = {"device": "a", "begin": 2.0, "end": 3.0, "visible": 1}
    assert scaling.spread.alone([*marks, after])
    assert not scaling.spread.alone([*marks, {**after, "begin": 1.9}])
    assert not scaling.spread.alone([*marks, {**after, "visible": 2}])


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_study_on_two_nodes_gives_the_records_of_one(
    scaling: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.json"
    with tempfile.TemporaryDirectory(prefix="ray") as short:  # the names of Ray's sockets have at most 107 bytes
        monkeypatch.setenv("RAY_TMPDIR", short)
        monkeypatch.setenv("RAY_worker_niceness", "0")  # else, beside other tests, they hardly run
        monkeypatch.setattr(sys, "argv", [*WORDS, "--part", "study", "--output", str(file)])
        assert scaling.main() == 0
    one, two = json.loads(file.read_text("utf8"))["study"]
    assert one["same"]
    assert two["same"]
    assert two["alone"]
    assert one["runs"] == two["runs"] == sum(two["by_device"]) == 6
    assert len(two["by_device"]) == 2
    assert two["processes"] == 2  # a process carries out one run after the other
