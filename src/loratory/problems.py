"""What kind of answer a text gets, by transformers' own names (`problem_type` of a model's configuration)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]

SINGLE: Final = "single_label_classification"
"""One of C classes: labels (N,) int64, logits (N, C), softmax."""
MULTI: Final = "multi_label_classification"
"""Any of C labels, or none: labels (N, C) int64 of 0 and 1, logits (N, C), a sigmoid for each."""
REGRESSION: Final = "regression"
"""A number: labels (N,) float64, logits (N, 1), which are the number."""

FLAGS: Mapping[str, Problem] = MappingProxyType(
    {"single-label": SINGLE, "multi-label": MULTI, "regression": REGRESSION}
)
"""What `--problem` calls each."""

FLAG_OF: Mapping[Problem, Any] = MappingProxyType({problem: flag for flag, problem in FLAGS.items()})
"""The value of `--problem` for each."""

IN_WORDS: Mapping[Problem, str] = MappingProxyType(
    {SINGLE: "single-label classification", MULTI: "multi-label classification", REGRESSION: "a regression"}
)
"""What a sentence calls each."""

Targets = npt.NDArray[Any]
"""Labels of N examples: (N,) int64, (N, C) int64 of 0 and 1, or (N,) float64, by the problem."""


def problem_of(labels: Targets) -> Problem:
    """The problem whose labels have this shape and type."""
    if labels.ndim == 2:
        return MULTI
    return REGRESSION if np.issubdtype(labels.dtype, np.floating) else SINGLE


def problem_in(value: object) -> Problem:
    """What a record says of its problem; one that says nothing is of single labels.

    Raises:
        ValueError: it is none of those there are.
    """
    if value is None:
        return SINGLE
    for problem in FLAGS.values():
        if problem == value:
            return problem
    raise ValueError(f"problem {value!r}; known: {', '.join(FLAGS.values())}")


def spread_of(numbers: Targets) -> dict[str, float]:
    """What N numbers are like: mean, standard deviation, smallest and largest."""
    said = {"mean": numbers.mean(), "sd": numbers.std(), "min": numbers.min(), "max": numbers.max()}
    return {name: float(value) for name, value in said.items()}
