"""`hub:` through the real `datasets`, on a directory in the hub's layout."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from loratory.data import load_source, make_dataset
from loratory.data.hub import _candidates
from loratory.errors import DataError, ResourceError, SettingsError
from loratory.spec import DataSpec

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def hub(monkeypatch: pytest.MonkeyPatch, **parts: dict[str, list[object]]) -> None:
    """Make `load_dataset` give these parts, their labels of the class names no, yes."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    tables = {part: datasets.Dataset.from_dict(columns, features=features) for part, columns in parts.items()}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(tables))


def test_a_directory(tmp_path: Path) -> None:
    folder = tmp_path / "reviews"
    folder.mkdir()
    for part, rows in {"train": "a,1\nb,0\n", "dev": "c,1\n", "test": "d,0\n"}.items():
        (folder / f"{part}.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    source = load_source(DataSpec(dataset=f"hub:{folder}"))
    assert {part: examples.texts for part, examples in source.parts.items()} == {
        "train": ("a", "b"),
        "validation": ("c",),
        "test": ("d",),
    }
    assert source.parts["train"].labels == (1, 0)
    with pytest.raises(DataError, match=r"'stars' \(--label-column\); it has 'text', 'label'"):
        load_source(DataSpec(dataset=f"hub:{folder}", label_column="stars"))


def test_class_names_are_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, train={"text": ["a", "b"], "label": [1, 0]}, test={"text": ["c"], "label": [0]})
    source = load_source(DataSpec(dataset="hub:x/y"))
    assert source.parts["train"].labels == ("yes", "no")
    assert load_source(DataSpec(dataset="hub:x/y")).digest == source.digest


def test_withheld_labels_are_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    texts: list[object] = [f"text {n}" for n in range(40)]
    hub(monkeypatch, train={"text": texts, "label": [0, 1] * 20}, test={"text": ["c"], "label": [-1]})
    with caplog.at_level(logging.WARNING, "loratory"):
        dataset = make_dataset(DataSpec(dataset="hub:x"))
    assert "withheld" in caplog.text
    assert len(dataset.test) == 8


def test_a_test_split_of_the_hub_and_folds_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[object] = [f"text {n}" for n in range(40)]
    hub(monkeypatch, train={"text": texts, "label": [0, 1] * 20}, test={"text": ["c"], "label": [1]})
    with pytest.raises(
        SettingsError, match=r"^hub:x has a test split of its own; --folds divides data that have none$"
    ):
        make_dataset(DataSpec(dataset="hub:x", folds=5, fold=1))


def test_names_and_configurations(tmp_path: Path) -> None:
    assert list(_candidates("imdb")) == [("imdb", None)]
    assert list(_candidates("tweet_eval/sentiment")) == [("tweet_eval/sentiment", None), ("tweet_eval", "sentiment")]
    assert list(_candidates("org/name/config")) == [("org/name", "config")]
    assert list(_candidates(str(tmp_path))) == [(str(tmp_path), None)]


@pytest.mark.parametrize("name", ["hub:", "hub:a//b", "hub:no-such/thing"])
def test_unreachable_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError) as caught:
        load_source(DataSpec(dataset=name))
    assert "\n" not in str(caught.value)


def test_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ResourceError, match=r'pip install "loratory\[hub\]"'):
        load_source(DataSpec(dataset="hub:x"))
