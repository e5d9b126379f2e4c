"""What is said to dominate is what was measured to."""

from __future__ import annotations

import pytest

from loratory import units
from loratory.study import why

PASSES = {"forward": 4.0, "backward": 5.0, "optimizer": 0.5, "data": 0.3, "gaps": 0.2}


def test_parts_stand_largest_first_with_those_of_another_beside_them() -> None:
    other = {**PASSES, "forward": 4.5}
    text = why.listed_parts(PASSES, units.duration, ("standard", other))
    assert text.startswith("backward 50% (5.00 s; standard 5.00 s), forward 40% (4.00 s; standard 4.50 s), optimizer")
    assert text.endswith("waiting for launches 2% (0.200 s; standard 0.200 s)")
    assert "waiting" not in why.listed_parts(PASSES, units.duration, cpu=True)


@pytest.mark.parametrize("parts", [None, {}, {"forward": 0.0}, {"weights": 5.0, "rest": -1.0}])
def test_what_is_no_whole_has_no_shares(parts: dict[str, float] | None) -> None:
    assert why.shares(parts) is None


@pytest.mark.parametrize(
    ("parts", "frozen", "cpu", "said"),
    [
        (PASSES, True, False, "90% are forward and backward passes"),
        (PASSES, False, False, "90% are forward and backward passes through the whole model, all of which is trained"),
        ({**PASSES, "forward": 60.0}, True, False, "forward passes dominate"),
        ({**PASSES, "gaps": 20.0}, True, False, "device waits for the host"),
        ({**PASSES, "gaps": 6.0}, False, True, "through the whole model"),
        ({**PASSES, "gaps": 20.0}, True, True, "into Python between"),
        ({**PASSES, "communication": 20.0}, False, False, "between processes dominates"),
        ({**PASSES, "forward": 0.3, "backward": 0.3}, False, True, ""),
        ({**PASSES, "optimizer": 9.0}, False, False, "optimizer dominates"),
    ],
)
def test_what_dominates_time(parts: dict[str, float], frozen: bool, cpu: bool, said: str) -> None:
    found = why.time_dominated(parts, frozen=frozen, cpu=cpu)
    assert said in found if said else not found


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("optimizer", "gradients and optimizer state"),
        ("activations", "--activation-checkpointing"),
        ("rest", "libraries"),
        ("weights", "own weights"),
    ],
)
def test_what_dominates_memory(part: str, said: str) -> None:
    parts = {"weights": 1.0, "gradients": 0.5, "optimizer": 0.5, "activations": 1.0, "rest": 1.0}
    assert why.memory_dominated(parts) == ""
    assert said in why.memory_dominated({**parts, part: 4.0})


def test_a_sentence_says_what_dominates_that_nothing_does_or_why_that_is_not_known() -> None:
    held = {"weights": 3.0 * 2**20, "gradients": 1.0 * 2**20, "rest": -2.0 * 2**20}
    assert why.memory_said(held) == (
        "",
        "its parts, measured apart, come to more than the whole (rest −2 MiB), so that none is said to dominate",
    )
    assert why.memory_said(None) == ("", "what it went into is not known")
    assert why.time_said({}, frozen=True, cpu=True) == ("", "what it went into is not known")
    parts, end = why.time_said(PASSES, frozen=False, cpu=True)
    assert parts == why.listed_parts(PASSES, units.duration, cpu=True)
    assert end == "90% are forward and backward passes through the whole model, all of which is trained"
    even = {"weights": 1.0, "gradients": 0.5, "optimizer": 0.5, "activations": 1.0, "rest": 1.0}
    assert why.memory_said(even)[1] == "no part of it dominates"
    assert why.unknown(even, units.memory) == ""
