"""The models of a cohort's members as one: the first one's layers compute for all, with what each member trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loratory.data.batches import Batch, Labelled, collate
from loratory.engine.frozen import resumed
from loratory.engine.groups import Group, Shadows
from loratory.engine.hardware import Hardware
from loratory.engine.layers import AddNorm, Layer, Quickened, Shape, alike, quickened
from loratory.engine.member_norms import FreeNorm, MemberNorm
from loratory.engine.member_steps import Member
from loratory.engine.members import MemberDraws, MemberGroup, Stream, rank_of
from loratory.engine.modules import stand_in
from loratory.engine.rows import Rows
from loratory.engine.stacks import Stacks, stacked_layers
from loratory.models.flat import Classifier
from loratory.problems import REGRESSION

TOKENS = {"cpu": 8192, "cuda": 32768}
"""A batch that is predicted has at most so many tokens of all members, counted as if padded, but one text of each. On
CUDA it is launched kernel by kernel: a few large ones take less time."""


@dataclass(frozen=True)
class Together(Classifier):
    """The members' models as one: its batches hold as many sequences of each, one member after the other.

    Attributes:
        inner: the first member's, or what begins above the frozen bottom of all.
    """

    inner: Classifier
    whose: Rows

    @property
    def flat(self) -> bool:
        """As of the inner one."""
        return self.inner.flat

    @property
    def why_eager(self) -> str | None:
        """As of the inner one."""
        return self.inner.why_eager

    def __call__(self, batch: Batch) -> Tensor:
        """Logits (K·B, C)."""
        self.whose.begin(batch)
        return super().__call__(batch)

    def encode(self, batch: Batch) -> Tensor:
        """As of a classifier. A part of the head that stands in the encoder (BERT's pooler) is left out there, where it
        would pool the first member's first token, for nobody."""
        encoder = self.family.encoder(self.model)
        heads = {self.model.get_submodule(path) for path in self.family.head}
        with ExitStack() as stack:
            for module in heads.intersection(encoder.children()):
                stack.callback(stand_in(module, lambda hidden: hidden[:, 0]))
            return self.inner.encode(batch)


@dataclass(frozen=True)
class Joined:
    """K models that compute as one.

    Attributes:
        most: tokens that a member has in a batch, at most.
    """

    classifier: Together
    quick: Quickened
    draws: MemberDraws
    stacks: Stacks
    most: int
    hardware: Hardware

    def predict(self, data: Labelled) -> Tensor:
        """Logits (K, N, C) of all members, in fp32 on the CPU, in the data's order: all in one pass."""
        members, model = self.stacks.members, self.classifier.model
        model.eval()
        self.quick.shadows.refresh()
        order, results = [], []
        with torch.inference_mode(), ExitStack() as stack:
            if self.classifier.problem == REGRESSION:
                layer = self.classifier.output
                stack.callback(stand_in(layer, _apart_from_autocast(layer.forward)))
            for chosen, _ in data.by_length(
                tokens=max(1, min(TOKENS[self.hardware.device.type] // members, self.most))
            ):
                batch = collate(data.tokens, data.labels, np.tile(chosen, members)).to(self.hardware.device)
                with self.hardware.autocast():
                    results.append(self.classifier(batch).float().view(members, len(chosen), -1))
                order.append(torch.from_numpy(chosen))
            logits = torch.cat(results, dim=1)
            found = torch.empty_like(logits)
            found.index_copy_(1, torch.cat(order).to(logits.device), logits)
            return found.cpu()


def _apart_from_autocast(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """As :func:`loratory.models.output.in_fp32`, of all members."""

    def exact(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden.float())

    return exact


@contextmanager
def joined(
    members: Sequence[Member],
    inner: Classifier | None,
    ranks: Mapping[str, int],
    most: int,
    hardware: Hardware,
    streams: Sequence[Stream] = (),
) -> Iterator[Joined]:
    """Let the first member's model compute for all, with what they train in one memory; at the end each has its own.

    Args:
        inner: what begins above the encoder, as :func:`above` gives it.
        ranks: as :func:`ranks_of` gives them.
        most: tokens that a member will have in a batch, at most.
        streams: what each one's masks come from, where they are trained.
    """
    host = members[0].classifier
    if inner is None:
        inner, layers = host, list(alike(host.model))
    else:  # steps never reach the layers, and a text is a row
        layers, most = [], max(most, TOKENS[hardware.device.type] // len(members))
    rows = Rows(len(members), most, torch.zeros(len(members) + 1, dtype=torch.int32, device=hardware.device))
    draws, stacks = MemberDraws(rows, streams), Stacks(len(members))
    quick, own = _quickened(members, layers, ranks, rows, stacks, draws, hardware)
    with _stacked(members, quick, own, rows, stacks, hardware):
        yield Joined(Together(host.model, host.family, inner.pad_id, inner, rows), quick, draws, stacks, most, hardware)


@contextmanager
def above(
    members: Sequence[Member],
    parts: Mapping[str, Labelled],
    hardware: Hardware,
    counted: Callable[[str], AbstractContextManager[None]] = lambda part: nullcontext(),
) -> Iterator[tuple[Classifier | None, dict[str, Labelled], dict[str, Any]]]:
    """What begins above the encoder, the data's parts in places of what it gave, and what the record says of it, where
    all members train their heads alone: it runs once for all. Elsewhere None, and the parts as they were.

    Args:
        counted: as :func:`loratory.engine.frozen.resumed` takes it.
    """
    host = members[0].classifier
    if not all(member.only_head for member in members):
        yield None, dict(parts), {}
        return
    with ExitStack() as stack:
        with ExitStack() as own:
            with counted(next(iter(parts))):
                quick = own.enter_context(quickened(host.model, hardware))
            inner, places, said = stack.enter_context(
                resumed(host, members[0].bottom, parts, hardware, counted=counted)
            )
            layers = quick.count(host.family.blocks(host.model))
        yield inner, places, {"frozen_bottom": said, "own_layers": layers}


def predict_cohort(
    members: Sequence[Member], parts: Mapping[str, Labelled], *, hardware: Hardware, trained: int = 0
) -> list[dict[str, Tensor]]:
    """Of each member its logits (N, C) of each part, in fp32 on the CPU, in the data's order: all in one pass.

    Args:
        trained: tokens of all members in a step of training, whose activations memory has held: twice as many may be
            predicted at once, which keep none.
    """
    tokens = min(TOKENS[hardware.device.type], max(TOKENS["cpu"], 2 * trained))
    with hardware.deterministically(), above(members, parts, hardware) as (inner, places, _):
        longest = max(int(data.tokens.lengths.max()) for data in places.values())
        most = max(longest, tokens // len(members))
        with joined(members, inner, ranks_of(members), most, hardware) as one:
            found = {part: one.predict(data) for part, data in places.items()}
    return [{part: logits[place] for part, logits in found.items()} for place in range(len(members))]


def ranks_of(members: Sequence[Member]) -> dict[str, int]:
    """The largest rank of each adapted layer, by its name."""
    ranks: dict[str, int] = {}
    for member in members if any(not member.only_head for member in members) else ():
        for name, module in member.classifier.model.named_modules():
            ranks[name] = max(ranks.get(name, 0), rank_of(module))
    return {name: rank for name, rank in ranks.items() if rank}


@contextmanager
def _stacked(
    members: Sequence[Member],
    quick: Quickened,
    own: Sequence[MemberGroup | MemberNorm],
    rows: Rows,
    stacks: Stacks,
    hardware: Hardware,
) -> Iterator[None]:
    """Bring what members train into one memory, and let what computes it for all stand in."""
    family = members[0].classifier.family
    norms = [FreeNorm(same, rows, stacks) for same in _free_norms(members, quick)]
    heads = [
        pair
        for path in family.head
        for pair in stacked_layers([one.classifier.model.get_submodule(path) for one in members], stacks)
    ]
    with ExitStack() as stack:
        stacks.allocate(hardware.device)
        stack.callback(stacks.restore)
        for part in (*own, *norms):
            part.ready()
        for layer in quick.parts:
            stack.callback(layer.restore)
            stack.callback(stand_in(layer.module, layer.__call__))
        for norm in norms:
            stack.callback(stand_in(norm.module, norm.__call__))
        for module, forward in heads:
            stack.callback(stand_in(module, forward))
        yield


def _quickened(
    members: Sequence[Member],
    layers: Sequence[tuple[nn.Module, Shape, int]],
    ranks: Mapping[str, int],
    rows: Rows,
    stacks: Stacks,
    draws: MemberDraws,
    hardware: Hardware,
) -> tuple[Quickened, list[MemberGroup | MemberNorm]]:
    """The layers of the first member's model, computed for all members; and what has weights of each."""
    host = members[0].classifier.model
    dtype = torch.bfloat16 if hardware.precision == "bf16" else torch.float32
    shadows = Shadows(dtype)
    names = {module: name for name, module in host.named_modules()}
    quick, own = Quickened([], shadows, draws), list[MemberGroup | MemberNorm]()

    def of_each(layer: nn.Module) -> list[Any]:
        return [member.classifier.model.get_submodule(names[layer]) for member in members]

    def group(layers: Sequence[nn.Module]) -> Group:
        each = list(zip(*map(of_each, layers), strict=True))
        made = MemberGroup(each, [ranks.get(names[layer], 0) for layer in layers], rows, stacks, shadows, draws)
        own.append(made)
        return made

    def norm(norm: Any, dropout: nn.Module | None) -> AddNorm:
        if not any(parameter.requires_grad for parameter in norm.parameters()):
            return AddNorm(norm, dropout, draws)
        made = MemberNorm(of_each(norm), dropout, draws, rows, stacks)
        own.append(made)
        return made

    for module, shape, heads in layers:
        quick.parts.append(Layer(module, shape, heads, dtype, group, norm))
    return quick, own


def _free_norms(members: Sequence[Member], quick: Quickened) -> Iterator[list[Any]]:
    """Each LayerNorm outside layers and head whose weights are trained, of all members."""
    host = members[0].classifier
    inside = {module for part in quick.parts for module in part.module.modules()}
    inside |= {module for path in host.family.head for module in host.model.get_submodule(path).modules()}
    for name, module in host.model.named_modules():
        free = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.LayerNorm) and free and module not in inside:
            yield [member.classifier.model.get_submodule(name) for member in members]
