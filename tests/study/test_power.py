"""Simulated studies: what is not there is claimed in at most 5%, tuned or not; 3 points are found in at least 90%."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

POWER = Path(__file__).parents[2] / "benchmarks" / "power.py"


@pytest.fixture(scope="module")
def power() -> ModuleType:
    """benchmarks/power.py."""
    spec = importlib.util.spec_from_file_location("power", POWER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["power"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("seed_sd", [0.0, 0.01, 0.02])
def test_no_difference_is_claimed_in_at_most_5_of_100(power: ModuleType, seeds: int, seed_sd: float) -> None:
    found = power.verdicts(power.Setting(500, seeds, seed_sd), 0.0, studies=1000, draws=300)
    assert found.total() == 1000
    assert found["better"] + found["worse"] <= 50


@pytest.mark.parametrize("own", [False, True])
def test_three_points_are_found_at_ten_seeds(power: ModuleType, own: bool) -> None:
    found = power.verdicts(power.Setting(2114, 10, 0.005, own), 0.03, studies=200, draws=300)
    assert found["better"] >= 180


def test_a_difference_as_large_as_the_margin_is_seldom_called_equivalent(power: ModuleType) -> None:
    found = power.verdicts(power.Setting(2114, 10, 0.0), power.MARGIN, studies=200, draws=300)
    assert found["equivalent"] <= 10


def test_methods_that_are_the_same_are_told_apart_where_one_seed_chooses_for_all(power: ModuleType) -> None:
    each, first = (
        power.tuned_verdicts(power.Tuned(10, 0.005, 0.02, 1.0, who), studies=200, draws=100) for who in (True, False)
    )
    assert each.total() == 200
    assert each["better"] + each["worse"] <= 10
    assert first["better"] + first["worse"] >= 20


@pytest.mark.parametrize("groups", [20, 60])
def test_groups_resampled_whole_claim_little_and_one_by_one_too_much(power: ModuleType, groups: int) -> None:
    whole, single = (
        power.verdicts(power.Setting(1000, 5, 0.005, own=True, groups=groups, known=known), 0.0, studies=200, draws=200)
        for known in (True, False)
    )
    assert whole.total() == 200
    assert whole["better"] + whole["worse"] <= 16
    assert single["better"] + single["worse"] >= 20


@pytest.mark.parametrize("seeds", [1, 3])
def test_folds_claim_little_where_training_sets_move_accuracy_by_a_point(power: ModuleType, seeds: int) -> None:
    found = power.fold_verdicts(power.Folded(200, 5, seeds, 0.01), 0.0, studies=250, draws=100)
    assert found["study"].total() == 250
    assert found["study"]["better"] + found["study"]["worse"] <= 12
    assert found["t"]["better"] + found["t"]["worse"] > found["study"]["better"] + found["study"]["worse"]


def test_every_fold_is_trained_without_its_test_and_its_validation(power: ModuleType) -> None:
    """What two folds' training sets share moves both."""
    random = np.random.default_rng(0)
    kind = power.Folded(100, 5, 40, 0.05)
    a, _, ratio = power._simulated_folds(kind, 0.0, 40, 10, random)
    assert ratio == pytest.approx(20 / 70)
    levels = a.folds.mean(axis=-1) - a.folds.mean()  # (folds, studies): seeds are averaged out
    shared = np.corrcoef(levels)[np.triu_indices(5, 1)].mean()
    assert 0.3 < shared < 0.9
