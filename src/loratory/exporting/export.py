"""One export, from a run to a directory that stock libraries open, or to a `.pth` file.

run ─▶ its logits on examples ─▶ stage: weights, labels, tokenizer ─▶ its logits, compared ─▶ card ─▶ rename
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from loratory.disk.files import disk_errors
from loratory.errors import ModelError, SettingsError, StorageError, first_line, nearest
from loratory.exporting import FORMATS
from loratory.exporting.card import CARD, model_card
from loratory.exporting.checked import Examples, examples_of, logits_of
from loratory.exporting.push import Upload, push, ready
from loratory.exporting.source import Source
from loratory.models.load import Base, load_base, load_state, load_trained
from loratory.models.pth import Card, read_pth, save_pth
from loratory.models.source import quiet
from loratory.saving import APART, apart
from loratory.setup import quantized
from loratory.store.directory import claim, publish, publish_files, staging

log = logging.getLogger("loratory")

PTH, CARD_OF_PTH = "model.pth", "model.json"
"""A `.pth` file and what it needs beside it, as they are called in a stage."""

Writer = Callable[[Source, Examples, Path], Tensor]
"""Writes into a stage all but the card; gives the logits (N, C) of what it wrote, opened anew."""


def export(path: Path, output: Path, kind: str, *, upload: Upload | None = None) -> str | None:
    """Write the model of the run in `path` to `output`, in the format `kind`.

    Args:
        output: a directory that is not there yet or is empty; for `pth` a file.
        upload: where on the hub the directory goes then.

    Returns:
        The address of what was uploaded.

    Raises:
        SettingsError: no such format; or the run has no adapter, or a `pth` is to be uploaded or is called otherwise.
        StorageError: the run has no weights, the output is there already or cannot be written, or the hub refuses.
        ModelError: the weights are damaged, cannot be exported so, or would give other logits. Nothing is written.
        ResourceError: the format needs a package that is not there.
    """
    if kind not in FORMATS:
        raise SettingsError(f"--format {kind!r}; {nearest(kind, FORMATS)}")
    if kind == "pth" and upload is not None:
        raise SettingsError("--push: a directory is uploaded, and pth is a file; give --format merged")
    write = _writer(kind)
    if upload is not None:
        ready(upload)
    _check_output(output, kind)
    source = Source.of(path, local_names=upload is None)
    if kind == "adapter" and not source.adapted:
        raise SettingsError(f"--format adapter: {path} is a run of {source.method} and has no adapter; use merged")
    if kind != "adapter" and source.quantize != "off":
        raise SettingsError(
            f"--format {kind}: the base of {path} is held in {source.quantize}, and no adapter is folded into that; "
            "use adapter"
        )
    with claim(output, doing="exporting to"), staging(output) as stage:
        base = source.load()
        examples = examples_of(source.spec, source.digests, base)
        expected = logits_of(base, examples.data)
        del base  # there need not be room for two models
        with disk_errors(stage):
            written = write(source, examples, stage)
        difference = apart(expected, written)
        if not difference <= APART:
            raise ModelError(
                f"{path}: as {kind} it gives other logits (difference {difference:.2g}); nothing was written"
            )
        if kind == "pth":
            if (card := output.with_suffix(".json")).exists() and _is_left_over(output):
                card.unlink()
            publish_files(stage, {CARD_OF_PTH: output.with_suffix(".json"), PTH: output})
        else:
            (stage / CARD).write_text(model_card(source, kind, examples, difference), encoding="utf8")
            publish(stage, output, last=CARD)
    return push(output, upload) if upload is not None else None


def _check_output(output: Path, kind: str) -> None:
    """Refuse a place where something stands already, and a `.pth` file that would not be known as one."""
    if kind == "pth":
        targets = (output,) if _is_left_over(output) else (output, output.with_suffix(".json"))
        there = next((target for target in targets if target.exists()), None)
        if there is not None:
            raise StorageError(f"{there} exists already; choose another --output")
        if output.suffix != ".pth":
            raise SettingsError(f"--output {output}: the name of a file of tensors must end in .pth")
    elif output.is_file() or (output.is_dir() and any(output.iterdir())):
        what = "is not empty" if output.is_dir() else "exists already"
        raise StorageError(f"{output} {what}; choose another --output")


def _is_left_over(output: Path) -> bool:
    """Whether the card of a `.pth` is there without it, as an export that was killed between the two leaves it."""
    try:
        return not output.exists() and Card.read(output.with_suffix(".json")) is not None
    except ModelError:
        return False


def _writer(kind: str) -> Writer:
    if kind == "onnx":
        from loratory.exporting.onnx import write_onnx

        return write_onnx
    return {"merged": _write_merged, "adapter": _write_adapter, "pth": _write_pth}[kind]


def _write_merged(source: Source, examples: Examples, stage: Path) -> Tensor:
    base = source.load(merge=True)
    model = base.model
    with quiet():
        model.save_pretrained(stage)  # type: ignore[operator]  # transformers' own
        base.tokenizer.save_pretrained(stage)
    del base, model
    return logits_of(_opened(source, stage), examples.data)


def _opened(source: Source, stage: Path) -> Base:
    return load_base(str(stage), labels=source.labels, problem=source.problem, seed=0, flat_tokens=False)


def _write_adapter(source: Source, examples: Examples, stage: Path) -> Tensor:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(source.path / name, stage / name)
    examples.tokenizer.save_pretrained(stage)
    held = quantized(source.spec)
    adapted = load_trained(
        stage, adapter=True, model=source.spec.model, labels=source.labels, problem=source.problem, quantization=held
    )
    logits = logits_of(adapted, examples.data)
    if not source.local_names:  # a path of this machine is of no use to others, and not theirs to know
        path = stage / "adapter_config.json"
        config = json.loads(path.read_text("utf8"))
        config["base_model_name_or_path"] = source.base_name
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")
    return logits


def _write_pth(source: Source, examples: Examples, stage: Path) -> Tensor:
    model = source.load(merge=True).model
    base, labels, path = source.spec.model, source.labels, stage / PTH
    try:
        save_pth(
            model,
            path,
            base=base,
            labels=labels,
            data=source.spec.data.model_dump(mode="json"),
            digests=source.digests,
            problem=source.problem,
            thresholds=source.record.thresholds,
        )
    except RuntimeError as error:  # torch.save reports some disk errors so
        raise OSError(None, first_line(error), str(path)) from error
    del model
    opened = load_state(read_pth(path), name=base, labels=labels, problem=source.problem, where=str(path))
    return logits_of(opened, examples.data)
