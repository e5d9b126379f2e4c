"""The device's own counter of energy, where there is one. No device here has one: NVML is stood in for."""

from __future__ import annotations

import logging
import sys
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loratory.engine import energy
from loratory.engine.energy import energy_counter


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    energy._counter.cache_clear()


class NVMLError(Exception):
    """As NVML's."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A driver with one device, whose counter goes up by 2 J at each look."""
    used = count(5_000.0, 2_000.0)
    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda name: {"GPU-0-1": "the device"}[name],
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(used),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


@pytest.mark.parametrize("name", ["0-1", "GPU-0-1"])
def test_it_counts_joules_of_the_device_with_that_id(name: str, nvml: SimpleNamespace) -> None:
    joules = energy._counter(name)
    assert joules is not None
    assert joules() == 7.0
    assert joules() == 9.0


def test_a_device_without_a_counter_has_none_and_it_is_said(
    nvml: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(handle: Any) -> float:
        raise NVMLError("Not Supported")

    nvml.nvmlDeviceGetTotalEnergyConsumption = fails
    with caplog.at_level(logging.INFO, logger="loratory"):
        assert energy._counter("0-1") is None
    assert "energy is not measured: Not Supported" in caplog.text
    assert energy_counter(torch.device("cpu")) is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with caplog.at_level(logging.INFO, logger="loratory"):
        assert energy._counter("0-1") is None
    assert 'pip install "loratory[energy]"' in caplog.text


@pytest.mark.parametrize(
    ("found", "devices", "joules"),
    [
        ([("a", 3.0)], 1, 3.0),
        ([("a", 3.0), ("b", 4.0)], 2, 7.0),
        ([("a", 3.0), ("a", 5.0), ("b", 4.0)], 2, 9.0),  # processes that share a device have all counted it
        ([("a", 3.0), ("b", None)], 2, None),
        ([("cpu", None)], 1, None),
    ],
)
def test_each_device_counts_once(found: list[tuple[str, float | None]], devices: int, joules: float | None) -> None:
    assert energy.used(found) == (devices, joules)


def test_a_cpu_is_its_machine() -> None:
    assert energy.identity(torch.device("cpu"))
