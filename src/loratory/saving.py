"""What a run saves, and the check that it can be loaded back and is the model that was trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loratory.disk.files import disk_errors
from loratory.engine.predict import predict
from loratory.errors import OutOfMemoryError, TrainingError, first_line
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base, load_trained
from loratory.models.source import quiet
from loratory.outcome import general
from loratory.setup import Setup
from loratory.store.directory import place_of

CHECKED = 64
"""Examples on which a saved run is compared with the model in memory before it is committed."""


APART = 1e-3
"""The largest difference between logits that are the same but for rounding, as :func:`apart` measures it."""


def apart(one: Tensor, two: Tensor) -> float:
    """The largest difference between two logits, NaN where one is none. Where there is one output, whose numbers are of
    any size, a share of how far they lie apart, or of what fp32 tells apart at their size where that is more."""
    size = 1.0
    if one.shape[1] == 1:
        rounding = 8 * torch.finfo(torch.float32).eps * float(one.abs().max())
        size = max(float(one.max() - one.min()), rounding / APART) or 1.0
    return float((one - two).abs().max()) / size


def save(setup: Setup, stage: Path) -> int:
    """Write the trained weights and the tokenizer; an adapter in PEFT's format, or a whole model in transformers'.

    Returns:
        The bytes that the weights take on disk.

    Raises:
        OSError: the disk refuses.
    """
    with disk_errors(stage):
        return _save(setup, stage)


def _save(setup: Setup, stage: Path) -> int:
    from safetensors.torch import save_file

    trainable, base = setup.trainable, setup.base
    base.tokenizer.save_pretrained(stage)
    if trainable.adapter is not None:
        trainable.adapter.save_pretrained(stage)
        save_file(trainable.trained_tensors(), stage / "adapter_model.safetensors", metadata={"format": "pt"})
        return (stage / "adapter_model.safetensors").stat().st_size
    # onto a fresh base: frozen weights may be held in bf16, and the file must have them as they were
    spec = setup.spec
    whole: Any = load_base(
        spec.model,
        labels=setup.labels,
        problem=setup.dataset.problem,
        seed=spec.seed,
        dropout=spec.training.dropout,
        attention_dropout=spec.training.attention_dropout,
    ).model
    unknown = whole.load_state_dict(trainable.trained_tensors(), strict=False).unexpected_keys
    if unknown:
        raise TrainingError(f"trained weights that the model does not have, first {unknown[0]!r}; not kept")
    with quiet():
        whole.save_pretrained(stage)
    return sum(path.stat().st_size for path in stage.glob("*.safetensors"))


def bytes_of_weights(setup: Setup) -> int:
    """The bytes that :func:`save` would write in fp32, the file's header aside (about 100 bytes a tensor)."""
    trainable = setup.trainable
    if trainable.adapter is not None:
        return 4 * sum(tensor.numel() for tensor in trainable.trained_tensors().values())
    tensors: dict[int, int] = {
        tensor.data_ptr(): tensor.numel() for tensor in setup.base.model.state_dict().values()
    }  # tied ones once
    return 4 * sum(tensors.values())


def check_saved(setup: Setup, stage: Path) -> None:
    """Load the saved run back through stock libraries, and compare logits: with those of the model in memory, and,
    where batches ran flat, with those of transformers' own padded attention in fp32.

    The model in memory leaves the device meanwhile, so that there is never room needed for two. One whose base was
    changed is compared in fp32: products of other weights round otherwise. A quantised one stays where it is, and is
    compared with that in memory alone: inputs are rounded so coarsely that padded batches give other logits.

    Raises:
        TrainingError: they differ by more than :data:`APART`.
        OutOfMemoryError: memory does not suffice to load it beside the trained one.
    """
    data = setup.tokens["validation"].first(CHECKED)
    device, exact = setup.hardware.device, replace(setup.hardware, precision="fp32")
    hardware = setup.hardware if setup.trainable.converted is None else exact
    there = predict(setup.classifier, data, hardware=hardware)
    setup.base.to("cpu")
    loaded = _loaded_back(setup, stage)
    loaded.to(device)
    classifier = Classifier(loaded.model, loaded.family, loaded.pad_id)
    _check_same("the trained one", there, predict(classifier, data, hardware=hardware))
    if classifier.flat and loaded.quantization is None:
        flat = predict(classifier, data, hardware=exact)
        classifier.unflatten()
        _check_same("it gives in padded batches", predict(classifier, data, hardware=exact), flat)
    setup.base.to(device)


def _loaded_back(setup: Setup, stage: Path) -> Base:
    try:
        return load_trained(
            stage,
            adapter=setup.trainable.adapter is not None,
            model=setup.spec.model,
            labels=setup.labels,
            problem=setup.dataset.problem,
            quantization=setup.base.quantization,
        )
    except OutOfMemoryError as error:
        said, place = first_line(error.__cause__ or error), place_of(stage)
        raise OutOfMemoryError(
            f"{place}: memory ran out where the saved model was loaded back to be compared with the trained one "
            f"({said.replace(str(stage), str(place))}); free memory, or {general(setup.spec)}"
        ) from error


def _check_same(other: str, one: Tensor, two: Tensor) -> None:
    difference = apart(one, two)
    if not difference <= APART:
        raise TrainingError(f"the saved model gives other logits than {other} (difference {difference:.2g}); not kept")
