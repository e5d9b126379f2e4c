"""The energy that an NVIDIA device has used, read from its own counter through NVML."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Sequence
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
    uuid = _uuid(device)
    return None if uuid is None else _counter(uuid)


def identity(device: torch.device) -> str:
    """What tells a device from those of other processes: a GPU's UUID, of a CPU its machine's name."""
    return _uuid(device) or platform.node()


def used(found: Sequence[tuple[str, float | None]]) -> tuple[int, float | None]:
    """How many devices processes trained on, and the joules of all of them; None where one's are not known.

    Args:
        found: each process's device, by :func:`identity`, and what that used in the process's time. Processes that
            share a device have counted it all, each: it counts once.
    """
    joules = {name: [one for other, one in found if other == name and one is not None] for name, _ in found}
    return len(joules), sum(map(max, joules.values())) if all(joules.values()) else None


def _uuid(device: torch.device) -> str | None:
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


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
