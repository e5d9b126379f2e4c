"""ONNX: the merged model as a graph for ONNX Runtime, with dynamic batch and length axes.

    input_ids, attention_mask, token_type_ids where the model has them: int64 (batch, length)
    logits: float32 (batch, classes)

Labels are in `config.json` as transformers writes it, and the tokenizer stands beside it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loratory.data.batches import padded
from loratory.errors import ModelError, ResourceError, first_line
from loratory.exporting.checked import Examples
from loratory.exporting.source import Source
from loratory.models.load import Base
from loratory.models.source import quiet, takes_types

try:
    import onnx  # noqa: F401  # what torch's exporter needs
    import onnxruntime
    import onnxscript  # noqa: F401  # likewise
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, NotImplemented, RuntimeException
except ImportError as error:
    raise ResourceError(f'--format onnx needs the package {error.name}; run: pip install "loratory[onnx]"') from None

GRAPH = "model.onnx"
ONE_FILE = 1 << 30
"""Bytes of weights above which they stand in a file of their own: the graph's format ends at 2 GiB."""
TOKENS = 1024
"""Of a batch on which the graph is compared: few, so that batches of many lengths are."""


def write_onnx(source: Source, examples: Examples, stage: Path) -> Tensor:
    """The graph, its configuration and the tokenizer.

    Returns:
        ONNX Runtime's logits (N, C).

    Raises:
        ModelError: torch cannot export the model, or ONNX Runtime cannot run the graph.
    """
    base = source.load(merge=True, flat_tokens=False)
    names = input_names(base)
    _convert(base, names, stage / GRAPH)
    base.config.architectures = [type(base.model).__name__]
    with quiet():
        base.config.save_pretrained(stage)
        base.tokenizer.save_pretrained(stage)
    pad_id, classes = base.pad_id, len(source.labels)
    del base
    return _logits(stage / GRAPH, names, examples, pad_id, classes)


def input_names(base: Base) -> list[str]:
    """The graph's inputs: token types only where the model has several and the tokenizer gives them."""
    return ["input_ids", "attention_mask", *(["token_type_ids"] if takes_types(base.config, base.tokenizer) else [])]


def _convert(base: Base, names: list[str], path: Path) -> None:
    # sizes of 1 would be taken for constants; a tensor given twice, for one input
    given = {name: torch.full((2, 5), int(name != "token_type_ids"), dtype=torch.int64) for name in names}
    try:
        with _hushed():
            program: Any = torch.onnx.export(
                base.model,
                kwargs=given,
                input_names=names,
                output_names=["logits"],
                dynamic_shapes={name: {0: "batch", 1: "length"} for name in names},
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(f"{base.family.name} cannot be exported as ONNX: {first_line(error)}") from error
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # traces with paths of this machine
    size = sum(parameter.numel() * parameter.element_size() for parameter in base.model.parameters())
    program.save(path, external_data=size > ONE_FILE)


def _logits(path: Path, names: list[str], examples: Examples, pad_id: int, classes: int) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    logits = torch.zeros(len(examples.data.labels), classes)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for chosen, batch in examples.data.by_length(tokens=TOKENS):
            tensors = padded(batch, pad_id)
            given = {"token_type_ids": torch.zeros_like(tensors["input_ids"]), **tensors}
            (rows,) = session.run(["logits"], {name: given[name].numpy() for name in names})
            logits[torch.from_numpy(chosen)] = torch.from_numpy(rows)
    except (Fail, InvalidGraph, NotImplemented, RuntimeException) as error:
        raise ModelError(f"ONNX Runtime cannot run what torch exported: {first_line(error)}") from error
    return logits


@contextmanager
def _hushed() -> Iterator[None]:
    """Silence torch's notes on axes that share a name, and on packages that an encoder of text does not need."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
