"""When states are kept and by whom, and what signals do after the last step."""

from __future__ import annotations

import errno
import importlib
import json
import os
import pickle
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from interrupting import assert_same, checkpoints, interrupted

from loratory.checkpointing import RunKeeper
from loratory.engine.checkpoint import State
from loratory.engine.epoch import Progress
from loratory.engine.processes import Processes
from loratory.errors import Interrupted, StorageError
from loratory.every import Every
from loratory.interruption import Interruption
from loratory.run import Run, train
from loratory.store.checkpoints import Checkpoints
from loratory.store.directory import read_run


def written_at(patch: pytest.MonkeyPatch) -> list[int]:
    """The steps of which checkpoints are written from now on; one step too often ends the run."""
    steps, before = list[int](), Checkpoints.write

    def write(self: Checkpoints, step: int, *given: Any) -> Path:
        steps.append(step)
        assert len(steps) < 30
        return before(self, step, *given)

    patch.setattr(Checkpoints, "write", write)
    return steps


def test_a_write_that_takes_longer_than_the_interval_comes_once_a_step(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = written_at(monkeypatch)
    run = train(spec("head"), output=tmp_path / "run", checkpoint_every="0.001s")
    assert run.record.status == "completed"
    assert steps == sorted({*steps})


@pytest.mark.parametrize("rank", [0, 1])
def test_the_interval_begins_when_all_processes_are_done(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("loratory.checkpointing.time.monotonic", lambda: now)

    def largest(self: Processes, values: Sequence[int], device: torch.device) -> list[int]:
        nonlocal now
        now += 100.0  # so long the first one writes
        return list(values)

    monkeypatch.setattr(Processes, "largest", largest)
    hardware = SimpleNamespace(processes=Processes(rank, 2), device=torch.device("cpu"))
    keeper = RunKeeper(Checkpoints(tmp_path / "run", "f", "k"), Every(seconds=90.0), hardware, Interruption())
    keeper.keep(State({}, {"meter": {"counts": [4]}}))
    assert not keeper.due(5)
    now += 90.0
    assert keeper.due(5)
    assert not keeper.due(4)
    keeper.interruption.number = signal.SIGTERM
    assert keeper.due(4)


@pytest.fixture
def signals_that_pass() -> Iterator[None]:
    """A signal that nobody takes does not end the tests."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("signals_that_pass")
@pytest.mark.parametrize("where", ["loratory.run.predict", "loratory.run.written", "loratory.run.commit"])
def test_a_signal_after_the_last_step_waits_until_the_run_is_committed(
    where: str, spec: Any, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = where.rsplit(".", 1)
    before = getattr(importlib.import_module(module), name)

    def told(*given: Any, **more: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return before(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(where, told)
        with pytest.raises(Interrupted, match=r"^terminated after its last step; the run is whole in .*run$") as caught:
            train(spec("lora"), output=tmp_path / "run")
    assert caught.value.exit_code == 143
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    monkeypatch.setattr("loratory.run.optimize", None)  # would fail
    assert_same(train(spec("lora"), output=tmp_path / "run"), runs["lora"])


@pytest.mark.usefixtures("signals_that_pass")
def test_a_second_signal_after_the_last_step_stops_at_once(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loratory.interruption.AGAIN", 0.0)

    def twice(*given: Any, **more: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("went on")

    monkeypatch.setattr("loratory.run.predict", twice)
    with pytest.raises(Interrupted, match=r"^terminated$"):
        train(spec("head"), output=tmp_path / "run")
    assert read_run(tmp_path / "run").status == "interrupted"


def test_a_signal_and_a_full_disk_are_both_in_the_one_line_and_in_the_record(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("loratory.store.checkpoints.save_file", full)
    with pytest.raises(Interrupted) as caught:
        train(spec("head"), output=tmp_path / "run", on_step=stop)
    assert caught.value.exit_code == 143
    said = str(caught.value)
    assert said.startswith("terminated after step 2, and no checkpoint could be kept: ")
    assert f": {os.strerror(errno.ENOSPC)}; make room" in said
    record = read_run(tmp_path / "run")
    assert (record.status, record.error) == ("interrupted", said)


def test_where_the_first_process_cannot_write_none_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Processes, "largest", lambda self, values, device: [0, 1])
    hardware = SimpleNamespace(processes=Processes(1, 2), device=torch.device("cpu"))
    keeper = RunKeeper(Checkpoints(tmp_path / "run", "f", "k"), Every(), hardware, Interruption())
    with pytest.raises(StorageError, match="the first process could keep no checkpoint"):
        keeper.keep(State({}, {"meter": {"counts": [4]}}))


def test_processes_are_told_where_a_state_stands_and_each_reads_it_itself(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    interrupted(spec("lora"), output, (4,))
    (path,) = checkpoints(output)
    fingerprint = json.loads((path / "state.json").read_text("utf8"))["fingerprint"]
    sent = list[bytes]()

    def told(self: Processes, value: Any) -> Any:
        if self.first:
            sent.append(pickle.dumps(value))
        return pickle.loads(sent[-1])

    monkeypatch.setattr(Processes, "told", told)

    def found_by(rank: int) -> State:
        hardware = SimpleNamespace(processes=Processes(rank, 2), device=torch.device("cpu"))
        found = RunKeeper.of(Checkpoints(output, fingerprint, "k"), Every(), hardware, Interruption()).found
        assert found is not None
        return found

    first, second = found_by(0), found_by(1)
    assert b"torch" not in sent[0]
    assert first.facts == second.facts
    assert first.tensors.keys() == second.tensors.keys() != set()
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())
    file = path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")  # another machine's file of that name
    with pytest.raises(StorageError, match=r"not here as the first process found it; where several machines"):
        found_by(1)
    shutil.rmtree(path)
    with pytest.raises(StorageError, match=r"must be one that they share$"):
        found_by(1)


def test_states_of_one_step_stand_beside_each_other_and_the_last_one_is_the_newest(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "run", "f", "k")
    for number in range(12):
        kept.write(4, {"weight": torch.zeros(1)}, {"number": number})
    assert {path.name for path in checkpoints(tmp_path / "run")} == {
        f".run.checkpoint-0000000004-{number}" for number in (10, 11)
    }
    found = kept.newest()
    assert found is not None
    assert found.facts == {"number": 11}
    assert kept.clear() == 2
