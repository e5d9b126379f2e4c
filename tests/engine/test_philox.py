"""Numbers that CUDA draws, drawn on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loratory.engine import philox


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers of Random123
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_words_are_those_that_its_authors_publish(counter: str, key: str, words: str) -> None:
    low, high = (int(word, 16) for word in key.split())
    counters = np.array([[int(word, 16) for word in counter.split()]], np.uint64)
    (found,) = philox.philox(low | high << 32, counters)
    assert " ".join(f"{word:08x}" for word in found.tolist()) == words


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seed", [0, 1, 2**31 + 5, 2**63 - 1])
def test_seeds_are_those_that_a_generator_draws_one_by_one(seed: int) -> None:
    device = torch.device("cuda")
    assert philox._word(device) is not None, "torch draws otherwise than before: one by one they are slower"
    assert torch.equal(philox.seeds(seed, 300, device), philox._one_by_one(seed, 300, device))
