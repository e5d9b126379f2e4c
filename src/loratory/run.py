"""One run, from spec to committed directory. The page to read first.

train:  dataset ─▶ base ─▶ method.prepare ─▶ fit ─▶ score ─▶ save ─▶ load back and compare ─▶ commit
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sklearn.metrics  # noqa: F401  imported here so that importing it counts in no run's time
import torch
from torch import Tensor

from loratory import __version__
from loratory.data import Dataset, Labelled, Split, data_directory, make_dataset, tokenize
from loratory.engine.fit import FitResult, Progress, fit
from loratory.engine.hardware import Hardware, device_type
from loratory.engine.meter import Meter
from loratory.engine.predict import predict
from loratory.engine.processes import joined
from loratory.errors import (
    DivergedError,
    LoratoryError,
    OutOfMemoryError,
    SettingsError,
    StorageError,
    TrainingError,
    first_line,
)
from loratory.evaluation import predictions
from loratory.evaluation.metrics import METRICS, score
from loratory.evaluation.quality import Quality
from loratory.methods import TrainableModel, method_named
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base, load_trained, quiet
from loratory.spec import RunSpec
from loratory.store.directory import HISTORY, PREDICTIONS, RECORD, claim, commit, find_run, staging
from loratory.store.record import RunRecord, Status

log = logging.getLogger("loratory")

CHECKED = 64
"""Examples on which a saved run is compared with the model in memory before it is committed."""


@dataclass(frozen=True)
class Run:
    """A run's record and where it lies."""

    record: RunRecord
    directory: Path


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

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in id order."""
        return tuple(str(label) for label in self.dataset.labels)

    @property
    def classifier(self) -> Classifier:
        """The model as the engine calls it."""
        return Classifier(self.base.model, self.base.family, self.base.pad_id)


def train(
    spec: RunSpec, *, output: Path | None = None, on_step: Callable[[Progress], None] = lambda progress: None
) -> Run:
    """Train once and commit the run's directory.

    Args:
        output: the run's directory; `models/` and the run's id by default. If it holds this very run already,
            nothing is trained.

    Raises:
        LoratoryError: every kind; a run that fails while training leaves a record with its status. Whatever torch or
            another library raises while training comes as a TrainingError.
    """
    with joined(cuda=device_type(spec.hardware) == "cuda"):
        return _train(spec, output, on_step)


def _train(spec: RunSpec, output: Path | None, on_step: Callable[[Progress], None]) -> Run:
    """In every process that trains; the first one holds the directory, and writes."""
    hardware = Hardware.of(spec.hardware)
    processes, meter = hardware.processes, Meter(hardware)
    with _memory_errors(spec, hardware), meter.phase("setup"):
        setup = prepare(spec, hardware)
    name = run_id(setup.spec, setup.fingerprint)
    directory = output if output is not None else Path("models") / name
    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(claim(directory))
        found = processes.told(_existing(directory, setup.fingerprint) if processes.first else None)
        if found is not None:
            log.warning("%s holds this run already; nothing was trained", directory)
            return Run(found, directory)
        stage = stack.enter_context(staging(directory)) if processes.first else None
        with _failures_recorded(setup, meter, name, directory):
            meter.start_memory()
            with _memory_errors(setup.spec, hardware):
                result = optimize(setup, meter, on_step=on_step)
            meter.stop_memory()
            with _memory_errors(setup.spec, hardware), meter.phase("eval"):
                logits = {
                    part: predict(setup.classifier, setup.tokens[part], hardware=setup.hardware, processes=processes)
                    for part in ("validation", "test")
                }
            record = _written(setup, meter, name, stage, result, logits) if stage is not None else None
        if stage is not None:
            commit(stage, directory)
        record = processes.told(record)
    assert record is not None
    return Run(record, directory)


def _written(
    setup: Setup, meter: Meter, name: str, stage: Path, result: FitResult, logits: dict[str, Tensor]
) -> RunRecord:
    """Everything that a completed run leaves, in `stage`; its record."""
    with meter.phase("eval"):
        quality = {part: _score(setup, part, logits[part]) for part in logits}
    with _memory_errors(setup.spec, setup.hardware):
        meter.checkpoint_bytes = save(setup, stage)
        check_saved(setup, stage)
    kept = {
        part: (setup.tokens[part].labels, logits[part].numpy(), getattr(setup.dataset, part).rows) for part in logits
    }
    predictions.write(stage / PREDICTIONS, kept)
    _write_history(stage / HISTORY, result)
    scores = {part: quality[part].record() for part in quality}
    record = _record(setup, meter, name, "completed", quality=scores, engine=result.engine)
    (stage / RECORD).write_text(record.to_json(), encoding="utf8")
    return record


def prepare(spec: RunSpec, hardware: Hardware) -> Setup:
    """Read the data, load the model, let the method make it ready, tokenise, and move it to the device."""
    dataset = make_dataset(spec.data)
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
    return Setup(spec, dataset, base, trainable, tokens, hardware, fingerprint)


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


def save(setup: Setup, stage: Path) -> int:
    """Write the trained weights and the tokenizer; an adapter in PEFT's format, or a whole model in transformers'.

    Returns:
        The bytes that the weights take on disk.
    """
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


def check_saved(setup: Setup, stage: Path) -> None:
    """Load the saved run back through stock libraries, and compare logits: with those of the model in memory, and,
    where batches ran flat, with those of transformers' own padded attention in fp32.

    The model in memory leaves the device meanwhile, so that there is never room needed for two.

    Raises:
        TrainingError: they differ by more than 1e-3.
    """
    data = setup.tokens["validation"].first(CHECKED)
    device = setup.hardware.device
    there = predict(setup.classifier, data, hardware=setup.hardware)
    setup.base.model.to("cpu")
    loaded = load_trained(stage, model=setup.spec.model, labels=setup.labels)
    loaded.model.to(device)
    classifier = Classifier(loaded.model, loaded.family, loaded.pad_id)
    _check_same("the trained one", there, predict(classifier, data, hardware=setup.hardware))
    if classifier.flat:
        exact = replace(setup.hardware, precision="fp32")
        flat = predict(classifier, data, hardware=exact)
        classifier.unflatten()
        _check_same("it gives in padded batches", predict(classifier, data, hardware=exact), flat)
    setup.base.model.to(device)


def _check_same(other: str, one: Tensor, two: Tensor) -> None:
    difference = float((one - two).abs().max())
    if not difference <= 1e-3:
        raise TrainingError(f"the saved model gives other logits than {other} (difference {difference:.2g}); not kept")


def optimize(
    setup: Setup,
    meter: Meter,
    *,
    validated: bool = True,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> FitResult:
    """Train the set-up's model in place, as its spec says.

    Args:
        validated: whether validation is scored after each epoch; benchmarks of speed leave it out.
    """
    metric = METRICS[setup.spec.training.select]
    lr = setup.spec.training.lr
    assert lr is not None

    def scores(logits: Tensor) -> dict[str, float]:
        quality = _score(setup, "validation", logits)
        return {f"validation_{name}": value for name in METRICS if (value := quality.value(name)) is not None}

    def better(new: dict[str, float], old: dict[str, float]) -> bool:
        return metric.better(new[f"validation_{metric.name}"], old[f"validation_{metric.name}"])

    return fit(
        setup.classifier,
        setup.tokens["train"],
        setup.tokens["validation"] if validated else None,
        setup.spec.training,
        lr=lr,
        seed=setup.spec.seed,
        hardware=setup.hardware,
        meter=meter,
        score=scores,
        better=better,
        on_step=on_step,
    )


def run_id(spec: RunSpec, fingerprint: str) -> str:
    """A readable name for a run that differs wherever the fingerprint does: at most 64 of [a-z0-9_-]."""
    rank = getattr(spec.method, "rank", None)
    words = [Path(spec.data.dataset).stem.replace("hutto:", ""), Path(spec.model).name, spec.method.name]
    words += [f"r{rank}"] if rank is not None else []
    readable = re.sub(r"[^a-z0-9_-]+", "-", "-".join([*words, f"s{spec.seed}"]).lower()).strip("-_")
    return f"{readable[:51]}-{fingerprint[:12]}"


@contextmanager
def _memory_errors(spec: RunSpec, hardware: Hardware) -> Iterator[None]:
    """Turn what torch says when memory runs out into our own error."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(spec, hardware, error) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # what torch's CPU allocator says
            raise
        raise _out_of_memory(spec, hardware, error) from error


