"""What an estimate says beforehand is what a run's record says afterwards."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

import loratory
from loratory import cli
from loratory.cli import main
from loratory.data.batches import Cut, epoch_order
from loratory.engine.calibrate import Calibration
from loratory.engine.hardware import Hardware
from loratory.engine.operations import operations
from loratory.errors import ModelError, SettingsError
from loratory.estimates import Estimates, byte_count, grid
from loratory.estimating import estimate, largest_batch, peaks
from loratory.flags import whole
from loratory.inputs import Inputs
from loratory.models import load
from loratory.report.estimates import FROZEN, estimates_table
from loratory.run import train
from loratory.setup import prepare

HELD = ("weights", "gradients", "optimizer", "activations")
METHODS: list[Any] = [
    ("standard", {}),
    ("standard", {"accumulate": 2, "batch_size": 8}),
    ("lora", {"rank": 4, "targets": "all-linear"}),
    ("hybrid", {"unfrozen_layers": 1}),
    ("hybrid", {"rank": 0, "unfrozen_layers": 1}),
    ("head", {}),
    ("bitfit", {}),
]


@pytest.mark.parametrize(("method", "own"), METHODS, ids=lambda value: str(value))
def test_parameters_bytes_steps_and_what_a_step_holds_are_those_of_the_run(
    method: str, own: dict[str, Any], spec: Any, tmp_path: Path
) -> None:
    chosen = spec(method, **own)
    found = estimate(chosen, seconds=0.0)
    run = train(chosen, output=tmp_path / "run", keep_weights=False).record
    assert found.parameters == run.parameters
    assert found.checkpoint_bytes == run.cost["checkpoint_bytes"]
    assert (found.steps, found.tokens) == (run.cost["steps"], run.cost["tokens"])
    assert found.memory_parts_bytes is not None
    parts = run.cost["memory_parts_bytes"]
    assert {part: found.memory_parts_bytes[part] for part in HELD} == {part: parts[part] for part in HELD}
    assert found.peak_memory_bytes == sum(found.memory_parts_bytes.values())
    assert found.train_seconds is not None
    assert found.train_seconds > 0
    assert found.spec == run.spec


def test_no_weights_are_needed_and_nothing_is_left(
    spec: Any, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: Any
) -> None:
    place = tmp_path / "model"
    shutil.copytree(tiny_bert, place, ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("LORATORY_DATA", str(tmp_path / "data"))
    before = snapshot(place)
    found = estimate(spec("lora", model=str(place)), seconds=0.0)
    assert found.fits
    assert found.parameters == estimate(spec("lora"), seconds=0.0).parameters
    assert snapshot(place) == before
    assert list((tmp_path / "here").iterdir()) == []
    with pytest.raises(ModelError, match="has no weights"):
        train(spec("lora", model=str(place)), output=tmp_path / "run")


def test_the_step_with_the_most_tokens_is_found(spec: Any) -> None:
    chosen = spec("lora")
    data = prepare(chosen, Hardware.of(chosen.hardware), Inputs(weights=False), weights=False).tokens["train"]
    orders, cut = [epoch_order(len(data.labels), 0, epoch) for epoch in (1, 2)], Cut(7, accumulate=2)
    most = max(part.tokens for order in orders for parts in data.steps(order, cut) for part in parts)
    heavy = data.heaviest(orders, cut)
    taken = data.take(heavy)
    assert (taken.labels == data.labels[heavy]).all()
    parts = next(taken.steps(np.arange(len(heavy)), cut))
    assert max(part.tokens for part in parts) == most == data.largest(orders, cut).tokens


def test_operations_are_two_for_each_number_token_and_pass(spec: Any) -> None:
    sums = {}
    for method, own in METHODS:
        chosen = spec(method, **own)
        setup = prepare(chosen, Hardware.of(chosen.hardware), Inputs(weights=False), weights=False)
        lengths = setup.tokens["train"].tokens.lengths
        sums[method, str(own)] = operations(setup.classifier, lengths, epochs=2)
        if (method, own) == ("standard", {}):
            config = setup.base.config
            hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
            tokens, pairs = int(lengths.sum()), int((lengths**2).sum())
            linear = 2 * (4 * hidden**2 + 2 * hidden * inner) * tokens * layers
            head = 2 * (hidden**2 + 2 * hidden) * len(lengths)
            assert sums[method, str(own)] == 2 * 3 * (linear + 4 * pairs * hidden * layers + head)
        if method == "head":  # the frozen bottom runs forward once
            assert sums[method, str(own)] == linear + 4 * pairs * hidden * layers + 2 * 3 * head
    assert sums["head", "{}"] < sums["lora", str(METHODS[2][1])] < 1.2 * sums["standard", "{}"]


def test_a_limit_of_memory_gives_the_largest_batch(spec: Any) -> None:
    sizes = [estimate(spec("lora"), memory=memory, seconds=0.0).largest_batch for memory in (1, 2**33, 2**50)]
    assert sizes[0] == 0
    assert sizes[1] is not None
    assert sizes[2] is not None
    assert 0 < sizes[1] <= sizes[2]


def test_a_largest_batch_that_is_every_text_says_so(spec: Any) -> None:
    one = estimate(spec("head"), memory=2**50, seconds=0.0)
    assert one.largest_batch == one.train_examples == 84
    for size, shown in ((84, "all 84 texts"), (83, "83"), (0, "0")):
        table = Estimates((replace(one, largest_batch=size),), memory=2**50).table
        assert f"| {shown} |" in table.to_markdown()


@given(st.lists(st.integers(1, 100), min_size=1, max_size=40), st.integers(0, 110), st.integers(0, 110))
def test_the_largest_batch_stays_below_one_more_does_not_and_more_memory_takes_as_many(
    peak: list[int], memory: int, other: int
) -> None:
    """Peaks need not rise: which examples meet in a step changes with its size."""
    size = largest_batch(lambda size: peak[size - 1], len(peak), memory)
    assert (size == 0) == (peak[0] > memory)
    assert size == 0 or peak[size - 1] <= memory
    assert size in (0, len(peak)) or peak[size] > memory
    least, most = sorted((memory, other))
    assert largest_batch(lambda size: peak[size - 1], len(peak), least) <= largest_batch(
        lambda size: peak[size - 1], len(peak), most
    )


@pytest.mark.parametrize("accumulate", [1, 3])
def test_peaks_go_through_those_that_were_measured(accumulate: int, spec: Any) -> None:
    chosen = spec("lora", accumulate=accumulate, batch_size=12)
    data = prepare(chosen, Hardware.of(chosen.hardware), Inputs(weights=False), weights=False).tokens["train"]
    orders = [epoch_order(len(data.labels), chosen.seed, epoch) for epoch in (1, 2)]

    def measured(size: int, slope: int) -> Calibration:
        tokens = max(count for order in orders for count in data.totals(order, Cut(size, accumulate)))
        parts = {"activations": 50 * tokens}
        return Calibration(10_000 + slope * tokens, parts, tokens, timed_steps=0, train_seconds=0.0, bottom_seconds=0.0)

    for slope, expected in ((70, 70), (20, 50)):  # never less than the activations need
        peak = peaks(data, chosen, [measured(12, slope), measured(6, slope)])
        assert peak(12) == pytest.approx(measured(12, slope).peak_bytes)
        tokens = [measured(size, slope).heaviest for size in (12, 24)]
        assert peak(24) - peak(12) == pytest.approx(expected * (tokens[1] - tokens[0]))
    alone = peaks(data, chosen, [measured(12, 70)])
    assert alone(24) - alone(12) == pytest.approx(50 * (tokens[1] - tokens[0]))


def test_the_command_prints_a_row_for_each_combination(spec: Any, tiny_bert: Path, tiny_csv: Path, capsys: Any) -> None:
    command = [
        "estimate",
        "--model",
        str(tiny_bert),
        "--dataset",
        str(tiny_csv),
        "--max-length",
        "32",
        "--device",
        "cpu",
    ]
    command += ["--method", "head,lora", "--ranks", "1", "--batch-sizes", "4,8", "--epochs", "1"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["approach"], one["batch_size"]) for one in found] == [
        (name, size) for name in ("head", "lora r=1 attention") for size in (4, 8)
    ]
    assert main([*command[:-4], "--epochs", "1", "--memory", "8GiB"]) == 0
    out = capsys.readouterr().out
    assert "Peak memory by part" in out
    assert all(len(line) <= 80 for line in out.splitlines())


REFUSED: list[Any] = [
    (["--memory", "much"], "--memory 'much': write it as 24GiB or 512MiB"),
    (["--memory", "0GiB"], "--memory '0GiB': write it as 24GiB or 512MiB"),
    (["--ranks", "1,8"], "--ranks: standard has none; leave it out"),
    (["--method", "lora", "--ranks", "1,,8"], "--ranks '1,,8': write it as values with commas between them"),
    (["--method", "lora", "--ranks", "1", "--rank", "2"], "--rank and --ranks: give one of the two"),
    (["--batch-sizes", "4", "--batch-size", "2"], "--batch-size and --batch-sizes: give one of the two"),
]


@pytest.mark.parametrize(("flags", "line"), REFUSED, ids=lambda value: str(value))
def test_wrong_flags_are_one_line(flags: list[str], line: str, capsys: Any) -> None:
    assert main(["estimate", *flags]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_it_takes_trains_flags_but_those_that_cost_nothing() -> None:
    app: Any = get_command(cli.app)
    flags = {name: {one.name for one in whole(app.commands[name]).params} for name in ("train", "estimate")}
    assert flags["train"] - flags["estimate"] == {"output", "tracker", "checkpoint_every"}
    assert flags["estimate"] - flags["train"] == {"ranks", "batch_sizes", "memory", "price_per_hour"}


def test_from_python_it_is_the_commands_table(tiny_bert: Path, tiny_csv: Path, capsys: Any) -> None:
    own = {"price_per_hour", "ranks", "batch_sizes", "memory"}
    assert own <= {*signature(loratory.estimate).parameters}
    settings = {"model": tiny_bert, "dataset": tiny_csv, "max_length": 32, "device": "cpu", "epochs": 1}
    found = loratory.estimate(method=["head", "lora"], ranks=[1, 2], memory="8GiB", price_per_hour=2, **settings)
    assert [one.approach for one in found.rows] == ["head", "lora r=1 attention", "lora r=2 attention"]
    assert (found.memory, found.price_per_hour) == (2**33, 2)
    assert "| Largest batch | Price |" in found.table.to_markdown()
    assert [row["largest_batch"] for row in found.table.rows] == [one.largest_batch for one in found.rows]
    assert "in 11 of 24 comparisons" in " ".join(found.table.notes)
    assert capsys.readouterr() == ("", "")
    for wrong, said in (
        ({"ranks": [1], "rank": 2}, "^rank and ranks: give one of the two"),
        ({"batch_sizes": []}, r"^batch_sizes \[\]: write it as values"),
        ({"memory": -1}, "^memory -1: write it as"),
        ({"price_per_hour": -1}, "^price_per_hour -1: give an amount"),
    ):
        with pytest.raises(SettingsError, match=said):
            loratory.estimate(method="lora", **settings, **wrong)


def test_sizes_and_grids_are_read() -> None:
    assert [byte_count(text) for text in ("24GiB", "512 MiB", "8GB", "1000", "1.5KiB")] == [
        24 * 2**30, 512 * 2**20, 8 * 10**9, 1000, 1536,
    ]  # fmt: skip
    assert grid({"lr": "1"}, methods="head, lora", ranks="2") == [
        {"lr": "1", "method": "head"},
        {"lr": "1", "method": "lora", "rank": "2"},
    ]


@pytest.mark.parametrize(
    ("method", "own", "device", "said"),
    [
        ("head", {}, "allocated", True),
        ("hybrid", {"rank": 0, "unfrozen_layers": 1}, "allocated", True),
        ("lora", {}, "allocated", False),
        ("head", {}, "resident", False),
    ],
)
def test_the_time_of_a_frozen_bottom_on_a_gpu_is_said_to_be_uncertain(
    method: str, own: dict[str, Any], device: str, said: bool, spec: Any
) -> None:
    found = {**estimate(spec(method, **own), seconds=0.0).to_dict(), "memory_kind": device}
    assert (FROZEN in estimates_table([found]).notes) is said
    assert "took up to 2.6 times as long" in FROZEN
    page = (Path(__file__).parents[1] / "benchmarks" / "README.md").read_text("utf8")
    assert "| roberta-base | short | head | 8 | exact | 516 MiB | 502 MiB | +3% | 0.273 s | 0.712 s | -62% |" in page


@pytest.fixture
def described(tiny_bert: Path, tiny_csv: Path, tmp_path: Path) -> Any:
    """(**changes) -> the command for a model of which there is no more than a description, so changed."""

    def command(**changes: Any) -> list[str]:
        model = Path(shutil.copytree(tiny_bert, tmp_path / "described"))
        (model / "model.safetensors").unlink()
        values = json.loads((model / "config.json").read_text("utf8"))
        (model / "config.json").write_text(json.dumps(values | changes), encoding="utf8")
        return ["estimate", "--method", "head", "--model", str(model), "--dataset", str(tiny_csv), "--max-length", "32"]

    return command


def test_a_description_of_more_than_memory_holds_is_refused_before_anything_is_allocated(
    described: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, where = load._built, list[str]()

    def noted(*given: Any) -> Any:
        where.append(torch.empty(0).device.type)
        return built(*given)

    monkeypatch.setattr(load, "_built", noted)
    huge = {"hidden_size": 32_768, "intermediate_size": 262_144, "num_hidden_layers": 48, "vocab_size": 2_097_152}
    assert main(described(**huge)) == 6
    err = capsys.readouterr().err
    assert re.fullmatch(
        r"error: model '.*described': its 1,\d{3},\d{3},\d{3},\d{3} weights take [\d.]+ GiB in fp32, and .* are free; "
        r"give a smaller one, or free memory\n", err,
    ), err  # fmt: skip
    assert where == ["meta"]


def test_on_a_cpu_training_that_memory_cannot_hold_is_not_tried(
    described: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*described(), "--method", "standard", "--device", "cpu", "--json"]
    monkeypatch.setattr("loratory.estimating.calibrate", None)  # would fail
    monkeypatch.setattr("loratory.estimating.available_memory", lambda: 1)
    assert main(command) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["fits"], found["peak_memory_bytes"], found["train_seconds"]) == (False, None, None)
    assert found["parameters"]["trainable"] == found["parameters"]["total"]
