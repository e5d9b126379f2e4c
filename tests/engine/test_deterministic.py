"""What `--deterministic` sets, restores, decides and refuses."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from again import KINDS, fitted_twice, supported
from safetensors.torch import load_file

from loratory.engine import deterministic as module
from loratory.engine import hardware as hardware_module
from loratory.engine.deterministic import FIXED, WORKSPACE, check_workspace, deterministic, fp32_precision
from loratory.engine.hardware import Hardware
from loratory.errors import ResourceError, SettingsError, TrainingError
from loratory.inputs import Inputs
from loratory.methods import parse_spec
from loratory.run import train
from loratory.setup import identify, quantized
from loratory.spec import HardwareSpec
from loratory.store.directory import find_run

CPU = torch.device("cpu")


def state() -> dict[str, Any]:
    backends: Any = torch.backends
    owners = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
    return {
        "strict": torch.are_deterministic_algorithms_enabled(),
        "warn": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": (backends.cudnn.benchmark, backends.cudnn.deterministic),
        "fp32": [owner.fp32_precision for owner in (*owners, backends.mkldnn.conv)],
        "threads": torch.get_num_threads(),
    }


@pytest.mark.parametrize("found", [False, True])
def test_torchs_settings_are_strict_inside_and_as_they_were_afterwards(found: bool) -> None:
    backends: Any = torch.backends
    first = backends.cudnn.benchmark, backends.cuda.matmul.fp32_precision
    try:
        if found:  # a program that had its own way
            backends.cudnn.benchmark, backends.cuda.matmul.fp32_precision = True, "tf32"
            torch.use_deterministic_algorithms(True, warn_only=True)
        before = state()
        with suppress(KeyError), deterministic(CPU, wanted=True):
            inside = state()
            raise KeyError
        assert state() == before
        with deterministic(CPU, wanted=False):
            assert state() == before
    finally:
        torch.use_deterministic_algorithms(False)
        backends.cudnn.benchmark, backends.cuda.matmul.fp32_precision = first
    assert inside == {
        "strict": True, "warn": False, "cudnn": (False, True), "fp32": ["ieee"] * 5, "threads": before["threads"],
    }  # fmt: skip


def test_what_has_no_deterministic_form_is_named() -> None:
    def refuse() -> None:
        raise RuntimeError(
            "put_ does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'."
        )

    said = r"^--deterministic: put_ has no deterministic form on cpu; take another"
    with pytest.raises(TrainingError, match=said), deterministic(CPU, wanted=True):
        refuse()
    other = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError) as caught, deterministic(CPU, wanted=True):
        raise other
    assert caught.value is other
    own = torch.zeros(3)
    with pytest.raises(TrainingError, match=said), deterministic(CPU, wanted=True):
        own.put_(torch.tensor([0]), torch.tensor([1.0]))  # torch's own words


def test_cublas_must_have_its_workspace_before_cuda_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, "")  # so that it is put back
    monkeypatch.delenv(WORKSPACE)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ResourceError, match=f"--deterministic: CUDA has started .* set {WORKSPACE}=:4096:8 before"):
        check_workspace()
    assert WORKSPACE not in os.environ
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    check_workspace()
    assert os.environ[WORKSPACE] == FIXED[0]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    check_workspace()
    monkeypatch.setenv(WORKSPACE, ":0:0")
    with pytest.raises(ResourceError):
        check_workspace()


@pytest.mark.parametrize("method", ["standard", "lora"])
def test_a_deterministic_run_is_a_run_of_its_own_that_gives_the_same_numbers(
    method: str, spec: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="loratory")
    run = train(spec(method, deterministic=True), output=tmp_path / "run")
    assert "deterministic algorithms alone, 1 threads" not in caplog.text
    assert "deterministic algorithms alone, 1 thread:" in caplog.text
    plain = train(spec(method), output=tmp_path / "plain")
    assert run.record.fingerprint != plain.record.fingerprint
    assert run.record.spec["hardware"]["deterministic"] is True
    assert plain.record.spec["hardware"]["deterministic"] is False
    assert run.record.environment["fp32_products"] == "ieee"
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    ours, theirs = (load_file(one.directory / name) for one in (run, plain))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)  # a CPU computes so anyway
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_that_cannot_be_deterministic_fails_and_says_by_what(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(progress: Any) -> None:
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))

    with pytest.raises(TrainingError, match="--deterministic: put_ has no deterministic form") as caught:
        train(spec("head", epochs=1, deterministic=True), output=tmp_path / "run", on_step=put)
    record = find_run(tmp_path / "run")
    assert record is not None
    assert (record.status, record.error) == ("failed", str(caught.value))
    assert not torch.are_deterministic_algorithms_enabled()


def test_runs_of_before_the_setting_are_those_without_it(spec: Any) -> None:
    plain = spec("head")
    older = plain.model_dump()
    del older["hardware"]["deterministic"]
    assert parse_spec(older) == plain
    assert spec("head", deterministic="off").fingerprint() == plain.fingerprint()
    assert spec("head", deterministic="on").fingerprint() != plain.fingerprint()


def test_a_quantised_base_is_refused(spec: Any) -> None:
    hardware = Hardware.of(HardwareSpec(device="cpu", deterministic=True))
    with pytest.raises(SettingsError, match=r"--deterministic: nothing says .* leave out --quantize 4bit"):
        quantized(spec("lora", quantize="4bit"), hardware)


def test_the_record_says_in_what_fp32_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fp32_precision(CPU) == ("ieee", "ieee")
    assert fp32_precision(torch.device("cuda")) == ("ieee", "tf32")  # torch's defaults
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    products: Any = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        found = Hardware.of(HardwareSpec(device="cpu")).record()
    finally:
        products.fp32_precision = before
    assert (found["fp32_products"], found["fp32_convolutions"]) == ("bf16", "ieee")
    assert found["variables"] == {"MKL_CBWR": "COMPATIBLE"}
    assert found["deterministic"] is True
    assert {"threads", "cpu_capability", "precision", "device", "platform"} <= found.keys()
    assert {"torch", "transformers", "peft", "tokenizers", "numpy", "python"} <= found["versions"].keys()
    assert Hardware.of(HardwareSpec(device="cpu", deterministic=True)).record()["fp32_products"] == "ieee"
    assert module.EXACT == "ieee"


def test_the_number_of_cores_is_in_the_record_and_makes_no_other_run(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Hardware.of(HardwareSpec(device="cpu"))
    found = []
    for cores in (1, 64):
        monkeypatch.setattr(hardware_module, "_cores", lambda cores=cores: cores)
        found.append((here.identity(), here.record()["device"]))
    (one, first), (other, second) = found
    assert one == other
    assert (first, second) == (f"{one['device']}, 1 core", f"{one['device']}, 64 cores")


def test_what_makes_a_run_another_run(spec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Hardware.of(HardwareSpec(device="cpu"))
    before = identify(spec("head"), here, Inputs())
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setattr(hardware_module, "_cores", lambda: 1000)
    assert identify(spec("head"), here, Inputs()) == before
    monkeypatch.setattr(hardware_module, "cpu_name", lambda: "another processor")
    after = identify(spec("head"), here, Inputs())
    assert before.fingerprint != after.fingerprint != after.kin != before.kin


@pytest.mark.parametrize(("strict", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_no_stopwatch_chooses_the_precision_of_a_deterministic_run(
    strict: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(hardware_module, "_bf16_saves_time", lambda: False)
    assert Hardware.of(HardwareSpec(device="cpu", deterministic=strict)).precision == chosen
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert Hardware.of(HardwareSpec(device="cpu", deterministic=strict)).precision == "fp32"


@pytest.mark.parametrize(("family", "kind"), supported())
def test_each_family_gives_the_same_bytes_again(family: str, kind: str, spec: Any, model_directory: Any) -> None:
    flags = {
        "dropout": 0.1,
        "epochs": 1,
        "limit": 64,
        "deterministic": True,
        **KINDS[kind],
        "model": str(model_directory(family)),
    }
    first, second = fitted_twice(spec(**flags))
    assert first == second


def test_another_seed_gives_other_bytes(spec: Any) -> None:
    found = {digest for seed in (0, 1) for digest in fitted_twice(spec("standard", epochs=1, seed=seed))}
    assert len(found) == 2
