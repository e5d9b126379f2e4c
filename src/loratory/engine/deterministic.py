"""The same bytes again: what torch is told while a run with `--deterministic` computes.

    torch      `use_deterministic_algorithms`, strict: an operation that has no deterministic form ends the run
    cuBLAS     a workspace of its own for each stream, which must be chosen before CUDA starts
    cuDNN      no search for the fastest algorithm, and only deterministic ones
    fp32       products and convolutions in full precision (no TF32, no bf16)
    CPU        the number of threads is fixed, MKL's own choice included

Our own Triton kernels add up in an order that is fixed by shape and device, and use no atomics; what the engine
would decide by a stopwatch or by free memory (whether layers are compiled, where the output of frozen ones is kept) it
decides otherwise then: see :mod:`loratory.engine.ready` and :mod:`loratory.engine.frozen`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from loratory.errors import ResourceError, TrainingError, first_line

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""The variable that cuBLAS reads when CUDA starts in a process."""

FIXED = (":4096:8", ":16:8")
"""Its values with which products are deterministic, whatever streams run (cuBLAS, "Results Reproducibility")."""

EXACT = "ieee"
"""torch's name for fp32 products without a shorter format inside."""


def check_workspace() -> None:
    """Choose cuBLAS's workspace; to be called before CUDA starts in this process, and kept until its end.

    Raises:
        ResourceError: CUDA has started already with another choice.
    """
    if os.environ.get(WORKSPACE) in FIXED:
        return
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's own
        raise ResourceError(
            f"--deterministic: CUDA has started in this process without {WORKSPACE}; set {WORKSPACE}={FIXED[0]} before "
            "the process starts, or train before anything else uses the GPU"
        )
    os.environ[WORKSPACE] = FIXED[0]


@contextmanager
def deterministic(device: torch.device, *, wanted: bool) -> Iterator[None]:
    """Let torch compute deterministically inside; afterwards its settings are what they were.

    Args:
        wanted: False changes nothing.

    Raises:
        TrainingError: an operation inside has no deterministic form; it is named.
    """
    if not wanted:
        yield
        return
    with ExitStack() as stack:
        stack.callback(
            torch.use_deterministic_algorithms,
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        torch.use_deterministic_algorithms(True)
        for owner, switch, value in _settings():
            stack.callback(setattr, owner, switch, getattr(owner, switch))
            setattr(owner, switch, value)
        if device.type == "cpu":
            torch.set_num_threads(torch.get_num_threads())  # from now on no library takes fewer when it sees fit
        try:
            yield
        except RuntimeError as error:
            name = _named(error)
            if name is None:
                raise
            raise TrainingError(
                f"--deterministic: {name} has no deterministic form on {device.type}; take another --method or "
                "--model, or leave --deterministic out"
            ) from error


def _settings() -> list[tuple[Any, str, Any]]:
    """The switches of torch's libraries: whose, which, and to what."""
    backends: Any = torch.backends
    products = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul)
    return [
        (backends.cudnn, "benchmark", False),
        (backends.cudnn, "deterministic", True),
        *((owner, "fp32_precision", EXACT) for owner in (*products, backends.mkldnn.conv)),
    ]


def fp32_precision(device: torch.device) -> tuple[str, str]:
    """In what torch computes products and convolutions of fp32 on `device`: `ieee`, `tf32` or `bf16`."""
    backends: Any = torch.backends
    owners = (backends.cuda.matmul, backends.cudnn.conv)
    if device.type == "cpu":
        owners = (backends.mkldnn.matmul, backends.mkldnn.conv)
    products, convolutions = (EXACT if owner.fp32_precision == "none" else owner.fp32_precision for owner in owners)
    return products, convolutions


def _named(error: RuntimeError) -> str | None:
    """The operation that torch refuses for want of a deterministic form; None where the error is another."""
    line = first_line(error)
    found = re.match(r"(\S+) does not have a deterministic implementation", line)
    if found is not None:
        return found[1]
    return "a product of cuBLAS" if line.startswith("Deterministic behavior was enabled") else None
