"""Where Triton's kernels run: on CUDA, or in its interpreter. Tests in a module that imports this skip elsewhere."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="needs triton, which torch brings with CUDA")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

DEVICE = "cpu" if INTERPRETED else "cuda"
