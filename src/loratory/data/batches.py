"""Batches: all tokens of all sequences in one row, with the places where each begins. No padding until asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loratory.data.tokens import TokenTable
from loratory.problems import Targets

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Batch:
    """B sequences, T tokens in all."""

    input_ids: torch.Tensor
    """(T,) int64 token ids, one sequence after the other."""
    position_ids: torch.Tensor
    """(T,) int64 position within the sequence, from 0."""
    cu_seqlens: torch.Tensor
    """(B + 1,) int32 where each sequence begins; the last is T."""
    max_seqlen: int
    """Tokens of the longest sequence."""
    labels: torch.Tensor
    """(B,) int64 class ids; (B, C) int64 of 0 and 1; or (B,) float64 numbers."""
    weights: torch.Tensor
    """(B,) float32 what each example's loss counts in the step's; 0 for one that only fills the batch up."""
    token_type_ids: torch.Tensor | None = None
    """(T,) int64, 1 in the second text of a pair, where the model tells the two apart."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def tokens(self) -> int:
        """T."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`; a copy to CUDA goes through pinned memory, and the host does not wait for it."""
        if device == self.input_ids.device:
            return self

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        return Batch(**{name: moved(tensor) for name, tensor in self.tensors().items()}, max_seqlen=self.max_seqlen)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The batch's tensors by field."""
        names = ("input_ids", "position_ids", "cu_seqlens", "labels", "weights", "token_type_ids")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Cut:
    """How an epoch's order is cut into steps.

    Attributes:
        size: examples a process sees in a step.
        accumulate: parts in which it computes them.
        rank, processes: which process of how many; a step takes `size` examples for each. One for whom none is left
            at the end of an epoch gets an example of weight 0.
        class_weights: what an example of each class counts, (C,); None: all the same. Those of a step count 1 in all.
    """

    size: int
    accumulate: int = 1
    rank: int = 0
    processes: int = 1
    class_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Labelled:
    """Token sequences and their labels.

    Attributes:
        tokens: N sequences.
        labels: int64 (N,); int64 (N, C) of 0 and 1; or float64 (N,).
    """

    tokens: TokenTable
    labels: Targets

    def first(self, count: int) -> Labelled:
        """The first `count` examples, or all where there are fewer."""
        count = min(count, len(self.labels))
        return Labelled(self.tokens.first(count), self.labels[:count])

    def steps(self, order: NDArray[np.int64], cut: Cut) -> Iterator[list[Batch]]:
        """What each optimizer step sees of the examples in `order`, in parts.

        Within a part the longest come first: a sum over the batch does not mind, and attention pads less.
        """
        for parts, weight in self._divided(order, cut):
            yield [collate(self.tokens, self.labels, self._longest_first(part), weight=weight) for part in parts]

    def by_length(self, *, tokens: int) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """All examples, in batches of like lengths, each with its numbers (B,) in the data.

        The longest come first, so that memory that does not suffice shows at once.

        Args:
            tokens: the most tokens a batch holds, counted as if padded.
        """
        lengths = self.tokens.lengths
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            count = max(1, tokens // int(lengths[order[start]]))  # the first is the longest
            chosen = order[start : start + count]
            yield chosen, collate(self.tokens, self.labels, chosen)
            start += len(chosen)

    def balanced(self, classes: int) -> tuple[float, ...]:
        """For each class c of C, N/(K·n_c), K classes being there: each counts the same in all, and the mean is 1.

        The weights of scikit-learn's `class_weight="balanced"` (King & Zeng 2001); 0 for a class without examples.
        """
        counts = np.bincount(self.labels, minlength=classes)
        there = int(np.count_nonzero(counts))
        return tuple(len(self.labels) / (there * count) if count else 0.0 for count in counts.tolist())

    def totals(self, order: NDArray[np.int64], cut: Cut) -> list[int]:
        """The tokens of every part that :meth:`steps` will give."""
        lengths = self.tokens.lengths
        return [int(lengths[part].sum()) for parts, _ in self._divided(order, cut) for part in parts]

    def take(self, indices: NDArray[np.int64]) -> Labelled:
        """The examples `indices` (B,), in that order."""
        return Labelled(self.tokens.take(indices), self.labels[indices])

    def heaviest(self, orders: Sequence[NDArray[np.int64]], cut: Cut) -> NDArray[np.int64]:
        """The examples of a step that has, of the parts of all steps in `orders`, one with the most tokens."""
        lengths = self.tokens.lengths
        steps = (parts for order in orders for parts, _ in self._divided(order, cut))
        return np.concatenate(max(steps, key=lambda parts: max(int(lengths[part].sum()) for part in parts)))

    def largest(self, orders: Sequence[NDArray[np.int64]], cut: Cut, *, least: bool = False) -> Batch:
        """Of the batches that :meth:`steps` will give in `orders`, one with the most tokens; or with the least."""
        lengths = self.tokens.lengths
        parts = (part for order in orders for parts, _ in self._divided(order, cut) for part in parts)
        most = (min if least else max)(parts, key=lambda part: int(lengths[part].sum()))
        return collate(self.tokens, self.labels, self._longest_first(most))

    def _divided(self, order: NDArray[np.int64], cut: Cut) -> Iterator[tuple[list[NDArray[np.int64]], float]]:
        """The examples of each step's parts, and what each of them weighs."""
        part = math.ceil(cut.size / cut.accumulate)
        for start in range(0, len(order), cut.size * cut.processes):
            chosen = order[start : start + cut.size * cut.processes]
            weight = 1 / len(chosen)
            if cut.class_weights is not None:
                weight = 1 / float(np.asarray(cut.class_weights)[self.labels[chosen]].sum())
            if cut.processes > 1:
                dealt = self._dealt(chosen, cut)
                chosen, weight = (dealt, weight) if len(dealt) else (chosen[:1], 0.0)
            yield [chosen[begin : begin + part] for begin in range(0, len(chosen), part)], weight

    def _dealt(self, chosen: NDArray[np.int64], cut: Cut) -> NDArray[np.int64]:
        """A process's share of a step's examples, the longest first. They are dealt out from the first process to the
        last and back, so that all have about as many tokens."""
        row, place = np.divmod(np.arange(len(chosen)), cut.processes)
        own = np.where(row % 2 == 0, place, cut.processes - 1 - place) == cut.rank
        return self._longest_first(chosen)[np.flatnonzero(own)]

    def _longest_first(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        offsets = self.tokens.offsets
        return chosen[np.argsort(offsets[chosen] - offsets[chosen + 1], kind="stable")]


@dataclass(frozen=True)
class Shape:
    """What kernels and graphs are made for: batches of one shape differ in their values only."""

    tokens: int
    """Tokens, filler included."""
    examples: int
    """Labels, those of weight 0 included."""
    fillers: int
    """Sequences of padding after the examples."""
    longest: int
    """No sequence is longer."""


def filled(batch: Batch, shape: Shape, pad_id: int) -> Batch:
    """`batch` brought to `shape`: empty sequences of weight 0 after its own, then filler sequences of padding.

    Whoever reads logits takes those of the first `len(batch)` sequences. Examples can be added only where a filler
    token is left for them to read.

    Raises:
        ValueError: the batch does not fit into the shape.
    """
    import torch

    more = filler(batch, shape, pad_id)
    whole = {name: torch.cat([tensor, more[name]]) for name, tensor in batch.tensors().items()}
    return Batch(**whole, max_seqlen=shape.longest)


def filler(batch: Batch, shape: Shape, pad_id: int) -> Mapping[str, torch.Tensor]:
    """What :func:`filled` puts behind each of a batch's tensors.

    Raises:
        ValueError: the batch does not fit into the shape.
    """
    missing, empty = shape.tokens - batch.tokens, shape.examples - len(batch)
    piece = -(-missing // max(1, shape.fillers))
    if missing < 0 or empty < 0 or (empty > 0 and missing == 0) or max(piece, batch.max_seqlen) > shape.longest:
        raise ValueError(f"{len(batch)} sequences, {batch.tokens} tokens do not fit into {shape}")
    make = _filler if batch.input_ids.device.type == "cpu" else _filler.__wrapped__  # a graph's memory is its own
    labels = batch.labels
    return make(
        batch.tokens, missing, empty, shape.fillers, pad_id, labels.dtype, labels.shape[1:], batch.input_ids.device
    )


@lru_cache(maxsize=8)  # batches of heads are all alike; others seldom are
def _filler(
    tokens: int,
    missing: int,
    empty: int,
    fillers: int,
    pad_id: int,
    kind: torch.dtype,
    label: tuple[int, ...],
    device: torch.device,
) -> Mapping[str, torch.Tensor]:
    """Behind so many `tokens` as many as are `missing`, in so many `fillers`, and `empty` examples, whose labels have
    that `kind` and shape."""
    import torch

    piece = -(-missing // max(1, fillers))
    ends = torch.arange(1, fillers + 1, device=device, dtype=torch.int32).mul_(piece).clamp_(max=missing)
    return {
        "input_ids": torch.full((missing,), pad_id, device=device),
        "position_ids": torch.arange(missing, device=device) % max(1, piece),
        "cu_seqlens": torch.cat([ends.new_full((empty,), tokens), tokens + ends]),
        "labels": torch.zeros((empty, *label), dtype=kind, device=device),
        "weights": torch.zeros(empty, device=device),
        "token_type_ids": torch.zeros(missing, dtype=torch.int64, device=device),
    }


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """(n,) a permutation of 0..n-1 that depends on `seed` and `epoch` alone.

    It sorts raw PCG64 output: NumPy promises that stream for ever, and not that of `Generator.permutation`.
    """
    stream = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    return np.argsort(stream.random_raw(n), kind="stable").astype(np.int64, copy=False)


@dataclass(frozen=True)
class Orders(Sequence["NDArray[np.int64]"]):
    """The orders of epochs 1, 2 … of `n` examples, each drawn when it is asked for and kept by nobody."""

    n: int
    seed: int
    epochs: int

    def __len__(self) -> int:
        return self.epochs

    @overload
    def __getitem__(self, place: int) -> NDArray[np.int64]: ...
    @overload
    def __getitem__(self, place: slice) -> list[NDArray[np.int64]]: ...
    def __getitem__(self, place: int | slice) -> NDArray[np.int64] | list[NDArray[np.int64]]:
        epochs = range(1, self.epochs + 1)[place]
        if isinstance(epochs, range):
            return [epoch_order(self.n, self.seed, epoch) for epoch in epochs]
        return epoch_order(self.n, self.seed, epochs)


def collate(
    table: TokenTable, labels: Targets, indices: ArrayLike, *, weight: float | NDArray[np.float32] = 1.0
) -> Batch:
    """The batch of the sequences `indices` (B,) of `table`, with their entries of `labels` (N,), each of `weight`, or
    of its own of these (B,).

    Raises:
        IndexError: an index is not in 0..N-1.
    """
    import torch

    chosen = np.asarray(indices, dtype=np.int64)
    starts = table.offsets[chosen]
    if table.single:
        longest, tokens = min(1, len(chosen)), starts
        cu_seqlens, position_ids = np.arange(len(chosen) + 1, dtype=np.int32), np.zeros(len(chosen), np.int64)
    else:
        lengths = table.offsets[chosen + 1] - starts
        longest = int(lengths.max(initial=0))
        cu_seqlens = np.zeros(len(chosen) + 1, dtype=np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        position_ids = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)  # (T,)
        tokens = position_ids + np.repeat(starts, lengths)
    types = None if table.types is None else torch.from_numpy(table.types[tokens].astype(np.int64))
    return Batch(
        input_ids=torch.from_numpy(table.ids[tokens].astype(np.int64)),
        position_ids=torch.from_numpy(position_ids),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        max_seqlen=longest,
        labels=torch.from_numpy(labels[chosen]),
        weights=torch.full((len(chosen),), weight) if isinstance(weight, float) else torch.from_numpy(weight),
        token_type_ids=types,
    )


def padded(batch: Batch, pad_id: int) -> dict[str, torch.Tensor]:
    """`batch` as a model's input_ids, attention_mask, and token_type_ids where it has some; each (B, L) int64, L its
    longest sequence, padded on the right.

    For models that know no flat batches. Nothing in it waits for the device.
    """
    import torch

    device = batch.input_ids.device
    lengths = batch.cu_seqlens.diff().long()
    # output_size: else the device is asked for the sum, and waited for
    rows = torch.repeat_interleave(torch.arange(len(batch), device=device), lengths, output_size=batch.tokens)

    def view(tokens: torch.Tensor, filler: int) -> torch.Tensor:
        whole = torch.full((len(batch), batch.max_seqlen), filler, dtype=torch.int64, device=device)
        whole[rows, batch.position_ids] = tokens
        return whole

    mask = torch.arange(batch.max_seqlen, device=device) < lengths[:, None]
    found = {"input_ids": view(batch.input_ids, pad_id), "attention_mask": mask.long()}
    return found if batch.token_type_ids is None else {**found, "token_type_ids": view(batch.token_type_ids, 0)}
