"""Numbers that CUDA draws, drawn on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loratory.engine import philox


def test_words_are_those_that_its_authors_publish() -> None:
    (words,) = philox.philox(0, np.zeros(1, np.uint64))  # the known answer of Random123
    assert [f"{word:08x}" for word in words.tolist()] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seed", [0, 1, 2**31 + 5, 2**63 - 1])
def test_seeds_are_those_that_a_generator_draws_one_by_one(seed: int) -> None:
    device = torch.device("cuda")
    assert philox._word(device) is not None, "torch draws otherwise than before: one by one they are slower"
    assert torch.equal(philox.seeds(seed, 300, device), philox._one_by_one(seed, 300, device))
