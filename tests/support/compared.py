"""Records as they stand in a comparison."""

from __future__ import annotations

import numpy as np

from loratory.evaluation.baselines import Baseline
from loratory.evaluation.metrics import score
from loratory.evaluation.quality import Quality


def quality(names: tuple[str, ...] = ("negative", "positive"), labels: tuple[int, ...] = (0, 1, 1, 0, 1)) -> Quality:
    logits = np.eye(len(names))[list(labels)] * 2
    logits[0] = logits[0, ::-1]
    return score(np.array(labels), logits, None, names)


def record(
    method: dict | None = None, *, status: str = "completed", spec: dict | None = None, **changes: object
) -> dict:
    found = {
        "schema": 1,
        "id": "0123456789abcdef",
        "status": status,
        "spec": {
            "method": method or {"name": "standard"},
            "model": "minilm",
            "seed": 0,
            "data": {"dataset": "hutto:movies", "limit": None},
            "training": {"lr": None, "epochs": 2},
            **(spec or {}),
        },
        "data": {"source": "hutto:movies", "digests": {"train": "t1", "validation": "v1", "test": "d1"}},
        "parameters": {
            "total": 22_861_826,
            "trainable": 22_861_826,
            "adapter": 0,
            "head": 148_610,
            "unfrozen": 22_713_216,
        },
        "cost": {
            "train_seconds": 191.4,
            "total_seconds": 240.0,
            "peak_memory_bytes": {"allocated": None, "reserved": None, "resident": int(1.93 * 2**30)},
        },
        "quality": {"validation": quality().record(), "test": quality().record()},
        "environment": {"device": "cpu", "threads": 2},
    }
    return {**found, **changes}


LORA = {"name": "lora", "rank": 8, "alpha": 16, "targets": "attention"}
HYBRID = {"name": "hybrid", "rank": 8, "targets": ["query", "value"], "unfrozen_layers": 2, "frozen_layers": 3}
LORA_PARAMETERS = {"total": 22_935_554, "trainable": 222_338, "adapter": 73_728, "head": 148_610, "unfrozen": 0}
HYBRID_PARAMETERS = {
    "total": 22_900_000,
    "trainable": 3_800_000,
    "adapter": 49_152,
    "head": 148_610,
    "unfrozen": 3_602_238,
}
BASELINES = [
    Baseline("majority class", quality(), 0.001, 0, {}),
    Baseline("VADER", None, 0.0, 0, {}, "the labels are others"),
    Baseline("TF-IDF + logistic regression", quality(), 1.93, 21_345, {}),
]


def records() -> list[dict]:
    return [
        record(),
        record(LORA, parameters=LORA_PARAMETERS),
        record(HYBRID, parameters=HYBRID_PARAMETERS),
        record({"name": "head"}, status="out_of_memory", quality=None, cost=None, parameters=None),
    ]
