"""The parts of training time add up to it, on a CPU as they come, on CUDA from samples of the device's own clock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from loratory.data import Labelled
from loratory.engine import timing
from loratory.engine.fit import fit
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.timing import Clock
from loratory.methods import method_named, method_settings
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.spec import HardwareSpec, TrainingSpec

HARDWARE = Hardware.of(HardwareSpec(device="cpu", precision="fp32"))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    found = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: found[0])
    return found


def pass_time(clock: Clock, now: list[float], parts: dict[str, float]) -> None:
    for part, seconds in parts.items():
        clock.begin(part)
        now[0] += seconds


def test_on_a_cpu_each_part_has_its_own_time_and_the_rest_is_gaps(now: list[float]) -> None:
    clock = Clock(torch.device("cpu"))
    pass_time(clock, now, {"forward": 100.0})  # no step is under way: it does not count
    with clock.running():
        for _ in range(2):
            pass_time(clock, now, {"data": 1.0, "forward": 2.0, "backward": 4.0, "optimizer": 0.5, "launching": 0.25})
            clock.updated()
    clock.bottom = 3.0
    found = clock.parts(3.0 + 15.5 + 1.0)  # a second of it in nothing that was named
    assert found == {"forward": 7.0, "backward": 8.0, "optimizer": 1.0, "data": 2.0, "gaps": 1.5}


def test_on_cuda_each_batch_takes_what_those_about_as_large_took_and_waiting_is_shared_out(now: list[float]) -> None:
    clock = Clock(torch.device("cuda"))
    clock.sample(100, {"forward": 1.0, "backward": 2.0, "optimizer": 0.5})
    clock.sample(100, {"forward": 3.0, "backward": 2.0, "optimizer": 1.5})
    clock.sample(300, {"forward": 6.0, "backward": 8.0, "optimizer": 1.0})
    with clock.running():
        for rows in (100, 200, 300):
            pass_time(clock, now, {"data": 1.0, "launching": 3.0, "waiting": 50.0})
            clock.made(rows)
            clock.updated()
    found = clock.parts(39.0)
    assert found is not None
    assert (found["forward"], found["backward"], found["optimizer"]) == (2 + 4 + 6, 2 + 5 + 8, 3.0)
    assert found["data"] == pytest.approx(9.0 / 4)  # the host made batches in a quarter of the time it did not wait
    assert found["gaps"] == pytest.approx(9.0 * 3 / 4)


def test_samples_that_come_to_more_than_the_whole_are_brought_down_to_it() -> None:
    clock = Clock(torch.device("cuda"))
    clock.sample(10, {"forward": 1.0, "backward": 2.0, "optimizer": 1.0})
    for _ in range(10):
        clock.made(10)
        clock.updated()
    assert clock.parts(20.0) == {"forward": 5.0, "backward": 10.0, "optimizer": 5.0, "data": 0.0, "gaps": 0.0}


def test_without_a_look_at_the_device_nothing_is_said_of_it() -> None:
    clock = Clock(torch.device("cuda"))
    clock.made(10)
    clock.updated()
    assert clock.parts(1.0) is None


@pytest.mark.parametrize("method", ["standard", "head"])
def test_a_runs_parts_add_up_to_its_training_time(method: str, model_directory: Any, labelled: Any) -> None:
    data: Labelled = labelled([5, 9, 2, 7, 12, 3, 8, 6])
    base = load_base(str(model_directory("bert")), labels=("a", "b"), seed=0, dropout=0.0)
    method_named(method).prepare(base, method_settings({"name": method}), seed=0)
    meter = Meter(HARDWARE)
    fit(
        Classifier(base.model, base.family, base.pad_id), data, None, TrainingSpec(epochs=2, batch_size=4), lr=0.01,
        seed=0, hardware=HARDWARE, meter=meter, score=lambda logits: {}, better=lambda new, old: False,
    )  # fmt: skip
    cost = meter.record()
    parts = cost["time_parts_seconds"]
    assert set(parts) == {"forward", "backward", "optimizer", "data", "gaps"}
    assert sum(parts.values()) == pytest.approx(cost["train_seconds"])
    assert min(parts.values()) >= 0
    assert min(parts["forward"], parts["backward"], parts["optimizer"]) > 0
    if method == "head":  # nothing but the head runs in a step: forward is the frozen layers' one pass
        assert parts["forward"] > max(parts["backward"], meter.clock.bottom) > 0


def test_the_smallest_batch_is_found_as_the_largest_is(labelled: Any) -> None:
    from loratory.data import Cut

    data: Labelled = labelled([5, 9, 2, 7, 12, 3])
    order = np.arange(6)
    assert data.largest([order], Cut(2)).tokens == 15
    assert data.largest([order], Cut(2), least=True).tokens == 9
