"""What `data show` says of a data set."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from loratory.data import make_dataset
from loratory.report.datasets import dataset_table, described
from loratory.spec import DataSpec


def test_samples_and_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [" ".join(["word"] * length + [f"end{length}"]) for length in range(1, 99)]
    texts += ["two\\nlines \\u001b[31m", "last"]
    lines = [f'{{"text": "{text}", "label": {n % 2}}}\n' for n, text in enumerate(texts)]
    path.write_text("".join(lines), encoding="utf8")
    dataset = make_dataset(DataSpec(dataset=str(path), validation_fraction=0.1, test_fraction=0.1))
    found = described(dataset)
    assert found["words"] == {"median": 49, "percentile_95": 94, "longest": 99}
    for label, samples in enumerate(found["samples"]):
        assert len(set(samples)) == 2
        assert all(dataset.train.labels[dataset.train.texts.index(text)] == label for text in samples)
    found["samples"][0][0] = "two\nlines \x1b[31m"

    console = Console(width=80, file=io.StringIO())
    console.print(dataset_table(found))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Words per text: median 49, 95th percentile 94, longest 99" in shown
    assert "two lines \\x1b[31m" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert len([line for line in shown.splitlines() if line.startswith((" 0 ", " 1 "))]) == 4


def test_a_small_class_has_fewer_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = "".join(f"text {n},{'rare' if n < 3 else 'common'}\n" for n in range(30))
    path.write_text(f"text,label\n{rows}", encoding="utf8")
    assert [len(texts) for texts in described(make_dataset(DataSpec(dataset=str(path))))["samples"]] == [2, 1]
