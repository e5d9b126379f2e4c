"""A run that is trained again: what counts as the same, what is said of a difference, and where data are found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import loratory
from loratory import comparing
from loratory.cli import main
from loratory.errors import DataError, SettingsError, StorageError
from loratory.rerunning import rerun
from loratory.run import Run, train
from loratory.store.directory import HISTORY, PREDICTIONS, RECORD, commit, staging
from loratory.store.record import Place, RunRecord

METHODS: list[Any] = [("standard", {}), ("lora", {}), ("hybrid", {"unfrozen_layers": 1})]


@pytest.fixture(scope="module")
def lora(spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(spec("lora", epochs=1), output=tmp_path_factory.mktemp("rerun") / "lora")


def altered(run: Run, output: Path, **environment: Any) -> Path:
    """A copy of `run` whose record says something else of its environment, and whose scores are others."""
    document = json.loads((run.directory / RECORD).read_text("utf8"))
    document["environment"].update(environment)
    document["quality"]["validation"]["log_loss"] += 0.25
    with staging(output) as stage:
        for path in run.directory.iterdir():
            if path.name != "manifest.json":
                shutil.copyfile(path, stage / path.name)
        (stage / RECORD).write_text(RunRecord(**document).to_json(), encoding="utf8")
        commit(stage, output)
    return output


@pytest.mark.parametrize(("method", "own"), METHODS, ids=lambda value: str(value))
def test_the_same_comes_out_of_every_method(method: str, own: Any, spec: Any, tmp_path: Path) -> None:
    run = train(spec(method, epochs=1, **own), output=tmp_path / "run")
    found = loratory.rerun(run)
    assert isinstance(found, loratory.Rerun)
    assert (found.same, found.weights, found.predictions, found.scores) == (True, True, True, {})
    assert found.second.fingerprint == run.record.fingerprint
    assert found.differences == ()
    assert found.verdict == f"{run.directory} came out the same: weights, predictions and scores"


@pytest.mark.parametrize("stage", ["final", "tuning"])
def test_a_run_of_a_study_without_weights_is_compared_by_what_it_kept(stage: Any, spec: Any, tmp_path: Path) -> None:
    place = Place(stage, "a" * 12 if stage == "final" else None, 3)
    run = train(spec("head", epochs=1), output=tmp_path / "run", place=place, keep_weights=False)
    found = rerun(run.directory, output=tmp_path / "again")
    assert (found.same, found.weights) == (True, None)
    assert found.predictions is (True if stage == "final" else None)
    assert found.second.fingerprint == run.record.fingerprint
    assert list((tmp_path / "again").glob("*.safetensors")) != [] if stage == "final" else True
    assert ("weights", "not kept: predictions and scores alone are compared") in found.lines()
    assert found.verdict.endswith("predictions and scores" if stage == "final" else "came out the same: scores")


def test_what_is_not_the_same_is_told_with_what_differs(lora: Run, spec: Any, tmp_path: Path, capsys: Any) -> None:
    odd = altered(lora, tmp_path / "odd", threads=7, version="0.0.9+abc")
    assert main(["rerun", str(odd), "--json"]) == 7
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert not found["same"]
    assert found["weights"]
    assert found["predictions"]
    assert list(found["scores"]) == ["validation log_loss"]
    before, after = found["scores"]["validation log_loss"]
    assert before - after == pytest.approx(0.25)
    assert [one["what"] for one in found["differences"]] == ["numbers of threads", "versions of Loratory's code"]
    assert err.splitlines()[-1].startswith(f"error: {odd} did not come out the same; what differs: numbers of threads")
    assert main(["rerun", str(odd)]) == 7
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == ["weights: the same bytes", "predictions: the same bytes", "scores: 1 differ"]
    assert any(line.startswith("versions of Loratory's code: 0.0.9+abc → ") for line in said)
    assert main(["rerun", str(lora.directory)]) == 0
    assert "came out the same" in capsys.readouterr().out.splitlines()[-1]


def test_weights_and_predictions_that_differ_are_measured(lora: Run, spec: Any, tmp_path: Path) -> None:
    from loratory.rerunning import _compared

    other = train(spec("lora", epochs=1, seed=1), output=tmp_path / "other")
    found = _compared(lora.directory, other.directory, None, lora.record, other.record)
    assert (found.same, found.weights, found.predictions) == (False, False, False)
    assert all(0 < value < 10 for value in found.tensors.values())
    assert set(found.logits) == {"validation", "test"} == set(found.changed)
    assert min(found.logits.values()) > 0


def test_data_and_model_are_found_by_their_digests(
    spec: Any, tiny_csv: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    shutil.copyfile(tiny_csv, project / "own.csv")
    shutil.copytree(tiny_bert, project / "base")
    monkeypatch.chdir(project)
    run = train(spec("lora", epochs=1, dataset="own.csv", model="base"), output=Path("models/run"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.copyfile(tiny_csv, "own.csv")
    with open("own.csv", "a", encoding="utf8") as file:  # of that name, but not that data
        file.write("w7 w8 w0 w1,good\n")
    found = rerun(project / "models" / "run")
    assert found.same, found.lines()
    assert found.second.data["digest"] == run.record.data["digest"]
    (project / "own.csv").unlink()
    changed = rerun(project / "models" / "run")
    assert not changed.same
    assert "data" in [one.what for one in changed.differences]
    Path("own.csv").unlink()
    with pytest.raises(DataError, match=r"own\.csv"):
        rerun(project / "models" / "run")


def test_what_cannot_be_compared_is_refused(lora: Run, spec: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is there already; choose another --output"):
        rerun(lora.directory, output=lora.directory)
    with pytest.raises(SettingsError, match="2 processes train it together"):
        rerun(altered(lora, tmp_path / "two", processes=2))

    def stop(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec("head", epochs=1), output=tmp_path / "stopped", on_step=stop)
    with pytest.raises(StorageError, match="ended as interrupted; there is nothing to compare with"):
        rerun(tmp_path / "stopped")


def test_compare_says_in_what_surroundings_differ(lora: Run, tmp_path: Path, capsys: Any) -> None:
    versions = {**lora.record.environment["versions"], "torch": "2.0.0"}
    odd = altered(lora, tmp_path / "odd", threads=7, versions=versions, model_digest="f" * 64, fp32_products="tf32")
    plain, document = (comparing.compare([lora.directory, one], with_baselines=False) for one in (lora.directory, odd))
    assert not any(note.startswith("Different") for note in plain.notes)
    notes = [note for note in document.notes if note.startswith("Different ")]
    assert [note.partition(" (")[0] for note in notes] == [
        "Different numbers of threads", "Different versions of torch", "Different precisions of fp32 products",
        "Different files of the same model",
    ]  # fmt: skip
    names = [str(row["approach"]) for row in document.rows]
    assert all(name in note for note in notes for name in names)
    assert "2.0.0: " in notes[1]
    assert notes[1].endswith(": another version may compute otherwise.")
    assert main(["compare", str(lora.directory), str(odd), "--no-baselines", "--markdown"]) == 0
    assert "Different versions of torch" in capsys.readouterr().out
    assert main(["compare", str(lora.directory), str(odd), "--no-baselines", "--json"]) == 0
    assert notes[1] in json.loads(capsys.readouterr().out)["notes"]
    assert {HISTORY, PREDICTIONS} <= {path.name for path in odd.iterdir()}
