"""Processes that `torchrun` starts train together as one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import combinations, count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from loratory.cli import main
from loratory.engine import energy, epoch, sums
from loratory.engine.checkpoint import Pauses
from loratory.engine.draws import mask
from loratory.engine.epoch import Ready
from loratory.engine.predict import predict
from loratory.engine.processes import Agreement, Processes
from loratory.methods import spec_from_flags
from loratory.run import train

COMMON: dict[str, Any] = {
    "epochs": 2, "lr": 0.002, "dropout": 0.0, "max_length": 32, "seed": 3, "device": "cpu", "precision": "fp32",
    "validation_fraction": 0.1, "keep": "best",
}  # fmt: skip


def command(flags: dict[str, Any], output: Path) -> list[str]:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return ["train", *words, "--output", str(output), "--json"]


def torchrun(words: list[str]) -> tuple[int, str, str]:
    """The command in two processes, as it is typed: exit code, standard output and error."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "loratory", *words],
        capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def _each(words: list[str]) -> None:
    signal.alarm(100)  # where one waits for another without end
    if code := main(words):
        sys.exit(code)


@pytest.fixture
def launched(forked: Any) -> Callable[[list[str]], tuple[int, str, str]]:
    """As :func:`torchrun`, by its own launcher, in forks: nothing is loaded anew."""

    def launch(words: list[str]) -> None:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=2, run_id="test", rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", start_method="fork", max_restarts=0,
        )  # fmt: skip
        elastic_launch(config, _each)(words)

    def run(words: list[str]) -> tuple[int, str, str]:
        process = forked(lambda: launch(words))
        out, err = process.communicate()
        return process.returncode, out, err

    return run


