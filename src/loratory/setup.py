"""All that stands before a run's first step: data, model, method, tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from loratory import __version__
from loratory.data import Dataset, Labelled, Split, data_directory, make_dataset, tokenize
from loratory.engine.hardware import Hardware
from loratory.errors import SettingsError
from loratory.methods import TrainableModel, method_named
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base
from loratory.spec import RunSpec


@dataclass(frozen=True)
class Setup:
    """All that stands before the first step."""

    spec: RunSpec
    """With learning rate, device and precision resolved."""
    dataset: Dataset
    base: Base
    trainable: TrainableModel
    tokens: dict[str, Labelled]
    hardware: Hardware
    fingerprint: str
    load_seconds: float
    """Of reading the model's files, adapting the model, and bringing it to the device."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in id order."""
        return tuple(str(label) for label in self.dataset.labels)

    @property
    def classifier(self) -> Classifier:
        """The model as the engine calls it."""
        return Classifier(self.base.model, self.base.family, self.base.pad_id)


def prepare(spec: RunSpec, hardware: Hardware) -> Setup:
    """Read the data, load the model, let the method make it ready, tokenise, and move it to the device."""
    with hardware.woken():
        return _prepare(spec, hardware)


def _prepare(spec: RunSpec, hardware: Hardware) -> Setup:
    dataset = make_dataset(spec.data)
    begin = time.perf_counter()
    base = load_base(
        spec.model,
        labels=tuple(str(label) for label in dataset.labels),
        seed=spec.seed,
        dropout=spec.training.dropout,
        attention_dropout=spec.training.attention_dropout,
    )
    hardware = hardware.suited(base.family, spec.hardware)
    longest = base.family.longest(base.config)
    if spec.data.max_length > longest:
        raise SettingsError(f"--max-length {spec.data.max_length}: {spec.model} takes at most {longest} tokens")
    spec = resolve(spec, base, hardware)
    trainable = method_named(spec.method.name).prepare(base, spec.method, seed=spec.seed)
    if hardware.precision == "bf16":
        trainable.hold_frozen(torch.bfloat16)
    base.model.to(hardware.device)
    hardware.synchronize()
    load_seconds = time.perf_counter() - begin
    tokens = {
        part: tokenized(getattr(dataset, part), base, spec.data.max_length) for part in ("train", "validation", "test")
    }
    environment = hardware.record()
    fingerprint = spec.fingerprint(
        data={part: getattr(dataset, part).digest for part in tokens},
        model=base.digest,
        version=__version__,
        environment={key: environment[key] for key in ("device", "cpu_capability", "processes", "versions")},
    )
    return Setup(spec, dataset, base, trainable, tokens, hardware, fingerprint, load_seconds)


def resolve(spec: RunSpec, base: Base, hardware: Hardware) -> RunSpec:
    """The spec with everything that defaults left open filled in, as the record states it."""
    lr = spec.training.lr
    if lr is None:
        lr = method_named(spec.method.name).default_lr(int(base.config.hidden_size))
    return spec.model_copy(
        update={
            "training": spec.training.model_copy(update={"lr": lr}),
            "hardware": spec.hardware.model_copy(
                update={
                    "device": hardware.device.type,
                    "precision": hardware.precision,
                    "threads": torch.get_num_threads(),
                }
            ),
        }
    )


def tokenized(split: Split, base: Base, max_length: int) -> Labelled:
    """The split as token sequences, from the cache where it holds them."""
    return Labelled(tokenize(split, base.tokenizer, max_length, data_directory() / "tokens"), split.labels)
