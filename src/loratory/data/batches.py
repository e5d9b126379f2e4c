"""Batches: all tokens of all sequences in one row, with the places where each begins. No padding until asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loratory.data.tokens import TokenTable

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
    """(B,) int64 class ids."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def tokens(self) -> int:
        """T."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            max_seqlen=self.max_seqlen,
            labels=self.labels.to(device, non_blocking=True),
        )


def filled(batch: Batch, multiple: int, pad_id: int) -> Batch:
    """`batch` with a last sequence of padding that brings its tokens to a multiple of `multiple`, if they are not.

    Kernels are made for one shape each: few shapes make few kernels. The filler has no label; whoever reads logits
    takes those of the first `len(batch)` sequences.
    """
    import torch

    missing = -batch.tokens % multiple
    if missing == 0:
        return batch
    ids, places, bounds = batch.input_ids, batch.position_ids, batch.cu_seqlens
    return Batch(
        input_ids=torch.cat([ids, ids.new_full((missing,), pad_id)]),
        position_ids=torch.cat([places, torch.arange(missing, device=places.device)]),
        cu_seqlens=torch.cat([bounds, bounds[-1:] + missing]),
        max_seqlen=max(batch.max_seqlen, missing),
        labels=batch.labels,
    )


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """(n,) a permutation of 0..n-1 that depends on `seed` and `epoch` alone.

    It sorts raw PCG64 output: NumPy promises that stream for ever, and not that of `Generator.permutation`.
    """
    stream = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    return np.argsort(stream.random_raw(n), kind="stable").astype(np.int64, copy=False)


def by_length(table: TokenTable) -> NDArray[np.int64]:
    """(N,) the order for evaluation: longest first, so that memory that does not suffice shows at once."""
    return np.argsort(-table.lengths, kind="stable").astype(np.int64, copy=False)


def collate(table: TokenTable, labels: NDArray[np.int64], indices: ArrayLike) -> Batch:
    """The batch of the sequences `indices` (B,) of `table`, with their entries of `labels` (N,).

    Raises:
        IndexError: an index is not in 0..N-1.
    """
    import torch

    chosen = np.asarray(indices, dtype=np.int64)
    starts = table.offsets[chosen]
    lengths = table.offsets[chosen + 1] - starts
    cu_seqlens = np.zeros(len(chosen) + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    position_ids = np.arange(cu_seqlens[-1]) - np.repeat(cu_seqlens[:-1], lengths)  # (T,)
    input_ids = table.ids[position_ids + np.repeat(starts, lengths)]
    return Batch(
        input_ids=torch.from_numpy(input_ids.astype(np.int64)),
        position_ids=torch.from_numpy(position_ids),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        max_seqlen=int(lengths.max(initial=0)),
        labels=torch.from_numpy(labels[chosen]),
    )


def padded(batch: Batch, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`batch` as (input_ids, attention_mask), each (B, L) int64, L its longest sequence, padded on the right.

    For models that know no flat batches. Nothing in it waits for the device.
    """
    import torch

    device = batch.input_ids.device
    lengths = batch.cu_seqlens.diff().long()
    # output_size: else the device is asked for the sum, and waited for
    rows = torch.repeat_interleave(torch.arange(len(batch), device=device), lengths, output_size=batch.tokens)
    input_ids = torch.full((len(batch), batch.max_seqlen), pad_id, dtype=torch.int64, device=device)
    input_ids[rows, batch.position_ids] = batch.input_ids
    attention_mask = torch.arange(batch.max_seqlen, device=device) < lengths[:, None]
    return input_ids, attention_mask.long()
