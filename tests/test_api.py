"""The Python interface does what the commands do."""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

import loratory
from loratory.cli import main
from loratory.data import data_directory
from loratory.keywords import in_keywords
from loratory.methods import all_flags
from loratory.spec import DataSpec, HardwareSpec

SMALL = {"epochs": 1, "max_length": 32, "lr": 0.005, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def given(texts: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Texts, and their labels."""
    return [text for text, _ in texts], [label for _, label in texts]


@pytest.fixture(scope="module")
def run(tiny_bert: Path, given: Any, tmp_path_factory: pytest.TempPathFactory) -> loratory.Run:
    """A run on examples that were given as lists, without a test split."""
    place = tmp_path_factory.mktemp("api") / "run"
    return loratory.train(*given, method="lora", model=tiny_bert, rank=2, test_fraction=0, output=place, **SMALL)


def test_importing_the_package_imports_nothing_that_is_heavy() -> None:
    code = "import sys, loratory; dir(loratory); print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there_and_no_other() -> None:
    for name in loratory.__all__:
        assert getattr(loratory, name) is not None
    assert set(loratory.__all__) <= set(dir(loratory))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        loratory.trian  # noqa: B018  # a name that is not there


def test_keywords_are_the_commands_flags() -> None:
    own = {"texts", "labels", "output", "tracker", "checkpoint_every", "on_step", "settings", "method"}
    assert {*signature(loratory.train).parameters} - own <= {*all_flags()}
    known = {*DataSpec.model_fields, *HardwareSpec.model_fields, "model_path", "split", "model"}
    for function in (loratory.evaluate, loratory.predict):
        assert {*signature(function).parameters} - {"texts", "labels", "settings"} <= known
    for function in (loratory.train, loratory.evaluate, loratory.predict, loratory.compare, loratory.run_study):
        kinds = {name: parameter.kind for name, parameter in signature(function).parameters.items()}
        subject = {"texts", "labels", "model_path", "runs", "file"}
        assert {name for name, kind in kinds.items() if kind is Parameter.POSITIONAL_OR_KEYWORD} <= subject
    assert "cuda" in get_args(HardwareSpec.model_fields["device"].annotation)


def test_a_run_is_that_of_the_command(run_directory: Path, tiny_bert: Path, tiny_csv: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    run = loratory.train(
        method="lora",
        model=tiny_bert,
        dataset=tiny_csv,
        output=tmp_path / "run",
        on_step=lambda progress: steps.append(progress.step),
        **SMALL,
    )
    command = json.loads((run_directory / "run.json").read_text("utf8"))
    assert (run.record.id, run.record.fingerprint) == (command["id"], command["fingerprint"])
    assert run.record.quality == command["quality"]
    assert steps == list(range(1, run.record.cost["steps"] + 1))


def test_examples_in_memory_go_through_a_file_that_the_record_names(
    run: loratory.Run, given: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    path = Path(run.record.spec["data"]["dataset"])
    assert path.parent == data_directory() / "given"
    rows = [json.loads(line) for line in path.read_text("utf8").splitlines()]
    assert ([row["text"] for row in rows], [row["label"] for row in rows]) == given
    assert run.record.data["labels"] == ["bad", "good"]
    from loratory.given import keep

    assert keep(np.array(given[0]), pd.Series(given[1])) == path  # the same examples are the same file
    path.write_text("cut short")
    assert keep(*given) == path
    assert path.read_text("utf8").count("\n") == len(rows)


def test_numbers_and_truth_stay_what_they_are(given: Any, tmp_path: Path) -> None:
    from loratory.data import load_source
    from loratory.given import keep

    texts = given[0][:4]
    for labels, expected in (
        (np.array([3, 10, 3, 10]), (3, 10, 3, 10)),
        (np.array([True, False, True, False]), (True, False, True, False)),
        ([1.0, 2.5, 1.0, 2.5], (1.0, 2.5, 1.0, 2.5)),  # fractions make it a regression
        (["\u2028x", "y\n", "é", "1"], ("x", "y", "é", "1")),
    ):
        found = load_source(DataSpec(dataset=str(keep(texts, labels)))).parts["all"]
        assert found.texts == tuple(texts)
        labels = found.labels.tolist() if isinstance(found.labels, np.ndarray) else found.labels
        assert [(type(label), label) for label in labels] == [(type(label), label) for label in expected]


def test_without_a_test_split_nothing_is_scored_on_it(run: loratory.Run, tmp_path: Path, capsys: Any) -> None:
    assert (run.record.data["sizes"]["test"], set(run.record.quality)) == (0, {"validation"})
    with pytest.raises(loratory.DataError, match="has no test split"):
        loratory.evaluate(run, device="cpu")
    found = loratory.evaluate(run, split="validation", device="cpu", precision="fp32")
    assert found.quality.accuracy == run.record.quality["validation"]["accuracy"]
    table = loratory.compare(run)
    assert [row["accuracy"] for row in table.rows] == [None]
    assert any("not every run has one" in note for note in table.notes)
    shown = ["data", "show", run.record.spec["data"]["dataset"], "--test-fraction", "0", "--json"]
    assert main([*shown, "--model", run.record.spec["model"]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*shown[:-1], "--model", run.record.spec["model"]]) == 0
    assert "test 0 0.0 0 0 0 0" in " ".join(capsys.readouterr().out.split())
    assert found["sizes"]["test"] == found["tokens"]["lengths"]["test"]["texts"] == 0
    assert main(["compare", str(run.directory)]) == 0
    merged = ["--format", "merged", "--output", str(tmp_path / "merged")]
    assert main(["export", "--model-path", str(run.directory), *merged]) == 0


def test_evaluation_of_other_examples_is_of_all_of_them(run: loratory.Run, given: Any) -> None:
    found = loratory.evaluate(run, given[0][:9], given[1][:9], device="cpu")
    assert (found.split, found.quality.examples) == ("all rows", 9)
    with pytest.raises(loratory.DataError, match="label 'odd' is unknown"):
        loratory.evaluate(run, ["w1"], ["odd"], device="cpu")


def test_evaluate_gives_what_the_command_gives(run_directory: Path, capsys: Any) -> None:
    found = loratory.evaluate(run_directory, device="cpu", precision="fp32")
    capsys.readouterr()
    assert main(["evaluate", "--model-path", str(run_directory), "--device=cpu", "--precision=fp32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.to_dict()


def test_one_model_gives_its_predictions_and_several_a_list(run: loratory.Run, run_directory: Path) -> None:
    texts = ["w0 w1 w2", "", "w3 w4"]
    one = loratory.predict(run, texts, device="cpu", precision="fp32")
    assert one.probabilities.shape == (3, 2)
    assert one.chosen == [one.labels[number] for number in one.probabilities.argmax(axis=1)]
    both = loratory.predict([run, str(run_directory)], pd.Series(texts), device="cpu", precision="fp32")
    assert [said.name for said in both] == [run.directory.name, run_directory.name]
    np.testing.assert_allclose(both[0].probabilities, one.probabilities, atol=1e-6)


def test_compare_is_the_commands_table(run_directory: Path, capsys: Any) -> None:
    table = loratory.compare([run_directory], baselines=False)
    capsys.readouterr()
    assert main(["compare", str(run_directory), "--no-baselines", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == table.to_dict()


def test_a_study_is_run_and_summarised(
    study_file: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        "loratory.finish.write", lambda directory, summary, inputs: [directory / "report.html"]
    )  # drawn in 10 s
    output = tmp_path / "out"
    settings = {"seeds": [7], "train.epochs": 1, "methods": [{"name": "head", "tune": {"lr": [1e-3]}}]}
    summary = loratory.run_study(
        study_file(), output=output, settings=settings, on_run=lambda plan, job: told.append(job.id)
    )
    assert (summary.name, len(summary.cells), len(told)) == ("small", 1, 1)
    assert summary == loratory.Summary.read(output)
    assert capsys.readouterr() == ("", "")


def test_a_study_needs_a_test_split(study_file: Any, tmp_path: Path) -> None:
    with pytest.raises(loratory.SettingsError, match="the test split judges a study"):
        loratory.run_study(study_file(), output=tmp_path / "out", settings={"train.test_fraction": 0})
    with pytest.raises(loratory.SettingsError, match="seed 'no'"):
        loratory.run_study(study_file(), output=tmp_path / "out", settings={"seeds": ["no"]})


def test_errors_name_keywords_and_the_commands_name_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.csv"
    file.write_text("review,label\na,x\n", encoding="utf8")
    with pytest.raises(
        loratory.DataError, match=r"no column 'text' \(text_column\); it has 'review', 'label'; name one of these$"
    ):
        loratory.train(dataset=file)
    with pytest.raises(loratory.SettingsError, match=r"^price_per_hour -1: "):
        loratory.compare([tmp_path], price_per_hour=-1)
    assert main(["compare", str(tmp_path), "--price-per-hour", "-1"]) == 2
    assert "error: --price-per-hour -1.0: " in capsys.readouterr().err
    assert in_keywords("give --input FILE, --batch-size or --no-such") == "give --input FILE, batch_size or --no-such"


WRONG: dict[str, tuple[dict[str, Any], type[loratory.LoratoryError], str]] = {
    "only texts": ({"texts": ["a"]}, loratory.DataError, "labels: none given"),
    "only labels": ({"labels": ["a"]}, loratory.DataError, "texts: none given"),
    "one string": ({"texts": "a", "labels": ["x"]}, loratory.DataError, "texts: str given"),
    "a set": ({"texts": {"a"}, "labels": ["x"]}, loratory.DataError, "texts: set given"),
    "a number": ({"texts": 3, "labels": ["x"]}, loratory.DataError, "texts: int given"),
    "two dimensions": ({"texts": np.array([["a"]]), "labels": ["x"]}, loratory.DataError, "texts: 2 dimensions"),
    "lengths": ({"texts": ["a", "b"], "labels": ["x"]}, loratory.DataError, "2 texts and 1 labels"),
    "nothing": ({"texts": [], "labels": []}, loratory.DataError, "no example"),
    "blank": ({"texts": ["a", " "], "labels": ["x", "y"]}, loratory.DataError, r"without a text \(position 1\)"),
    "no text": ({"texts": ["a", 5], "labels": ["x", "y"]}, loratory.DataError, r"not a string \(position 1\)"),
    "nan": ({"texts": ["a", "b"], "labels": ["x", float("nan")]}, loratory.DataError, r"without a label \(position 1"),
    "object": ({"texts": ["a", "b"], "labels": ["x", object()]}, loratory.DataError, "no class name"),
    "one class": ({"texts": ["a", "b"], "labels": ["x", "x"]}, loratory.DataError, "one class only"),
    "two data sets": ({"texts": ["a"], "labels": ["x"], "dataset": "d"}, loratory.SettingsError, "dataset beside"),
    "column": ({"texts": ["a"], "labels": ["x"], "text_column": "d"}, loratory.SettingsError, "text_column beside"),
    "unknown": ({"epoch": 1}, loratory.SettingsError, "did you mean 'epochs'"),
    "method": ({"method": "lroa"}, loratory.SettingsError, "did you mean 'lora'"),
    "another's": ({"rank": 3}, loratory.SettingsError, "^rank is not a setting of standard"),
    "value": ({"epochs": 0}, loratory.SettingsError, "^epochs 0"),
    "file": ({"dataset": "gone.csv"}, loratory.DataError, "gone.csv: no such file"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_one_error_of_the_tree(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keywords, kind, said = WRONG[wrong]
    with pytest.raises(kind, match=said) as caught:
        loratory.train(**keywords)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_bad_questions_are_one_error_too(run: loratory.Run, tmp_path: Path) -> None:
    for texts, said in ((["a", 3], "int at position 1"), ("a", "str given"), ([], "no text to predict")):
        with pytest.raises(loratory.DataError, match=said):
            loratory.predict(run, texts)
    with pytest.raises(loratory.SettingsError, match="unknown setting 'dataset'"):
        loratory.predict(run, ["a"], dataset="x")
    with pytest.raises(loratory.SettingsError, match="unknown setting 'epochs'"):
        loratory.evaluate(run, epochs=3)
    with pytest.raises(loratory.StorageError, match="does not exist"):
        loratory.predict(tmp_path / "gone", ["a"])
