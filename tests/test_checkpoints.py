"""A run that is interrupted goes on from its checkpoint, and ends with the bits of one that never was."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from faulting import faults, refuse
from interrupting import assert_same, checkpoints, interrupted
from safetensors.torch import load_file

from loratory.cli import main
from loratory.engine import frozen
from loratory.engine.checkpoint import Pauses
from loratory.engine.epoch import Progress
from loratory.engine.predict import predict
from loratory.errors import DivergedError, Interrupted, SettingsError, StorageError
from loratory.every import Every
from loratory.methods import METHODS
from loratory.run import Run, train
from loratory.store.checkpoints import Checkpoints
from loratory.store.directory import read_run

WATCHED = {"epochs": 4, "keep": "best", "patience": 2, "attention_dropout": 0.1}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("standard", {**WATCHED, "label_smoothing": 0.1}),
    ("standard", {"gradual_unfreezing": 1, "epochs": 4, "accumulate": 2}),
    ("lora", {**WATCHED, "class_weights": "balanced"}),
    ("hybrid", {**WATCHED, "activation_checkpointing": "on"}),
    ("lora", {"precision": "bf16"}),
    ("lora", {"epochs": 4, "until": 2}),
]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_on_to_the_same_bits(
    method: str, spec: Any, runs: dict[str, Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "run"
    # within the first epoch, at its end, one step before the last; an epoch's end is the loop's, but for adalora
    steps = [4, 6, 11] if method in ("standard", "adalora") else [4, 11]
    interrupted(spec(method), output, steps)
    assert [path.name for path in checkpoints(output)] == [f".run.checkpoint-{step:010}" for step in steps[-2:]]
    with caplog.at_level("INFO", "loratory"):
        run = train(spec(method), output=output)
    assert "goes on after step 11" in caplog.text
    assert_same(run, runs[method])
    assert run.record.cost["resumed_at_steps"] == steps
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(("method", "given"), SETTINGS, ids=lambda one: one if isinstance(one, str) else "-".join(one))
def test_what_a_setting_adds_to_the_state_goes_on_too(
    method: str, given: dict[str, Any], spec: Any, tmp_path: Path
) -> None:
    chosen = spec(method, **given)
    expected = train(chosen, output=tmp_path / "expected")
    last = expected.record.cost["steps"]
    interrupted(chosen, tmp_path / "run", sorted({1, 8, 12, 13, last - 1, last} & set(range(1, last + 1))))
    assert_same(train(chosen, output=tmp_path / "run"), expected)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_gets_a_signal_says_what_it_kept_and_goes_on(
    number: int, code: int, flags: list[str], tmp_path: Path, forked: Any
) -> None:
    output = tmp_path / "run"
    words = ["train", "--method", "lora", *flags, "--output", str(output)]

    def at_step(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), number)

    def work() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("loratory.engine.epoch.Ready.epoch", _told(at_step))
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
            return main(words)

    process = forked(work)
    out, err = process.communicate()
    assert (process.returncode, out) == (code, ""), err
    assert err.splitlines()[-1].startswith("error: terminated" if code == 143 else "error: interrupted")
    assert "after step 2, of which a checkpoint is kept; the same command goes on" in err
    again = forked(lambda: main(words))
    _, err = again.communicate()
    assert again.returncode == 0
    assert "goes on after step 2" in err
    assert not checkpoints(output)


def _told(at_step: Callable[[Progress], None]) -> Callable[..., int]:
    from loratory.engine.epoch import Ready

    before = Ready.epoch

    def epoch(self: Ready, number: int, on_step: Callable[[Progress], None], **given: Any) -> int:
        def both(progress: Progress) -> None:
            on_step(progress)
            at_step(progress)

        return before(self, number, both, **given)

    return epoch


def test_a_second_signal_stops_at_once_and_the_store_is_as_it_was(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loratory.interruption.AGAIN", 0.0)
    output = tmp_path / "run"
    interrupted(spec("lora"), output, (3,))
    (before,) = checkpoints(output)
    files = {path.name: path.read_bytes() for path in before.iterdir()}

    def twice(progress: Progress) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        train(spec("lora"), output=output, on_step=twice)
    assert "checkpoint" not in str(caught.value)
    assert checkpoints(output) == [before]
    assert {path.name: path.read_bytes() for path in before.iterdir()} == files
    assert sorted(path.name for path in tmp_path.iterdir()) == [before.name, "run"]


def test_a_signal_that_comes_to_the_group_and_again_from_the_parent_is_one(
    spec: Any, runs: dict[str, Run], tmp_path: Path
) -> None:
    def twice(progress: Progress) -> None:
        if progress.step == 5:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 5, of which a checkpoint is kept"):
        train(spec("lora"), output=tmp_path / "run", on_step=twice)
    assert_same(train(spec("lora"), output=tmp_path / "run"), runs["lora"])


def test_a_signal_breaks_a_validation_off_and_the_run_that_goes_on_validates_first(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, asked = spec("lora", **WATCHED), 0
    monkeypatch.setattr("loratory.engine.epoch.predict", partial(predict, tokens=16))
    expected = train(chosen, output=tmp_path / "expected")
    within = Pauses.within

    def told(self: Pauses) -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:
            signal.raise_signal(signal.SIGTERM)
        return within(self)

    with monkeypatch.context() as patch:
        patch.setattr(Pauses, "within", told)
        with pytest.raises(Interrupted, match="after step 6, of which a checkpoint is kept"):
            train(chosen, output=tmp_path / "run")
    assert asked == 2  # of more batches
    (kept,) = checkpoints(tmp_path / "run")
    facts = json.loads((kept / "state.json").read_text("utf8"))["facts"]
    assert (facts["epoch"], facts["history"]) == (1, [])
    assert_same(train(chosen, output=tmp_path / "run"), expected)


def test_a_signal_that_came_in_the_last_step_of_an_epoch_leaves_its_state_before_validation(
    spec: Any, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("loratory.engine.epoch.Ready.validated", None)  # would fail
        interrupted(spec("lora"), tmp_path / "run", (6,))
    assert_same(train(spec("lora"), output=tmp_path / "run"), runs["lora"])


def test_a_signal_ends_the_pass_of_frozen_layers_between_two_batches(
    spec: Any, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(spec("head"), tmp_path / "run", (4,))
    before, made = frozen._stopped, 0

    def told(*given: Any) -> Any:
        nonlocal made
        made += 1
        signal.raise_signal(signal.SIGTERM)
        return before(*given)

    with monkeypatch.context() as patch:
        patch.setattr(frozen, "_stopped", told)
        patch.setattr(frozen, "AT_ONCE", 64)
        with pytest.raises(Interrupted, match="a checkpoint of step 4 kept; the same command goes") as caught:
            train(spec("head"), output=tmp_path / "run")
    assert (caught.value.exit_code, made) == (143, 1)
    run = train(spec("head"), output=tmp_path / "run")
    assert run.record.cost["resumed_at_steps"] == [4]
    assert_same(run, runs["head"])


def test_a_signal_before_a_failure_still_ends_everything(spec: Any, tmp_path: Path) -> None:
    def fail(progress: Progress) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("odd")

    with pytest.raises(Interrupted):
        train(spec("head"), output=tmp_path / "run", on_step=fail)
    assert read_run(tmp_path / "run").status == "interrupted"


def test_a_place_that_does_not_last_is_promised_nothing(spec: Any, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        train(spec("head"), output=tmp_path / "run", on_step=stop, checkpoint_every="never")
    assert "checkpoint" not in str(caught.value)
    assert checkpoints(tmp_path / "run") == []


def test_of_a_damaged_checkpoint_the_one_before_is_used(
    spec: Any, runs: dict[str, Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "run"
    interrupted(spec("lora"), output, (4, 9))
    file = checkpoints(output)[-1] / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)
    run = train(spec("lora"), output=output)
    assert "is damaged" in caplog.text
    assert "the checkpoint before it is used" in caplog.text
    assert run.record.cost["resumed_at_steps"] == [4]
    assert_same(run, runs["lora"])
    assert [path.name for path in tmp_path.glob(".*")] == [".run.checkpoint-0000000009.damaged-1"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
def test_any_file_of_a_checkpoint_that_is_cut_or_gone_is_noticed(
    file: str, spec: Any, runs: dict[str, Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "run"
    interrupted(spec("lora"), output, (4,))
    damaged = checkpoints(output)[0] / file
    damaged.unlink() if file == "manifest.json" else os.truncate(damaged, damaged.stat().st_size // 2)
    run = train(spec("lora"), output=output)
    assert len([record for record in caplog.records if "set aside" in record.getMessage()]) == 1
    assert run.record.cost["resumed_at_steps"] == []
    assert_same(run, runs["lora"])


def test_checkpoints_of_another_run_are_not_taken(spec: Any, tmp_path: Path) -> None:
    output = tmp_path / "run"
    interrupted(spec("lora"), output, (4,))
    shutil.rmtree(output)  # as a killed process leaves it
    with pytest.raises(StorageError, match=r"1 checkpoint of another run .*; give those again, remove"):
        train(spec("lora", lr=0.006), output=output)
    assert len(checkpoints(output)) == 1


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_checkpoint_of_another_number_of_threads_is_not_taken_and_that_is_said(
    spec: Any, tmp_path: Path, two_threads: None, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "run"
    interrupted(spec("head", threads=2), output, (4,))
    with pytest.raises(StorageError) as caught:
        train(spec("head", threads=1), output=output)
    (name,) = (path.name for path in checkpoints(output))
    why = "of this run with 2 CPU threads, is not used: with 1 sums are rounded otherwise"
    assert str(caught.value) == (f"{tmp_path / name}, {why}; give --threads 2, or choose another --output")
    shutil.rmtree(output)  # as a killed process leaves it
    with pytest.raises(StorageError, match=r"of this run with 2 CPU threads, .*; give --threads 2, or"):
        train(spec("head", threads=1), output=output)
    run = train(spec("head", threads=1), output=tmp_path / "other")  # as the id of a run names its place
    assert run.record.cost["resumed_at_steps"] == []
    assert f"{tmp_path / name}, {why}; give --threads 2 to go on from it" in caplog.text
    caplog.clear()
    train(spec("head", threads=1, lr=0.006), output=tmp_path / "another")
    train(spec("head", threads=2), output=tmp_path / "a copy")  # the very run, which has no checkpoint there
    assert "sums are rounded" not in caplog.text
    assert train(spec("head", threads=2), output=output).record.cost["resumed_at_steps"] == [4]


def test_a_run_that_goes_on_under_other_settings_of_libraries_says_so_and_records_it(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "run"
    monkeypatch.delenv("MKL_CBWR", raising=False)
    interrupted(spec("head"), output, (2,))
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    interrupted(spec("head"), output, (4,))
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT")
    record = train(spec("head"), output=output).record
    warned = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    then = "sums may be rounded otherwise than in a run without interruption; run.json says so"
    assert warned == [
        f"goes on after step 2 with another MKL_CBWR (none → COMPATIBLE): {then}",
        f"goes on after step 4 with another ONEDNN_DEFAULT_FPMATH_MODE (none → STRICT): {then}",
    ]
    assert record.environment["engine"]["changed_at_resuming"] == [
        {"step": 2, "what": "MKL_CBWR", "before": None, "after": "COMPATIBLE"},
        {"step": 4, "what": "ONEDNN_DEFAULT_FPMATH_MODE", "before": None, "after": "STRICT"},
    ]
    monkeypatch.delenv("MKL_CBWR")
    assert train(spec("head"), output=output).record == record  # a run that is there is the same run
    assert "holds this run already" in caplog.text


def test_a_number_of_steps_keeps_two_checkpoints_and_a_completed_run_none(spec: Any, tmp_path: Path) -> None:
    output, seen = tmp_path / "run", []
    run = train(spec("head"), output=output, checkpoint_every="2 steps",
          on_step=lambda progress: seen.append([int(path.name[-10:]) for path in checkpoints(output)]))  # fmt: skip
    assert seen == [[], [], [2], [2], [2, 4], [2, 4], [4, 6], [4, 6], [6, 8], [6, 8], [8, 10], [8, 10]]
    assert checkpoints(output) == []
    assert run.record.cost["resumed_at_steps"] == []
    assert 0 < run.record.cost["checkpoint_seconds"] < run.record.cost["total_seconds"]


def test_off_keeps_one_for_a_signal_alone(spec: Any, tmp_path: Path) -> None:
    interrupted(spec("head"), tmp_path / "run", (5,), checkpoint_every="off")
    assert len(checkpoints(tmp_path / "run")) == 1


def test_a_diverged_run_leaves_no_checkpoint_to_diverge_from_again(spec: Any, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(DivergedError):
        train(spec("standard", lr=1e30), output=output, checkpoint_every="1 steps")
    assert checkpoints(output) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE])
def test_where_the_disk_refuses_a_checkpoint_those_before_stay_and_the_same_call_goes_on(
    number: int, spec: Any, runs: dict[str, Run], tmp_path: Path
) -> None:
    output, before = tmp_path / "run", Checkpoints.write

    def refusing(at: int) -> Callable[..., Path]:
        def write(self: Checkpoints, step: int, *given: Any) -> Path:
            with faults(at if step == 8 else 0, refuse(number)):
                return before(self, step, *given)

        return write

    for at in range(1, 6):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoints, "write", refusing(at))
            with pytest.raises(StorageError, match=os.strerror(number)):
                train(spec("lora"), output=output, checkpoint_every="4 steps")
        assert [int(path.name[-10:]) for path in checkpoints(output)] == [4]
    run = train(spec("lora"), output=output)
    assert run.record.cost["resumed_at_steps"] == [4]
    assert_same(run, runs["lora"])


@pytest.mark.parametrize(
    ("text", "seconds", "steps"),
    [("90s", 90, None), ("10m", 600, None), ("1.5h", 5400, None), ("500 steps", None, 500), ("off", None, None)],
)
def test_how_often_is_read_in_these_forms(text: str, seconds: float | None, steps: int | None) -> None:
    assert Every.read(text) == Every(seconds, steps)


@pytest.mark.parametrize("text", ["", "10", "0s", "-5m", "0 steps", "1.5 steps", "ten minutes", "10d"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--checkpoint-every '.*': give a time"):
        Every.read(text)


def test_a_checkpoint_holds_no_frozen_weights(spec: Any, tmp_path: Path) -> None:
    interrupted(spec("lora", rank=2), tmp_path / "run", (4,))
    found = load_file(checkpoints(tmp_path / "run")[0] / "state.safetensors")
    assert not [name for name in found if "embeddings" in name]
    assert [name for name in found if "lora_A" in name]
