"""The commands: what they print where, and that the study's own command lines work."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from loratory.cli import main
from loratory.data import make_dataset
from loratory.spec import DataSpec

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def flags(tiny_bert: Path, tiny_csv: Path) -> list[str]:
    given = f"--model {tiny_bert} --dataset {tiny_csv} --epochs 1 --max-length 32 --lr 0.005 --device cpu"
    return [*given.split(), "--precision", "fp32"]


@pytest.fixture(scope="session")
def run_directory(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cli") / "lora"
    assert main(["train", "--method", "lora", *flags, "--output", str(place)]) == 0
    return place


def test_json_is_the_only_thing_on_standard_output(flags: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main(["train", "--method", "lora", *flags, "--output", str(tmp_path / "run"), "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["status"] == "completed"
    assert document["directory"] == str(tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {**stored, "directory": document["directory"]} == document
    assert "step" in err
    assert "Traceback" not in err


def test_the_learning_rate_has_two_names(flags: list[str], tmp_path: Path, capsys: Any) -> None:
    command = ["train", "--method", "head", *flags, "--learning_rate", "0.25", "--json"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["training"]["lr"] == 0.25


@pytest.mark.parametrize("spelling", ["--batch_size=8", "--batch-size=8", "--set=training.batch_size=8"])
def test_underscores_hyphens_and_paths_name_the_same_setting(
    spelling: str, flags: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert main(["train", "--method", "head", *flags, spelling, "--output", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["training"]["batch_size"] == 8


def test_set_gives_any_setting_by_its_path(flags: list[str], tmp_path: Path, capsys: Any) -> None:
    given = ["--set", "training.lr=0.002", "--set", "method.rank=3"]
    assert main(["train", "--method", "lora", *flags, *given, "--output", str(tmp_path / "run"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["spec"]["training"]["lr"] == 0.002
    assert document["spec"]["method"]["rank"] == 3
    assert document["parameters"]["adapter"] == 2 * 2 * 3 * (32 + 32)


def test_people_get_a_table(run_directory: Path, capsys: Any) -> None:
    assert main(["compare", str(run_directory), "--no-baselines"]) == 0
    assert main(["evaluate", "--model_path", str(run_directory)]) == 0
    out = capsys.readouterr().out.lower()
    assert "lora" in out
    assert "accuracy" in out


def test_every_command_that_knows_json_prints_one_document(run_directory: Path, capsys: Any) -> None:
    capsys.readouterr()
    commands = [
        ["evaluate", "--model-path", str(run_directory)],
        ["predict", "--model-path", str(run_directory), "w0 w1 w2", "w3 w4 w5"],
        ["compare", str(run_directory)],
        ["data", "list"],
        ["data", "show", json.loads((run_directory / "run.json").read_text())["spec"]["data"]["dataset"]],
    ]
    for command in commands:
        assert main([*command, "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out), command
        assert err == ""


def test_evaluate_gives_what_the_record_says_on_the_run_and_on_its_export(
    run_directory: Path, tmp_path: Path, capsys: Any
) -> None:
    expected = json.loads((run_directory / "run.json").read_text())["quality"]["test"]
    pth = tmp_path / "your_model.pth"
    assert main(["export", "--model-path", str(run_directory), "--format", "pth", "--output", str(pth)]) == 0
    capsys.readouterr()
    for path in (run_directory, pth):
        assert main(["evaluate", f"--model_path={path}", "--device=cpu", "--precision=fp32", "--json"]) == 0
        quality = json.loads(capsys.readouterr().out)["quality"]
        assert quality["confusion"] == expected["confusion"]
        assert quality["log_loss"] == pytest.approx(expected["log_loss"], abs=1e-5)


def test_predict_reads_arguments_a_file_and_standard_input(
    run_directory: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["w0 w1 w2", "w3 w4 w5", "w50"]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts))
    command = ["predict", "--model-path", str(run_directory), "--json"]
    capsys.readouterr()
    assert main([*command, *texts]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert [row["text"] for row in expected] == texts
    assert set(expected[0]["probabilities"]) == {"bad", "good"}
    assert main([*command, "--input", str(file)]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts) + "\n"))
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts) + "\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert main([*command, "--input", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_each_line_has_its_prediction_blank_ones_too(
    run_directory: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "w0 w1\n\n  \r\nw3\u2028w4\n"
    file = tmp_path / "texts.txt"
    file.write_bytes(content.encode())
    command = ["predict", "--model-path", str(run_directory), "--json"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(content, newline=None))
    for given in ([], ["--input", str(file)]):
        capsys.readouterr()
        assert main([*command, *given]) == 0
        assert [row["text"] for row in json.loads(capsys.readouterr().out)] == ["w0 w1", "", "  ", "w3\u2028w4"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_predict_writes_a_file_and_no_second_time(
    suffix: str, run_directory: Path, tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / f"labels{suffix}"
    command = ["predict", "--model-path", str(run_directory), "--output", str(output), "w0", "=w1"]
    assert main(command) == 0
    written = output.read_bytes()
    assert len(written.splitlines()) == (3 if suffix == ".csv" else 2)
    assert main(command) == 5
    assert output.read_bytes() == written


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_predictions_keep_the_other_columns_of_their_input(suffix: str, run_directory: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.csv"
    rows = [("7", "w0 w1", "good", "-5"), ("8", "w3", "bad", "=1+1")]
    given.write_text("".join(",".join(row) + "\n" for row in [("id", "review", "label", "stars"), *rows]))
    output = tmp_path / f"labels{suffix}"
    command = ["predict", "--model-path", str(run_directory), "--input", str(given), "--text-column", "review"]
    assert main([*command, "--output", str(output)]) == 0
    shares = ["probability_bad", "probability_good"] if suffix == ".csv" else ["probabilities"]
    with output.open(newline="", encoding="utf8") as file:
        found = list(csv.DictReader(file)) if suffix == ".csv" else [json.loads(line) for line in file]
    assert list(found[0]) == ["text", "label", *shares, "id", "input_label", "stars"]
    assert [row["text"] for row in found] == ["w0 w1", "w3"]
    assert [(row["id"], row["input_label"]) for row in found] == [("7", "good"), ("8", "bad")]
    assert [row["stars"] for row in found] == ["-5", "'=1+1" if suffix == ".csv" else "=1+1"]


def test_a_defect_is_one_line_and_debug_shows_where(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("odd\nmore")

    monkeypatch.setattr("loratory.trained.compare", broken)
    assert main(["compare", "somewhere"]) == 1
    assert capsys.readouterr().err == "error: RuntimeError: odd; --debug shows where\n"
    assert main(["compare", "somewhere", "--debug"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert "in broken" in err
    assert err.endswith("error: RuntimeError: odd; --debug shows where\n")


def test_a_defect_while_training_has_the_exit_code_of_training(
    flags: list[str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("odd\nmore")

    monkeypatch.setattr("loratory.run.fit", broken)
    command = ["train", "--method", "head", *flags, "--output", str(tmp_path / "run")]
    line = "error: training stopped with RuntimeError: odd; --debug shows where\n"
    assert main(command) == 7
    assert capsys.readouterr().err == line
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    assert main([*command, "--debug"]) == 7
    err = capsys.readouterr().err
    assert "in broken" in err
    assert err.endswith(line)


def script(name: str, *arguments: str, folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / name), *arguments],
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_studys_own_scripts_train_and_evaluate(flags: list[str], tmp_path: Path) -> None:
    done = script("train.py", "--method", "lora", *flags, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (directory,) = (tmp_path / "models").iterdir()
    assert str(directory.name) in done.stdout.replace("\n", "")
    found = script("evaluate.py", "--model_path", f"models/{directory.name}", "--json", folder=tmp_path)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["split"] == "test"
    missing = script("evaluate.py", "--model_path", "models/your_model.pth", folder=tmp_path)
    assert missing.returncode == 5
    assert missing.stderr.startswith("error: ")
    assert missing.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_python_without_the_package_says_what_to_do(name: str) -> None:
    bare = [
        sys.executable,
        "-E",
        "-S",
        str(ROOT / "scripts" / f"{name}.py"),
        "--help",
    ]  # no PYTHONPATH, no site-packages
    found = subprocess.run(bare, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (6, "")
    assert found.stderr.startswith("error: ")
    assert found.stderr.count("\n") == 1
    assert "has no loratory" in found.stderr
    for remedy in (". .venv/bin/activate", "python3 -m venv .venv", "pip install -r requirements.txt"):
        assert remedy in found.stderr


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
