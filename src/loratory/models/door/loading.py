"""What libraries raise where weights cannot be loaded, as errors of ours; and whether it was for want of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from loratory.errors import ModelError, OutOfMemoryError, first_line

_NO_MEMORY = re.compile(r"can(?:not|'t) allocate memory|out of memory", re.IGNORECASE)
"""As torch's CPU allocator, CUDA and the system say it (ENOMEM, of mmap too), the last also through safetensors."""


def lacks_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on the machine or on a device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(str(error)) is not None


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn what libraries raise where weights are loaded into errors of ours.

    Args:
        what: whose weights they are, for the error's line.

    Raises:
        ModelError: they cannot be loaded.
        OutOfMemoryError: memory ran out.
    """
    try:
        yield
    except (MemoryError, OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        said = first_line(error)
        if lacks_memory(error):
            raise OutOfMemoryError(
                f"{what}: memory ran out while it was loaded ({said}); free memory, or take a smaller model"
            ) from error
        raise ModelError(f"{what}: {said}") from error
