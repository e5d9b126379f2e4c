"""The examples on which what was exported is compared with the run, and the comparison."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loratory.data import Labelled, TokenTable
from loratory.data.tokens import encode
from loratory.engine.hardware import Hardware
from loratory.engine.predict import predict
from loratory.models.flat import Classifier
from loratory.models.load import Base
from loratory.saving import CHECKED
from loratory.spec import RunSpec
from loratory.trained import divided_then

log = logging.getLogger("loratory")

EXACT = Hardware(torch.device("cpu"), "fp32")
"""Where logits are compared."""


@dataclass(frozen=True)
class Examples:
    """Token sequences, and what they are."""

    data: Labelled
    what: str
    """Such as `64 validation examples`."""
    tokenizer: Any


def examples_of(spec: RunSpec, digests: Mapping[str, str], base: Base) -> Examples:
    """The validation examples on which the run was compared with the model in memory before it was committed; random
    tokens where its data is not there any more."""
    dataset = divided_then(spec.data, digests)
    if dataset is not None:
        texts = dataset.validation.texts[:CHECKED]
        table, what = encode(texts, base.tokenizer, spec.data.max_length, types=base.types), "validation examples"
    else:
        log.warning("the run's data is not there any more or has changed: the export is checked on random tokens")
        table, what = _random(base, spec.data.max_length), "random token sequences"
    return Examples(Labelled(table, np.zeros(len(table), np.int64)), f"{len(table)} {what}", base.tokenizer)


def _random(base: Base, longest: int) -> TokenTable:
    """Sequences of 2 to `longest` random tokens, special ones left out but for what a sequence begins with."""
    draw = np.random.default_rng(0)
    special = set(base.tokenizer.all_special_ids)
    known = np.array([token for token in range(len(base.tokenizer)) if token not in special], np.int32)
    lengths = np.linspace(2, longest, CHECKED).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = draw.choice(known, size=int(offsets[-1]))
    if base.tokenizer.cls_token_id is not None:
        ids[offsets[:-1]] = base.tokenizer.cls_token_id
    return TokenTable(ids, offsets)


def logits_of(base: Base, data: Labelled) -> Tensor:
    """Logits (N, C), computed in fp32 on the CPU; of a quantised base where and as it is held."""
    held = base.quantization
    hardware = EXACT if held is None else Hardware(held.device, held.precision)
    return predict(Classifier(base.model, base.family, base.pad_id), data, hardware=hardware)
