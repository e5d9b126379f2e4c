"""`predictions.parquet`: the logits of every example, so that any metric can be computed again without the model.

Columns: `split` (string), `index` (int64, row in that split), `row` (int64, row of the file or data set that the
example was read from, counted from 0 without header and blank lines), `unit` (int64, the same for examples that are not
independent: of equal texts, of one group), `label` and `prediction` (int64, class numbers; where a text has several
labels, lists of their numbers; of a regression float64), `logits` (list of C float32; of a regression the prediction).
The same content gives the same bytes with the same pyarrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from loratory.errors import StorageError
from loratory.evaluation.measures import Logits
from loratory.evaluation.metrics import predicted, require_finite
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, Targets, problem_of

if TYPE_CHECKING:
    import pyarrow as pa


_WHOLE = ("index", "row", "unit")
"""Columns of whole numbers, whatever the labels are."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """One split's true labels, logits, rows of the source and units, in the split's own order."""

    labels: Targets  # of the problem's own shape
    logits: Logits  # (N, C)
    rows: npt.NDArray[np.int64]  # (N,)
    units: npt.NDArray[np.int64]  # (N,)
    chosen: npt.NDArray[np.int64] | None = None  # (N, C) of 0 and 1: the sets of labels that thresholds gave

    @property
    def problem(self) -> Problem:
        """Whose labels these are."""
        return problem_of(self.labels)

    @property
    def predictions(self) -> Targets:
        """What was predicted, as the labels: the class of each row's highest logit, the first of equals; the labels
        chosen; or the number."""
        if self.chosen is not None:
            return self.chosen
        return predicted(self.logits, self.problem)


def write(path: Path, splits: Mapping[str, Predictions]) -> None:
    """Write each split's predictions to `path`; logits are kept as float32.

    Raises:
        TrainingError: a logit is NaN or infinite.
        OSError: the disk refuses.
        ValueError: shapes that do not fit, or no split: a mistake of the caller.
    """
    import pyarrow.parquet as pq

    if not splits:
        raise ValueError("no split to write")
    table = _table({name: _checked(name, given) for name, given in splits.items()})
    try:
        pq.write_table(
            table,
            path,
            compression="zstd",
            use_dictionary=["split"],
            column_encoding=dict.fromkeys(_packed(splits), "DELTA_BINARY_PACKED"),
        )
    except OSError as error:
        raise OSError(error.errno, error.strerror or _one_line(error), str(path)) from error


def read(path: Path) -> dict[str, Predictions]:
    """Read what :func:`write` wrote: each split's predictions, by the split's name.

    Raises:
        StorageError: the file is missing, damaged, or holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file; evaluate the run again") from None
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: damaged or not Parquet ({_one_line(error)}); evaluate the run again") from None
    try:
        return _splits(table)
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise StorageError(
            f"{path}: not a predictions file of this version ({_one_line(error)}); run it again"
        ) from None


def _packed(splits: Mapping[str, Predictions]) -> tuple[str, ...]:
    """The columns that hold a whole number a row."""
    return (*_WHOLE, *(("label", "prediction") if next(iter(splits.values())).problem == SINGLE else ()))


def _checked(name: str, given: Predictions) -> Predictions:
    N, logits = given.labels.shape[:1], given.logits
    if logits.ndim != 2 or any(one.shape[:1] != N for one in (logits, given.rows, given.units)):
        shapes = (
            f"labels {given.labels.shape}, logits {logits.shape}, rows {given.rows.shape}, units {given.units.shape}"
        )
        raise ValueError(f"{name}: {shapes} must be (N,), (N, C), (N,) and (N,)")
    if given.problem == MULTI and (given.chosen is None or given.chosen.shape != given.labels.shape):
        raise ValueError(f"{name}: sets of labels {given.labels.shape} must have chosen ones of that shape")
    with np.errstate(over="ignore"):  # beyond float32 is infinity, refused on the next line
        kept = logits.astype(np.float32)
    require_finite(kept)
    labels = given.labels.astype(np.float64 if given.problem == REGRESSION else np.int64)
    return Predictions(labels, kept, given.rows.astype(np.int64), given.units.astype(np.int64), given.chosen)


