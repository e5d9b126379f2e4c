"""Logits of many examples, in batches of like lengths."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from loratory.data.batches import Labelled
from loratory.engine.hardware import Hardware
from loratory.models.flat import Classifier


def predict(classifier: Classifier, data: Labelled, *, hardware: Hardware, tokens: int = 8192) -> Tensor:
    """Logits (N, C) in fp32 on the CPU, in the data's order.

    Args:
        tokens: the most tokens a batch holds, counted as if padded.
    """
    classifier.model.eval()
    order, results = [], []
    with torch.inference_mode():
        for chosen, batch in data.by_length(tokens=tokens):
            with hardware.autocast():
                results.append(classifier(batch.to(hardware.device)).float())
            order.append(chosen)
    logits = torch.cat(results).cpu()
    return torch.empty_like(logits).index_copy_(0, torch.from_numpy(np.concatenate(order)), logits)
