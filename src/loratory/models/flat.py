"""A sequence classifier over flat batches: a batch in, logits out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loratory.data.batches import Batch, Shape, filled, padded
from loratory.models.families import Family
from loratory.models.flat_attention import ATTENTION, Layout
from loratory.models.output import output_layer
from loratory.problems import MULTI, REGRESSION, Problem, problem_in

ROUNDED = 32
"""The tokens of a flat batch are filled up to a multiple of this. oneDNN makes and keeps a kernel for every shape."""


@dataclass(frozen=True)
class Classifier:
    """A batch in, logits out: flat where the model was loaded for it, padded otherwise.

    Attributes:
        model: a transformers sequence classifier, PEFT layers inside or not.
        pad_id: the padding token's id, for the padded path.
    """

    model: nn.Module
    family: Family
    pad_id: int

    @property
    def flat(self) -> bool:
        """Whether batches run flat."""
        config: Any = self.model.config
        return bool(config._attn_implementation == ATTENTION)

    @property
    def classes(self) -> int:
        """C."""
        config: Any = self.model.config
        return int(config.num_labels)

    @property
    def problem(self) -> Problem:
        """What the logits are."""
        config: Any = self.model.config
        return problem_in(config.problem_type)

    @property
    def blank_label(self) -> Tensor:
        """An example's label that says nothing: of the shape and type that the problem's labels have."""
        if self.problem == MULTI:
            return torch.zeros(self.classes, dtype=torch.int64)
        return torch.zeros((), dtype=torch.float64 if self.problem == REGRESSION else torch.int64)

    @property
    def output(self) -> nn.Linear:
        """The layer that gives the logits."""
        return output_layer(self.model, self.family)

    @property
    def why_eager(self) -> str | None:
        """Why steps on CUDA are not captured as graphs; None where they can be."""
        return None if self.flat else "batches run padded"

    def unflatten(self) -> None:
        """Let the model run padded batches from now on, through transformers' own attention."""
        for module in self.model.modules():  # attention layers may hold a configuration apart from the model's
            config: Any = getattr(module, "config", None)
            if config is not None:
                config._attn_implementation = "sdpa"

    def rows(self, batch: Batch) -> int:
        """Rows that the linear layers compute for `batch`: its tokens, and the filler or padding beside them."""
        if not self.flat:
            return len(batch) * batch.max_seqlen
        return batch.tokens + -batch.tokens % ROUNDED

    def _positions(self, batch: Batch) -> Tensor:
        """(T,) position ids as the family counts them: RoBERTa's kind counts no padding token, wherever it stands."""
        if not self.family.positions_after_padding:
            return batch.position_ids
        config: Any = self.model.config
        counted = batch.input_ids.ne(config.pad_token_id).long()
        first = batch.cu_seqlens[:-1].long().clamp_(max=batch.tokens - 1)  # an empty sequence at the end has none
        before = (counted.cumsum(0) - counted)[first]  # (B,): counted in earlier sequences
        lengths = batch.cu_seqlens.diff().long()
        start = before.repeat_interleave(lengths, output_size=batch.tokens)
        positions: Tensor = (counted.cumsum(0) - start) * counted + config.pad_token_id
        return positions

    def __call__(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch that stands on the model's device."""
        if self.flat and self.family.apply_head is not None:
            hidden = self.encode(self.rounded(batch))
            return self.family.apply_head(self.model, hidden.index_select(0, self.pooled(batch)))
        logits: Tensor = self.model(**padded(batch, self.pad_id)).logits
        return logits

    def pooled(self, batch: Batch) -> Tensor:
        """(B,) where each sequence's pooled token stands in the flat row: its first, a decoder's last."""
        bounds = batch.cu_seqlens.long()
        return bounds[1 : len(batch) + 1] - 1 if self.family.causal else bounds[: len(batch)]

    def rounded(self, batch: Batch) -> Batch:
        """`batch`, filled up with padding to a multiple of ROUNDED tokens, in sequences that the model takes."""
        missing = self.rows(batch) - batch.tokens
        if missing == 0:
            return batch
        config: Any = self.model.config
        most = min(missing, self.family.longest(config))
        shape = Shape(batch.tokens + missing, len(batch), -(-missing // most), longest=max(batch.max_seqlen, most))
        return filled(batch, shape, self.pad_id)

    def encode(self, batch: Batch) -> Tensor:
        """Last hidden states (T, H) of a flat batch."""
        types = batch.token_type_ids
        hidden: Tensor = self.family.encoder(self.model)(
            input_ids=batch.input_ids.unsqueeze(0),
            position_ids=self._positions(batch).unsqueeze(0),
            layout=Layout.of(batch, causal=self.family.causal),
            **({} if types is None else {"token_type_ids": types.unsqueeze(0)}),
        ).last_hidden_state[0]
        return hidden
