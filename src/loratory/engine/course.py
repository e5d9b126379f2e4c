"""How far a member of a cohort has come, and how its training went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from loratory.engine.member_steps import Member
from loratory.errors import DivergedError


@dataclass(eq=False)
class Ended:
    """How a member's training went.

    Attributes:
        history: as :attr:`loratory.engine.fit.FitResult.history`.
        best_epoch: the epoch whose weights its model holds.
        error: why it stopped, where it diverged.
        spent: its share of the cohort's seconds, by the meter's phases: of each epoch as much as every other member
            that was under way then.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    error: DivergedError | None = None
    spent: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "eval": 0.0})


@dataclass(eq=False)
class Course:
    """How far a member has come.

    Attributes:
        over: whether it trains no further.
        best: the best epoch so far and its scores, where the member watches them.
        kept: its weights then, a row of the flat memory, where they are to be kept.
    """

    member: Member
    ended: Ended = field(default_factory=Ended)
    over: bool = False
    best: tuple[int, dict[str, float]] | None = None
    kept: Tensor | None = None

    def judge(self, row: dict[str, Any], logits: Tensor | None, weights: Tensor, spent: Mapping[str, float]) -> None:
        """End an epoch.

        Args:
            row: of the history, scores and seconds not yet in it.
            logits: (N, C) of validation, where there is one.
            weights: what it trains, a row of the flat memory.
            spent: its share of the epoch's seconds, by phase.
        """
        epoch, spec, ended = row["epoch"], self.member.spec, self.ended
        ended.spent = {phase: before + spent[phase] for phase, before in ended.spent.items()}
        row = {**row, "train_seconds": ended.spent["train"]}
        fault = None if math.isfinite(row["loss"]) else f"the loss is {row['loss']}"
        if fault is None and logits is not None and not torch.isfinite(logits).all():
            fault = "logits are no finite numbers"
        scores = self.member.score(logits) if fault is None and logits is not None else {}
        ended.history.append({**row, **scores})
        self.over = fault is not None or epoch == spec.last_epoch
        if fault is not None:
            ended.error = DivergedError(f"{fault} in epoch {epoch} (step {row['step']}); use a smaller --lr")
            return
        if scores and (self.best is None or self.member.better(scores, self.best[1])):
            self.best = epoch, scores
            self.kept = weights.clone() if spec.keep == "best" else None
        ended.best_epoch = self.best[0] if self.kept is not None and self.best is not None else epoch
        if self.best is not None and spec.patience is not None and epoch - self.best[0] >= spec.patience:
            self.over = True
