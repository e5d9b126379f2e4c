"""Bad input: one line that begins with `error: `, the right exit code, and nothing on disk changed."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from loratory.cli import main


class Payload:
    """Pickled, it would write a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="session")
def place(
    tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_csv: Path, texts: list[tuple[str, str]]
) -> Path:
    """A folder with every kind of broken file, and one run that must survive them all."""
    place = tmp_path_factory.mktemp("bad")
    rows = [f"{text},{label}" for text, label in texts[:40]]

    def table(name: str, *lines: str) -> None:
        (place / name).write_text("\n".join(lines) + "\n", encoding="utf8")

    shutil.copy(tiny_csv, place / "good.csv")
    table("columns.csv", "review,stars", *rows)
    (place / "empty.csv").write_bytes(b"")
    table("header.csv", "text,label")
    table("one-class.csv", "text,label", *(f"{text},good" for text, _ in texts[:40]))
    table("empty-label.csv", "text,label", *rows[:3], "w1 w2 w3,", *rows[3:])
    (place / "nan.jsonl").write_text(
        "".join(json.dumps({"text": text, "label": n % 2}) + "\n" for n, (text, _) in enumerate(texts[:4]))
        + '{"text": "w7", "label": NaN}\n'
    )
    (place / "latin.csv").write_bytes(b"text,label\n" + b"caf\xe9,good\n")
    table("small-class.csv", "text,label", *rows, "w9 w8,rare")
    for name in ("weightless", "truncated", "pickled"):
        shutil.copytree(tiny_bert, place / name)
    (place / "weightless" / "model.safetensors").unlink()
    weights = place / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (place / "pickled" / "model.safetensors").rename(place / "pickled" / "pytorch_model.bin")
    (place / "uncommitted").mkdir()
    (place / "uncommitted" / "run.json").write_text("{}")
    (place / "file").write_text("mine")
    (place / "nan.json").write_text("mine")
    torch.save(Payload(place / "it-ran"), place / "payload.pth")
    torch.save({"weight": torch.zeros(2), "note": "hello"}, place / "mixed.pth")
    torch.save({"weight": torch.zeros(2000)}, place / "whole.pth")
    (place / "short.pth").write_bytes((place / "whole.pth").read_bytes()[:-3000])
    command = ["train", "--method", "head", *flags(place, tiny_bert), "--output", str(place / "run")]
    assert main(command) == 0
    shutil.copytree(place / "run", place / "damaged")
    (place / "damaged" / "run.json").write_text("{}")
    return place


def flags(place: Path, model: Path, dataset: str = "good.csv") -> list[str]:
    given = f"--model {model} --dataset {place / dataset} --epochs 1 --max-length 32 --device cpu --precision fp32"
    return given.split()


DATA = {  # dataset: what the line says
    "missing.csv": ["no such file"],
    "columns.csv": ["'text'", "review", "stars"],
    "empty.csv": ["the file is empty"],
    "header.csv": ["only a header"],
    "one-class.csv": ["one class only", "'good'"],
    "empty-label.csv": ["(line 5)", "label"],
    "nan.jsonl": ["(line 5)", "label"],
    "latin.csv": ["not UTF-8 at byte 14"],
    "small-class.csv": ["'rare'", "too few"],
}

TRAIN: list[tuple[str, int, list[str]]] = [  # what is added to a good `train`, exit code, what the line says
    ("--method lroa", 2, ["did you mean 'lora'"]),
    ("--model minilmm", 4, ["did you mean 'minilm'"]),
    ("--dataset hutto:movie", 3, ["movies"]),
    ("--method lora --rank 0", 2, ["--rank '0'"]),
    ("--method lora --rank -1", 2, ["--rank '-1'"]),
    ("--method lora --rank 0.5", 2, ["--rank '0.5'"]),
    ("--method lora --rank 33", 2, ["--rank 33", "32"]),
    ("--method lora --targets qurey", 2, ["did you mean 'query'"]),
    ("--method standard --rank 8", 2, ["--rank", "lora"]),
    ("--model {place}/weightless", 4, ["no weights"]),
    ("--model {place}/truncated", 4, ["truncated"]),
    ("--model {place}/pickled", 8, ["pytorch_model.bin"]),
    ("--model {place}/absent", 4, ["not a directory"]),
    ("--output {place}/run --seed 5", 5, ["already holds another run"]),
    ("--output {place}/file", 5, ["is a file"]),
    ("--output {place}/file/below", 5, ["choose another --output"]),
    ("--output {place}/uncommitted", 5, ["holds no run"]),
    ("--unknown-flag 1", 2, ["--unknown-flag"]),
    ("--lerning-rate 1", 2, ["did you mean '--learning-rate'"]),
    ("--epoch 1", 2, ["did you mean '--epochs'"]),
    ("--lora_drop 0", 2, ["did you mean '--lora-dropout'"]),
    ("--set training.lr", 2, ["a.b=c"]),
    ("--set training.lrr=1", 2, ["did you mean 'lr'"]),
    ("--epochs 0", 2, ["--epochs '0'"]),
    ("--lr nan", 2, ["--lr 'nan'"]),
    ("--lr -1", 2, ["--lr '-1'"]),
    ("--max-length 65", 2, ["at most 64 tokens"]),
    ("--device cuda", 6, ["no CUDA device"]),
]

