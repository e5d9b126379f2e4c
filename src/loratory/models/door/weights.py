"""Safetensors files: their headers, read and checked before anything is allocated, and whether they are the model's."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratory.errors import ModelError, SafetyError, counted, first_line
from loratory.models.door.files import check_link, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from loratory.models.families import Family

MAX_HEADER = 4 << 20
"""The largest header of a file, in bytes; those of 7B models have about 50,000."""
MAX_TENSORS = 50_000

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of one element, by the types that are let in."""

HEADS = {
    *("cls", "lm_head", "predictions", "sop_classifier", "discriminator_predictions", "generator_predictions"),
    *("generator_lm_head", "vocab_transform", "vocab_layer_norm", "vocab_projector", "lm_predictions"),
    *("mask_predictions", "qa_outputs", "classifier", "pre_classifier", "score", "pooler", "head", "decoder"),
    *("sequence_summary", "multiple_choice_head", "logits_proj", "dropout", "sim", "mlp"),
}
"""First names of what published files hold beside the encoder: heads of other tasks."""

BUFFERS = ("position_ids", "masked_bias", ".attn.bias", ".inv_freq", "._weight")
"""Last names of constants that older files hold, too."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors that a safetensors file says it holds, once its header is whole and agrees with its size.

    Raises:
        ModelError: it is missing, damaged or truncated, or of a type that is not let in.
        SafetyError: its header is out of proportion, or the file is a link that leaves its directory.
    """
    if not path.is_file():
        raise ModelError(f"weights {path} are missing")
    check_link(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ModelError(f"weights {path} are damaged or truncated: the header is longer than the file")
            if length > MAX_HEADER:
                raise SafetyError(f"weights {path}: a header of {length:,} bytes, above {MAX_HEADER:,}; refused")
            document = json.loads(file.read(length), object_pairs_hook=_once)
    except RecursionError:
        raise SafetyError(f"weights {path}: a header nested too deep; refused") from None
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(f"weights {path} are damaged or truncated: {first_line(error)}") from error
    if not isinstance(document, dict):
        raise ModelError(f"weights {path} are damaged or truncated: the header is no object")
    document.pop("__metadata__", None)
    if len(document) > MAX_TENSORS:
        raise SafetyError(f"weights {path}: {len(document):,} tensors, above the limit of {MAX_TENSORS:,}; refused")
    return _entries(path, document, size - 8 - length)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in the header twice")
    return found


def _entries(path: Path, document: dict[str, Any], size: int) -> dict[str, Entry]:
    """The header's entries; their bytes must cover the rest of the file once, without gap or overlap."""
    found: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in document.items():
        try:
            dtype, (begin, end) = entry["dtype"], entry["data_offsets"]
            numbers = [*entry["shape"], begin, end]
            if not all(type(number) is int and 0 <= number < 2**53 for number in numbers):
                raise ValueError(f"{shown(name)} has sizes that are none")
            shape = tuple(entry["shape"])
            if dtype not in SIZES:
                raise ModelError(f"weights {path}: {shown(name)} is of type {shown(dtype)}; give fp32, fp16 or bf16")
            if len(shape) > 8 or math.prod(shape) * SIZES[dtype] != end - begin:
                raise ValueError(f"{shown(name)} has a shape of other bytes than it has")
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"weights {path} are damaged or truncated: {first_line(error)}") from error
        found[name] = Entry(shape, dtype)
        spans.append((begin, end, name))
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            raise ModelError(
                f"weights {path} are damaged or truncated: {shown(name)} does not follow the tensor before"
            )
        reached = end
    if reached != size:
        raise ModelError(f"weights {path} are damaged or truncated: {size:,} bytes of data for {reached:,} of tensors")
    return found


def check_fits(name: str, entries: Mapping[str, Entry], model: nn.Module, family: Family) -> None:
    """Refuse weights that are not those of the architecture, before any is allocated: what their names do not cover
    (transformers may know them by other names) must have room in what of the file the architecture does not name.

    Args:
        model: the architecture on the meta device.

    Raises:
        ModelError: a shape differs from the configuration's, or more is missing than the files could hold.
    """
    prefix = f"{model.base_model_prefix}."
    wanted = {_plain(key, prefix): tensor for key, tensor in model.state_dict().items() if not in_head(key, family)}
    named = {_plain(key, prefix): entry for key, entry in entries.items()}
    for key, tensor in wanted.items():
        if key in named and named[key].shape != tuple(tensor.shape):
            raise ModelError(
                f"model {name!r}: the shape of {shown(key)} is not what its config.json says "
                f"({list(named[key].shape)} in the file, {list(tensor.shape)} there)"
            )
    missing = sorted(wanted.keys() - named.keys())
    spare = sum(entry.elements for key, entry in named.items() if key not in wanted)
    if sum(wanted[key].numel() for key in missing) > spare:
        raise lacking(name, family, missing)


def _plain(key: str, prefix: str) -> str:
    """A weight's name without what versions and heads change about it."""
    key = key.removeprefix(prefix)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):  # LayerNorm's, of old
        key = key.removesuffix(old) + new if key.endswith(old) else key
    return key


def lacking(name: str, family: Family, missing: list[str]) -> ModelError:
    """What is said of a model whose files lack weights."""
    several = f"{counted(len(missing), 'weight')}, first {missing[0]!r}"
    return ModelError(f"model {name!r} lacks {several}; is it a {family.name} model?")


def check_extra(name: str, unexpected: Iterable[str], model: nn.Module) -> None:
    """Refuse weights that the architecture has no place for, but for heads of other tasks.

    Raises:
        ModelError: names the first.
    """
    prefix = f"{model.base_model_prefix}."
    extra = [
        key
        for key in sorted(unexpected)
        if key.removeprefix(prefix).split(".", 1)[0] not in HEADS and not key.endswith(BUFFERS)
    ]
    if extra:
        several = f"{counted(len(extra), 'weight')} that its config.json has no place for, first {extra[0]!r}"
        raise ModelError(f"model {name!r} holds {several}; give the configuration it was saved with")


def in_head(key: str, family: Family) -> bool:
    """Whether a weight belongs to the classifier's head."""
    return any(key == part or key.startswith(part + ".") for part in family.head)


def check_finite(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that hold a NaN or an infinity. One pass: a sum is finite unless one of its numbers is not, or all
    of them overflow together, which is then looked at.

    Raises:
        ModelError: names the first tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.is_meta or bool(tensor.sum().isfinite()):
            continue
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{where}: {shown(name)} holds a NaN or an infinity; give weights that are numbers")