@pytest.mark.parametrize(("method", "parts"), [("standard", 2), ("standard", 1), ("lora", 1)])
def test_two_processes_give_the_weights_of_one_with_twice_the_batch(
    method: str, parts: int, tiny_bert: Path, tiny_csv: Path, tmp_path: Path, launched: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sums, "BUCKET", 1 << 12)  # several, even of so small a model
    flags = {**COMMON, "method": method, "model": str(tiny_bert), "dataset": str(tiny_csv), "accumulate": parts}
    # 84 texts: the last step of 8 or 16 has 4, dealt out to two
    one = train(spec_from_flags({**flags, "batch_size": 16}), output=tmp_path / "one")
    told = {"tracker": "tensorboard"} if method == "lora" and find_spec("tensorboard") is not None else {}
    run = torchrun if parts == 2 else launched
    code, out, err = run(command({**flags, **told, "batch_size": 8}, tmp_path / "two"))
    assert code == 0, err
    assert len([*(tmp_path / "tensorboard" / "two").glob("events.*")]) == len(told)  # the first process alone tells
    record = json.loads(out)  # one document, of the first process
    assert record["environment"]["processes"] == 2
    assert (record["cost"]["devices"], record["cost"]["energy_joules"]) == (1, None)  # one machine's CPU
    assert one.record.environment["processes"] == 1
    for key in ("steps", "examples", "tokens"):
        assert record["cost"][key] == one.record.cost[key]
    (file,) = (tmp_path / "two").glob("*.safetensors")
    saved, alone = load_file(file), load_file(tmp_path / "one" / file.name)
    assert saved.keys() == alone.keys()
    for name, value in alone.items():
        if "key.bias" not in name:  # its true gradient is zero
            torch.testing.assert_close(saved[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    histories = [
        [json.loads(line) for line in (tmp_path / run / "history.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    for first, second in zip(*histories, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-4)
        assert second["validation_log_loss"] == pytest.approx(first["validation_log_loss"], abs=1e-3)
    assert record["quality"]["test"]["accuracy"] == one.record.quality["test"]["accuracy"]


def test_energy_is_that_of_every_process_s_own_device(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, launched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_a_look = {"GPU-0": 1_000, "GPU-1": 1_000_000}  # millijoules
    looks = {name: count(0, used) for name, used in at_a_look.items()}
    library = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(looks[handle]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(energy, "_uuid", lambda device: os.environ["RANK"])  # as if each had a GPU of its own
    energy._counter.cache_clear()
    flags = {**COMMON, "method": "head", "model": str(tiny_bert), "dataset": str(tiny_csv), "batch_size": 8}
    code, out, err = launched(command(flags, tmp_path / "run"))
    energy._counter.cache_clear()
    assert code == 0, err
    cost = json.loads(out)["cost"]
    assert cost["devices"] == 2
    phases = cost["energy_joules"] / (1 + 1_000)  # each counts from one look to the next
    assert 1 <= phases < 1_000
    assert phases == pytest.approx(round(phases))


def test_what_is_wrong_for_one_ends_all(tiny_bert: Path, tiny_csv: Path, tmp_path: Path, launched: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("not a run", encoding="utf8")
    flags = {**COMMON, "method": "lora", "model": str(tiny_bert), "dataset": str(tiny_csv)}
    code, _, err = launched(command(flags, tmp_path / "run"))
    assert code != 0
    assert f"error: {tmp_path / 'run'}" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_each_process_draws_masks_of_its_own() -> None:
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for rank in range(3):
            torch.manual_seed(Processes(rank=rank, count=3).seed(7))
            drawn.append(mask(torch.zeros(64, 8), 0.5))
    assert not any(torch.equal(one, other) for one, other in combinations(drawn, 2))
    assert Processes().seed(7) == 7


def test_processes_that_are_interrupted_go_on_together_to_the_same_bits(
    launched: Any, tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {**COMMON, "method": "lora", "dropout": 0.1, "model": tiny_bert, "dataset": tiny_csv, "batch_size": 8}
    code, _, err = launched(command(flags, tmp_path / "whole"))
    assert code == 0, err
    steps_of = Ready.epoch

    def interrupted(self: Ready, number: int, on_step: Any, **given: Any) -> int:
        def step(progress: Any) -> None:
            on_step(progress)
            if progress.step == 9 and os.environ["RANK"] == "1":  # one of them alone is told
                signal.raise_signal(signal.SIGTERM)

        return steps_of(self, number, step, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Ready, "epoch", interrupted)
        code, _, err = launched(command(flags, tmp_path / "run"))
    assert code != 0
    assert "after step 9, of which a checkpoint is kept" in err  # however long a step takes, none more is made
    assert [path.name for path in tmp_path.glob(".run.checkpoint-*")] == [".run.checkpoint-0000000009"]
    code, out, err = launched(command(flags, tmp_path / "run"))
    assert code == 0, err
    assert json.loads(out)["cost"]["resumed_at_steps"] == [9]
    name = "adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list(tmp_path.glob(".run*"))


def test_processes_break_a_validation_off_together_and_validate_first_when_they_go_on(
    launched: Any, tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {**COMMON, "method": "lora", "model": tiny_bert, "dataset": tiny_csv, "batch_size": 8}
    code, _, err = launched(command(flags, tmp_path / "whole"))
    assert code == 0, err
    within = Pauses.within

    def told(self: Pauses) -> bool:
        if os.environ["RANK"] == "1":
            signal.raise_signal(signal.SIGTERM)
        return within(self)

    with monkeypatch.context() as patch:
        patch.setattr(Pauses, "within", told)
        patch.setattr(epoch, "predict", partial(predict, tokens=64))
        code, _, err = launched(command(flags, tmp_path / "run"))
    assert code != 0
    assert "after step 6, of which a checkpoint is kept" in err
    code, _, err = launched(command(flags, tmp_path / "run"))
    assert code == 0, err
    for name in ("adapter_model.safetensors", "predictions.parquet"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_on_cuda_the_answer_is_that_to_the_question_before(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    def ask(self: Agreement, wish: bool) -> Any:
        return torch.tensor([int(wish)]), SimpleNamespace(synchronize=lambda: waited.append(wish))

    monkeypatch.setattr(Agreement, "_ask", ask)
    agreed = Agreement(Processes(rank=0, count=2), torch.device("cuda"))
    assert [agreed(wish) for wish in (False, True, True, True, True, False)] == [False, False, True, False, True, False]
    assert waited == [False, True, True]  # never for the question that was just asked
