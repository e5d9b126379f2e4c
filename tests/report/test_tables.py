import csv
import io
import json
import re
from typing import Any

import pytest
from compared import BASELINES, LORA, quality, record, records

from loratory.methods import spec_from_flags
from loratory.report.tables import comparison
from loratory.spec import DataSpec, TrainingSpec
from loratory.units import MISSING


def test_markdown_holds_what_the_study_asked_for() -> None:
    lines = comparison(records(), BASELINES).to_markdown().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:8]]
    assert rows[0] == [
        *("Approach", "Trainable parameters", "Share", "Adapter", "Head", "Unfrozen"),
        *("Training time", "Total time", "Peak memory", "Accuracy (test)", "Macro-F1 (test)"),
    ]
    assert rows[2] == [
        "standard",
        "22.9M",
        "100%",
        "0",
        "148.6k",
        "22.7M",
        "3.2 min",
        "4.0 min",
        "1.9 GiB",
        "80.0%",
        "0.762",
    ]
    assert rows[3][:6] == ["lora r=8 attention", "222.3k", "0.97%", "73.7k", "148.6k", "0"]
    assert rows[4][0] == "hybrid r=8 query,value + top 2 unfrozen + bottom 3 frozen"
    assert rows[5] == ["head (out of memory)", *[MISSING] * 10]
    assert rows[6][0] == "majority class"
    assert rows[7][1:] == ["21.3k", MISSING, MISSING, MISSING, MISSING, MISSING, "1.93 s", MISSING, "80.0%", "0.762"]
    assert "- One seed: no interval, so differences may be chance." in lines
    assert "- VADER left out: the labels are others." in lines
    assert not any(line.startswith("| VADER") for line in lines)


def cells(text: str, start: str) -> list[list[str]]:
    """The cells of each row that begins with `start`, two spaces or one between them."""
    return [line.removeprefix(start).split() for line in text.splitlines() if line.startswith(start)]


LORA_COST = ["3.2", "min", "4.0", "min", "1.9", "GiB", "80.0%", "0.762"]


def test_at_80_columns_each_number_stands_below_its_own_heading(render: Any) -> None:
    text = render(comparison(records(), BASELINES).to_rich())
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert cells(text, "lora r=8 attention") == [["222.3k", "0.97%", *LORA_COST], ["73.7k", "148.6k", "0"]]
    assert cells(text, "Approach") == [
        ["parameters", "Share", "time", "time", "memory", "(test)", "(test)"],
        ["Adapter", "Head", "Unfrozen"],
    ]
    for line in text.splitlines()[:2]:
        assert line.endswith(("Training   Total    Peak Accuracy Macro-F1", "time    time  memory   (test)   (test)"))
    ends = {
        line.index(word) + len(word)
        for line in text.splitlines()[:5]
        for word in ("222.3k", "parameters")
        if word in line
    }
    assert len(ends) == 1


def test_a_wide_terminal_has_one_table(render: Any) -> None:
    text = render(comparison(records(), BASELINES).to_rich(), 120)
    assert max(map(len, text.splitlines())) <= 120
    assert cells(text, "lora r=8 attention") == [["222.3k", "0.97%", "73.7k", "148.6k", "0", *LORA_COST]]


def test_notes_say_what_was_tested_and_which_memory() -> None:
    def noted(*runs: dict) -> str:
        return "\n".join(comparison(runs).notes)

    assert "on the test split, 5 examples." in noted(record())
    other = {"test": quality(labels=(0, 1, 1)).record()}
    assert "on test splits of 3, 5 examples." in noted(record(), record(LORA, quality=other))
    assert "test split" not in noted(record(quality=None))
    assert "largest resident set" in noted(record())
    assert "Peak memory" not in noted(record(cost=None))


def test_notes_say_which_parameters() -> None:
    assert "Share: trainable ÷ all parameters." in comparison([record()]).notes
    about_coefficients = [
        [note for note in comparison([record()], given).notes if "coefficients" in note]
        for given in (BASELINES, BASELINES[:2])
    ]
    assert about_coefficients == [["Parameters of TF-IDF + logistic regression: its coefficients and intercepts."], []]


def test_json_and_csv_hold_raw_numbers() -> None:
    table = comparison(records(), BASELINES)
    document = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert document["rows"][1]["trainable"] == 222_338
    assert document["rows"][1]["trainable_share"] == 222_338 / 22_935_554
    assert document["rows"][0]["peak_memory_kind"] == "resident"
    assert document["rows"][3]["accuracy"] is None
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["status"] for row in rows] == [*["completed"] * 3, "out_of_memory", "baseline", "baseline"]
    assert float(rows[0]["train_seconds"]) == 191.4
    assert rows[3]["accuracy"] == ""


