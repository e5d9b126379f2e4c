"""What a run is asked to do, as one frozen, validated value.

Flags, study files and records all end here. A field's description is its help text, so that it is written once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from loratory.errors import SettingsError, nearest


class Settings(BaseModel):
    """Base of every settings group: frozen, unknown keys refused, no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Select = Literal[
    "accuracy",
    "f1_macro",
    "f1_weighted",
    "mcc",
    "log_loss",
    "f1_micro",
    "subset_accuracy",
    "hamming_loss",
    "binary_log_loss",
    "pearson",
    "spearman",
    "mse",
    "rmse",
    "mae",
    "r2",
]
"""The metrics that may choose an epoch or a rate, those of each problem together."""


class DataSpec(Settings):
    """What is learned from, and how it is divided."""

    dataset: str = Field(
        "hutto:movies", description="hutto:{movies,tweets,amazon,nyt}, a file, or hub:NAME[/CONFIG][@REVISION]"
    )
    text_column: str = Field(
        "text",
        coerce_numbers_to_str=True,
        description="column that holds the text: its name or its number from 0; several by commas are joined",
    )
    pair_column: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="column that holds the second text, where two are judged together: its name or number",
    )
    label_column: str = Field(
        "label", coerce_numbers_to_str=True, description="column that holds the label: its name or its number from 0"
    )
    group_column: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="column that says what a text belongs to (a document, an author): a group is not divided",
    )
    validation: str | None = Field(None, description="file of validation examples (default: split off by us)")
    test: str | None = Field(None, description="file of test examples (default: split off by us)")
    train_split: str | None = Field(None, description="hub only: the split to train on (default: train)")
    validation_split: str | None = Field(
        None, description="hub only: the split for validation (default: validation, valid, val or dev, if there)"
    )
    test_split: str | None = Field(None, description="hub only: the split for the test (default: test, if there)")
    problem: Literal["single-label", "multi-label", "regression"] | None = Field(
        None,
        description="what a label is: one class, any of several, or a number (default: as the labels look)",
    )
    label_separator: str | None = Field(
        None, min_length=1, description="what stands between several labels in one cell of a table, such as ;"
    )
    task: Literal["polarity", "ternary", "rating"] = Field(
        "polarity", description="hutto only: sign of the rating, or with a neutral class, or the rating as a number"
    )
    neutral_band: float = Field(0.5, ge=0, lt=4, description="hutto ternary: ratings within ± this are neutral")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="share of the examples split off for validation")
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="share of the examples split off for the test; 0: there is no test split"
    )
    folds: int | None = Field(
        None, ge=2, description="divide into so many folds; fold says which is the test, in place of the test fraction"
    )
    fold: int | None = Field(None, ge=1, description="which of the folds is the test, from 1")
    split_seed: int = Field(0, ge=0, description="seed of the split, apart from the run's seed")
    limit: int | None = Field(
        None, ge=1, description="train on at most this many examples, stratified; validation and test stay whole"
    )
    max_length: int = Field(128, ge=4, description="tokens kept of each text, special tokens included")

    @property
    def splits(self) -> dict[str, str]:
        """The hub's split that is each part, where one is named."""
        named = {"train": self.train_split, "validation": self.validation_split, "test": self.test_split}
        return {part: split for part, split in named.items() if split is not None}

    def where(self, part: str) -> str:
        """The file of the validation or test examples where they have one, else the data set."""
        return {"validation": self.validation, "test": self.test}.get(part) or self.dataset

    @property
    def is_one_file(self) -> bool:
        """Whether the examples stand in one file that nobody has divided."""
        return not self.dataset.startswith(("hutto:", "hub:")) and self.validation is None and self.test is None


