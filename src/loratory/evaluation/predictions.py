"""`predictions.parquet`: the logits of every example, so that any metric can be computed again without the model.

Columns: `split` (string), `index` (int64, row in that split), `row` (int64, row of the file or data set that the
example was read from, counted from 0 without header and blank lines), `label` and `prediction` (int64, class numbers),
`logits` (list of C float32). The same content gives the same bytes with the same pyarrow.
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


@dataclass(frozen=True, eq=False)
class Predictions:
    """One split's true classes, logits and rows of the source, in the split's own order."""

    labels: Labels  # (N,)
    logits: npt.NDArray[np.float32]  # (N, C)
    rows: npt.NDArray[np.int64]  # (N,)

    @property
    def predictions(self) -> Labels:
        """The class of each row's highest logit, the first of equals: (N,)."""
        highest: Labels = self.logits.argmax(axis=1).astype(np.int64)
        return highest


def write(path: Path, splits: Mapping[str, tuple[Labels, Logits, npt.NDArray[np.int64]]]) -> None:
    """Write each split's (labels (N,), logits (N, C), rows (N,)) to `path`; logits are kept as float32.

    Raises:
        TrainingError: a logit is NaN or infinite.
        StorageError: the file cannot be written.
        ValueError: shapes that do not fit, or no split: a mistake of the caller.
    """
    import pyarrow.parquet as pq

    if not splits:
        raise ValueError("no split to write")
    table = _table({name: _predictions(name, *arrays) for name, arrays in splits.items()})
    try:
        pq.write_table(
            table,
            path,
            compression="zstd",
            use_dictionary=["split"],
            column_encoding=dict.fromkeys(("index", "row", "label", "prediction"), "DELTA_BINARY_PACKED"),
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
        raise StorageError(f"{path}: not a predictions file ({_one_line(error)}); evaluate the run again") from None


def _predictions(name: str, labels: Labels, logits: Logits, rows: npt.NDArray[np.int64]) -> Predictions:
    if labels.ndim != 1 or logits.ndim != 2 or len(labels) != len(logits) or rows.shape != labels.shape:
        shapes = f"labels {labels.shape}, logits {logits.shape} and rows {rows.shape}"
        raise ValueError(f"{name}: {shapes} must be (N,), (N, C) and (N,)")
    with np.errstate(over="ignore"):  # beyond float32 is infinity, refused on the next line
        kept = logits.astype(np.float32)
    require_finite(kept)
    return Predictions(labels.astype(np.int64), kept, rows.astype(np.int64))


def _table(splits: Mapping[str, Predictions]) -> pa.Table:
    import pyarrow as pa

    parts = list(splits.values())
    logits = np.concatenate([part.logits for part in parts])  # (sum of N, C)
    columns = {
        "split": pa.array([name for name, part in splits.items() for _ in range(len(part.labels))], pa.string()),
        "index": pa.array(np.concatenate([np.arange(len(part.labels), dtype=np.int64) for part in parts])),
        "row": pa.array(np.concatenate([part.rows for part in parts])),
        "label": pa.array(np.concatenate([part.labels for part in parts])),
        "prediction": pa.array(np.concatenate([part.predictions for part in parts])),
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), logits.shape[1]),
    }
    return pa.table(columns)


def _splits(table: pa.Table) -> dict[str, Predictions]:
    import pyarrow.types as kinds

    whole = ("index", "row", "label")
    for name, kind in (("split", kinds.is_string), *((name, kinds.is_int64) for name in whole)):
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
    index, rows, labels = (table.column(name).to_numpy() for name in whole)
    found: dict[str, Predictions] = {}
    for name in dict.fromkeys(names.tolist()):
        chosen = names == name
        if not np.array_equal(index[chosen], np.arange(chosen.sum())):
            raise ValueError(f"rows of split {name!r} are missing or out of order")
        found[name] = Predictions(labels[chosen], logits[chosen], rows[chosen])
    return found


def _one_line(error: Any) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
