"""A run that fails says why in one line, leaves a record, and keeps nothing that is not what was trained."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratory.saving as saving_module
import loratory.written as written_module
from loratory import trained
from loratory.data.batches import Batch
from loratory.engine.step import Step
from loratory.errors import DivergedError, OutOfMemoryError, StorageError, TrainingError
from loratory.evaluation import predictions
from loratory.methods import METHODS
from loratory.run import train
from loratory.spec import HardwareSpec
from loratory.store.directory import find_run

CPU = HardwareSpec(device="cpu", precision="fp32")


@pytest.mark.parametrize("method", METHODS)
def test_a_save_that_lost_the_head_fails_the_run(
    method: str, spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = written_module.save

    def tampered(setup: Any, stage: Path) -> int:
        size = save(setup, stage)
        path = next(stage.glob("*.safetensors"))
        tensors = load_file(path)
        name = next(name for name in tensors if name.endswith("classifier.weight"))
        save_file({**tensors, name: tensors[name] + 0.05}, path, metadata={"format": "pt"})
        return size

    monkeypatch.setattr(written_module, "save", tampered)
    with pytest.raises(TrainingError, match="other logits than the trained one"):
        train(spec(method, epochs=1), output=tmp_path / "run")
    record = find_run(tmp_path / "run")
    assert record is not None
    assert record.status == "failed"
    assert not list(tmp_path.rglob("*.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def interrupt(progress: Any) -> None:
    raise KeyboardInterrupt


def exhaust(progress: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")


def exhaust_python(progress: Any) -> None:
    raise MemoryError


def exhaust_cpu(progress: Any) -> None:
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def nothing(progress: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("status", "error", "on_step", "lr"),
    [
        ("diverged", DivergedError, nothing, 1e38),
        ("interrupted", KeyboardInterrupt, interrupt, 0.005),
        ("out_of_memory", OutOfMemoryError, exhaust, 0.005),
        ("out_of_memory", OutOfMemoryError, exhaust_cpu, 0.005),
        ("out_of_memory", OutOfMemoryError, exhaust_python, 0.005),
    ],
)
def test_a_run_that_fails_leaves_a_record_and_may_be_run_again(
    status: str, error: type[BaseException], on_step: Any, lr: float, spec: Any, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    chosen = spec(epochs=1, lr=lr, max_grad_norm=0)
    for _ in range(2):  # the second finds the first one's record there
        with pytest.raises(error):
            train(chosen, output=output, on_step=on_step)
        record = find_run(output)
        assert record is not None
        assert record.status == status
        assert record.error
        assert "\n" not in record.error
        assert record.quality == {}
        assert sorted(path.name for path in output.iterdir()) == ["manifest.json", "run.json"]
    with pytest.raises(StorageError, match=f"the run ended as {status} and has no weights"):
        trained.open_trained(output, hardware=CPU)
    if lr < 1:
        assert train(chosen, output=output).record.status == "completed"


def hold(patch: pytest.MonkeyPatch, *, tokens: int, trainable: int) -> None:
    """Let the device's memory hold steps of so many tokens and so many trained parameters."""
    before = Step.backward

    def backward(step: Step, batch: Batch) -> None:
        trained = sum(parameter.numel() for parameter in step.free.values())
        if len(batch.input_ids) > tokens or trained > trainable:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        before(step, batch)

    patch.setattr(Step, "backward", backward)


def test_where_memory_runs_out_it_is_said_what_would_fit(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(monkeypatch, tokens=70, trainable=10**9)
    with pytest.raises(OutOfMemoryError) as caught:
        train(spec("standard"), output=tmp_path / "run")
    said = str(caught.value)
    assert said.startswith("out of memory on cpu at --batch-size 16, --max-length 32 (CUDA out of memory.); ")
    assert said.endswith(
        "by the estimate each of these fits: --accumulate 4 or --batch-size 4, --method head (not: "
        "--accumulate 2 or --batch-size 8, --activation-checkpointing on, --max-length 16, --method lora)"
    )
    record = find_run(tmp_path / "run")
    assert record is not None
    assert (record.status, record.error) == ("out_of_memory", said)
    assert record.parameters["total"] > 10_000  # of the model whose weights were given up
    assert record.parameters["trainable"] == record.parameters["total"]
    assert train(spec("standard", accumulate=4), output=tmp_path / "again").record.status == "completed"


def test_where_the_method_is_what_takes_it_another_is_named(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(monkeypatch, tokens=10**6, trainable=8000)
    with pytest.raises(OutOfMemoryError, match=r"each of these fits: --method lora, --method head \(not: "):
        train(spec("hybrid", unfrozen_layers=1), output=tmp_path / "run")


def test_where_nothing_fits_that_is_said(spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, tokens=0, trainable=0)
    with pytest.raises(OutOfMemoryError, match=r"take a smaller --model; none of these does by the estimate: --acc"):
        train(spec("lora"), output=tmp_path / "run")


def test_memory_that_runs_out_where_the_run_is_loaded_back_is_no_fault_of_its_model(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = saving_module.load_trained

    def exhausted(stage: Path, **more: Any) -> Any:
        def unmapped(*_: object, **__: object) -> Any:
            raise RuntimeError(f"unable to mmap 9 bytes from file <{stage}/x>: Cannot allocate memory (12)")

        monkeypatch.setattr("loratory.models.load.load_file", unmapped)
        return load(stage, **more)

    monkeypatch.setattr(saving_module, "load_trained", exhausted)
    run = tmp_path / "run"
    with pytest.raises(OutOfMemoryError) as caught:
        train(spec("lora", epochs=1), output=run)
    assert str(caught.value) == (
        f"{run}: memory ran out where the saved model was loaded back to be compared with the trained one (unable to "
        f"mmap 9 bytes from file <{run}/x>: Cannot allocate memory (12)); free memory, or try --accumulate 2 or a "
        "smaller --max-length"
    )
    record = find_run(run)
    assert record is not None
    assert (record.status, record.error) == ("out_of_memory", str(caught.value))


@pytest.mark.parametrize("raised", [RuntimeError("odd\nmore"), KeyError("odd"), ZeroDivisionError()])
def test_what_another_library_raises_comes_as_our_error_and_is_recorded(
    raised: Exception, spec: Any, tmp_path: Path
) -> None:
    def fail(progress: Any) -> None:
        raise raised

    with pytest.raises(TrainingError, match=f"training stopped with {type(raised).__name__}: ") as caught:
        train(spec("head", epochs=1), output=tmp_path / "run", on_step=fail)
    assert caught.value.__cause__ is raised
    record = find_run(tmp_path / "run")
    assert record is not None
    assert (record.status, record.error) == ("failed", str(caught.value))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_failure_after_the_last_step_is_recorded_too(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predictions, "write", fill)
    with pytest.raises(StorageError) as caught:
        train(spec("head", epochs=1), output=tmp_path / "run")
    assert str(caught.value) == (
        f"cannot write {tmp_path / 'run'}: No space left on device; make room; the same command goes on"
    )
    record = find_run(tmp_path / "run")
    assert record is not None
    assert record.status == "failed"
