from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loratory.errors import StorageError, TrainingError
from loratory.evaluation import predictions


def content() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        "validation": (rng.integers(0, 3, 5), rng.normal(size=(5, 3)).astype(np.float32), np.arange(5)[::-1]),
        "test": (rng.integers(0, 3, 7), rng.normal(size=(7, 3)).astype(np.float32), np.arange(5, 12)),
    }


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    predictions.write(path, content())
    found = predictions.read(path)
    assert list(found) == ["validation", "test"]
    for name, (labels, logits, rows) in content().items():
        assert np.array_equal(found[name].labels, labels)
        assert np.array_equal(found[name].logits, logits)
        assert np.array_equal(found[name].rows, rows)
        assert np.array_equal(found[name].predictions, logits.argmax(1))


def test_columns_are_readable_by_anyone(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    predictions.write(path, content())
    table = pq.read_table(path)
    assert table.column_names == ["split", "index", "row", "label", "prediction", "logits"]
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
        lambda table: table.set_column(3, "label", pa.array(["a"] * len(table))),
        lambda table: table.set_column(5, "logits", pa.array([[0.0]] * len(table))),
        lambda table: table.set_column(5, "logits", pa.array([None] * len(table), pa.list_(pa.float32(), 3))),
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
    with pytest.raises(StorageError, match="cannot be written"):
        predictions.write(tmp_path / "missing" / "predictions.parquet", content())
    with pytest.raises(TrainingError, match="not finite"):
        predictions.write(tmp_path / "p", {"test": (np.array([0]), np.array([[np.nan, 0.0]]), np.array([0]))})
    with pytest.raises(ValueError, match="must be"):
        predictions.write(tmp_path / "p", {"test": (np.array([0, 1]), np.zeros((1, 2)), np.array([0, 1]))})
    with pytest.raises(ValueError, match="rows"):
        predictions.write(tmp_path / "p", {"test": (np.array([0, 1]), np.zeros((2, 2)), np.array([0]))})
