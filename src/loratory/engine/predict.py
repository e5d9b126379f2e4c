"""Logits of many examples, in batches of like lengths."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from loratory.data.batches import Labelled
from loratory.engine.hardware import Hardware
from loratory.engine.modules import stand_in
from loratory.engine.processes import ALONE, Processes
from loratory.models.flat import Classifier
from loratory.models.output import in_fp32
from loratory.problems import REGRESSION


class Stopped(Exception):  # noqa: N818  # no error: somebody asked for it
    """Not all batches were computed."""


def predict(
    classifier: Classifier,
    data: Labelled,
    *,
    hardware: Hardware,
    tokens: int | None = None,
    processes: Processes = ALONE,
    stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Logits (N, C), of a regression the numbers (N, 1), in fp32 on the CPU, in the data's order.

    Args:
        tokens: the most tokens a batch holds, counted as if padded. By default 8,192; in fp32 on a CPU 2,048, whose
            activations stay in its caches.
        processes: those that share the work; all of them must call, and all get all logits.
        stop: asked between batches, by all processes at the same ones, whether to leave the rest.

    Raises:
        Stopped: `stop` said so.
    """
    classifier.model.eval()
    if tokens is None:
        tokens = 2048 if hardware.device.type == "cpu" and hardware.precision == "fp32" else 8192
    order, results = [], []
    with torch.inference_mode(), hardware.deterministically(), ExitStack() as stack:
        if classifier.problem == REGRESSION:
            stack.callback(stand_in(classifier.output, in_fp32(classifier.output)))
        for number, (chosen, batch) in enumerate(data.by_length(tokens=tokens)):
            if number % processes.count == processes.rank:
                with hardware.autocast():
                    results.append(classifier(batch.to(hardware.device)).float())
                order.append(torch.from_numpy(chosen))
            if (number + 1) % processes.count == 0 and stop():
                raise Stopped
        logits = torch.zeros(len(data.labels), classifier.classes, device=hardware.device)
        if order:
            logits.index_copy_(0, torch.cat(order).to(hardware.device), torch.cat(results))
        processes.sum_(logits)
        return logits.cpu()
