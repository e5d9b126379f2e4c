"""`predictions.parquet`: the logits of every example, so that any metric can be computed again without the model.

Columns: `split` (string), `index` (int64, row in that split), `row` (int64, row of the file or data set that the
example was read from, counted from 0 without header and blank lines), `unit` (int64, the same for examples that are not
independent: of equal texts, of one group), `label` and `prediction` (int64, class numbers), `logits` (list of C
float32). The same content gives the same bytes with the same pyarrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from loratory.errors import StorageError
from loratory.evaluation.metrics import Labels, Logits, require_finite

if TYPE_CHECKING:
    import pyarrow as pa


_WHOLE = ("index", "row", "unit", "label")
"""Columns of whole numbers."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """One split's true classes, logits, rows of the source and units, in the split's own order."""

    labels: Labels  # (N,)
    logits: Logits  # (N, C)
    rows: npt.NDArray[np.int64]  # (N,)
    units: npt.NDArray[np.int64]  # (N,)

    @property
    def predictions(self) -> Labels:
        """The class of each row's highest logit, the first of equals: (N,)."""
        highest: Labels = self.logits.argmax(axis=1).astype(np.int64)
        return highest


def write(path: Path, splits: Mapping[str, Predictions]) -> None:
    """Write each split's predictions to `path`; logits are kept as float32.

    Raises:
        TrainingError: a logit is NaN or infinite.
        StorageError: the file cannot be written.
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
            column_encoding=dict.fromkeys((*_WHOLE, "prediction"), "DELTA_BINARY_PACKED"),
        )
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({_one_line(error)})") from None


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


def _checked(name: str, given: Predictions) -> Predictions:
    N, logits = given.labels.shape[:1], given.logits
    if logits.ndim != 2 or any(one.shape != N for one in (given.labels, logits[:, 0], given.rows, given.units)):
        shapes = (
            f"labels {given.labels.shape}, logits {logits.shape}, rows {given.rows.shape}, units {given.units.shape}"
        )
        raise ValueError(f"{name}: {shapes} must be (N,), (N, C), (N,) and (N,)")
    with np.errstate(over="ignore"):  # beyond float32 is infinity, refused on the next line
        kept = logits.astype(np.float32)
    require_finite(kept)
    labels, rows, units = (one.astype(np.int64) for one in (given.labels, given.rows, given.units))
    return Predictions(labels, kept, rows, units)


def _table(splits: Mapping[str, Predictions]) -> pa.Table:
    import pyarrow as pa

    parts = list(splits.values())
    logits = np.concatenate([part.logits for part in parts])  # (sum of N, C)
    columns = {
        "split": pa.array([name for name, part in splits.items() for _ in range(len(part.labels))], pa.string()),
        "index": pa.array(np.concatenate([np.arange(len(part.labels), dtype=np.int64) for part in parts])),
        "row": pa.array(np.concatenate([part.rows for part in parts])),
        "unit": pa.array(np.concatenate([part.units for part in parts])),
        "label": pa.array(np.concatenate([part.labels for part in parts])),
        "prediction": pa.array(np.concatenate([part.predictions for part in parts])),
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1]),
    }
    return pa.table(columns)


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
    index, rows, units, labels = (table.column(name).to_numpy() for name in _WHOLE)
    found: dict[str, Predictions] = {}
    for name in dict.fromkeys(names.tolist()):
        chosen = names == name
        if not np.array_equal(index[chosen], np.arange(chosen.sum())):
            raise ValueError(f"rows of split {name!r} are missing or out of order")
        found[name] = Predictions(labels[chosen], logits[chosen], rows[chosen], units[chosen])
    return found


def _one_line(error: Any) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
