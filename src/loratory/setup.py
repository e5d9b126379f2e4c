"""All that stands before a run's first step: data, model, method, tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, get_args

import torch

from loratory import units
from loratory.data import Dataset, Labelled
from loratory.data.rows import PARTS
from loratory.engine.hardware import Hardware
from loratory.errors import OutOfMemoryError, SettingsError
from loratory.evaluation.metrics import LEADING, metrics_of
from loratory.host_memory import available_memory, training_memory
from loratory.inputs import Inputs
from loratory.methods import TrainableModel, method_named
from loratory.methods import prepare as prepare_method
from loratory.methods.quantized import check_frozen, check_quantized
from loratory.models.families import family_of
from loratory.models.flat import Classifier
from loratory.models.load import Base, drawn, load_base, skeleton
from loratory.models.quantized import Quantization
from loratory.problems import IN_WORDS, SINGLE, Problem
from loratory.program import code_version
from loratory.spec import HardwareSpec, RunSpec, Select, TrainingSpec
from loratory.store.record import Place


@dataclass(frozen=True)
class Identity:
    """What makes a run this run and no other."""

    spec: RunSpec
    """With learning rate, device and precision resolved."""
    hardware: Hardware
    fingerprint: str
    kin: str
    """The same in runs that differ in their number of CPU threads alone."""
    quantization: Quantization | None = None


@dataclass(frozen=True)
class Setup:
    """All that stands before the first step."""

    spec: RunSpec
    """With learning rate, device and precision resolved."""
    dataset: Dataset
    base: Base
    trainable: TrainableModel
    tokens: dict[str, Labelled]
    """The parts that the run may see: a tuning run sees no test split."""
    hardware: Hardware
    fingerprint: str
    kin: str
    """As :attr:`Identity.kin`."""
    load_seconds: float
    """Of reading the model's files, adapting the model, and bringing it to the device."""
    place: Place | None = None
    """Its place in a study."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in id order."""
        return tuple(str(label) for label in self.dataset.labels)

    @property
    def classifier(self) -> Classifier:
        """The model as the engine calls it."""
        return Classifier(self.base.model, self.base.family, self.base.pad_id)

    @property
    def scored(self) -> tuple[str, ...]:
        """The parts on which the trained model is scored."""
        return tuple(part for part in self.tokens if part != "train")


def identify(spec: RunSpec, hardware: Hardware, inputs: Inputs, place: Place | None = None) -> Identity:
    """Resolve what a run's defaults left open, and compute its fingerprint; no weights are loaded.

    Raises:
        SettingsError: the model takes no texts of that length, or is not computed in that precision; or its base cannot
            be quantised for that method.
        ResourceError: what quantises is not there.
        LoratoryError: the data or the model cannot be read.
    """
    dataset, model = inputs.dataset(spec.data), inputs.model(spec.model)
    check_problem(spec.training, dataset.problem)
    config = model.plain
    family = family_of(config)
    check_quantized(spec.training.quantize, spec.method, family)
    hardware = hardware.suited(family, spec.hardware)
    quantization = quantized(spec, hardware)
    longest = family.longest(config)
    if spec.data.max_length > longest:
        raise SettingsError(f"--max-length {spec.data.max_length}: {spec.model} takes at most {longest} tokens")
    spec = resolve(spec, int(config.hidden_size), hardware, dataset.problem)
    context = dict(
        data={part: dataset.split(part).digest for part in PARTS},
        model=model.digest,
        version=code_version(),
        environment=hardware.identity(),
        **({"stage": place.stage} if place is not None else {}),
        **({"bitsandbytes": version("bitsandbytes")} if quantization is not None else {}),
    )
    unthreaded = spec.model_copy(update={"hardware": spec.hardware.model_copy(update={"threads": None})})
    return Identity(spec, hardware, spec.fingerprint(**context), unthreaded.fingerprint(**context), quantization)


def check_problem(training: TrainingSpec, problem: Problem) -> None:
    """Refuse settings that mean nothing for such labels.

    Raises:
        SettingsError: names the flag.
    """
    if training.select is not None:
        check_select(training.select, problem, "--select")
    if problem == SINGLE:
        return
    for flag, given in (
        ("class-weights", training.class_weights != "none"),
        ("label-smoothing", training.label_smoothing),
    ):
        if given:
            raise SettingsError(f"--{flag}: it is for single-label classification; this is {IN_WORDS[problem]}")


def check_select(select: str, problem: Problem, where: str) -> None:
    """Refuse a metric of another problem.

    Raises:
        SettingsError: says which the problem has.
    """
    known = [name for name in metrics_of(problem) if name in get_args(Select)]
    if select not in known:
        raise SettingsError(f"{where} {select}: no metric of {IN_WORDS[problem]}; give one of: {', '.join(known)}")


