"""Studies that are killed or interrupted: every run once, and the same numbers."""

from __future__ import annotations

import multiprocessing
import os
import random
import select
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from carried_out import failing, numbers

import loratory.study.jobs as jobs
from loratory.cli import main
from loratory.engine.epoch import Ready

pytestmark = pytest.mark.usefixtures("without_page")

KILLED = """
name: killed
data: [{data}]
models: [{model}]
methods:
  - {{name: standard, tune: {{lr: [1e-4, 1e-3]}}}}
  - {{name: lora, rank: 2, tune: {{lr: [1e-3, 5e-3]}}}}
  - {{name: head, tune: {{lr: [1e-3, 5e-3]}}}}
seeds: [0, 1]
train: {{epochs: 1, max_length: 32, batch_size: 32, device: cpu, precision: fp32, threads: 1}}
"""
KILLS = 10


def test_killed_at_ten_random_moments_every_run_is_there_once_with_the_same_numbers(
    study_file: Any, forked: Any, tmp_path: Path, records: Any
) -> None:
    path, directory, draw = study_file(KILLED), tmp_path / "out", random.Random(7)
    command = ["study", "run", str(path), "--output", str(directory)]
    seen: dict[str, Any] = {}
    midway = 0
    for _ in range(KILLS):
        process = forked(lambda: main(command))
        time.sleep(draw.uniform(0.15, 0.6))
        process.send_signal(signal.SIGKILL)
        said = process.communicate()
        midway += process.returncode == -signal.SIGKILL
        if (directory / "runs").is_dir():
            seen = {name: record.cost for name, record in records(directory).items()} | seen
    assert midway >= KILLS // 2  # it was still at work
    assert main(command) == 0, said
    found = records(directory)
    assert len(found) == 3 * (2 * 2 + 2)
    assert {name: found[name].cost for name in seen} == seen  # what was there was not run again
    assert {path.name for path in (directory / "runs").iterdir()} == set(found)  # and nothing is left lying about
    assert main(["study", "run", str(path), "--output", str(tmp_path / "whole")]) == 0
    assert numbers(found) == numbers(records(tmp_path / "whole"))
    plans = [(place / "plan.json").read_text("utf8") for place in (directory, tmp_path / "whole")]
    assert plans[0] == plans[1]


def test_an_interrupted_run_is_run_again(
    study_file: Any, tmp_path: Path, records: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["study", "run", str(study_file()), "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train", failing(KeyboardInterrupt(), lambda spec: spec.seed == 4))  # type: ignore[arg-type]
        assert main(command) == 130
    assert "interrupted" in {record.status for record in records(tmp_path / "out").values()}
    assert main(command) == 0
    assert {record.status for record in records(tmp_path / "out").values()} == {"completed"}


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_under_way_keep_a_checkpoint_when_a_study_is_interrupted_and_go_on_from_it(
    workers: int, study_file: Any, forked: Any, ran: Path, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, place, stepped = multiprocessing.get_context("fork"), tmp_path / "out", tmp_path / "stepped"
    command = ["study", "run", str(study_file()), "--output", str(place), "--workers", str(workers)]
    epoch = Ready.epoch

    def waiting(self: Ready, number: int, on_step: Any, **given: Any) -> int:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)

        def step(progress: Any) -> None:
            on_step(progress)
            stepped.touch()
            select.select([reading], [], [], 60)

        return epoch(self, number, step, **given)

    def work() -> int:
        multiprocessing.get_context = lambda method=None: fork  # type: ignore[assignment]  # in this fork alone
        Ready.epoch = waiting  # type: ignore[method-assign]  # likewise
        return main(command)

    process = forked(work)
    deadline = time.monotonic() + 60
    while not stepped.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    kept = [path.name for path in (place / "runs").glob(".*.checkpoint-*")]
    assert 1 <= len(kept) <= workers
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert main(command) == 0
    found = records(place)
    assert sum(record.cost["resumed_at_steps"] == [1] for record in found.values()) == len(kept)
    assert numbers(found) == numbers(records(ran))
    assert not list((place / "runs").glob(".*"))
