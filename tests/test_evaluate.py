"""`evaluate` on other data, on the data of the training, and of weights without their card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from loratory.cli import main
from loratory.data import make_dataset
from loratory.spec import DataSpec


def test_another_file_is_scored_whole_even_with_one_class(
    run_directory: Path, tmp_path: Path, texts: list[tuple[str, str]], capsys: Any
) -> None:
    other = tmp_path / "other.csv"
    rows = [text for text, label in texts if label == "good"][:7]
    other.write_text("text,label\n" + "".join(f"{text},good\n" for text in rows), encoding="utf8")
    assert main(["evaluate", "--model-path", str(run_directory), "--dataset", str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["examples"], found["split"]) == (7, "all rows")


@pytest.fixture
def other_csv(tmp_path: Path, texts: list[tuple[str, str]]) -> Path:
    """Eight of the texts in a file of another name and with other columns."""
    path = tmp_path / "other.csv"
    path.write_text("review,stars\n" + "".join(f"{text},{label}\n" for text, label in texts[:8]), encoding="utf8")
    return path


def test_another_test_file_is_scored_and_named(run_directory: Path, other_csv: Path, capsys: Any) -> None:
    command = ["evaluate", "--model-path", str(run_directory), "--test", str(other_csv)]
    columns = ["--text-column", "review", "--label-column", "stars"]
    assert main([*command, *columns, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dataset"], found["split"], found["examples"]) == (str(other_csv), "test", 8)
    assert main([*command, *columns]) == 0
    assert "other.csv,test:8examples" in "".join(capsys.readouterr().out.split())
    assert main(command) == 3
    assert f"{other_csv}: no column 'text', 'label'" in capsys.readouterr().err
    other_csv.write_text("text,label\nw1,odd\n", encoding="utf8")
    assert main(command) == 3
    assert f"{other_csv}: label 'odd' is unknown" in capsys.readouterr().err


def test_a_run_with_a_test_file_is_evaluated_on_it(
    flags: list[str], tmp_path: Path, other_csv: Path, capsys: Any
) -> None:
    own = tmp_path / "own.csv"
    own.write_text(other_csv.read_text().replace("review,stars", "text,label"), encoding="utf8")
    place = tmp_path / "run"
    assert main(["train", "--method", "head", *flags, "--test", str(own), "--output", str(place), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["quality"]["test"]
    assert main(["evaluate", "--model-path", str(place), "--device=cpu", "--precision=fp32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dataset"], found["quality"]["confusion"]) == (str(own), expected["confusion"])
    assert main(["evaluate", "--model-path", str(place), "--split=validation", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dataset"] != str(own)


def test_baselines_left_out_are_noted(run_directory: Path, flags: list[str], tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other"
    assert main(["train", "--method", "head", *flags, "--split-seed", "1", "--output", str(other)]) == 0
    for added, noted in (([], True), (["--no-baselines"], False)):
        capsys.readouterr()
        assert main(["compare", str(run_directory), str(other), *added, "--json"]) == 0
        notes = json.loads(capsys.readouterr().out)["notes"]
        assert any("Baselines left out" in note for note in notes) is noted
        assert any("Different test splits" in note for note in notes)


@pytest.fixture(scope="session")
def leaky(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that tested on few rows of its one file, and its export."""
    place = tmp_path_factory.mktemp("leaky")
    split = ["--test-fraction", "0.1", "--validation-fraction", "0.05", "--split-seed", "3"]
    assert main(["train", "--method", "lora", *flags, *split, "--output", str(place / "run")]) == 0
    assert main(["export", "--model-path", str(place / "run"), "--output", str(place / "model.pth")]) == 0
    return place / "run", place / "model.pth"


