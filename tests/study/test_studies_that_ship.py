"""Every study in studies/ runs whole, on a tiny model and tiny data in place of its own."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from loratory.cli import main
from loratory.study.reading import read_study

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> Path:
    """40 texts."""
    path = tmp_path_factory.mktemp("few") / "few.csv"
    with path.open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *texts[:40]])
    return path


def test_there_is_one_for_each_question() -> None:
    assert [path.stem for path in STUDIES] == ["architectures", "datasets", "hybrid", "ranks", "seed", "sizes"]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_that_ships_is_fair_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text("utf8")
    assert text.startswith("# ")
    spec, _ = read_study(path)
    assert spec.name == path.stem
    assert len(spec.seeds) >= 5
    assert spec.tune_seeds == "each"
    assert min(len(method.rates) for method in spec.methods) >= 4
    for method in spec.methods:
        assert all(high / low <= 4 for low, high in zip(method.rates[:-1], method.rates[1:], strict=True))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_that_ships_runs_whole(
    path: Path, few: Path, model_directory: Any, tmp_path: Path, records: Any, plan: Any
) -> None:
    spec, _ = read_study(path)
    deep = max(3, *(getattr(cell.method, "unfrozen_layers", 0) for cell in spec.cells()))
    model = model_directory("bert", hidden_size=64, num_hidden_layers=deep, intermediate_size=64)  # rank 64 fits in
    given = {"models": model, "data": few, "seeds": "[0]", "train.epochs": 1, "train.max_length": 16}
    given |= {"train.device": "cpu", "train.precision": "fp32", "train.threads": 1}
    sizes = 2 if len(spec.limits) > 1 else 1
    given |= {"train.limit": "[8, all]"} if sizes > 1 else {}
    words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    tuned = path.stem == "seed"  # of two rates; the others go the same way with one, of which nothing is to be chosen
    rates = r"(lr: \[[^,\]]+,[^,\]]+)[^\]]*\]" if tuned else r"(lr: \[[^,\]]+)[^\]]*\]"
    shorter = tmp_path / path.name
    shorter.write_text(re.sub(rates, r"\1]", path.read_text("utf8")), encoding="utf8")
    assert main(["study", "run", str(shorter), *words, "--output", str(tmp_path / "out")]) == 0
    cells = len(spec.cells()) // (len(spec.data) * len(spec.models) * len(spec.limits)) * sizes
    found = records(tmp_path / "out")
    assert len(plan(tmp_path / "out")["cells"]) == cells
    assert len(found) == cells * (2 + 1 if tuned else 1)
    assert {record.status for record in found.values()} <= {"completed", "diverged"}
    choices = [choice for cell in plan(tmp_path / "out")["cells"] for choice in cell["choices"]]
    assert all(final["run"] in found for choice in choices for final in choice["finals"])
