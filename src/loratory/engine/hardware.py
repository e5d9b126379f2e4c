"""Where a run takes place: device, precision, threads, and what of them a record must hold."""

from __future__ import annotations

import gc
import logging
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import torch

from loratory.engine.deterministic import EXACT, check_workspace, deterministic, fp32_precision
from loratory.engine.draws import Draws
from loratory.engine.processes import ALONE, Processes
from loratory.errors import ResourceError, SettingsError, counted
from loratory.models.families import Family
from loratory.spec import HardwareSpec

log = logging.getLogger("loratory")


@dataclass(frozen=True)
class Hardware:
    """A resolved device and precision."""

    device: torch.device
    precision: str
    """`bf16` (autocast) or `fp32`."""
    graphs: bool = True
    """Whether steps may be captured as CUDA graphs."""
    checkpointing: bool = False
    """Whether layers compute their activations again in backward."""
    processes: Processes = ALONE
    """Those that train together."""
    deterministic: bool = False
    """Whether everything must be computed by deterministic algorithms."""

    @classmethod
    def of(cls, spec: HardwareSpec) -> Hardware:
        """Resolve `auto`, and set the number of CPU threads where the spec gives one.

        Raises:
            ResourceError: CUDA was asked for and is not there; or it has started in a way that is not deterministic.
        """
        if spec.device == "cuda" and not torch.cuda.is_available():
            raise ResourceError("--device cuda: no CUDA device is available; use --device cpu or auto")
        kind = device_type(spec)
        if spec.deterministic and kind == "cuda":
            check_workspace()
        processes = Processes.here()
        if kind == "cuda" and processes.local_rank >= torch.cuda.device_count():
            raise ResourceError(
                f"{counted(processes.count, 'process', 'processes')} on {counted(torch.cuda.device_count(), 'GPU')}: "
                "each needs one of its own; start fewer"
            )
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        precision = spec.precision
        if precision == "auto":
            precision = "bf16" if _computes_bf16(kind, by_the_clock=not spec.deterministic) else "fp32"
        device = (
            torch.device(kind, processes.local_rank) if kind == "cuda" and processes.count > 1 else torch.device(kind)
        )
        checkpointing = spec.activation_checkpointing == "on"
        return cls(device, precision, spec.graphs == "auto", checkpointing, processes, spec.deterministic)

    def suited(self, family: Family, asked: HardwareSpec) -> Hardware:
        """This place with the precision that `family` can be computed in.

        Raises:
            SettingsError: another precision was asked for.
        """
        if self.precision == "fp32" or family.autocast:
            return self
        if asked.precision != "auto":
            raise SettingsError(
                f"--precision {asked.precision}: {family.name} does not run in it; give fp32, or leave it out"
            )
        log.info("%s does not run in bf16: it is computed in fp32", family.name)
        return replace(self, precision="fp32")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which forward passes run."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def deterministically(self) -> AbstractContextManager[None]:
        """The context in which everything is computed: as torch's settings are, or deterministically.

        Raises:
            TrainingError: where it must be, and an operation has no deterministic form.
        """
        return deterministic(self.device, wanted=self.deterministic)

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def woken(self) -> Iterator[None]:
        """Meanwhile bring up, in a thread of its own, what every first step waits for: Triton, which reads all of its
        own files once to know its cache, and the device's library of products."""
        if self.device.type != "cuda":
            yield
            return
        with ThreadPoolExecutor(1) as pool:
            waking = pool.submit(_wake, self.device)
            yield
            waking.result()
        self.release()

    def release(self) -> None:
        """Give back what the device holds for earlier work of this process: a run begins as in a new one.

        torch keeps cuBLAS's workspaces, 32 MiB on an H100 for each thread and stream that ever computed a product,
        and every capture has a stream of its own. None is freed but by this call, which torch's own compiler makes
        too. CUDA graphs captured before, the caller's own too, must not be replayed afterwards.
        """
        if self.device.type == "cuda":
            torch._C._cuda_clearCublasWorkspaces()

    def free(self) -> None:
        """Give back to the device what nothing refers to any more, too."""
        gc.collect()
        self.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.empty_cache()

    def record(self) -> dict[str, Any]:
        """The `environment` part of run.json: what decides whether the same run comes out the same again."""
        cuda, identity = self.device.type == "cuda", self.identity()
        return {
            "device": identity["device"] if cuda else f"{identity['device']}, {counted(_cores(), 'core')}",
            "device_type": self.device.type,
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "processes": identity["processes"],
            "cpu_capability": identity["cpu_capability"],
            "deterministic": not cuda or self.deterministic,
            "platform": platform.platform(terse=True),
            **self.rounding(),
            "versions": identity["versions"],
        }

    def identity(self) -> dict[str, Any]:
        """What of it makes a run another run, beside the spec's own settings: a part of its fingerprint. How many
        cores there are is none, as sums do not depend on it, but on the number of threads."""
        return {
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else cpu_name(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "processes": self.processes.count,
            "versions": {"python": platform.python_version(), **_versions()},
        }

    def rounding(self) -> dict[str, Any]:
        """What else may decide how sums are rounded, and mostly does not: with another driver a run is still the same
        run, but one that goes on from a checkpoint says so (:func:`loratory.engine.checkpoint.restored`)."""
        products, convolutions = (EXACT, EXACT) if self.deterministic else fp32_precision(self.device)
        return {
            "fp32_products": products,
            "fp32_convolutions": convolutions,
            **(_cuda() if self.device.type == "cuda" else {}),
            "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        }


VARIABLES = (
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "DNNL_DEFAULT_FPMATH_MODE"),
)
"""Of the environment: those by which torch's libraries choose other algorithms or another precision."""


@cache
def _cuda() -> dict[str, str | None]:
    """The versions of CUDA, cuDNN and the driver."""
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch's own
    return {"cuda": torch.version.cuda, "cudnn": None if cudnn is None else str(cudnn), "driver": _driver()}


def _driver() -> str | None:
    """The version of NVIDIA's driver: as its kernel module says it, else by NVML; None where neither is there."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf8") as file:
            found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", file.read())
        if found is not None:
            return found[1]
    except OSError:  # not on every system, nor in every container
        pass
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except ImportError:
        return None
    except pynvml.NVMLError:
        return None


@cache
def _versions() -> dict[str, str]:
    """Of the packages whose numbers count; their files are read once."""
    packages = ("torch", "transformers", "peft", "tokenizers", "numpy", "scikit-learn")
    return {name: version(name) for name in packages}


def _wake(device: torch.device) -> None:
    with torch.cuda.device(device):  # a thread's own
        x = torch.zeros(32, 128, dtype=torch.bfloat16, device=device)
        Draws(device).drop(x @ x.t() @ x, 0.5, 0)
        torch.cuda.synchronize()


def device_type(spec: HardwareSpec) -> str:
    """`cpu` or `cuda`."""
    return spec.device if spec.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _computes_bf16(kind: str, *, by_the_clock: bool) -> bool:
    """Whether bf16 products are done by the hardware, and faster than fp32's.

    Args:
        by_the_clock: whether that may be measured where the instructions do not say it; else they alone decide.
    """
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.cpu._is_amx_tile_supported():
        return True
    return bool(torch.cpu._is_avx512_bf16_supported()) and (not by_the_clock or _bf16_saves_time())


@cache
def _bf16_saves_time() -> bool:
    """Whether a product takes clearly less time in bf16 than in fp32: measured once a process, in 0.1 s or less.

    AVX-512's instructions for bf16 promise twice fp32's rate. One processor was seen to keep that, and another, whose
    matrix units were hidden from its guest, to compute bf16 at half of fp32's rate.
    """
    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.ones(512, 512, dtype=dtype) for _ in range(2))
        a @ b  # the kernel is made here
        best[dtype] = min(_seconds(a, b) for _ in range(5))
    return best[torch.bfloat16] < 0.8 * best[torch.float32]


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    begin = time.perf_counter()
    a @ b
    return time.perf_counter() - begin


@cache
def cpu_name() -> str:
    """The processor's own name."""
    name = platform.processor() or platform.machine()
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return name


def _cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