def _out_of_memory(spec: RunSpec, hardware: Hardware, error: Exception) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"out of memory on {hardware.device} at --batch-size {spec.training.batch_size}, --max-length "
        f"{spec.data.max_length}; try --accumulate {spec.training.accumulate * 2} or a smaller --max-length "
        f"({first_line(error)})"
    )


def _score(setup: Setup, part: str, logits: Tensor) -> Quality:
    if not torch.isfinite(logits).all():
        raise DivergedError(f"the model gives logits that are no finite numbers on {part}; use a smaller --lr")
    return score(setup.tokens[part].labels, logits.numpy(), None, setup.labels)


def _existing(directory: Path, fingerprint: str) -> RunRecord | None:
    found = find_run(directory)
    if found is not None and found.fingerprint != fingerprint:
        raise StorageError(f"{directory} already holds another run ({found.id}); choose another --output")
    return found if found is not None and found.status == "completed" else None


def _record(
    setup: Setup,
    meter: Meter,
    name: str,
    status: Status,
    *,
    quality: dict[str, Any],
    error: str | None = None,
    engine: dict[str, Any] | None = None,
) -> RunRecord:
    return RunRecord(
        id=name,
        fingerprint=setup.fingerprint,
        status=status,
        spec=setup.spec.model_dump(mode="json"),
        data=setup.dataset.record(),
        parameters=setup.trainable.counts(),
        cost=meter.record(),
        quality=quality,
        environment={
            **setup.hardware.record(),
            "flat": setup.classifier.flat,
            "engine": engine,
            "model_digest": setup.base.digest,
            "version": __version__,
        },
        error=error,
    )


