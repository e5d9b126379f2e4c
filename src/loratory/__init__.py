"""Loratory: which way of fine-tuning should I use, and what does it cost me?

What a program uses stands in `__all__`; each name is imported when it is first asked for, and torch with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from loratory.api import compare, estimate, evaluate, predict, rerun, run_study, train
    from loratory.errors import (
        ColumnError,
        DamagedError,
        DataError,
        DivergedError,
        InputError,
        LoratoryError,
        ModelError,
        OutOfMemoryError,
        ResourceError,
        RowError,
        SafetyError,
        SettingsError,
        StorageError,
        TrainingError,
    )
    from loratory.estimates import Estimates
    from loratory.estimating import Estimate
    from loratory.estimator import TextClassifier, TextRegressor
    from loratory.report.predictions import Answers, Predicted, PredictedLabels, PredictedNumbers
    from loratory.report.tables import Table
    from loratory.rerunning import Rerun
    from loratory.run import Run
    from loratory.store.record import RunRecord
    from loratory.study.document import Summary
    from loratory.trained import Evaluation
else:
    _HOMES = {
        "loratory.api": ("compare", "estimate", "evaluate", "predict", "rerun", "run_study", "train"),
        "loratory.errors": (
            *("ColumnError", "DamagedError", "DataError", "DivergedError", "InputError", "LoratoryError"),
            *("ModelError", "OutOfMemoryError", "ResourceError", "RowError", "SafetyError", "SettingsError"),
            *("StorageError", "TrainingError"),
        ),
        "loratory.estimates": ("Estimates",),
        "loratory.estimating": ("Estimate",),
        "loratory.estimator": ("TextClassifier", "TextRegressor"),
        "loratory.report.predictions": ("Answers", "Predicted", "PredictedLabels", "PredictedNumbers"),
        "loratory.report.tables": ("Table",),
        "loratory.rerunning": ("Rerun",),
        "loratory.run": ("Run",),
        "loratory.store.record": ("RunRecord",),
        "loratory.study.document": ("Summary",),
        "loratory.trained": ("Evaluation",),
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(_HOME[name]), name)
        if _HOME[name] == "loratory.api":  # commands call the same functions, and have flags
            found = import_module("loratory.keywords").from_python(found)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Answers",
    "ColumnError",
    "DamagedError",
    "DataError",
    "DivergedError",
    "Estimate",
    "Estimates",
    "Evaluation",
    "InputError",
    "LoratoryError",
    "ModelError",
    "OutOfMemoryError",
    "Predicted",
    "PredictedLabels",
    "PredictedNumbers",
    "Rerun",
    "ResourceError",
    "RowError",
    "Run",
    "RunRecord",
    "SafetyError",
    "SettingsError",
    "StorageError",
    "Summary",
    "Table",
    "TextClassifier",
    "TextRegressor",
    "TrainingError",
    "__version__",
    "compare",
    "estimate",
    "evaluate",
    "predict",
    "rerun",
    "run_study",
    "train",
]
