"""Models, runs and studies that are damaged, strange or gone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad.case import BASE, DIRECTORY, MODEL, RUN, RUNS, Bench, Case, Make
from bad.data import text


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
