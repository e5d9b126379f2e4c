"""A frozen base in 8 or 4 bits, made by bitsandbytes as it is loaded; LoRA beside one in 4 bits is QLoRA.

    8bit   LLM.int8(): each row scaled by its largest value; inputs too, outliers apart (Dettmers et al. 2022,
           arXiv:2208.07339)
    4bit   NF4 in blocks, whose scales are quantised too; a product unpacks its weight (Dettmers et al. 2023,
           arXiv:2305.14314)

Only the encoder's linear layers are quantised: head, embeddings and norms stay in fp32. The model never leaves the
device on which it was quantised, because some of bitsandbytes' tensors would stay behind.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from loratory.errors import ResourceError
from loratory.models.families import Family

PACKAGES = ("bitsandbytes", "accelerate")
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}
"""What transformers' BitsAndBytesConfig is given, by the name of the kind."""
WHY_EAGER = "the base is held in 8 bits"
"""Why steps over such a base are not captured as CUDA graphs: LLM.int8() looks for outliers on the host."""


@dataclass(frozen=True)
class Quantization:
    """How a base is held, and where."""

    kind: str
    """`8bit` or `4bit`."""
    device: torch.device
    compute: torch.dtype
    """In which products with 4-bit weights are computed."""

    @classmethod
    def of(cls, kind: str, *, device: torch.device, precision: str) -> Quantization:
        """Checked, before any weight is read.

        Args:
            kind: `8bit` or `4bit`.
            precision: `bf16` or `fp32`.

        Raises:
            ResourceError: no CUDA device, or a package is missing.
        """
        if device.type != "cuda":
            raise ResourceError(f"a base in {kind} (--quantize) needs a CUDA device, and this is the {device.type}")
        check_packages()
        if device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        return cls(kind, device, torch.bfloat16 if precision == "bf16" else torch.float32)

    @property
    def precision(self) -> str:
        """`bf16` or `fp32`, as :class:`loratory.engine.hardware.Hardware` calls it."""
        return "bf16" if self.compute == torch.bfloat16 else "fp32"

    def arguments(self, family: Family) -> dict[str, Any]:
        """What transformers' `from_pretrained` is given beside the rest."""
        from transformers import BitsAndBytesConfig

        # a line for every layer of every step: inputs are rounded to 8 bits anyway
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        own: dict[str, Any] = {"bnb_4bit_compute_dtype": self.compute} if self.kind == "4bit" else {}
        config = BitsAndBytesConfig(**SETTINGS[self.kind], **own, llm_int8_skip_modules=list(family.head))
        return {"quantization_config": config, "device_map": {"": self.device}}


def check_packages() -> None:
    """Refuse to go on without what quantises.

    Raises:
        ResourceError: a package is missing.
    """
    missing = next((name for name in PACKAGES if find_spec(name) is None), None)
    if missing is not None:
        raise ResourceError(f'--quantize needs the package {missing}; run: pip install "loratory[quant]"')


def quantized_layers(model: nn.Module) -> list[str]:
    """The names of the layers whose weights are held in fewer bits."""
    if not getattr(model, "is_quantized", False):
        return []
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return [name for name, module in model.named_modules() if isinstance(module, Linear4bit | Linear8bitLt)]


def said(model: nn.Module) -> dict[str, Any] | None:
    """What a record says of a quantised base: how many layers, of which kind, by which version; None of another."""
    layers = quantized_layers(model)
    if not layers:
        return None
    four = any(getattr(parameter, "quant_state", None) is not None for parameter in model.parameters())
    settings = SETTINGS["4bit" if four else "8bit"]
    return {"layers": len(layers), **settings, "bitsandbytes": version("bitsandbytes")}


def numbers(parameter: Tensor) -> int:
    """How many numbers a parameter stands for: two of 4 bits share a byte."""
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else torch.Size(packed.shape).numel()
