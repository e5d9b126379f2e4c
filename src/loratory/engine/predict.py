"""Logits of many examples, in batches of like lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from loratory.data.batches import Labelled, by_length, collate
from loratory.engine.hardware import Hardware
from loratory.models.flat import Classifier


def predict(classifier: Classifier, data: Labelled, *, hardware: Hardware, tokens: int = 8192) -> Tensor:
    """Logits (N, C) in fp32 on the CPU, in the data's order.

    Sequences run in order of length, so that batches hold sequences of like length.

    Args:
        tokens: the most tokens a batch holds, counted as if padded.
    """
    classifier.model.eval()
    order = by_length(data.tokens)
    lengths = data.tokens.lengths[order]
    results: list[Tensor] = []
    with torch.inference_mode():
        start = 0
        while start < len(order):
            end = start + max(1, tokens // int(lengths[start]))  # the first is the longest
            batch = collate(data.tokens, data.labels, order[start:end]).to(hardware.device)
            with hardware.autocast():
                results.append(classifier(batch).float())
            start = end
    logits = torch.cat(results).cpu()
    return torch.empty_like(logits).index_copy_(0, torch.from_numpy(order), logits)