def _table(splits: Mapping[str, Predictions]) -> pa.Table:
    import pyarrow as pa

    parts = list(splits.values())
    logits = np.concatenate([part.logits for part in parts])  # (sum of N, C)
    columns = {
        "split": pa.array([name for name, part in splits.items() for _ in range(len(part.labels))], pa.string()),
        "index": pa.array(np.concatenate([np.arange(len(part.labels), dtype=np.int64) for part in parts])),
        "row": pa.array(np.concatenate([part.rows for part in parts])),
        "unit": pa.array(np.concatenate([part.units for part in parts])),
        "label": _column(np.concatenate([part.labels for part in parts])),
        "prediction": _column(np.concatenate([part.predictions for part in parts])),
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1]),
    }
    return pa.table(columns)


def _column(values: Targets) -> pa.Array:
    """(N,) numbers as they are; sets of labels (N, C) as lists of the numbers of their labels."""
    import pyarrow as pa

    if values.ndim == 1:
        return pa.array(values)
    rows, numbers = np.nonzero(values)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(values)))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(numbers.astype(np.int64)))


def _values(table: pa.Table, name: str, classes: int) -> Targets:
    """The column of labels or predictions as :func:`_column` got it."""
    import pyarrow.types as kinds

    column = table.column(name).combine_chunks()
    if column.null_count:
        raise ValueError(f"column {name} has gaps")
    if kinds.is_int64(column.type):
        whole: npt.NDArray[np.int64] = column.to_numpy()
        return whole
    if kinds.is_float64(column.type):
        numbers: npt.NDArray[np.float64] = column.to_numpy()
        if not np.isfinite(numbers).all():
            raise ValueError(f"column {name} holds a number that is not finite")
        return numbers
    if not kinds.is_list(column.type) or not kinds.is_int64(column.type.value_type):
        raise ValueError(f"column {name} has the wrong type")
    sets = np.zeros((len(table), classes), dtype=np.int64)
    places = column.flatten().to_numpy(zero_copy_only=True)  # refuses gaps
    if len(places) and not 0 <= places.min() <= places.max() < classes:
        raise ValueError(f"column {name} holds a label that there is not")
    sets[np.repeat(np.arange(len(table)), column.value_lengths().to_numpy()), places] = 1
    return sets


def _splits(table: pa.Table) -> dict[str, Predictions]:
    import pyarrow.types as kinds

    for name, kind in (("split", kinds.is_string), *((name, kinds.is_int64) for name in _WHOLE)):
        column = table.column(name)
        if column.null_count or not kind(column.type):
            raise ValueError(f"column {name} has the wrong type or gaps")
    lists = table.column("logits").combine_chunks()
    if not kinds.is_fixed_size_list(lists.type) or not kinds.is_float32(lists.type.value_type):
        raise ValueError("column logits has the wrong type")
    values = lists.flatten().to_numpy(zero_copy_only=True)  # refuses gaps
    logits = values.reshape(len(table), lists.type.list_size)  # refuses a missing list
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")
    names = np.asarray(table.column("split").to_pylist(), dtype=object)
    index, rows, units = (table.column(name).to_numpy() for name in _WHOLE)
    labels, said = (_values(table, name, logits.shape[1]) for name in ("label", "prediction"))
    problem = problem_of(labels)
    if problem_of(said) != problem or (problem == REGRESSION and logits.shape[1] != 1):
        raise ValueError("columns label, prediction and logits are of different problems")
    found: dict[str, Predictions] = {}
    for name in dict.fromkeys(names.tolist()):
        chosen = names == name
        if not np.array_equal(index[chosen], np.arange(chosen.sum())):
            raise ValueError(f"rows of split {name!r} are missing or out of order")
        sets = said[chosen] if problem == MULTI else None
        found[name] = Predictions(labels[chosen], logits[chosen], rows[chosen], units[chosen], sets)
    return found


def _one_line(error: Any) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
