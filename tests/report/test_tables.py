import csv
import io
import json
import re
from typing import Any

import numpy as np
import pytest

from loratory.errors import SettingsError
from loratory.evaluation.baselines import Baseline
from loratory.evaluation.metrics import score
from loratory.evaluation.quality import Quality
from loratory.methods import spec_from_flags
from loratory.report.tables import check_price, comparison
from loratory.spec import DataSpec, TrainingSpec
from loratory.units import MISSING


def quality(names: tuple[str, ...] = ("negative", "positive"), labels: tuple[int, ...] = (0, 1, 1, 0, 1)) -> Quality:
    logits = np.eye(len(names))[list(labels)] * 2
    logits[0] = logits[0, ::-1]
    return score(np.array(labels), logits, None, names)


def record(
    method: dict | None = None, *, status: str = "completed", spec: dict | None = None, **changes: object
) -> dict:
    found = {
        "schema": 1,
        "id": "0123456789abcdef",
        "status": status,
        "spec": {
            "method": method or {"name": "standard"},
            "model": "minilm",
            "seed": 0,
            "data": {"dataset": "hutto:movies", "limit": None},
            "training": {"lr": None, "epochs": 2},
            **(spec or {}),
        },
        "data": {"source": "hutto:movies", "digests": {"train": "t1", "validation": "v1", "test": "d1"}},
        "parameters": {
            "total": 22_861_826,
            "trainable": 22_861_826,
            "adapter": 0,
            "head": 148_610,
            "unfrozen": 22_713_216,
        },
        "cost": {
            "train_seconds": 191.4,
            "total_seconds": 240.0,
            "peak_memory_bytes": {"allocated": None, "reserved": None, "resident": int(1.93 * 2**30)},
        },
        "quality": {"validation": quality().record(), "test": quality().record()},
        "environment": {"device": "cpu", "threads": 2},
    }
    return {**found, **changes}


LORA = {"name": "lora", "rank": 8, "alpha": 16, "targets": "attention"}
HYBRID = {"name": "hybrid", "rank": 8, "targets": ["query", "value"], "unfrozen_layers": 2, "frozen_layers": 3}
LORA_PARAMETERS = {"total": 22_935_554, "trainable": 222_338, "adapter": 73_728, "head": 148_610, "unfrozen": 0}
HYBRID_PARAMETERS = {
    "total": 22_900_000,
    "trainable": 3_800_000,
    "adapter": 49_152,
    "head": 148_610,
    "unfrozen": 3_602_238,
}
BASELINES = [
    Baseline("majority class", quality(), 0.001, 0, {}),
    Baseline("VADER", None, 0.0, 0, {}, "the labels are others"),
    Baseline("TF-IDF + logistic regression", quality(), 1.93, 21_345, {}),
]


def records() -> list[dict]:
    return [
        record(),
        record(LORA, parameters=LORA_PARAMETERS),
        record(HYBRID, parameters=HYBRID_PARAMETERS),
        record({"name": "head"}, status="out_of_memory", quality=None, cost=None, parameters=None),
    ]


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
    "limit": (100, "none, 100"),
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


def test_energy_and_price_have_columns_where_there_are_any() -> None:
    plain = comparison([record()])
    assert {"Energy", "Price"}.isdisjoint(column.title for column in plain.shown)
    used = record()
    used["cost"] = {**used["cost"], "energy_joules": 36_000.0}
    table = comparison([used, record(LORA)], price_per_hour=3.0)
    cells = {column.title: [column.show(row) for row in table.rows] for column in table.shown}
    assert cells["Energy"] == ["36.0 kJ", "–"]
    assert cells["Price"] == ["0.2000", "0.2000"]  # 240 s at 3 an hour
    assert "Price: total time at 3 an hour." in table.notes
    assert any(note.startswith("Energy: what the whole device used") for note in table.notes)


def test_a_price_is_of_each_device() -> None:
    def priced(cost: dict, **changes: object) -> tuple[object, list[str]]:
        run = record(**changes)
        run["cost"] = {**run["cost"], **cost}
        table = comparison([run], price_per_hour=3.0)
        return table.rows[0]["price"], [note for note in table.notes if note.startswith("Price")]

    assert priced({"devices": 1}) == priced({}) == (pytest.approx(0.2), ["Price: total time at 3 an hour."])
    four = priced({"devices": None}, environment={"device": "NVIDIA H100", "processes": 4})
    assert priced({"devices": 4}) == four == (pytest.approx(0.8), ["Price: total time at 3 an hour for each device."])


def test_what_dominates_is_said_of_every_approach_or_why_it_is_not_known() -> None:
    passes = {"forward": 60.0, "backward": 120.0, "optimizer": 8.0, "data": 2.0, "gaps": 1.4}
    held = dict.fromkeys(("weights", "gradients", "optimizer", "activations"), 100 * 2**20)

    def costed(method: dict | None = None, **cost: object) -> dict:
        found = record(method)
        return {**found, "cost": {**found["cost"], **cost}}

    reference = costed(time_parts_seconds=passes, memory_parts_bytes={**held, "rest": 2**20})
    notes = comparison([reference, costed(LORA, memory_parts_bytes={**held, "rest": -(2**20)})]).notes
    said = [note for note in notes if note.startswith(("Training time of", "Peak memory of"))]
    assert [note.partition(": ")[0] for note in said] == [
        f"{what} of {name}" for what in ("Training time", "Peak memory") for name in ("standard", "lora r=8 attention")
    ]
    assert said[0].endswith("94% are forward and backward passes through the whole model, all of which is trained.")
    assert said[1].endswith(": what it went into is not known.")
    assert said[2].endswith("50% are gradients and optimizer state, which fewer trained parameters save.")
    assert said[3].endswith("come to more than the whole (rest −1 MiB), so that none is said to dominate.")
    same = {"memory_parts_bytes": {**held, "rest": 2**30}}
    notes = comparison([costed(**same), costed(LORA, **same)]).notes
    (once,) = (note for note in notes if "most is neither the model nor its training state" in note)
    assert once.startswith("Peak memory of standard and lora r=8 attention: most is")
    assert sum(note.startswith("Peak memory of") and "rest 72% (1.0 GiB)" in note for note in notes) == 2
    assert "Training time of standard and lora r=8 attention: what it went into is not known." in notes


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_is_a_number(price: float) -> None:
    with pytest.raises(SettingsError, match=r"--price-per-hour .*: give an amount of 0 or more"):
        check_price(price)
