"""What runs of a study came to, and runs that fail."""

from __future__ import annotations

from typing import Any

import loratory.study.jobs as jobs
from loratory.store.record import RunRecord


def numbers(records: dict[str, RunRecord]) -> dict[str, Any]:
    """What is the same however the runs were carried out."""
    return {
        name: (record.status, record.quality, record.study | {"runs_at_once": None}, record.weights)
        for name, record in records.items()
        if record.study is not None
    }


def at_once(records: dict[str, RunRecord]) -> set[Any]:
    """How many runs the device had at once, by the records."""
    return {record.study["runs_at_once"] for record in records.values() if record.study is not None}


def failing(error: Exception, where: Any) -> Any:
    """`train`, which fails where `where(spec)` says so."""
    train = jobs.train

    def one(spec: Any, **settings: Any) -> Any:
        if not where(spec):
            return train(spec, **settings)

        def fail(progress: Any) -> None:
            raise error

        return train(spec, **{**settings, "on_step": fail})

    return one
