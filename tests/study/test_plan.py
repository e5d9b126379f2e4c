"""What is planned, chosen and found again; what changes between one start and the next."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from loratory.cli import main
from loratory.disk.manifest import MANIFEST
from loratory.evaluation.metrics import METRICS
from loratory.store.directory import PREDICTIONS
from loratory.study.plan import differences_said
from loratory.study.progress import progress_of
from loratory.study.reading import parse_study
from loratory.study.selection import choose
from loratory.study.spec import StudySpec
from loratory.study.yaml_file import read_yaml

CELLS = 2
RUNS = CELLS * (2 + 2)


def test_tuning_runs_never_see_the_test_and_a_choice_is_written_before_it_is_used(
    ran: Path, records: Any, plan: Any
) -> None:
    found = records(ran)
    assert len(found) == RUNS
    for cell in plan(ran)["cells"]:
        (choice,) = cell["choices"]
        path = ran / "selections" / f"{choice['selection']}.json"
        assert hashlib.sha256(path.read_bytes()).hexdigest()[:12] == choice["selection"]
        selection = json.loads(path.read_text("utf8"))
        assert selection["cell"] == {key: cell[key] for key in ("data", "model", "method")}
        assert selection["seed"] == 3
        for trial, planned in zip(selection["trials"], choice["trials"], strict=True):
            record = found[trial["run"]]
            assert (trial["run"], trial["lr"]) == (planned["run"], planned["lr"])
            assert record.study == {"stage": "tuning", "selection": None, "runs_at_once": 1, "apart": None}
            assert record.spec["seed"] == 3
            assert set(record.quality) == {"validation"}
            assert not (ran / "runs" / record.id / PREDICTIONS).exists()
            assert trial["score"] == record.quality["validation"]["accuracy"]
        assert [final["seed"] for final in choice["finals"]] == [3, 4]
        for final in choice["finals"]:
            record = found[final["run"]]
            assert record.study == {
                "stage": "final",
                "selection": choice["selection"],
                "runs_at_once": 1,
                "apart": None,
            }
            assert set(record.quality) == {"validation", "test"}
            assert record.spec["training"]["lr"] == selection["chosen"]["lr"]
            assert os.stat(path).st_mtime <= os.stat(ran / "runs" / record.id / MANIFEST).st_mtime


def test_the_best_of_each_cell_keeps_its_weights(ran: Path, records: Any, plan: Any) -> None:
    found = records(ran)
    for cell in plan(ran)["cells"]:
        finals = [found[final["run"]] for choice in cell["choices"] for final in choice["finals"]]
        best = max(finals, key=lambda record: record.quality["validation"]["accuracy"])  # the first of equals
        assert [record.weights for record in finals] == [record is best for record in finals]
        for record in finals:
            assert any((ran / "runs" / record.id).glob("*.safetensors")) == record.weights
    assert not any(record.weights for record in found.values() if record.study["stage"] == "tuning")


@pytest.mark.usefixtures("without_page")
@pytest.mark.parametrize(("keep", "kept"), [("all", 4), ("none", 0)])
def test_weights_of_all_or_none_are_kept(keep: str, kept: int, study_file: Any, records: Any, tmp_path: Path) -> None:
    path = study_file()
    path.write_text(re.sub(r", tune: \{[^}]*\}", "", path.read_text("utf8")), encoding="utf8")
    assert main(["study", "run", str(path), "--output", str(tmp_path / "out"), "--set", f"keep={keep}"]) == 0
    assert sum(record.weights for record in records(tmp_path / "out").values()) == kept
    assert all(record.cost["checkpoint_bytes"] > 0 for record in records(tmp_path / "out").values())


def refuse(*arguments: Any, **settings: Any) -> None:
    raise AssertionError("trained")


def test_what_exists_is_not_run_again(
    ran: Path, study_file: Any, snapshot: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(ran)
    capsys.readouterr()
    monkeypatch.setattr("loratory.study.jobs.train", refuse)
    assert main(["study", "run", str(study_file()), "--output", str(ran)]) == 0
    assert f"2 cells: 4 tuning runs and 4 final runs, {RUNS} exist" in capsys.readouterr().out
    after = snapshot(ran)
    assert before.pop(".study.fence") != after.pop(".study.fence")  # the number of who ran it
    assert after == before


def chosen(directory: Path, plan: Any) -> list[float]:
    """Each choice's rate."""
    choices = [choice for cell in plan(directory)["cells"] for choice in cell["choices"]]
    names = [directory / "selections" / f"{choice['selection']}.json" for choice in choices]
    return [json.loads(path.read_text("utf8"))["chosen"]["lr"] for path in names]


