"""The energy that an NVIDIA device has used, read from its own counter through NVML."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch

log = logging.getLogger("loratory")

MILLI = 1e-3


def energy_counter(device: torch.device) -> Callable[[], float] | None:
    """What gives the joules that `device` has used since its driver was loaded: the whole device, whoever used it.

    The counter is nvmlDeviceGetTotalEnergyConsumption's, in millijoules, of devices since Volta. It is renewed some
    ten times a second, so that of a run of a few seconds it says little.

    Returns:
        None where there is no such counter: another kind of device, no package nvidia-ml-py, or an older device.
    """
    if device.type != "cuda":
        return None
    return _counter(str(torch.cuda.get_device_properties(device).uuid))


@cache
def _counter(uuid: str) -> Callable[[], float] | None:
    try:
        import pynvml
    except ImportError:
        log.info('energy is not measured: nvidia-ml-py is not installed; pip install "loratory[energy]"')
        return None

    def joules() -> float:
        return MILLI * float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
        joules()
    except pynvml.NVMLError as error:
        log.info("energy is not measured: %s", error)
        return None
    return joules
