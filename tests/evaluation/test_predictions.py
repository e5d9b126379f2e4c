from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loratory.errors import StorageError, TrainingError
from loratory.evaluation import predictions
from loratory.evaluation.predictions import Predictions


def content() -> dict[str, Predictions]:
    rng = np.random.default_rng(0)
    return {
        part: Predictions(rng.integers(0, 3, n), rng.normal(size=(n, 3)).astype(np.float32), rows, np.arange(n) // 2)
        for part, n, rows in (("validation", 5, np.arange(5)[::-1]), ("test", 7, np.arange(5, 12)))
    }


def one(labels: list[int], logits: list[list[float]], rows: list[int], units: list[int]) -> dict[str, Predictions]:
    return {"test": Predictions(np.array(labels), np.array(logits), np.array(rows), np.array(units))}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    predictions.write(path, content())
    found = predictions.read(path)
    assert list(found) == ["validation", "test"]
    for name, given in content().items():
        for field in ("labels", "logits", "rows", "units"):
            assert np.array_equal(getattr(found[name], field), getattr(given, field))
        assert np.array_equal(found[name].predictions, given.logits.argmax(1))


def test_columns_are_readable_by_anyone(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    predictions.write(path, content())
    table = pq.read_table(path)
    assert table.column_names == ["split", "index", "row", "unit", "label", "prediction", "logits"]
    assert table.column("index").to_pylist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]
    assert table.schema.field("logits").type == pa.list_(table.schema.field("logits").type.value_field, 3)


def test_same_content_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    predictions.write(first, content())
    predictions.write(second, content())
    assert first.read_bytes() == second.read_bytes()


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    with pytest.raises(StorageError, match="no such file"):
        predictions.read(path)
    predictions.write(path, content())
    whole = path.read_bytes()
    for damaged in (b"", b"not parquet", whole[: len(whole) // 2], whole[:-20] + b"x" * 20):
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="damaged or not Parquet") as caught:
            predictions.read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["logits"]),
        lambda table: table.set_column(0, "split", pa.array([None] * len(table), pa.string())),
        lambda table: table.drop_columns(["row"]),
        lambda table: table.drop_columns(["unit"]),
        lambda table: table.set_column(4, "label", pa.array(["a"] * len(table))),
        lambda table: table.set_column(6, "logits", pa.array([[0.0]] * len(table))),
        lambda table: table.set_column(6, "logits", pa.array([None] * len(table), pa.list_(pa.float32(), 3))),
        lambda table: table.slice(1),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, change) -> None:
    path = tmp_path / "predictions.parquet"
    predictions.write(path, content())
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(StorageError, match="not a predictions file"):
        predictions.read(path)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"missing/predictions\.parquet"):
        predictions.write(tmp_path / "missing" / "predictions.parquet", content())
    with pytest.raises(TrainingError, match="not finite"):
        predictions.write(tmp_path / "p", one([0], [[np.nan, 0.0]], [0], [0]))
    both = [[0.0, 0.0]] * 2
    for wrong in (
        one([0, 1], both[:1], [0, 1], [0, 1]),
        one([0, 1], both, [0], [0, 1]),
        one([0, 1], both, [0, 1], [0]),
    ):
        with pytest.raises(ValueError, match="must be"):
            predictions.write(tmp_path / "p", wrong)