@pytest.mark.usefixtures("without_page")
def test_a_changed_file_says_what_changed_and_runs_what_is_new(
    ran: Path, study_file: Any, records: Any, plan: Any, capsys: Any
) -> None:
    before, rates = records(ran), chosen(ran, plan)
    selections = {path.name for path in (ran / "selections").iterdir()}
    path = study_file()
    text = (
        path.read_text("utf8")
        .replace("[3, 4]", "[3, 4, 5]")
        .replace("5e-3]", "5e-3, 30]")
        .replace("1e-2]", "1e-2, 30]")
    )
    path.write_text(text + "select: mcc\n", encoding="utf8")
    capsys.readouterr()
    assert main(["study", "run", str(path), "--output", str(ran)]) == 0
    err = capsys.readouterr().err
    assert "seeds: [3, 4] before, [3, 4, 5] now\n" in err
    assert "select: accuracy before, mcc now" in err
    assert re.search(r"methods: head lr=\[0.001, 0.005\]; lora rank=2 .* before, head lr=\[0.001, 0.005, 30.0\]", err)
    after = records(ran)
    again = [new == old for new, old in zip(chosen(ran, plan), rates, strict=True)]
    assert any(again)  # of such a cell a trial and a seed are new, of another a trial and three seeds
    assert len(after) == RUNS + sum(2 if same else 4 for same in again)
    assert {name: record.cost for name, record in after.items() if name in before} == {
        name: record.cost for name, record in before.items()
    }
    assert selections < {path.name for path in (ran / "selections").iterdir()}  # what was chosen before is kept


def test_a_study_of_another_version_is_left_as_it_is(ran: Path, study_file: Any, snapshot: Any, capsys: Any) -> None:
    document = json.loads((ran / "plan.json").read_text("utf8"))
    del document["sha256"]
    (ran / "plan.json").write_text(json.dumps({**document, "schema": 1}), encoding="utf8")
    before = snapshot(ran)
    capsys.readouterr()
    assert main(["study", "run", str(study_file()), "--output", str(ran)]) == 5
    err = capsys.readouterr().err
    assert "another schema than 2; use the version that wrote it, or start in another directory" in err
    after = snapshot(ran)
    assert before.pop(".study.fence") != after.pop(".study.fence")
    assert after == before


@pytest.mark.usefixtures("without_page")
def test_runs_that_fit_no_more_are_kept_and_named(ran: Path, study_file: Any, records: Any, capsys: Any) -> None:
    before = records(ran)
    capsys.readouterr()
    command = ["study", "run", str(study_file()), "--output", str(ran), "--set", "train.batch_size=16"]
    assert main(command) == 0
    err = capsys.readouterr().err
    unfit = f"no run of before fits; {RUNS} are of other settings, data, versions or devices: kept, not used"
    assert err.count(unfit) == 1
    assert "used again" not in err
    assert before.items() <= records(ran).items()
    assert len(records(ran)) == 2 * RUNS


@pytest.mark.parametrize("name", [name for name in METRICS if name != "ece"])
def test_the_best_rate_is_chosen_and_of_equals_the_smaller(name: str) -> None:
    metric = METRICS[name]
    good, bad = (0.9, 0.1) if metric.higher_is_better else (0.1, 0.9)
    assert choose([(3.0, good), (1.0, good), (2.0, bad)], metric) == 1.0
    assert choose([(3.0, None), (1.0, bad)], metric) == 1.0
    assert choose([(3.0, None)], metric) is None


