"""Time by phase, and the peak memory of this run alone."""

from __future__ import annotations

import mmap
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from loratory.engine import meter as meter_module
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.processes import Processes
from loratory.errors import ResourceError
from loratory.spec import HardwareSpec

HARDWARE = Hardware.of(HardwareSpec(device="cpu", precision="fp32"))
MB = 1 << 20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(meter_module.time, "perf_counter", lambda: now[0])
    return now


def test_phases_are_summed_and_stand_within_the_total(clock: list[float]) -> None:
    meter = Meter(HARDWARE)
    for phase, seconds in (("setup", 1.0), ("train", 4.0), ("eval", 2.0), ("train", 8.0)):
        with meter.phase(phase):
            clock[0] += seconds
        clock[0] += 0.5  # between phases
    meter.count(examples=2, tokens=24, padded_tokens=30)
    meter.count(examples=1, tokens=12, padded_tokens=12)
    cost = meter.record()
    assert (cost["setup_seconds"], cost["train_seconds"], cost["eval_seconds"]) == (1.0, 12.0, 2.0)
    assert cost["total_seconds"] == 17.0
    assert (cost["steps"], cost["examples"], cost["tokens"], cost["padded_tokens"]) == (2, 3, 36, 42)
    assert cost["tokens_per_second"] == 3.0


def test_a_phase_that_fails_is_counted(clock: list[float]) -> None:
    meter = Meter(HARDWARE)

    def failing() -> None:
        with meter.phase("train"):
            clock[0] += 3.0
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        failing()
    assert meter.record()["train_seconds"] == 3.0


def test_a_run_that_never_trained_has_no_rate() -> None:
    assert Meter(HARDWARE).record()["tokens_per_second"] is None


def hold(megabytes: int) -> None:
    """Map memory, write to it, and give it back (an array's memory might stay with the allocator)."""
    with mmap.mmap(-1, megabytes * MB) as memory:
        for start in range(0, len(memory), mmap.PAGESIZE):
            memory[start] = 1


def resident() -> int:
    return psutil.Process().memory_info().rss


def test_the_peak_sees_what_was_allocated_and_freed_during_the_run() -> None:
    meter = Meter(HARDWARE)
    before = resident()
    hold(200)
    assert resident() < before + 100 * MB
    peak = meter.record()["peak_memory_bytes"]
    assert peak["resident"] > before + 180 * MB
    assert (peak["allocated"], peak["reserved"]) == (None, None)


def test_the_peak_does_not_see_what_the_process_did_before() -> None:
    hold(200)
    meter = Meter(HARDWARE)
    if meter.record()["resident_measured"] != "kernel high-water mark":
        pytest.skip("this kernel does not let the mark be set back")
    assert meter.record()["peak_memory_bytes"]["resident"] < resident() + 50 * MB


def test_the_peak_is_taken_when_the_memory_is_stopped() -> None:
    meter = Meter(HARDWARE)
    before = resident()
    meter.stop_memory()
    hold(200)
    assert meter.record()["peak_memory_bytes"]["resident"] < before + 100 * MB


def test_the_peak_leaves_evaluation_out_and_goes_on_after_it() -> None:
    meter = Meter(HARDWARE)
    if meter.record()["resident_measured"] != "kernel high-water mark":
        pytest.skip("this kernel does not let the mark be set back")
    before = resident()
    with meter.phase("eval"):
        hold(200)
    assert meter.record()["peak_memory_bytes"]["resident"] < before + 100 * MB
    with meter.phase("train"):
        hold(150)
    with meter.phase("eval"):
        hold(300)
    assert before + 130 * MB < meter.record()["peak_memory_bytes"]["resident"] < before + 250 * MB


def test_where_the_kernel_keeps_no_mark_samples_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError("on purpose")

    monkeypatch.setattr(meter_module, "_KernelPeak", refused)
    meter = Meter(HARDWARE)
    held = np.ones(200 * MB, dtype=np.uint8)
    cost = meter.record()
    assert cost["resident_measured"] == "sampled every 20 ms"
    assert cost["peak_memory_bytes"]["resident"] > held.nbytes


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ResourceError, match="no CUDA device is available"):
        Hardware.of(HardwareSpec(device="cuda"))
    assert Hardware.of(HardwareSpec(device="auto")).device.type == "cpu"


def test_memory_used_before_training_begins_is_no_part_of_the_peak() -> None:
    meter = Meter(Hardware.of(HardwareSpec(device="cpu")))
    before = torch.ones(100 << 18)  # 100 MiB
    held = meter.record()["peak_memory_bytes"]["resident"]
    del before
    meter.start_memory()
    assert meter.record()["peak_memory_bytes"]["resident"] < held - (50 << 20)


def test_each_process_goes_on_with_its_own_energy_and_says_no_whole_before_all_have_trained() -> None:
    state = {**Meter(HARDWARE).state(), "energy": [3.0, 5.0]}
    second = Meter(replace(HARDWARE, processes=Processes(rank=1, count=2)))
    second.restore(state)
    assert second._energy == 5.0
    assert (second.record()["devices"], second.record()["energy_joules"]) == (None, None)
    assert Meter(HARDWARE).record()["devices"] == 1
