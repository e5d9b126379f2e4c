"""Batches of several runs side by side: what each of K would see alone, one after the other in one flat row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.batches import Batch, Cut, Labelled, collate, epoch_order


@dataclass(frozen=True)
class Joint(Labelled):
    """The data as K members see them side by side: an order is (n, K), a column for each."""

    def steps(self, order: NDArray[np.int64], cut: Cut) -> Iterator[list[Batch]]:
        """As of :class:`Labelled`. Each member has `cut.size` examples in every step: where fewer are left, its
        shortest one fills up, of weight 0."""
        for chosen, weights in self._joint(order, cut):
            yield [collate(self.tokens, self.labels, chosen.ravel(), weight=weights.ravel())]

    def sizes(self, orders: JointOrders, cut: Cut, *, since: int = 1) -> NDArray[np.int64]:
        """(steps, K) the tokens that each member has in each step from the epoch `since` on."""
        if self.tokens.single:
            steps = (orders.epochs - since + 1) * -(-orders.n // cut.size)
            return np.full((steps, len(orders.seeds)), cut.size)
        return np.concatenate([self._sizes(orders[place], cut) for place in range(since - 1, orders.epochs)])

    def _sizes(self, order: NDArray[np.int64], cut: Cut) -> NDArray[np.int64]:
        lengths = self.tokens.lengths[order]
        begins = np.arange(0, len(order), cut.size)
        sizes = np.add.reduceat(lengths, begins, axis=0)
        sizes[-1] += -len(order) % cut.size * lengths[begins[-1] :].min(axis=0)  # what fills up the last step
        return sizes

    def _joint(self, order: NDArray[np.int64], cut: Cut) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Of each step, the examples (K, B), of each member the longest first, and what each weighs (K, B)."""
        lengths = self.tokens.lengths
        for start in range(0, len(order), cut.size):
            chosen = order[start : start + cut.size].T
            if not self.tokens.single:
                chosen = np.take_along_axis(chosen, np.argsort(-lengths[chosen], axis=1, kind="stable"), axis=1)
            if cut.class_weights is None:
                weights = np.full(chosen.shape, 1 / chosen.shape[1], np.float32)
            else:
                counted = np.asarray(cut.class_weights, np.float32)[self.labels[chosen]].sum(axis=1, keepdims=True)
                weights = np.ones(chosen.shape, np.float32) / counted
            if missing := cut.size - chosen.shape[1]:
                chosen, weights = (
                    np.pad(chosen, ((0, 0), (0, missing)), "edge"),
                    np.pad(weights, ((0, 0), (0, missing))),
                )
            yield chosen, weights


@dataclass(frozen=True)
class JointOrders(Sequence["NDArray[np.int64]"]):
    """The orders of epochs 1, 2 … of `n` examples, (n, K), a column as each run has it alone; each is drawn when it is
    asked for."""

    n: int
    seeds: tuple[int, ...]
    epochs: int

    def __len__(self) -> int:
        return self.epochs

    def __getitem__(self, place: Any) -> Any:
        epochs = range(1, self.epochs + 1)[place]
        return [self._order(epoch) for epoch in epochs] if isinstance(epochs, range) else self._order(epochs)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        with ThreadPoolExecutor() as pool:  # sorting waits for nobody
            return np.stack(list(pool.map(lambda seed: epoch_order(self.n, seed, epoch), self.seeds))).T
