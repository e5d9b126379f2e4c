"""How far bf16 gradients stand from fp32's: Loratory's layers beside stock modules under autocast as on CUDA.

    python benchmarks/rounding.py

CUDA's autocast computes LayerNorm in fp32 and hands its result on in fp32; Loratory's layers hand it on in bf16. CUDA's
rule is put in force here, on a CPU, by a LayerNorm that does so. Random weights, width 256, dropout 0; relative error
over all gradients together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from loratory.data import Batch, Labelled, TokenTable, collate
from loratory.engine.hardware import Hardware
from loratory.engine.layers import quickened
from loratory.methods import method_named, method_settings
from loratory.models import flat_attention
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import Base
from loratory.spec import HardwareSpec

LENGTHS = [20, 31, 12, 27] * 2
Gradients = dict[str, Tensor]


def classifier(layers: int, method: str) -> Classifier:
    """The same random model each time, ready for `method`."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200, hidden_size=256, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=512,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.04,
    )  # fmt: skip
    model = BertForSequenceClassification._from_config(config, attn_implementation=flat_attention.ATTENTION)
    base = Base(model, None, FAMILIES["bert"], "", "")
    method_named(method).prepare(base, method_settings({"name": method}), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zeros at first, which would hide half of the gradients
            parameter.data.normal_(std=0.05)
    return Classifier(model.train(), FAMILIES["bert"], 0)


def texts() -> Batch:
    """Eight texts."""
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    ids = np.random.default_rng(0).integers(4, 200, offsets[-1]).astype(np.int32)
    data = Labelled(TokenTable(ids, offsets), np.array([0, 1] * 4))
    return collate(data.tokens, data.labels, np.arange(8))


def gradients(one: Classifier, batch: Batch, hardware: Hardware) -> Gradients:
    """By name; a key's bias has none but rounding."""
    with hardware.autocast():
        logits = one(batch)
    F.cross_entropy(logits.float(), batch.labels).backward()
    named = one.model.named_parameters()
    return {name: p.grad.float() for name, p in named if p.grad is not None and "key.bias" not in name}


@contextmanager
def norms_in_fp32() -> Iterator[None]:
    """LayerNorm as autocast on CUDA has it."""
    plain: Callable[..., Tensor] = F.layer_norm

    def wide(x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        return plain(x.float(), *arguments, **named)

    F.layer_norm = wide
    try:
        yield
    finally:
        F.layer_norm = plain


def main() -> None:
    """Print a Markdown table."""
    flat_attention.register()
    exact, rounded = (Hardware.of(HardwareSpec(device="cpu", precision=one)) for one in ("fp32", "bf16"))
    batch = texts()
    print("| layers | method | Loratory | stock | ÷ stock |\n|--:|---|--:|--:|--:|")
    for layers in (6, 12, 24):
        for method in ("standard", "lora"):
            true = gradients(classifier(layers, method), batch, exact)
            one = classifier(layers, method)
            with quickened(one.model, rounded) as quick:
                quick.refresh()
                ours = gradients(one, batch, rounded)
            with norms_in_fp32():
                stock = gradients(classifier(layers, method), batch, rounded)
            size = torch.cat([true[name].flatten() for name in true]).norm()
            errors = [
                float(torch.cat([(found[name] - true[name]).flatten() for name in true]).norm() / size)
                for found in (ours, stock)
            ]
            print(f"| {layers} | {method} | {errors[0]:.2%} | {errors[1]:.2%} | {errors[0] / errors[1]:.2f} |")


if __name__ == "__main__":
    main()