class TrainingSpec(Settings):
    """How it is trained: AdamW with linear warm-up and decay."""

    epochs: int = Field(3, ge=1, description="passes over the training data")
    until: int | None = Field(
        None,
        ge=1,
        description="train so many of the epochs alone; the schedule stays that of all (default: all)",
    )
    batch_size: int = Field(32, ge=1, description="examples an optimizer step sees, in each process")
    accumulate: int = Field(
        1, ge=1, description="parts a batch is computed in: less memory, the same sum; dropout draws differ"
    )
    lr: float | None = Field(None, gt=0, description="peak learning rate (default: the method's own)")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay, not on biases and norms")
    warmup: float = Field(0.06, ge=0, le=1, description="share of the steps with a rising rate")
    max_grad_norm: float = Field(1.0, ge=0, description="gradient clipping by global norm; 0 switches it off")
    dropout: float | None = Field(None, ge=0, lt=1, description="hidden dropout (default: the model's own)")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on attention weights")
    keep: Literal["last", "best"] = Field(
        "last", description="weights kept: after the last epoch, or best on validation"
    )
    select: Select | None = Field(
        None,
        description="validation metric that says which epoch is best (default: accuracy; f1_micro of multi-label, "
        "pearson of a regression)",
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better one on validation (default: never)"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: an example's loss counts inversely to how often its class is trained on"
    )
    quantize: Literal["off", "8bit", "4bit"] = Field(
        "off", description="hold a decoder's frozen linear layers in 8 or 4 bits under LoRA (QLoRA); CUDA only"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of each label's probability that is spread over all classes"
    )

    @field_validator("until")
    @classmethod
    def _within(cls, until: int | None, info: ValidationInfo) -> int | None:
        """No more epochs than there are; all of them are said in one way alone, so that a run has one name."""
        epochs = info.data.get("epochs")
        if until is None or epochs is None:
            return until
        if until > epochs:
            raise PydanticCustomError("beyond", "above the epochs, {epochs}; give fewer", {"epochs": epochs})
        return None if until == epochs else until

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends; warm-up and decay are those of all `epochs`."""
        return self.epochs if self.until is None else self.until


class HardwareSpec(Settings):
    """Where it runs."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="cpu, cuda, or whichever is there")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16 autocast where the hardware computes it faster, or fp32"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads (default: torch's choice)")
    activation_checkpointing: Literal["off", "on"] = Field(
        "off", description="layers keep their input alone and compute the rest again in backward: less memory, slower"
    )
    graphs: Literal["auto", "off"] = Field("auto", description="CUDA graphs of whole training steps where possible")
    deterministic: bool = Field(
        False, description="the same bytes again, on CUDA too, or an error: deterministic algorithms alone; slower"
    )


class MethodSettings(Settings):
    """Base of each method's own settings; the method's file extends it. What the rates do stands in
    :mod:`loratory.methods.rates`."""

    name: str
    head_lr: float | None = Field(None, gt=0, description="peak learning rate of the head (default: lr)")
    adapter_lr: float | None = Field(None, gt=0, description="peak learning rate of adapters (default: lr)")
    unfrozen_lr: float | None = Field(None, gt=0, description="peak learning rate of unfrozen weights (default: lr)")


class RunSpec(Settings):
    """One training with one seed. Build it with :func:`loratory.methods.parse_spec`, which knows every method."""

    method: SerializeAsAny[MethodSettings]
    model: str = Field("minilm", description="minilm (packaged), a directory, or a hub id such as roberta-base")
    seed: int = Field(0, ge=0, description="seed of data order, initialisation and dropout")
    data: DataSpec = DataSpec()
    training: TrainingSpec = TrainingSpec()
    hardware: HardwareSpec = HardwareSpec()

    def fingerprint(self, **context: Any) -> str:
        """SHA-256 over this spec and the context that decides its result (data digest, code version, environment)."""
        spec = self.model_dump(mode="json")
        if not self.hardware.deterministic:  # runs of before this setting are the runs without it
            del spec["hardware"]["deterministic"]
        if self.training.until is None:
            del spec["training"]["until"]
        document = {"spec": spec, **context}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


S = TypeVar("S", bound=Settings)

GROUPS: dict[str, type[Settings]] = {"data": DataSpec, "training": TrainingSpec, "hardware": HardwareSpec}
"""The groups of a run's settings whose field names are flags; no name stands in two of them."""


def group_of(flag: str) -> str | None:
    """The group that holds the field `flag`, or None for a field of the run itself."""
    return next((name for name, group in GROUPS.items() if flag in group.model_fields), None)


def divided(flags: Mapping[str, Any]) -> tuple[HardwareSpec, dict[str, Any]]:
    """The hardware's settings, and the flags that are the data's.

    Raises:
        SettingsError: a flag of neither, or a value of the hardware's that cannot be meant.
    """
    known = {*HardwareSpec.model_fields, *DataSpec.model_fields}
    for name in flags:
        if name not in known:
            raise SettingsError(f"unknown setting {name!r}; {nearest(name, known)}")
    hardware = {name: value for name, value in flags.items() if name in HardwareSpec.model_fields}
    data = {name: value for name, value in flags.items() if name in DataSpec.model_fields}
    return validated(HardwareSpec, hardware), data


def validated(kind: type[S], values: Mapping[str, Any]) -> S:
    """Build `kind` from `values`.

    Raises:
        SettingsError: one line with the first key at fault, its value, and what is allowed.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        path, value, message = first_fault(error)
        key = ".".join(map(str, path))
        if error.errors()[0]["type"] == "extra_forbidden":
            raise SettingsError(f"unknown setting {key!r}; {nearest(key, kind.model_fields)}") from None
        raise SettingsError(f"--{key.replace('_', '-')} {value!r}: {message}") from None


def first_fault(error: ValidationError) -> tuple[tuple[str | int, ...], Any, str]:
    """The path of the first key at fault, its value, and what is wrong with it."""
    first = error.errors()[0]
    return first["loc"], first["input"], first["msg"][0].lower() + first["msg"][1:]
