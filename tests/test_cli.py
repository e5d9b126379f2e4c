"""The commands: what they print where, and that the study's own command lines work."""

from __future__ import annotations

import csv
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loratory.cli import main
from loratory.models.families import FAMILIES

ROOT = Path(__file__).parents[1]


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


def test_models_are_listed_from_the_table_of_families_in_80_columns_and_without_torch(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [words[0] for line in lines if (words := line.split()) and words[0] in FAMILIES] == list(FAMILIES)
    (row,) = (line for line in lines if line.split()[:1] == ["modernbert"])
    assert row.split() == ["modernbert", "flat", "bidirectional,", "no", "yes", "bitfit,", "prefix"]
    said = " ".join(" ".join(lines).split())
    assert (
        said.count("--method bitfit: the family has no biases; use layernorm or lora") == said.count("no biases") == 1
    )
    code = "import sys; from loratory.cli import main; main(['models', '--json']); "
    code += "print({'torch', 'transformers'} & {*sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows.keys() == FAMILIES.keys()
    assert rows["llama"]["attention"] == ["causal", "grouped heads"]
    assert rows["mpnet"]["layout"] == "padded"
    assert {name for name, row in rows.items() if row["quantize"]} == {"gpt2", "llama", "qwen2", "qwen3"}
    assert [name for name, row in rows.items() if "hybrid" in row["refused"]] == ["albert"]


def test_people_get_a_table(run_directory: Path, capsys: Any) -> None:
    assert main(["compare", str(run_directory), "--no-baselines"]) == 0
    assert main(["evaluate", "--model_path", str(run_directory)]) == 0
    out = capsys.readouterr().out.lower()
    assert "lora" in out
    assert "accuracy" in out


def test_every_command_that_knows_json_prints_one_document(run_directory: Path, capsys: Any) -> None:
    capsys.readouterr()
    spec = json.loads((run_directory / "run.json").read_text())["spec"]
    commands = [
        ["evaluate", "--model-path", str(run_directory)],
        ["predict", "--model-path", str(run_directory), "w0 w1 w2", "w3 w4 w5"],
        ["compare", str(run_directory)],
        ["data", "list"],
        ["models"],
        ["data", "show", spec["data"]["dataset"], "--model", spec["model"]],
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


def test_each_line_has_its_prediction_and_blank_ones_are_named(
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
        out, err = capsys.readouterr()
        assert [row["text"] for row in json.loads(out)] == ["w0 w1", "", "  ", "w3\u2028w4"]
        assert "2 texts of 4 are empty (lines 2, 3): what is predicted for them means nothing" in err
    assert main([*command, "w0"]) == 0
    assert "empty" not in capsys.readouterr().err


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

    monkeypatch.setattr("loratory.comparing.compare", broken)
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


def test_the_studys_own_scripts_train_and_evaluate(
    flags: list[str], forked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def script(name: str, *arguments: str) -> tuple[int, str, str]:
        path = ROOT / "scripts" / name
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        monkeypatch.syspath_prepend(path.parent)  # as Python does with a script
        process = forked(lambda: runpy.run_path(str(path), run_name="__main__") and None)
        out, err = process.communicate()
        return process.returncode, out, err

    code, out, err = script("train.py", "--method", "lora", *flags)
    assert code == 0, err
    assert "Traceback" not in err
    (directory,) = (tmp_path / "models").iterdir()
    assert str(directory.name) in out.replace("\n", "")
    code, out, err = script("evaluate.py", "--model_path", f"models/{directory.name}", "--json")
    assert code == 0, err
    assert json.loads(out)["split"] == "test"
    code, _, err = script("evaluate.py", "--model_path", "models/your_model.pth")
    assert code == 5
    assert err.startswith("error: ")
    assert err.count("\n") == 1


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
