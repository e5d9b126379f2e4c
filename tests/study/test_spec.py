"""Study files: what they ask for, and every way in which they can be wrong, each one line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from loratory.errors import SettingsError, StorageError
from loratory.methods import method_settings
from loratory.study.reading import check_size, read_study
from loratory.study.spec import StudySpec
from loratory.study.yaml_file import read_yaml

GOOD = """
name: small
data: [hutto:movies]
models: [minilm]
methods:
  - {name: standard, tune: {lr: [2e-5, 1.0e-4]}}
  - {name: lora, rank: [1, 8], targets: [attention, all-linear], tune: {lr: [5e-4, 2e-3]}}
seeds: [3, 1]
train: {epochs: 2, batch-size: 16}
"""


def read(text: str, tmp_path: Path, *overrides: tuple[str, str]) -> StudySpec:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf8")
    return read_study(path, overrides)[0]


def test_a_study_is_its_cells_rates_and_seeds(tmp_path: Path) -> None:
    spec = read(GOOD, tmp_path)
    cells = spec.cells()
    assert [cell.id for cell in cells] == ["c1", "c2", "c3", "c4", "c5"]
    assert [(cell.method.name, getattr(cell.method, "rank", None)) for cell in cells] == [
        *(("standard", None), ("lora", 1), ("lora", 1), ("lora", 8), ("lora", 8))
    ]
    assert (spec.select, spec.margin, spec.keep, spec.tune_seeds) == ("accuracy", 0.01, "best", "each")
    run = spec.run(cells[4], lr=0.002, seed=3, threads=2)
    assert run.method == method_settings({"name": "lora", "rank": 8, "targets": "all-linear"})
    assert (run.training.epochs, run.training.batch_size, run.training.lr, run.seed) == (2, 16, 0.002, 3)
    assert (run.data.dataset, run.model, run.hardware.threads) == ("hutto:movies", "minilm", 2)


@pytest.mark.parametrize("rest", ["margin: 0.49", "select: log_loss\nmargin: 0.7", "select: mcc\nmargin: 0.5"])
def test_a_margin_fits_the_scale_of_its_metric(rest: str, tmp_path: Path) -> None:
    assert read(GOOD + rest, tmp_path).margin > 0.4


def test_each_seed_chooses_or_the_first_for_all(tmp_path: Path) -> None:
    each, first = read(GOOD, tmp_path), read(GOOD + "tune_seeds: first", tmp_path)
    assert (each.choosing, each.runs) == (((3,), (1,)), 5 * (2 * 2 + 2))
    assert (first.choosing, first.runs) == (((3, 1),), 5 * (2 + 2))
    assert first.differences(each) == ["tune_seeds: first before, each now"]


def test_a_grid_of_one_rate_and_no_grid_need_no_tuning(tmp_path: Path) -> None:
    text = GOOD.replace("[2e-5, 1.0e-4]", "1e-4").replace(", tune: {lr: [5e-4, 2e-3]}", "")
    spec = read(text, tmp_path)
    assert (spec.tuned, spec.choosing, spec.runs) == (False, ((3, 1),), 5 * 2)
    assert [cell.rates for cell in spec.cells()][:2] == [(1e-4,), ()]


def test_cells_that_stand_there_twice_are_run_once(tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, logger="loratory"):
        spec = read(GOOD.replace("[1, 8]", "[1, 8, 8]"), tmp_path)
    assert len(spec.cells()) == 5
    assert "2 repeated cells; each setting is run once" in caplog.text


def test_an_override_stands_in_place_of_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(GOOD, encoding="utf8")
    given = [("models", "tiny"), ("train.epochs", "1"), ("seeds", "[5]")]
    spec, text = read_study(path, given)
    assert (spec.models, spec.train, spec.seeds) == (("tiny",), {"epochs": 1, "batch_size": 16}, (5,))
    again = tmp_path / "again.yaml"
    again.write_text(text, encoding="utf8")
    assert read_study(again)[0] == spec  # what its directory holds is what was run
    assert spec.differences(read_study(path)[0]) == [
        "models: tiny before, minilm now",
        "seeds: 5 before, [3, 1] now",
        "train: {'epochs': 1, 'batch_size': 16} before, {'epochs': 2, 'batch_size': 16} now",
    ]
    assert read_study(path)[1] == GOOD


def with_line(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def halved(factor: str) -> str:
    return with_line("lr: [2e-5, 1.0e-4]", f"lr: [2e-5, 1.0e-4], halving: {factor}")


DEEP = "[" * 13 + "]" * 13

WRONG = {
    "unknown key": (GOOD + "margn: 1", "line 10: unknown key 'margn'; did you mean 'margin'?"),
    "repeated key": (GOOD + "name: other", "line 10: 'name' stands there a second time"),
    "repeated key inside": (
        with_line("{epochs: 2,", "{epochs: 2, epochs: 3,"),
        "line 9: 'epochs' stands there a second",
    ),
    "missing key": (with_line("models: [minilm]\n", ""), "'models' is missing"),
    "alias": (with_line("name: small", "name: &a small") + "select: *a", "line 2: anchor &a"),
    "alias alone": (with_line("name: small", "name: *a"), "line 2: alias *a"),
    "tag": (with_line("name: small", "name: !!python/object/apply:os.getcwd []"), "line 2: tag tag:yaml.org"),
    "two documents": (GOOD + "---\nname: b\n", "line 10: a second document"),
    "too deep": (GOOD + "margin: " + DEEP, "line 10: nested more than 12 deep"),
    "too large": (GOOD + "#" * (1 << 20), "bytes; a study file has at most 1,048,576"),
    "no YAML": (GOOD + "margin: [", "not YAML: "),
    "control character": (GOOD + "#\x07", "not YAML: "),
    "a list": ("- a\n", "a study file has the keys name, data"),
    "nothing": ("", "a study file has the keys name, data"),
    "empty grid": (with_line("[1, 8]", "[]"), "line 7: methods.1.rank is an empty list"),
    "empty data": (with_line("[hutto:movies]", "[]"), "line 3: data is an empty list"),
    "no rates": (with_line("[2e-5, 1.0e-4]", "[]"), "line 6: methods.0.tune.lr is an empty list"),
    "no methods": (GOOD[: GOOD.index("methods")] + "methods: []\nseeds: [0]\n", "line 5: methods is an empty list"),
    "no seeds": (with_line("[3, 1]", "[]"), "line 8: seeds is an empty list"),
    "empty value": (with_line("[3, 1]", ""), "line 8: seeds is empty"),
    "seeds as a number": (with_line("[3, 1]", "5"), "line 8: seeds 5: give a list"),
    "repeated seed": (with_line("[3, 1]", "[3, 1, 3]"), "line 8: seed 3 stands there twice"),
    "negative seed": (with_line("[3, 1]", "[3, -1]"), "line 8: seed -1: give a whole number"),
    "half a seed": (with_line("[3, 1]", "[0.5]"), "line 8: seed 0.5: give a whole number"),
    "true": (with_line("[3, 1]", "[true]"), "line 8: seeds.0 is true; nothing in a study is true or false"),
    "NaN rate": (with_line("2e-5", ".nan"), "line 6: lr nan: give a finite number above 0"),
    "infinite rate": (with_line("2e-5", ".inf"), "line 6: lr inf: give a finite number above 0"),
    "negative rate": (with_line("2e-5", "-2e-5"), "line 6: lr -2e-05: give a finite number above 0"),
    "rate of 0": (with_line("2e-5", "0"), "line 6: lr 0: give a finite number above 0"),
    "rate as text": (with_line("2e-5", "'2e-5'"), "line 6: lr '2e-5': give a finite number above 0"),
    "repeated rate": (with_line("2e-5", "1e-4"), "line 6: lr 0.0001 stands there twice"),
    "other budgets": (
        with_line("[2e-5, 1.0e-4]", "[2e-5, 5e-5, 1e-4]"),
        "line 7: lora may try 2 learning rates and standard 3 learning rates; give every method as many",
    ),
    "tune something else": (with_line("{lr: [2e-5, 1.0e-4]}", "{rank: [1]}"), "line 6: tune: give the learning rates"),
    "tune as a list": (with_line("{lr: [2e-5, 1.0e-4]}", "[1e-4]"), "line 6: tune: give the learning rates"),
    "unknown method": (with_line("name: lora", "name: lore"), "line 7: unknown method 'lore'; did you mean 'lora'?"),
    "method without name": (with_line("{name: standard, ", "{"), "line 6: a method has a name; known: standard"),
    "another method's setting": (
        with_line("{name: standard,", "{name: standard, rank: 2,"),
        "it belongs to lora, hybrid",
    ),
    "unknown setting": (with_line("rank:", "rnk:"), "line 7: 'rnk' is not a setting of lora; did you mean 'rank'?"),
    "halving of one": (halved("1"), "line 6: halving 1: give a whole number from 2 on: one rate of so many goes on"),
    "halving of none": (halved("0"), "line 6: halving 0: give a whole number from 2 on"),
    "negative halving": (halved("-3"), "line 6: halving -3: give a whole number from 2 on"),
    "halving as text": (halved("third"), "line 6: halving 'third': give a whole number from 2 on"),
    "halving as a fraction": (halved("2.0"), "line 6: halving 2.0: give a whole number from 2 on"),
    "halving or not": (halved("true"), "line 6: methods.0.tune.halving is true; nothing in a study is true or false"),
    "halving without rates": (
        with_line("{lr: [2e-5, 1.0e-4]}", "{halving: 2}"),
        "line 6: tune: give the learning rates to try",
    ),
    "halving of a single rate": (
        with_line("lr: [2e-5, 1.0e-4]", "lr: 1e-4, halving: 2"),
        "line 6: halving 2: 1 learning rate cannot leave one of 2; give at least 2 rates",
    ),
    "halving of too few rates": (
        halved("3"),
        "line 6: halving 3: 2 learning rates cannot leave one of 3; give at least 3 rates, or a smaller number",
    ),
    "halving in one epoch": (
        halved("2").replace("epochs: 2", "epochs: 1"),
        "line 6: halving 2 with 1 epoch: no rate can be dropped before the last; give train more epochs",
    ),
    "other budgets in epochs": (
        halved("2").replace("epochs: 2", "epochs: 3"),
        "line 7: tuning lora trains 6 epochs for each choice and tuning standard 5 (runs x epochs); with halving every",
    ),
    "until in a study": (
        with_line("{epochs: 2,", "{epochs: 2, until: 1,"),
        "line 9: 'until' does not belong into train: how far tuning",
    ),
    "rate beside tune": (
        with_line("rank: [1, 8]", "lr: 1e-3"),
        "line 7: 'lr' is not a setting of lora; learning rates stand in tune, a single one too: tune: {lr: [0.001]}",
    ),
    "flag of train": (
        with_line("rank: [1, 8]", "batch_size: 8"),
        "line 7: 'batch_size' is not a setting of lora; it is the same for all runs of a study, one value: train: "
        "{batch_size: 8}",
    ),
    "data in a method": (with_line("rank: [1, 8]", "dataset: x"), "not a setting of lora; data sets stand in data"),
    "wrong setting": (with_line("[1, 8]", "[1, 0]"), "line 7: rank 0: input should be greater than or equal to 1"),
    "setting of another kind": (with_line("[1, 8]", "[one]"), "line 7: rank 'one': input should be a valid integer"),
    "twice with other rates": (
        with_line("seeds:", "  - {name: lora, rank: 8, targets: attention, tune: {lr: [1e-3, 2e-3]}}\nseeds:"),
        "line 8: a setting of lora stands there twice with other rates",
    ),
    "unknown flag": (with_line("epochs: 2", "epoch: 2"), "line 9: unknown flag 'epoch'; did you mean 'epochs'?"),
    "a method's flag": (with_line("epochs: 2", "rank: 2"), "line 9: 'rank' is a setting of lora, hybrid"),
    "rate in train": (with_line("epochs: 2", "lr: 2"), "line 9: 'lr' does not belong into train: each method's rates"),
    "wrong flag": (with_line("epochs: 2", "epochs: 0"), "line 9: epochs 0: input should be greater than or equal to 1"),
    "grid in train": (with_line("epochs: 2", "epochs: [1, 2]"), "line 9: epochs is a list; only data, models"),
    "train as a list": (GOOD.replace("{epochs: 2, batch-size: 16}", "[1]"), "line 9: train: give train's flags"),
    "number as a name": (with_line("[minilm]", "[1.5]"), "line 4: models 1.5: give a name"),
    "path as a name": (with_line("name: small", "name: ../up"), "line 2: name '../up': string should match pattern"),
    "unknown metric": (GOOD + "select: acuracy", "line 10: select 'acuracy': input should be 'accuracy', 'f1_macro'"),
    "negative margin": (GOOD + "margin: -1", "line 10: margin -1: input should be greater than or equal to 0"),
    "margin in points": (
        GOOD + "margin: 1",
        "line 10: margin 1: accuracy goes from 0 to 1, and margin is a fraction: one point is 0.01",
    ),
    "margin of half": (GOOD + "select: f1_macro\nmargin: 0.5", "line 11: margin 0.5: f1_macro goes from 0 to 1"),
    "NaN margin": (GOOD + "margin: .nan", "line 10: margin nan: input should be a finite number"),
    "unknown choosers": (GOOD + "tune_seeds: all", "line 10: tune_seeds 'all': input should be 'each' or 'first'"),
    "choosers as a list": (GOOD + "tune_seeds: [0]", "line 10: tune_seeds [0]: input should be 'each' or 'first'"),
    "no choosers": (GOOD + "tune_seeds:", "line 10: tune_seeds is empty; give it a value, or leave it out"),
    "misspelt choosers": (GOOD + "tune_seed: each", "line 10: unknown key 'tune_seed'; did you mean 'tune_seeds'?"),
    "unknown keep": (GOOD + "keep: some", "line 10: keep 'some': input should be 'best', 'all' or 'none'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_study_is_one_line_that_names_the_place(case: str, tmp_path: Path) -> None:
    text, says = WRONG[case]
    with pytest.raises(SettingsError) as caught:
        read(text, tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "s.yaml"))
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (("seeds", "[1, 1]"), "--set seeds: seed 1 stands there twice"),
        (("seeds", "[1"), "--set seeds, line 1: not YAML"),
        (("sedes", "[1]"), "--set sedes: unknown key 'sedes'; did you mean 'seeds'?"),
        (("train.epochs", "none"), "--set train.epochs: epochs 'none': input should be a valid integer"),
        (("methods.rank", "1"), "--set methods.rank: 'methods.rank' is no key of a mapping"),
        (("models", ""), "--set models: models is empty"),
    ],
)
def test_a_wrong_override_names_itself(override: tuple[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read(GOOD, tmp_path, override)
    assert says in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist; give a study file"):
        read_study(tmp_path / "none.yaml")
    with pytest.raises(StorageError, match="cannot be read"):
        read_study(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(SettingsError, match=r"not UTF-8 \(byte 6\)"):
        read_study(path)


def test_a_large_grid_is_asked_for_twice_and_a_huge_one_refused(tmp_path: Path) -> None:
    many = ", ".join(map(str, range(1, 103)))
    spec = read(GOOD.replace("[1, 8]", f"[{many}]"), tmp_path)
    assert spec.runs == (1 + 102 * 2) * (2 * 2 + 2)
    spec = read(GOOD.replace("[1, 8]", f"[{many}]") + "tune_seeds: first", tmp_path)
    assert spec.runs == (1 + 102 * 2) * 4
    check_size(spec, "s.yaml", asked=False)
    spec = read(GOOD.replace("[1, 8]", f"[{many}]").replace("[3, 1]", "[0, 1, 2, 3, 4]"), tmp_path)
    with pytest.raises(SettingsError, match=r"3,075 runs; give --yes for more than 1,000"):
        check_size(spec, "s.yaml", asked=False)
    check_size(spec, "s.yaml", asked=True)
    huge = GOOD.replace("[1, 8]", f"[{many}]").replace("{name: lora,", f"{{name: lora, alpha: [{many}],")
    spec = read(huge.replace("[attention, all-linear]", f"[{many}]".replace(", ", "x, ").replace("]", "x]")), tmp_path)
    with pytest.raises(SettingsError, match="a study has at most 100,000"):
        check_size(spec, "s.yaml", asked=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        (".5", 0.5),
        ("+7", 7),
        ("no", "no"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("'1'", "1"),
        ("~", None),
        ("True", True),
        ("hutto:movies", "hutto:movies"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = read_yaml(text.encode(), "x").value
    assert found == value
    assert type(found) is type(value)