@contextmanager
def _failures_recorded(setup: Setup, meter: Meter, name: str, directory: Path) -> Iterator[None]:
    """Leave a record of a run that does not complete, and let nothing out that is not one of our errors."""
    try:
        yield
    except (LoratoryError, OSError, KeyboardInterrupt) as error:  # staging knows which OSErrors are the disk's
        _commit_failure(setup, meter, name, directory, error)
        raise
    except Exception as error:
        ours = TrainingError(f"training stopped with {type(error).__name__}: {first_line(error)}; --debug shows where")
        _commit_failure(setup, meter, name, directory, ours)
        raise ours from error


def _commit_failure(setup: Setup, meter: Meter, name: str, directory: Path, error: BaseException) -> None:
    """Leave a record of a run that did not complete: failures count too. The first process does."""
    if not setup.hardware.processes.first:
        return
    status: Status = "failed"
    if isinstance(error, OutOfMemoryError):
        status = "out_of_memory"
    elif isinstance(error, DivergedError):
        status = "diverged"
    elif isinstance(error, KeyboardInterrupt):
        status = "interrupted"
    record = _record(setup, meter, name, status, quality={}, error=str(error) or status)
    try:
        with staging(directory) as stage:
            (stage / RECORD).write_text(record.to_json(), encoding="utf8")
            commit(stage, directory)
    except (StorageError, OSError) as full:  # the run's own error is the one to report
        log.warning("the failed run left no record: %s", full)


def _write_history(path: Path, result: FitResult) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in result.history), encoding="utf8")
