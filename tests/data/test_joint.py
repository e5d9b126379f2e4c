"""What members of a cohort see side by side is what each would see alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from loratory.data import Cut, epoch_order
from loratory.data.joint import Joint, JointOrders

SEEDS = (3, 0, 7)
LENGTHS = [2 + n * 7 % 23 for n in range(21)]


@pytest.mark.parametrize("size", [4, 7, 21, 30])
@pytest.mark.parametrize("class_weights", [None, (0.5, 2.0)])
@pytest.mark.parametrize("lengths", [LENGTHS, [1] * 21], ids=["of all lengths", "alike"])
def test_each_member_has_its_own_batches_and_the_last_one_is_filled_up(
    size: int, class_weights: tuple[float, ...] | None, lengths: list[int], labelled: Any
) -> None:
    data = labelled(lengths)
    joint, cut = Joint(data.tokens, data.labels), Cut(size, class_weights=class_weights)
    orders = JointOrders(len(lengths), SEEDS, 2)
    steps = list(joint.steps(orders[1], cut))
    sizes = joint.sizes(orders, cut, since=2)
    assert np.array_equal(joint.sizes(orders, cut)[len(steps) :], sizes)
    assert sizes.shape == (len(steps), len(SEEDS))
    for member, seed in enumerate(SEEDS):
        alone = list(data.steps(epoch_order(len(lengths), seed, 2), cut))
        assert len(alone) == len(steps)
        for number, ((batch,), (own,)) in enumerate(zip(steps, alone, strict=True)):
            bounds, rows = batch.cu_seqlens, slice(member * size, (member + 1) * size)
            ids = batch.input_ids[bounds[rows.start] : bounds[rows.stop]]
            assert len(ids) == sizes[number, member]
            assert torch.equal(ids[: own.tokens], own.input_ids)
            weights = batch.weights[rows]
            torch.testing.assert_close(weights[: len(own)], own.weights)
            assert not weights[len(own) :].any()
            shortest = int(np.diff(own.cu_seqlens.numpy()).min())
            assert len(ids) - own.tokens == (size - len(own)) * shortest
