"""The frozen bottom of an encoder, run once: what it gives is the same in every epoch, and is looked up from then on.

    embeddings ─▶ layer 1 … layer d ─▶│ kept, (tokens, H) │─▶ layer d+1 … ─▶ head
    ╰──────── no trained weight ─────╯

Where nothing below the head is trained (d is all layers), only the pooled token of each sequence is kept, because the
head reads no other. Dropout is off in the frozen bottom: a feature extractor has no weight for it to regularise.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loratory.data.batches import Batch, Labelled
from loratory.data.tokens import TokenTable
from loratory.engine.hardware import Hardware
from loratory.engine.modules import stand_in
from loratory.host_memory import available_memory
from loratory.models.families import Family
from loratory.models.flat import Classifier

log = logging.getLogger("loratory")

AT_ONCE = 8192
"""Tokens of a batch of the bottom, counted as if padded."""

SHARE = 0.5
"""Of the memory that is free on the device, the part that the kept rows may take; more goes to a mapped file."""


@dataclass(frozen=True)
class Bottom:
    """The modules that stand below everything trained.

    Attributes:
        before: the modules in front of the layers.
        below: the layers that are frozen and have only frozen ones below them.
        whole: nothing below the head is trained; `before` is the encoder.
    """

    before: list[nn.Module]
    below: list[nn.Module]
    whole: bool

    @classmethod
    def of(cls, model: nn.Module, family: Family) -> Bottom | None:
        """The frozen bottom, or None where the first layer or something before it is trained."""
        encoder = family.encoder(model)
        heads = {model.get_submodule(path) for path in family.head}
        learning = _learning(model)
        if any(child in learning for child in model.children() if child is not encoder and child not in heads):
            return None  # virtual tokens go in below
        children = [child for child in encoder.children() if child not in heads]
        if not learning.intersection(children):
            return cls(children, [], True)
        trained = learning.difference(module for head in heads for module in head.modules())
        holder = encoder.get_submodule(family.layers.partition(".")[0])
        before = list(takewhile(lambda child: child is not holder, encoder.children()))
        layers = [] if family.shared else family.blocks(model)
        depth = next((number for number, layer in enumerate(layers) if layer in trained), len(layers))
        if depth == 0 or trained.intersection(before):
            return None
        return cls(before, layers[:depth], False)

    def evaluate(self) -> None:
        """Switch dropout off in it."""
        for module in (*self.before, *self.below):
            module.eval()


def _learning(model: nn.Module) -> set[nn.Module]:
    """The modules with a trained parameter in or below them."""
    found: set[nn.Module] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            module, steps = model, name.split(".")[:-1]
            for step in steps:
                module = module.get_submodule(step)
                found.add(module)
    return found


class _Reached(Exception):  # noqa: N818  # no error: the way out of an encoder whose lower layers are done
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


@dataclass(frozen=True)
class Resumed(Classifier):
    """A classifier that begins above its frozen bottom; its batches hold places of kept rows instead of token ids.

    Attributes:
        kept: (N, H), what the bottom gave.
        entrance: holds the rows of the batch under way, for the module that stands in for the embeddings.
    """

    whole: bool
    kept: Tensor
    entrance: list[Tensor]

    @property
    def flat(self) -> bool:
        """Always: only flat families resume."""
        return True

    @property
    def why_eager(self) -> str | None:
        """Rows from a mapped file come through the host."""
        if self.kept.device.type == "cpu" and self._device.type == "cuda":
            return "the frozen layers' output does not fit into the device's memory"
        return super().why_eager

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def encode(self, batch: Batch) -> Tensor:
        """Last hidden states (T, H); where the whole encoder is frozen, the kept rows themselves."""
        rows = self.kept.index_select(0, batch.input_ids.to(self.kept.device)).to(self._device)
        if self.whole:
            return rows
        self.entrance[:] = [rows.unsqueeze(0)]
        try:
            return super().encode(batch)
        finally:
            self.entrance.clear()


@contextmanager
def resumed(
    classifier: Classifier,
    bottom: Bottom | None,
    parts: Mapping[str, Labelled],
    hardware: Hardware,
    *,
    counted: Callable[[str], AbstractContextManager[None]] = lambda part: nullcontext(),
    end: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Classifier, dict[str, Labelled], dict[str, Any] | None]]:
    """The classifier above its frozen `bottom`, the parts of the data in places of kept rows, and what the record says.

    The bottom runs once, on every text. Where there is no frozen bottom, or batches run padded, everything comes
    back as it was.

    Args:
        counted: what the bottom's pass over a part runs in.
        end: called after each batch of the bottom; ends the run, by an exception, where that is asked for.
    """
    if bottom is None:
        yield classifier, dict(parts), None
        return
    said: dict[str, Any] = {"layers": "all" if bottom.whole else len(bottom.below), "dropout": 0.0}
    if not classifier.flat:
        log.info("the frozen layers run at every step: batches run padded")
        yield classifier, dict(parts), {**said, "kept_bytes": 0, "kept": "nowhere: batches run padded"}
        return
    with ExitStack() as stack:
        counts = {part: _rows(data, whole=bottom.whole) for part, data in parts.items()}
        places: dict[str, Labelled] = {}
        kept: Tensor | None = None
        where, first = "in memory", 0
        for part, data in parts.items():
            places[part] = _places(data, first, counts[part], whole=bottom.whole)
            with counted(part):
                for indices, rows in _bottom_rows(classifier, bottom, data, hardware):
                    if kept is None:
                        kept, where = _room(sum(counts.values()), rows, hardware, stack)
                    kept.index_copy_(0, (indices + first).to(kept.device), rows.to(kept.device))
                    end()
            first += counts[part]
        assert kept is not None
        entrance: list[Tensor] = []
        if not bottom.whole:
            _enter(bottom, entrance, stack)
        above = Resumed(classifier.model, classifier.family, 0, bottom.whole, kept, entrance)
        said |= {"kept_bytes": kept.numel() * kept.element_size(), "kept": where}
        yield above, places, said


def _places(data: Labelled, first: int, count: int, *, whole: bool) -> Labelled:
    """As `data`, with the place of a kept row where a token's id was: of every token, or of each pooled one."""
    offsets = np.arange(len(data.labels) + 1) if whole else data.tokens.offsets
    return Labelled(TokenTable(np.arange(first, first + count, dtype=np.int32), offsets), data.labels)