def quantized(spec: RunSpec, hardware: Hardware | None = None) -> Quantization | None:
    """How the base of such a run is held, where not in fp32.

    Args:
        hardware: where; by default on whatever is there, in the spec's precision.

    Raises:
        SettingsError: everything must be deterministic.
        ResourceError: there is no CUDA device, or no bitsandbytes.
    """
    if spec.training.quantize == "off":
        return None
    hardware = hardware or Hardware.of(HardwareSpec(precision=spec.hardware.precision))
    if hardware.deterministic:
        asked = f"--quantize {spec.training.quantize}"
        raise SettingsError(f"--deterministic: nothing says that bitsandbytes' kernels are; leave out {asked}")
    return Quantization.of(spec.training.quantize, device=hardware.device, precision=hardware.precision)


def prepare(
    spec: RunSpec,
    hardware: Hardware,
    inputs: Inputs | None = None,
    place: Place | None = None,
    *,
    weights: bool = True,
    beside: Setup | None = None,
) -> Setup:
    """Read the data, load the model, let the method make it ready, tokenise, and move it to the device.

    Args:
        weights: False draws them at random.
        beside: one of the same model, whose frozen weights serve this one too.

    Raises:
        OutOfMemoryError: the weights, or on a CPU what training takes beside them, are more than what is free.
        LoratoryError: data or model cannot be read, or the settings do not fit them.
    """
    with hardware.woken():
        return _prepare(spec, hardware, inputs if inputs is not None else Inputs(), place, weights, beside)


def _prepare(
    spec: RunSpec, hardware: Hardware, inputs: Inputs, place: Place | None, weights: bool, beside: Setup | None
) -> Setup:
    dataset = inputs.dataset(spec.data)
    begin = time.perf_counter()
    model = inputs.model(spec.model)
    identity = identify(spec, hardware, inputs, place)
    spec, hardware = identity.spec, identity.hardware
    labels = tuple(str(label) for label in dataset.labels)
    if identity.quantization is not None:  # weights in fewer bits cannot even be asked to learn
        check_frozen(spec, prepare_method(skeleton(model, labels, dataset.problem), spec))
    given: dict[str, Any] = {
        "seed": spec.seed,
        "dropout": spec.training.dropout,
        "attention_dropout": spec.training.attention_dropout,
        "quantization": identity.quantization,
    }
    if weights:
        fits = beside is not None and (beside.base.digest, beside.dataset.labels) == (model.digest, dataset.labels)
        base = load_base(spec.model, labels=labels, problem=dataset.problem, found=model, fits=fits, **given)
    else:
        base = drawn(model, labels, dataset.problem, **given)
    trainable = prepare_method(base, spec)
    if hardware.precision == "bf16":
        trainable.hold_frozen(torch.bfloat16)
    if weights and hardware.device.type == "cpu":
        _check_room(spec, trainable)
    if beside is not None:
        _share_frozen(base, beside.base)
    base.to(hardware.device)
    hardware.synchronize()
    load_seconds = time.perf_counter() - begin
    parts = [part for part in (PARTS if place is None else place.sees) if len(dataset.split(part))]
    tokens = {part: inputs.tokens(spec.data, part, model) for part in parts}
    return Setup(
        spec, dataset, base, trainable, tokens, hardware, identity.fingerprint, identity.kin, load_seconds, place
    )


def _check_room(spec: RunSpec, trainable: TrainableModel) -> None:
    """Refuse to train on the CPU, once the weights are there, what the system would kill the process for.

    Raises:
        OutOfMemoryError: gradients and AdamW's moments are more than what is free.
    """
    parameters = trainable.counts()
    needed, free = training_memory(parameters, mapped=True), available_memory()
    if needed > free:
        raise OutOfMemoryError(
            f"model {spec.model!r}: to train {parameters['trainable']:,} parameters with --method {spec.method.name} "
            f"takes {units.memory(needed)} beside the weights, and {units.memory(free)} are free; give a smaller "
            "--model, a --method that trains less, or free memory"
        )


_BASE = ".base_layer."
"""In the names of weights beside which PEFT put others."""


def _share_frozen(base: Base, other: Base) -> None:
    """Let `base` have the frozen weights of `other`, where both have them.

    Raises:
        ValueError: they are not of the same model: a mistake of the caller.
    """
    if base.digest != other.digest:
        raise ValueError(f"{base.source} has other weights than {other.source}")
    theirs = {name.replace(_BASE, "."): parameter for name, parameter in other.model.named_parameters()}
    for name, parameter in base.model.named_parameters():
        there = theirs.get(name.replace(_BASE, "."))
        if there is not None and not parameter.requires_grad and not there.requires_grad:
            parameter.data = there.data


def resolve(spec: RunSpec, hidden_size: int, hardware: Hardware, problem: Problem = SINGLE) -> RunSpec:
    """The spec with everything that defaults left open filled in, as the record states it."""
    lr = spec.training.lr
    if lr is None:
        lr = method_named(spec.method.name).default_lr(hidden_size)
    return spec.model_copy(
        update={
            "training": spec.training.model_copy(
                update={"lr": lr, "select": spec.training.select or LEADING[problem][0]}
            ),
            "hardware": spec.hardware.model_copy(
                update={
                    "device": hardware.device.type,
                    "precision": hardware.precision,
                    "threads": torch.get_num_threads(),
                }
            ),
        }
    )