def test_names_cannot_break_out_of_a_table(render: Any) -> None:
    hostile = record({"name": "=cmd|' /C calc'!A0\x1b[31m\n<b>"})
    table = comparison([hostile])
    rows = list(csv.reader(io.StringIO(table.to_csv())))
    assert rows[1][0].startswith("'=cmd")
    assert len(rows) == 2
    for text in (table.to_markdown(), table.to_csv(), render(table.to_rich())):
        assert "\x1b" not in text
        assert "\\x1b" in text
    row = table.to_markdown().splitlines()[2]
    assert r"=cmd\|" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == len(table.shown) + 1


@pytest.mark.parametrize("start", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", " =1"])
def test_formulas_are_neutralised_but_numbers_are_not(start: str) -> None:
    row = list(csv.reader(io.StringIO(comparison([record({"name": start})]).to_csv())))[1]
    assert row[0].startswith("'")
    assert float(row[4]) == 22_861_826


def test_runs_that_do_not_compare_are_noted() -> None:
    def noted(*changed: dict) -> str:
        return "\n".join(comparison([record(), *changed]).notes)

    assert "do not compare" not in noted(record(LORA))
    assert "test splits" in noted(record(LORA, data={"digests": {"test": "d2"}}))
    other = {"test": quality(labels=(0, 1, 1)).record()}
    assert "test splits" in noted(record(LORA, quality=other))
    said = noted(record(LORA, environment={"device": "NVIDIA H100"}))
    assert "Different devices (NVIDIA H100: lora r=8 attention; cpu: standard): times and memory do not compare" in said
    said = noted(record(LORA, environment={"device": "cpu", "threads": 8}))
    assert "Different numbers of threads (2: standard; 8: lora r=8 attention): times do not compare" in said
    assert "went on" not in said
    changed = [{"step": 2, "what": "driver", "before": "550", "after": "560"}]
    said = noted(record(LORA, environment={"device": "cpu", "engine": {"changed_at_resuming": changed}}))
    assert re.search(
        r"Different changes where a run went on \(.*550.*: lora r=8 attention; none: standard\): sums", said
    )
    assert "went at once" not in noted(record(LORA, study={"stage": "final", "runs_at_once": 1}))
    crowded = noted(record(LORA, study={"stage": "final", "runs_at_once": 3}))
    assert "Up to 3 runs of a study went at once on one device with 1 of these 2 runs: they slowed" in crowded
    assert "Trained on different examples" in noted(record(LORA, data={"digests": {"train": "t2", "test": "d1"}}))


def test_memory_of_both_kinds_is_told_apart() -> None:
    cost = {"peak_memory_bytes": {"allocated": 600 * 2**20, "reserved": 2**30, "resident": 2**31}}
    markdown = comparison([record(), record(LORA, cost=cost)]).to_markdown()
    assert "| 600 MiB allocated |" in markdown
    assert "| 1.9 GiB resident |" in markdown
    assert "allocated on the GPU" in comparison([record(cost=cost)]).to_markdown()


def test_seeds() -> None:
    def note(*runs: dict) -> str:
        return next(note for note in comparison(runs).notes if "seed" in note)

    two = [record(), record(spec={"seed": 1})]
    assert note(*two).startswith("Each row is one seed")
    assert note(*two, record(LORA)).startswith("One seed only of lora r=8 attention:")
    assert note(record()).startswith("One seed: no interval")


def test_one_run_in_several_places_is_called_by_them() -> None:
    faster = {"training": {"lr": 0.001, "epochs": 2}}
    same = [{**record(), "directory": place} for place in ("runs/a", "runs/b")]
    runs = [*same, record(spec=faster, id="other"), {**record(LORA), "directory": "runs/c"}]
    assert [row["approach"] for row in comparison(runs).rows] == [
        *("standard, lr=default, runs/a", "standard, lr=default, runs/b"),
        "standard, lr=0.001, other",
        "lora r=8 attention",
    ]


def test_rows_that_share_a_method_say_what_differs() -> None:
    def names(*runs: dict) -> list[object]:
        return [row["approach"] for row in comparison(runs).rows]

    faster = {"training": {"lr": 0.001, "epochs": 2}}
    assert names(record(), record(spec={"seed": 1})) == ["standard, seed=0", "standard, seed=1"]
    assert names(record(), record(spec=faster), record(LORA)) == [
        *("standard, lr=default", "standard, lr=0.001"),
        "lora r=8 attention",
    ]
    folds = {"data": {"dataset": "hutto:movies", "folds": 5, "fold": 1}}
    assert names(record(), record(spec=folds)) == ["standard, folds=none, fold=none", "standard, folds=5, fold=1"]
    assert names(record(), record(LORA, spec={"model": "roberta-base"})) == [
        *("standard, minilm", "lora r=8 attention, roberta-base"),
    ]
    assert names(record(), record(id="fedcba9876543210")) == [
        "standard, 0123456789abcdef",
        "standard, fedcba9876543210",
    ]


def differing(*runs: dict) -> list[str]:
    return [note for note in comparison(runs).notes if note.startswith("Settings differ too")]


def spec_of(method: str, **flags: object) -> dict:
    return {"spec": spec_from_flags({"method": method, **flags}).model_dump(mode="json")}


OTHER = {
    "epochs": (5, "3, 5"),
    "until": (2, "default, 2"),
    "batch_size": (16, "32, 16"),
    "accumulate": (2, "1, 2"),
    "weight_decay": (0.1, "0.01, 0.1"),
    "warmup": (0.5, "0.06, 0.5"),
    "max_grad_norm": (0.5, "1.0, 0.5"),
    "dropout": (0.25, "default, 0.25"),
    "attention_dropout": (0.1, "0.0, 0.1"),
    "keep": ("best", "last, best"),
    "select": ("mcc", "default, mcc"),
    "patience": (2, "default, 2"),
    "class_weights": ("balanced", "none, balanced"),
    "label_smoothing": (0.1, "0.0, 0.1"),
    "quantize": ("4bit", "off, 4bit"),
    "precision": ("fp32", "auto, fp32"),
    "seed": (4, "0, 4"),
    "dataset": ("hutto:nyt", "hutto:movies, hutto:nyt"),
    "text_column": ("review", "text, review"),
    "pair_column": ("second", "none, second"),
    "label_column": ("stars", "label, stars"),
    "group_column": ("author", "none, author"),
    "folds": (5, "none, 5"),
    "fold": (2, "none, 2"),
    "train_split": ("a", "default, a"),
    "validation_split": ("a", "default, a"),
    "test_split": ("a", "default, a"),
    "validation": ("valid.csv", "default, valid.csv"),
    "test": ("test.csv", "default, test.csv"),
    "task": ("ternary", "polarity, ternary"),
    "problem": ("regression", "default, regression"),
    "label_separator": (";", "none, ;"),
    "neutral_band": (0.25, "0.5, 0.25"),
    "validation_fraction": (0.2, "0.1, 0.2"),
    "test_fraction": (0.1, "0.2, 0.1"),
    "split_seed": (3, "0, 3"),
    "limit": (100, "all, 100"),
    "max_length": (64, "128, 64"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_setting_that_differs_beside_the_method_is_noted(name: str) -> None:
    value, shown = OTHER[name]
    (note,) = differing(spec_of("standard"), spec_of("lora", **{name: value}))
    assert note.endswith(f"rows do not differ by their method alone ({name.replace('_', ' ')}: {shown}).")


def test_every_setting_of_training_and_data_but_the_learning_rate_is_noted() -> None:
    fields = {*TrainingSpec.model_fields, *DataSpec.model_fields, "seed", "precision"} - {"lr"}
    assert set(OTHER) == fields


def test_what_belongs_to_the_method_and_seeds_of_the_same_cells_are_no_differing_settings() -> None:
    runs = [spec_of(method, lr=lr, seed=seed) for method, lr in (("standard", 1), ("lora", 2)) for seed in (0, 1)]
    assert differing(*runs) == differing(spec_of("lora"), spec_of("lora", rank=3, targets="query")) == []
    assert differing(spec_of("head"), {"status": "failed"}) == []
    assert differing(*runs[:3]) == []  # said by the note on seeds
    (note,) = differing(runs[0], runs[3], spec_of("head", epochs=4, keep="best"))
    assert note.endswith("(epochs: 3, 4; keep: last, best; seed: 0, 1).")


def test_a_record_full_of_gaps_still_has_its_row() -> None:
    row = comparison([{"status": "failed"}]).rows[0]
    assert row["approach"] == "unknown"
    nan = record(cost={"train_seconds": float("nan"), "total_seconds": "soon"})
    assert comparison([nan]).rows[0]["train_seconds"] is None
    assert comparison([]).to_markdown().startswith("| Approach")


def test_at_60_columns_the_comparison_says_everything(render: Any) -> None:
    text = render(comparison(records(), BASELINES).to_rich(), 60)
    assert max(map(len, text.splitlines())) <= 60
    assert "…" not in text
    assert cells(text, "lora r=8 attention") == [
        ["222.3k", "0.97%", *LORA_COST[-2:]],
        LORA_COST[:-2],
        ["73.7k", "148.6k", "0"],
    ]
    assert len(cells(text, "majority class")) == 2
