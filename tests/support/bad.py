"""Bad input, all of it: the one table that tests/test_bad_input.py runs and docs/errors.md shows.

A case says what is given, how it is made, which commands take it, the exit code, and what the line must say. Commands
name what the bench has in braces: {place}, {run}, {model}, {study} …, and {given}, the file that the case is about.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

Make = Callable[["Bench"], None]


@dataclass(frozen=True)
class Case:
    """One thing that is wrong, and what must be said of it."""

    what: str
    """In words; no other case has them."""
    commands: tuple[str, ...]
    """Each must say the same; those of :data:`TRAIN` and the like are made whole by :meth:`Bench.command`."""
    code: int
    says: tuple[str, ...]
    """Parts of the line."""
    given: str = "given"
    """What the file is called."""
    make: Make | None = None
    """Makes it."""
    theirs: str = ""
    """A pattern of what another library says in the line: it differs by its version, and is no part of the page."""
    told: int = 0
    """Lines that the log says before."""


@dataclass
class Bench:
    """Where a case is made and run: one run, one study, one tiny model, which no case may change."""

    place: Path
    model: Path
    given: Path
    patch: pytest.MonkeyPatch
    held: ExitStack
    """Closed when the case is over."""

    def command(self, command: str) -> list[str]:
        """Its words. The last of two equal flags counts: a case's own come after those of a small run."""
        name, *words = command.split()
        small = "--model {model} --dataset {place}/good.csv --epochs 1 --max-length 32 --device cpu --precision fp32"
        if name in ("train", "estimate"):
            words = ["--method", "head", *small.split(), *words]
        names = {"place": self.place, "model": self.model, "given": self.given, "run": self.place / "run"}
        return [name, *(word.format(**names, study=self.place / "study", file=self.place / "s.yaml") for word in words)]

    def write(self, content: str | bytes) -> None:
        """The case's file."""
        self.given.write_bytes(content if isinstance(content, bytes) else content.encode("utf8", "surrogatepass"))

    def copied(self, name: str) -> Path:
        """A copy of something of the bench, to be spoilt."""
        return Path(shutil.copytree(self.model if name == "model" else self.place / name, self.given))

    def refuse(self, number: int) -> None:
        """Nothing can be written below this place any more, as on a disk that is full or may only be read."""
        make, open_, makes = os.open, open, os.mkdir

        def error(path: Any) -> OSError:
            return OSError(number, os.strerror(number), str(path))

        def low(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & os.O_CREAT and str(path).startswith(str(self.place)):
                raise error(path)
            return make(path, flags, *rest, **more)

        def high(path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if set(mode) & set("wxa") and str(path).startswith(str(self.place)):
                raise error(path)
            return open_(path, mode, *rest, **more)

        def directory(path: Any, *rest: Any, **more: Any) -> None:
            if str(path).startswith(str(self.place)):
                raise error(path)
            makes(path, *rest, **more)

        self.patch.setattr("os.open", low)
        self.patch.setattr("io.open", high)
        self.patch.setattr("builtins.open", high)
        self.patch.setattr("os.mkdir", directory)


# Commands, by what they take.
TRAIN = ("train --dataset {given}",)
LEARN = (*TRAIN, "estimate --dataset {given}", "data show {given} --model {model}")
STUDY = ("study run {file} --output {place}/new --set data={given}",)
SCORE = ("evaluate --model-path {run} --dataset {given}",)
LABEL = ("predict --model-path {run} --input {given}",)
ANY = (*LEARN, *STUDY, *SCORE)
"""All that read a text and its label."""
ALL = (*ANY, *LABEL)
"""All that read a text."""
MODEL = ("train --model {given}",)
BASE = (*MODEL, "estimate --model {given}", "data show {place}/good.csv --model {given}")
RUN = ("evaluate --model-path {given}", "predict --model-path {given} w1")
RUNS = (*RUN, "compare {given}", "export --model-path {given} --output {place}/new.pth")
DIRECTORY = ("study status {given}", "report {given}")


def text(*lines: str, end: str = "\n") -> Make:
    """A file of these lines."""
    return lambda bench: bench.write("\n".join(lines) + end)


def content(data: bytes) -> Make:
    """A file of these bytes."""
    return lambda bench: bench.write(data)


ROWS = tuple(f"w{n} w{n + 1} w{n + 2},{('bad', 'good')[n % 2]}" for n in range(40))
HEADER = "text,label"
JSON_ROWS = tuple(json.dumps({"text": f"w{n} w{n + 1}", "label": ("bad", "good")[n % 2]}) for n in range(40))


def _parquet(bench: Bench) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["w1", "w2"] * 40, "label": ["a", "b"] * 40}), bench.given)
    bench.write(bench.given.read_bytes()[:-20])