def evaluated(capsys: Any, *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON document, and what stands on standard error."""
    capsys.readouterr()
    assert main(["evaluate", "--json", "--device=cpu", "--precision=fp32", *arguments]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.mark.parametrize("number", [0, 1], ids=["run", "pth"])
@pytest.mark.parametrize("spelling", ["as it was", "another way", "a copy"])
def test_the_data_it_was_trained_on_is_divided_as_it_was_then(
    spelling: str,
    number: int,
    leaky: tuple[Path, Path],
    tiny_csv: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, _ = evaluated(capsys, "--model-path", str(leaky[number]))
    monkeypatch.chdir(tiny_csv.parent)
    (tmp_path / "copy.csv").write_bytes(tiny_csv.read_bytes())
    name = {"as it was": str(tiny_csv), "another way": "./tiny.csv", "a copy": str(tmp_path / "copy.csv")}[spelling]
    found, err = evaluated(capsys, "--model-path", str(leaky[number]), "--dataset", name)
    assert (found["split"], found["examples"], found["trained_on"], err) == ("test", 12, 0, "")
    assert found["quality"] == own["quality"]
    assert own["trained_on"] == 0


@pytest.mark.parametrize("number", [0, 1], ids=["run", "pth"])
def test_texts_the_model_was_trained_on_are_counted(
    number: int, leaky: tuple[Path, Path], tiny_csv: Path, tmp_path: Path, texts: list[tuple[str, str]], capsys: Any
) -> None:
    given = DataSpec(dataset=str(tiny_csv), test_fraction=0.1, validation_fraction=0.05, split_seed=3)
    learned = set(make_dataset(given).train.texts)
    other = make_dataset(given.model_copy(update={"split_seed": 4, "test_fraction": 0.3})).test.texts
    expected = sum(text in learned for text in other)
    assert 0 < expected < len(other)
    path = str(leaky[number])
    found, err = evaluated(capsys, "--model-path", path, "--split-seed", "4", "--test-fraction", "0.3")
    assert (found["examples"], found["trained_on"]) == (len(other), expected)
    assert err == f"{tiny_csv}: the model was trained on {expected} of {len(other)} texts\n"

    shouted = tmp_path / "shouted.csv"
    rows = [("w90 w91", "good"), *((text.upper().replace(" ", "  "), label) for text, label in texts)]
    shouted.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf8")
    for flag, split in (("--dataset", "all rows"), ("--test", "test")):
        found, err = evaluated(capsys, "--model-path", path, flag, str(shouted))
        assert (found["split"], found["examples"], found["trained_on"]) == (split, 121, len(learned))
        assert f"{shouted}: the model was trained on {len(learned)} of 121 texts\n" in err


def test_where_the_training_data_has_changed_nothing_is_claimed(
    flags: list[str], tiny_csv: Path, other_csv: Path, tmp_path: Path, capsys: Any
) -> None:
    data = tmp_path / "data.csv"
    data.write_bytes(tiny_csv.read_bytes())
    place = str(tmp_path / "run")
    assert main(["train", "--method", "head", *flags, "--dataset", str(data), "--output", place]) == 0
    columns = ["--text-column", "review", "--label-column", "stars"]
    with data.open("a") as file:
        file.write("w94 w95,good\n")
    found, err = evaluated(capsys, "--model-path", place)
    assert found["trained_on"] is None
    assert "whether the model was trained on these texts cannot be checked" in err
    data.unlink()
    found, err = evaluated(capsys, "--model-path", place, "--dataset", str(other_csv), *columns)
    assert (found["examples"], found["trained_on"]) == (8, None)
    assert err.startswith(f"{other_csv}: whether the model was trained on these texts cannot be checked")
    assert err.count("\n") == 1


def test_a_pth_beside_the_card_of_another_is_refused(leaky: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    pth = tmp_path / "model.pth"
    state = torch.load(leaky[1], weights_only=True)
    torch.save({**state, "classifier.bias": state["classifier.bias"] + 5}, pth)
    pth.with_suffix(".json").write_bytes(leaky[1].with_suffix(".json").read_bytes())
    for command in (["evaluate"], ["predict", "w0"]):
        capsys.readouterr()
        assert main([*command, "--model-path", str(pth)]) == 4
        line = f"error: {pth}: not the file that model.json describes (other SHA-256); export the run again\n"
        assert capsys.readouterr() == ("", line)


def test_a_pth_without_its_card_says_what_it_is_taken_for(
    leaky: tuple[Path, Path], tiny_bert: Path, tiny_csv: Path, tmp_path: Path, capsys: Any
) -> None:
    pth = tmp_path / "model.pth"
    pth.write_bytes(leaky[1].read_bytes())
    found, err = evaluated(capsys, "--model-path", str(pth), "--model", str(tiny_bert), "--dataset", str(tiny_csv))
    assert found["examples"] == 24
    first, second = err.splitlines()
    assert first.startswith(f"{pth}: no model.json beside it")
    assert first.endswith(f"taken for {tiny_bert} with the labels of {tiny_csv}")
    assert second.startswith(f"{tiny_csv}: whether the model was trained on these texts cannot be checked")
