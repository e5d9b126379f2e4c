"""Processes that `torchrun` starts train together as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from loratory.engine.modules import Dropout
from loratory.engine.processes import Processes
from loratory.methods import spec_from_flags
from loratory.run import train

COMMON: dict[str, Any] = {
    "epochs": 2, "lr": 0.002, "dropout": 0.0, "max_length": 32, "seed": 3, "device": "cpu", "precision": "fp32",
    "validation_fraction": 0.1, "keep": "best",
}  # fmt: skip


def together(flags: dict[str, Any], output: Path, *, processes: int = 2) -> subprocess.CompletedProcess[str]:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*launcher, "-m", "loratory", "train", *words, "--output", str(output), "--json"],
        capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("method", ["standard", "lora"])
def test_two_processes_give_the_weights_of_one_with_twice_the_batch(
    method: str, tiny_bert: Path, tiny_csv: Path, tmp_path: Path
) -> None:
    flags = {**COMMON, "method": method, "model": str(tiny_bert), "dataset": str(tiny_csv)}
    # 84 texts: the last step of 8 or 16 has 4, dealt out to two
    one = train(spec_from_flags({**flags, "batch_size": 16, "accumulate": 2}), output=tmp_path / "one")
    told = {"tracker": "tensorboard"} if method == "lora" and find_spec("tensorboard") is not None else {}
    done = together({**flags, **told, "batch_size": 8, "accumulate": 2}, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert len([*(tmp_path / "tensorboard" / "two").glob("events.*")]) == len(told)  # the first process alone tells
    record = json.loads(done.stdout)  # one document, of the first process
    assert record["environment"]["processes"] == 2
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


def test_what_is_wrong_for_one_ends_all(tiny_bert: Path, tiny_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("not a run", encoding="utf8")
    flags = {**COMMON, "method": "lora", "model": str(tiny_bert), "dataset": str(tiny_csv)}
    done = together(flags, tmp_path / "run")
    assert done.returncode != 0
    assert f"error: {tmp_path / 'run'}" in done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_each_process_draws_masks_of_its_own() -> None:
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for rank in range(3):
            torch.manual_seed(Processes(rank=rank, count=3).seed(7))
            drawn.append(Dropout(0.5).mask(torch.zeros(64, 8)))
    assert not any(torch.equal(one, other) for one, other in combinations(drawn, 2))
    assert Processes().seed(7) == 7