def _changed(bench: Bench) -> None:
    """Somebody writes to the file once its bytes were looked through."""
    from loratory.data import files

    looked = files.looked_through

    def looked_then_changed(path: Path, **how: Any) -> Any:
        found = looked(path, **how)
        if path == bench.given:
            with path.open("a", encoding="utf8") as file:
                file.write(ROWS[0] + "\n")
        return found

    text(HEADER, *ROWS)(bench)
    bench.patch.setattr(files, "looked_through", looked_then_changed)


DATA = (
    Case("a file that is not there", ALL, 3, ("{given}", "no such file"), "none.csv"),
    Case("a directory in place of a file", ALL, 3, ("a directory",), "folder.csv", lambda b: b.given.mkdir()),
    Case("a pipe in place of a file", ALL, 3, ("not a regular file",), "p.csv", lambda b: os.mkfifo(b.given)),
    Case("a suffix that is no table's", ALL, 3, ("unknown format '.xlsx'",), "t.xlsx", text(HEADER, *ROWS)),
    Case("an empty file", ALL, 3, ("the file is empty",), "t.csv", content(b"")),
    Case("a header and nothing else", ALL, 3, ("only a header",), "t.csv", text(HEADER)),
    Case("no column of the text's name", ALL, 3, ("'text'", "'review'", "; set "), "t.csv",
         text("review,label", *ROWS)),
    Case("no column of the label's name", ANY, 3, ("'label'", "'stars'", "; set "), "t.csv",
         text("text,stars", *ROWS)),
    Case("a column that stands twice in the header", ALL, 3, ("'text' more than once",), "t.csv",
         text("text,text,label", "w1,w2,good")),
    Case("another separator", ALL, 3, ("looks separated by ';'",), "t.csv", text("text;label", "w1;good")),
    Case("a row with too few cells", ALL, 3, ("line 3 has 1 cell",), "t.csv", text(HEADER, ROWS[0], "w1")),
    Case("a row with too many cells", ALL, 3, ("line 3 has 3 cells", "put quotes"), "t.csv",
         text(HEADER, ROWS[0], "w1, w2,good")),
    Case("a quote that is never closed", ALL, 3, ("line 3", "never closed"), "t.csv",
         text(HEADER, ROWS[0], '"w1,good', ROWS[1])),
    Case("bytes that are no UTF-8", ALL, 3, ("not UTF-8 at byte 14", "line 2"), "t.csv",
         content(b"text,label\ncaf\xe9,good\n")),
    Case("UTF-16", ALL, 3, ("not UTF-8 at byte 0",), "t.csv", content("text,label\nw1,good\n".encode("utf-16"))),
    Case("a NUL character", ALL, 3, ("NUL character at byte 12", "line 2"), "t.csv",
         content(b"text,label\nw\0,good\n")),
    Case("an extension that lies: Parquet called .csv", ALL, 3, ("is a Parquet file", "t.parquet"), "t.csv",
         _parquet),
    Case("a workbook called .csv", ALL, 3, ("is a zip archive or a workbook",), "t.csv", content(b"PK\3\4\0\0")),
    Case("a file that was packed", ALL, 3, ("is packed with gzip",), "t.jsonl", content(b"\x1f\x8b\x08\0")),
    Case("an extension that lies: CSV called .parquet", ALL, 3, ("not a whole Parquet file",), "t.parquet",
         text(HEADER, *ROWS), r"\(.*\)"),
    Case("a Parquet file that was cut short", ALL, 3, ("not a whole Parquet file",), "t.parquet", _parquet, r"\(.*\)"),
    Case("a line that is no JSON", ALL, 3, ("line 2 is not JSON",), "t.jsonl", text(JSON_ROWS[0], '{"text": w1}'),
         r"\(.*\)"),
    Case("a JSON array in place of lines", ALL, 3, ("line 1 is not a JSON object",), "t.jsonl",
         text(f"[{', '.join(JSON_ROWS)}]")),
    Case("JSON that is nested very deep", ALL, 3, ("line 2 is not JSON",), "t.jsonl",
         text(JSON_ROWS[0], "[" * 200_000 + "]" * 200_000), r"\(.*\)"),
    Case("a JSON object without the text", ALL, 3, ("line 2", "'text'"), "t.jsonl",
         text(JSON_ROWS[0], '{"label": "good"}')),
    Case("a text that is no string", ANY, 3, ("not a string", "line 2"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": 5, "label": "good"}')),
    Case("a text to label that is no string", LABEL, 3, ("line 2", "no text"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": 5, "label": "good"}')),
    Case("a text that is missing", ANY, 3, ("without a text", "line 3"), "t.csv", text(HEADER, ROWS[0], " ,good")),
    Case("half of a surrogate pair", ANY, 3, ("half a surrogate pair", "line 2"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1 \\ud800", "label": "good"}')),
    Case("half of a surrogate pair to label", LABEL, 3, ("text 2 of 2", "half a surrogate pair"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1 \\ud800", "label": "good"}')),
    Case("a text of more than a million characters", ANY, 3, ("1,000,000 characters", "line 3"), "t.csv",
         text(HEADER, ROWS[0], "w1 " * 400_000 + ",good")),
    Case("a text to label of more than a million characters", LABEL, 3, ("1,000,000 characters", "text 2 of 2"),
         "t.csv", text(HEADER, ROWS[0], "w1 " * 400_000 + ",good")),
    Case("a label that is missing", ANY, 3, ("without a label", "line 3"), "t.csv", text(HEADER, ROWS[0], "w1,")),
    Case("a label that is NaN", ANY, 3, ("without a label", "line 2"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1", "label": NaN}')),
    Case("a label that is an object", (*LEARN, *STUDY), 3, ("no class name", "line 2"), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1", "label": {"a": 1}}')),
    Case("lists of labels among single ones", (*LEARN, *STUDY), 3, ("line 1",), "t.jsonl",
         text(JSON_ROWS[0], '{"text": "w1", "label": ["good"]}'), told=1),
    Case("numbers with fractions, and a text among them", (*LEARN, *STUDY), 3, ("no finite number", "line 41"),
         "t.jsonl", text(*(json.dumps({"text": f"w{n}", "label": n / 8}) for n in range(40)),
                         '{"text": "w1", "label": "good"}'), told=1),
    Case("text where --problem says regression", ("train --dataset {given} --problem regression",), 3,
         ("no finite number",), "t.csv", text(HEADER, *ROWS)),
    Case("one class", (*LEARN, *STUDY), 3, ("one class only", "'good'"), "t.csv",
         text(HEADER, *(row.replace("bad", "good") for row in ROWS))),
    Case("a class of one text", (*LEARN, *STUDY), 3, ("'rare'", "too few"), "t.csv", text(HEADER, *ROWS, "w9 w8,rare")),
    Case("more folds than the smallest class has texts", ("train --dataset {given} --folds 30 --fold 1",), 3,
         ("fold",), "t.csv", text(HEADER, *ROWS)),
    Case("a label that the model does not know", SCORE, 3, ("'odd'", "unknown to the model"), "t.csv",
         text(HEADER, *ROWS, "w1,odd")),
    Case("one file for training and test", ("train --dataset {given} --test {given}",), 3, ("{given}",), "t.csv",
         text(HEADER, *ROWS)),
    Case("pairs without the second column", ("train --dataset {given} --pair-column pair",), 3,
         ("'pair'", "--pair-column"), "t.csv", text(HEADER, *ROWS)),
    Case("a pair without its second text", ("train --dataset {given} --pair-column pair",), 3,
         ("without a second text", "line 3"), "t.csv", text("text,pair,label", "w1,w2,good", "w1,,bad")),
    Case("pairs for a model of single texts", ("predict --model-path {run} --input {given} --pair-column label",), 3,
         ("single texts",), "t.csv", text(HEADER, *ROWS)),
    Case("a file that changes while it is read", TRAIN, 3, ("changed while it was read",), "t.csv", _changed),
    Case("a data set of that name is not packaged", ("train --dataset hutto:movie", "data show hutto:movie",
                                                     "estimate --dataset hutto:movie"), 3, ("movies",)),
    Case("no text to label", ("predict --model-path {run}",), 3, ("no text",)),
)  # fmt: skip

LEARNING = ("train {}", "estimate {}")


def setting(what: str, words: str, *says: str, code: int = 2, also: tuple[str, ...] = ()) -> Case:
    """A setting that train and estimate refuse alike."""
    return Case(what, (*(one.format(words) for one in LEARNING), *also), code, says)


def study(key: str, value: str) -> str:
    """A study with one setting in place of its file's."""
    return f"study run {{file}} --output {{place}}/new --set {key}={value}"


SETTINGS = (
    setting("a method that there is not", "--method lroa", "did you mean 'lora'"),
    setting("a rank of 0", "--method lora --rank 0", "--rank '0'"),
    setting("a negative rank", "--method lora --rank -1", "--rank '-1'"),
    setting("a rank that is no whole number", "--method lora --rank 0.5", "--rank '0.5'"),
    setting("a rank larger than the layers", "--method lora --rank 33", "--rank 33", "32"),
    setting("layers that there are not", "--method lora --targets qurey", "did you mean 'query'"),
    setting("a setting that the method has not", "--method standard --rank 8", "--rank", "lora"),
    setting("a flag that there is not", "--lerning-rate 1", "did you mean '--learning-rate'"),
    setting("a flag with a letter left out", "--epoch 1", "did you mean '--epochs'"),
    setting("--set without a value", "--set training.lr", "a.b=c"),
    setting("--set of a key that there is not", "--set training.lrr=1", "did you mean 'lr'"),
    setting("no epoch", "--epochs 0", "--epochs '0'"),
    setting("a learning rate that is NaN", "--lr nan", "--lr 'nan'"),
    setting("a negative learning rate", "--lr -1", "--lr '-1'"),
    setting("a batch of nothing", "--batch-size 0", "--batch-size '0'"),
    setting("a problem that there is not", "--problem clustering", "--problem"),
    setting("longer texts than the model takes", "--max-length 65", "at most 64 tokens"),
    Case("a device that is not there", ("train --device cuda", "predict --model-path {run} --device cuda w1"), 6,
         ("no CUDA device",), make=lambda b: b.patch.setattr("torch.cuda.is_available", lambda: False)),
    Case("a tracker that there is not", ("train --tracker tensorbord",), 2, ("did you mean 'tensorboard'",)),
    Case("a split that there is not", ("evaluate --model-path {run} --split tset",), 2, ("train, validation or test",)),
    Case("a format that there is not", ("export --model-path {run} --format onyx --output {place}/new",), 2,
         ("did you mean 'onnx'?",)),
    Case("predictions in a format that there is not", ("predict --model-path {run} --output {place}/new.xls w1",), 2,
         (".csv, .jsonl or .parquet",)),
    Case("an adapter of a run that has none",
         ("export --model-path {run} --format adapter --output {place}/new",), 2, ("use merged",)),
    Case("--public without --push", ("export --model-path {run} --format merged --output {place}/new --public",), 2,
         ("give --push REPO_ID",)),
    Case("a file to upload", ("export --model-path {run} --output {place}/new --push me/mine",), 2,
         ("pth is a file", "--format merged")),
    Case("no id of a repository", ("export --model-path {run} --format merged --output {place}/new --push a/b/c",), 2,
         ("--push 'a/b/c'",), theirs=r"(?<='a/b/c': ).*"),
    Case("tensors called otherwise than .pth", ("export --model-path {run} --output {place}/model.json",), 2,
         ("must end in .pth",)),
    Case("one model twice", ("predict --model-path {run} --model-path {place}/./run w1",), 2, ("given twice",)),
    Case("a price that is none", ("compare {run} --price-per-hour -1", "estimate --price-per-hour -1",
                                  "report {study} --price-per-hour -1"), 2, ("--price-per-hour",)),
    Case("an amount of memory that is none", ("estimate --memory much",), 2, ("write it as 24GiB",)),
    Case("a command that there is not", ("tarin",), 2, ("'train'",)),
    Case("a command of data that there is not", ("data shwo",), 2, ("'show'",)),
    Case("a command of study that there is not", ("study rnu",), 2, ("'run'",)),
    Case("no --model-path", ("evaluate", "export --output {place}/new"), 2, ("--model-path",)),
    Case("a flag that compare has not", ("compare --basline {run}",), 2, ("did you mean '--baselines'",)),
    Case("a study without seeds", (study("seeds", "[]"),), 2, ("seeds",)),
    Case("a study of a method that there is not", (study("methods", "[lroa]"),), 2, ("did you mean 'lora'",)),
    Case("a study of a metric that there is not", (study("select", "acuracy"),), 2, ("select",)),
    Case("a study of a setting that there is not", (study("train.epoch", "1"),), 2, ("epoch",)),
    Case("a study's setting that is no value", (study("train.lr", ".nan"),), 2, ("lr",)),
    Case("a study's file that is no YAML", ("study run {given} --output {place}/new",), 2, ("{given}",), "s.yaml",
         text("name: [", "data"), r"(?<=: ).*"),
    Case("a study's file that is not there", ("study run {given} --output {place}/new",), 5, ("{given}",), "s.yaml"),
    Case("an executor that there is not", ("study run {file} --output {place}/new --executor slurm",), 2,
         ("slurm", "local")),
)  # fmt: skip


def _config(**changes: Any) -> Make:
    """A copy of the model whose config.json says otherwise."""

    def make(bench: Bench) -> None:
        path = bench.copied("model") / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf8")) | changes), encoding="utf8")

    return make


def _tensors(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Make:
    """A copy of the model with other tensors."""

    def make(bench: Bench) -> None:
        from safetensors.torch import load_file, save_file

        path = bench.copied("model") / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return make


def _other(tensors: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in tensors if name.endswith("query.weight"))
    return {**tensors, name: tensors[name][:-1].contiguous()}


def _vocabulary(bench: Bench) -> None:
    """A tokenizer with more tokens than the embeddings have rows."""
    path = bench.copied("model") / "tokenizer.json"
    document = json.loads(path.read_text("utf8"))
    words = document["model"]["vocab"]
    words |= {f"x{n}": len(words) + n for n in range(50)}
    path.write_text(json.dumps(document), encoding="utf8")


def _cut(name: str, by: int) -> Make:
    """A copy of the model or the run, its weights cut short."""

    def make(bench: Bench) -> None:
        path = bench.copied(name) / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-by])

    return make


def _without(name: str, file: str) -> Make:
    return lambda bench: (bench.copied(name) / file).unlink()


def _pickled(bench: Bench) -> None:
    folder = bench.copied("model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _linked(bench: Bench) -> None:
    folder = bench.copied("run")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(bench.place / "run" / "model.safetensors")


def _base(change: Callable[[Path], None]) -> Make:
    """A copy of a run of LoRA, whose base has changed since."""

    def make(bench: Bench) -> None:
        bench.given.symlink_to(bench.place / "lora")
        base = bench.place / "base"
        bench.held.callback(lambda: (shutil.rmtree(base, ignore_errors=True), shutil.copytree(bench.model, base)))
        change(base)

    return make


def _summary(bench: Bench) -> None:
    shutil.rmtree(bench.copied("study") / "runs")
    (bench.given / "summary.json").write_text("{")


def _no_tokenizer(bench: Bench) -> None:
    for path in bench.copied("model").glob("*token*"):
        path.unlink()


def _pth(document: Callable[[], Any], cut: int = 0) -> Make:
    def make(bench: Bench) -> None:
        import torch

        torch.save(document(), bench.given)
        if cut:
            bench.write(bench.given.read_bytes()[:-cut])

    return make


class Payload:
    """Pickled, it would make a directory when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


def _zeros(count: int) -> dict[str, Any]:
    import torch

    return {"weight": torch.zeros(count)}


def _dropped(tensors: dict[str, Any]) -> dict[str, Any]:
    gone = next(name for name in tensors if name.endswith("query.weight"))
    return {name: tensor for name, tensor in tensors.items() if name != gone}


MODELS = (
    Case("a model that there is not", ("train --model minilmm", "estimate --model minilmm",
                                       "data show {place}/good.csv --model minilmm"), 4, ("did you mean 'minilm'",)),
    Case("a model's directory that is not there", BASE, 4, ("is not a directory",)),
    Case("no weights", MODEL, 4, ("no weights",), make=_without("model", "model.safetensors")),
    Case("no config.json", BASE, 4, ("no config.json",), make=_without("model", "config.json")),
    Case("no tokenizer", BASE, 4, ("no tokenizer",), make=_no_tokenizer),
    Case("weights cut short", MODEL, 4, ("damaged or truncated",), make=_cut("model", 100),
         theirs=r"(?<=truncated: ).*?(?=;|$)"),
    Case("weights as a pickle", MODEL, 8, ("pytorch_model.bin", "could run code"), make=_pickled),
    Case("an architecture that is not known", BASE, 4, ("'t5' is not supported",),
         make=lambda b: (b.copied("model") / "config.json").write_text('{"model_type": "t5"}') and None),
    Case("another architecture than the weights'", MODEL, 4, ("{given}",), make=_config(model_type="distilbert")),
    Case("a tensor that is missing", MODEL, 4, ("lacks 1 weight", "query.weight"), make=_tensors(_dropped)),
    Case("a tensor of another shape", MODEL, 4, ("shape of", "query.weight"), make=_tensors(_other)),
    Case("more tokens than embeddings", MODEL, 4, ("token",), make=_vocabulary),
    Case("a trained model that is not there", RUN, 5, ("does not exist",)),
    Case("a .pth file that is not there", RUN, 5, ("loratory export --model-path RUN",), "none.pth"),
    Case("a file in place of a run", (*RUN, "compare {given}"), 5, ("not a directory",), make=text("mine")),
    Case("a directory without a run", RUNS, 5, ("no committed run",), make=lambda b: b.given.mkdir()),
    Case("a run whose record was changed", RUNS, 5, ("run.json", "remove it and train again"),
         make=lambda b: (b.copied("run") / "run.json").write_text("{}") and None),
    Case("a run whose weights were cut short", RUNS, 5, ("model.safetensors", "train again"), make=_cut("run", 10)),
    Case("a run whose weights are a link out of it", RUNS, 5, ("model.safetensors", "train again"), make=_linked),
    Case("an adapter whose base is gone", RUN, 4, ("{place}/base",), make=_base(shutil.rmtree)),
    Case("an adapter whose base is another", RUN, 4, ("{place}/base", "than it was trained on"),
         make=_base(lambda base: (base / "config.json").write_text(
             (base / "config.json").read_text("utf8") + " ", encoding="utf8") and None)),
    Case("a .pth file that would run code", RUN, 8, ("refused",), "p.pth", _pth(Payload)),
    Case("a .pth file with more than tensors", RUN, 8, ("'note'", "refused"), "p.pth",
         _pth(lambda: {**_zeros(2), "note": "hello"})),
    Case("a .pth file cut short", RUN, 4, ("damaged or truncated",), "p.pth", _pth(lambda: _zeros(2000), 3000)),
    Case("a study's directory that is not there", DIRECTORY, 5, ("{given}",)),
    Case("a study whose plan is no JSON", DIRECTORY, 5, ("plan.json",), make=lambda b: (
        b.copied("study") / "plan.json").write_text("{") and None, theirs=r"\(.*\)"),
    Case("a study whose summary is no JSON", ("report {given}",), 5, ("summary.json",), make=_summary,
         theirs=r"\(.*\)"),
)  # fmt: skip


def _locked(name: str) -> Make:
    """Another process works there: its lock is held."""
    return lambda bench: bench.held.enter_context(FileLock(bench.place / name)) and None


WRITE = ("train --output {place}/new", "export --model-path {run} --format merged --output {place}/new",
         "predict --model-path {run} --output {place}/new.csv w1", "study run {file} --output {place}/new")  # fmt: skip

PLACES = (
    Case("an output that holds another run", ("train --output {run} --seed 5",), 5, ("already holds another run",),
         theirs=r"\(.*\)"),
    Case("an output that is a file", ("train --output {place}/file",), 5, ("is a file",)),
    Case("an output that holds something else", ("train --output {place}/full",), 5, ("holds no run",)),
    Case("an output below a file", ("train --output {place}/file/below",), 5, ("choose another --output",)),
    Case("an export's output that is a file", (
        "export --model-path {run} --output {place}/file",
        "export --model-path {run} --format merged --output {place}/file"), 5, ("file exists already",)),
    Case("an export's output that holds something",
         ("export --model-path {run} --format merged --output {place}/full",), 5, ("is not empty",)),
    Case("an export's card that is there", ("export --model-path {run} --output {place}/nan.pth",), 5,
         ("nan.json", "exists already")),
    Case("an export's output below a file", (
        "export --model-path {run} --output {place}/file/below.pth",
        "export --model-path {run} --format merged --output {place}/file/below"), 5, ("cannot write",)),
    Case("predictions where a file is", ("predict --model-path {run} --output {place}/file w1",), 5,
         ("exists already",)),
    Case("a study's output that is a file", ("study run {file} --output {place}/file",), 5, ("{place}/file",)),
    Case("another process in the run's place", ("train --output {place}/new",), 5, ("another process",),
         make=_locked(".new.lock")),
    Case("another process in the export's place", ("export --model-path {run} --format merged --output {place}/new",),
         5, ("another process",), make=_locked(".new.lock")),
    Case("another process in the study's place", ("study run {given}/study.yaml --output {given}",), 5,
         ("running it",), make=lambda b: b.held.enter_context(FileLock(b.copied("study") / ".study.lock")) and None),
    Case("a disk that is full", WRITE, 5, (os.strerror(errno.ENOSPC),), make=lambda b: b.refuse(errno.ENOSPC)),
    Case("a place that may only be read", WRITE, 5, (os.strerror(errno.EROFS),),
         make=lambda b: b.refuse(errno.EROFS)),
)  # fmt: skip

TABLE = {"Data": DATA, "Settings": SETTINGS, "Models, runs and studies": MODELS, "Places": PLACES}
CASES = [case for cases in TABLE.values() for case in cases]