OTHER: list[tuple[str, int, list[str]]] = [
    ("evaluate --model-path {place}/absent", 5, ["does not exist"]),
    ("evaluate --model-path {place}/uncommitted", 5, ["no committed run"]),
    ("evaluate --model-path {place}/file", 5, ["not a directory"]),
    ("predict --model-path {place}/absent", 5, ["does not exist"]),
    *(
        (
            f"{command} --model-path {{place}}/absent.pth",
            5,
            ["loratory export --model-path RUN --output {place}/absent.pth"],
        )
        for command in ("evaluate", "predict")
    ),
    ("evaluate --model-path {place}/payload.pth", 8, ["refused"]),
    ("evaluate --model-path {place}/mixed.pth", 8, ["'note'", "refused"]),
    (
        "evaluate --model-path {place}/short.pth",
        4,
        ["short.pth: damaged or truncated; copy it again, or export the run again\n"],
    ),
    ("evaluate --model-path {place}/damaged", 5, ["run.json", "remove it and train again"]),
    ("evaluate --model-path {place}/run --split tset", 2, ["train, validation or test"]),
    ("predict --model-path {place}/run", 3, ["no text"]),
    ("predict --model-path {place}/run --output {place}/file w1", 5, ["exists already"]),
    ("predict --model-path {place}/run --output {place}/labels.xls w1", 2, [".csv, .jsonl or .parquet"]),
    ("export --model-path {place}/run --output {place}/file", 5, ["exists already"]),
    ("export --model-path {place}/run --format onyx --output {place}/new", 2, ["did you mean 'onnx'?"]),
    ("export --model-path {place}/run --format merged --output {place}/file", 5, ["file exists already"]),
    ("export --model-path {place}/run --format merged --output {place}/damaged", 5, ["damaged is not empty"]),
    ("export --model-path {place}/run --format merged --output {place}/file/below", 5, ["cannot write"]),
    ("export --model-path {place}/damaged --format merged --output {place}/new", 5, ["run.json", "train again"]),
    ("export --model-path {place}/run --format adapter --output {place}/new", 2, ["run of head", "use merged"]),
    ("export --model-path {place}/run --format merged --output {place}/new --public", 2, ["give --push REPO_ID"]),
    ("export --model-path {place}/run --output {place}/new --push me/mine", 2, ["pth is a file", "--format merged"]),
    ("export --model-path {place}/run --format merged --output {place}/new --push a/b/c", 2, ["--push 'a/b/c'"]),
    ("export --model-path {place}/run --output {place}/file/below.pth", 5, ["cannot write"]),
    ("export --model-path {place}/run --output {place}/model.json", 2, ["model.json", "must end in .pth"]),
    ("export --model-path {place}/run --output {place}/nan.pth", 5, ["nan.json", "exists already"]),
    ("compare {place}/run {place}/absent", 5, ["not a directory"]),
    ("data show hutto:moovies", 3, ["movies"]),
    ("tarin", 2, ["tarin", "'train'"]),
    ("data shwo", 2, ["'show'"]),
    ("evaluate", 2, ["--model-path"]),
    ("compare --basline {place}/run", 2, ["did you mean '--baselines'"]),
    ("predict --model-path {place}/run --model-path {place}/absent w1", 5, ["absent does not exist"]),
    ("predict --model-path {place}/run --model-path {place}/damaged w1", 5, ["damaged/run.json"]),
    ("predict --model-path {place}/run --model-path {place}/./run w1", 2, ["given twice"]),
    ("predict --model-path {place}/run --input {place}/columns.csv", 3, ["'text'", "'review'", "set --text-column\n"]),
]


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        *((f"train --dataset {{place}}/{name}", 3, says) for name, says in DATA.items()),
        *((f"train {added}", code, says) for added, code, says in TRAIN),
        *OTHER,
    ],
)
def test_bad_input_is_one_line_the_right_code_and_nothing_written(
    command: str,
    code: int,
    says: list[str],
    place: Path,
    tiny_bert: Path,
    snapshot: Any,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    if "cuda" in command:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    name, *given = command.format(place=place).split()
    if name == "train":  # the last of two equal flags counts
        given = ["--method", "head", *flags(place, tiny_bert), *given]
    before = snapshot(place)
    capsys.readouterr()
    assert main([name, *given]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert [part for part in says if part.format(place=place) not in err] == [], err
    assert snapshot(place) == before
    assert not (place / "it-ran").exists()