@pytest.mark.usefixtures("without_page")
def test_without_rates_the_methods_own_is_taken_and_nothing_tuned(
    study_file: Any, tmp_path: Path, records: Any, plan: Any
) -> None:
    path = study_file()
    text = path.read_text("utf8").replace(", tune: {lr: [1e-3, 5e-3]}", "").replace("[5e-3, 1e-2]", "0.01")
    path.write_text(text, encoding="utf8")
    assert main(["study", "run", str(path), "--output", str(tmp_path / "out")]) == 0
    assert len(records(tmp_path / "out")) == 4
    head, lora = plan(tmp_path / "out")["cells"]
    assert (head["tune"], lora["tune"]) == ([], [0.01])
    assert [(one["seeds"], one["trials"]) for cell in (head, lora) for one in cell["choices"]] == [([3, 4], [])] * 2
    assert chosen(tmp_path / "out", plan) == [1e-3, 0.01]


def test_a_setting_that_does_not_fit_the_model_is_found_before_anything_is_run(
    study_file: Any, tmp_path: Path, capsys: Any
) -> None:
    path = study_file()
    path.write_text(path.read_text("utf8").replace("rank: 2", "rank: [2, 33]"), encoding="utf8")
    assert main(["study", "run", str(path), "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "small: lora r=33 attention on" in err
    assert "--rank 33 is above the width 32" in err
    assert not (tmp_path / "out" / "runs").exists()


def test_what_is_left_is_judged_by_runs_like_those_that_are_missing(ran: Path, records: Any, plan: Any) -> None:
    document, found = plan(ran), records(ran)
    assert progress_of(document, {}).seconds_left is None
    assert progress_of(document, found).seconds_left == 0.0
    head, lora = (choice for cell in document["cells"] for choice in cell["choices"])
    one = found[head["trials"][0]["run"]]
    seconds = one.cost["total_seconds"]
    progress = progress_of(document, {one.id: one})
    assert progress.seconds_left == pytest.approx((RUNS - 1) * seconds)
    assert progress.memory_bytes == one.cost["peak_memory_bytes"]["resident"]
    other = found[lora["trials"][0]["run"]]
    progress = progress_of(document, {one.id: one, other.id: other})
    assert progress.seconds_left == pytest.approx(3 * seconds + 3 * other.cost["total_seconds"])
    assert (progress.done, progress.runs, progress.cells_done, progress.failed) == (2, RUNS, 0, 0)


def spec_of(ranks: int, seeds: int, data: str = "hutto:movies") -> StudySpec:
    methods = f"[{{name: lora, rank: {list(range(1, ranks + 1))}}}]"
    text = f"{{name: s, data: [{data}], models: [minilm], methods: {methods}, seeds: {list(range(seeds))}}}"
    return parse_study(read_yaml(text.encode(), "s.yaml"))


def test_a_plan_says_which_differences_it_can_show() -> None:
    (said,) = differences_said(spec_of(14, 5))
    assert said.startswith("Differences: 91 pairs: a verdict of better needs p of at most 0.00055. If seeds were the")
    assert "(10 seeds: " in said
    assert said.endswith("fewer cells or more seeds find smaller ones")
    (two,) = differences_said(spec_of(2, 5, "hutto:movies, hutto:tweets"))
    assert two.startswith(
        "Differences: 1 pair of each data set and model: a verdict of better needs p of at most 0.05."
    )
    assert " 1.2 times its standard deviation over seeds (10 seeds: 0.7 times); more seeds find" in two
    assert differences_said(spec_of(2, 3)) == ["Differences: 1 pair, and 3 seeds: no verdict below 5 seeds"]
    assert differences_said(spec_of(1, 5)) == []