def _rows(data: Labelled, *, whole: bool) -> int:
    return len(data.labels) if whole else int(data.tokens.offsets[-1])


def _bottom_rows(
    classifier: Classifier, bottom: Bottom, data: Labelled, hardware: Hardware
) -> Iterator[tuple[Tensor, Tensor]]:
    """(places, rows (·, H)) of all of `data`, a batch at a time."""
    classifier.model.eval()
    starts, lengths = data.tokens.offsets[:-1], data.tokens.lengths
    for chosen, batch in data.by_length(tokens=AT_ONCE):
        if bottom.whole:
            places = torch.from_numpy(chosen)
            taken = classifier.pooled(batch)
        else:
            places = batch.position_ids + torch.from_numpy(np.repeat(starts[chosen], lengths[chosen]))
            taken = torch.arange(batch.tokens)
        with torch.no_grad(), hardware.autocast():
            hidden = _stopped(classifier, bottom, batch.to(hardware.device))
        yield places, hidden.index_select(0, taken.to(hidden.device))


def _stopped(classifier: Classifier, bottom: Bottom, batch: Batch) -> Tensor:
    """The hidden states (≥ T, H) behind the bottom's last layer; those above it do not run."""
    if bottom.whole:
        return classifier.encode(classifier.rounded(batch))

    def reached(module: nn.Module, inputs: Any, output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    hook = bottom.below[-1].register_forward_hook(reached)
    try:
        classifier.encode(classifier.rounded(batch))
    except _Reached as end:
        return end.hidden[0]
    finally:
        hook.remove()
    raise RuntimeError("the encoder did not run its layers")


def _room(count: int, rows: Tensor, hardware: Hardware, stack: ExitStack) -> tuple[Tensor, str]:
    """Memory for `count` rows like `rows`: on the device, or in a mapped file that goes with `stack`."""
    width = rows.shape[1]
    needed = count * width * rows.element_size()
    if hardware.device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(hardware.device)
        if hardware.deterministic:  # steps from a mapped file are made otherwise: no other process decides that
            free = whole
    else:
        free = available_memory()
    if needed <= SHARE * free:
        return torch.empty(count, width, dtype=rows.dtype, device=hardware.device), "in memory"
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="loratory-"))
    log.info("the frozen layers' output, %.1f GiB, goes to a mapped file in %s", needed / 2**30, folder)
    mapped = torch.from_file(str(Path(folder) / "rows"), shared=True, size=count * width, dtype=rows.dtype)
    return mapped.view(count, width), "in a mapped file"


def _enter(bottom: Bottom, entrance: list[Tensor], stack: ExitStack) -> None:
    """Let the encoder begin with the rows at the entrance: what stands before them passes them on."""

    def given(*_: Any, **__: Any) -> Tensor:
        return entrance[0]

    def same(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden

    def nothing(*_: Any, **__: Any) -> Tensor:
        return entrance[0].new_zeros(())

    first, *others = (*bottom.before, *bottom.below)
    stack.callback(stand_in(first, given))
    for module in others:  # embeddings beside the first (of positions) are added to what it gives
        stack.callback(stand_in(module, nothing if isinstance(module, nn.Embedding) else same))
