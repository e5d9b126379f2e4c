"""A run's record as a value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loratory.run import Run
from loratory.store.record import RunRecord

SPLIT = {"accuracy": 0.51239, "pearson": 0.25, "per_class": [{"f1": 0.5}] * 100}
RECORD = RunRecord(
    id="head-s0-1234",
    fingerprint="f" * 64,
    status="completed",
    spec={"method": {"name": "head"}, "model": "minilm", "training": {"select": "accuracy"}},
    data={"labels": ["no", "yes"]},
    parameters={"total": 1},
    cost={"train_seconds": 1.0},
    quality={"validation": SPLIT, "test": {**SPLIT, "accuracy": 0.75}},
    environment={},
)


def test_a_record_shows_itself_in_short_and_keeps_every_field() -> None:
    said = "RunRecord('head-s0-1234', completed, method='head', model='minilm', test accuracy=0.75)"
    assert repr(RECORD) == str(RECORD) == said
    tuned = replace(RECORD, quality={"validation": SPLIT})
    assert repr(tuned).endswith("model='minilm', validation accuracy=0.5124)")
    numbers = replace(RECORD, spec={**RECORD.spec, "training": {"select": "pearson"}})
    assert repr(numbers).endswith("test pearson=0.25)")
    failed = replace(RECORD, status="failed", spec={}, quality={})
    assert repr(failed) == "RunRecord('head-s0-1234', failed, method=None, model=None)"
    assert repr(Run(RECORD, Path("models/head"))) == f"Run({said}, directory={str(Path('models/head'))!r})"
    assert RECORD.to_dict()["quality"]["test"]["per_class"] == SPLIT["per_class"]
