"""The rivals: HF Trainer with PEFT, as users run it and at its best.

What is trained and how (data, dropout, learning rate, schedule, clipping, decay) is the same as in Loratory.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices
from workloads import LONGEST, METHODS, Clock, Job

from loratory.data import Labelled, data_directory, make_dataset, tokenize
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.methods import method_named
from loratory.methods.lora import find_targets
from loratory.models.families import family_of
from loratory.models.source import quiet
from loratory.spec import HardwareSpec


@dataclass(frozen=True)
class Rival:
    """How HF Trainer and PEFT are set."""

    bf16: bool = False
    """Autocast."""
    padding: Literal["max_length", "longest"] = "max_length"
    multiple: int | None = None
    """Padded lengths are rounded up to this."""
    by_length: bool = False
    """Batches of like lengths, as `train_sampling_strategy="group_by_length"` makes them."""
    attention: str | None = None
    """`sdpa` or `eager`; None: what transformers chooses."""
    frozen: Literal["fp32", "linear", "all"] = "fp32"
    """What of a frozen base is held in bf16: nothing, the linear layers, everything."""
    cast_input: bool = True
    """PEFT's casting of each adapter's input to fp32, which autocast at once undoes (`disable_input_dtype_casting`)."""
    workers: int = 0
    """Processes that load data."""
    pinned: bool = True
    """Loader into pinned memory."""
    nan_filter: bool = True
    """Trainer's check of every loss, which waits for the device."""
    compile: bool = False
    compile_mode: str | None = None


_BEST = Rival(padding="longest", by_length=True, cast_input=False, nan_filter=False)

# On two cores with AVX-512 bf16, minilm, batch 32, examples/s (standard, LoRA on query and value). short, each step's
# best of one to three runs that differ by ±10%: eager 200, 290; sdpa 119, 174; eager with lengths rounded up to 8:
# 194, 272; with a loader process: 192, 292; with the whole frozen base in bf16: –, 294; larger malloc thresholds and
# bound threads gained nothing. long, one run of five steps on a busy machine: sdpa 12, 15 and 3.2 GB; eager 7, 5 to 8
# and 7 GB. On one H100, RoBERTa-base, LoRA on query and value, one run each: frozen linear layers in bf16 628 (short)
# and 585 (long), the whole frozen base 545 and 527.
TUNED = {
    ("cpu", "short"): replace(_BEST, attention="eager", pinned=False),
    ("cpu", "long"): replace(_BEST, attention="sdpa", pinned=False),
    ("cuda", "short"): replace(_BEST, attention="sdpa", workers=2, multiple=8),
    ("cuda", "long"): replace(_BEST, attention="sdpa", workers=2, multiple=8),
}
"""(b): the fastest found for each workload."""

# One H100, RoBERTa-base, LoRA on query and value, examples/s, short and long: torch's default mode 891 and 1,015 on
# other hosts, reduce-overhead (CUDA graphs) 2,437 and 1,667. On the CPU nothing was searched.
COMPILED: dict[tuple[str, str], dict[str, Any]] = {
    ("cpu", "short"): {"multiple": 16},
    ("cpu", "long"): {"multiple": 16},
    ("cuda", "short"): {"multiple": 16, "compile_mode": "reduce-overhead"},
    ("cuda", "long"): {"multiple": 64, "compile_mode": "reduce-overhead"},
}
"""(b'): what is set otherwise than in (b); lengths are rounded up so that few shapes come up."""


def rival(job: Job) -> Rival:
    """The settings of the job's contender."""
    if job.contender == "defaults":
        return Rival()
    bf16 = Hardware.of(HardwareSpec(device=job.device)).precision == "bf16"  # where it is faster, as Loratory decides
    best = replace(TUNED[job.device, job.workload], bf16=bf16, frozen="linear" if bf16 else "fp32")
    if job.contender == "compiled":
        best = replace(best, compile=True, **COMPILED[job.device, job.workload])
    return replace(best, **job.settings)


def run(job: Job, hardware: Hardware, meter: Meter) -> tuple[Clock, float]:
    """Train; returns the clock, and the rows computed in the warm-up over those of the timed steps.

    `meter` counts memory from its construction on, and needs no help.
    """
    begin = time.perf_counter()
    settings = rival(job)
    warnings.filterwarnings("ignore", module="torch|transformers|peft|accelerate")
    spec = job.spec()
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    train = make_dataset(spec.data).train
    table = tokenize(train, tokenizer, LONGEST[job.workload], data_directory() / "tokens")
    loading = time.perf_counter()
    model = build(job, settings, labels=len(set(train.labels.tolist()))).to(hardware.device)
    hardware.synchronize()
    loading = time.perf_counter() - loading
    batches, warmup, share = plan(job, settings, table.lengths)
    clock = Clock(hardware, begin=begin, warmup=warmup, steps=job.steps)
    clock.loading = loading
    trainer = _Planned(
        model=model,
        args=arguments(job, settings, model),
        train_dataset=examples(Labelled(table, train.labels)),
        data_collator=DataCollatorWithPadding(
            tokenizer,
            padding=settings.padding,
            max_length=LONGEST[job.workload],
            pad_to_multiple_of=settings.multiple,
        ),
        callbacks=[_Steps(clock)],
    )
    trainer.planned = batches.tolist()
    trainer.train()
    return clock, share


def examples(data: Labelled) -> list[dict[str, Any]]:
    """What Trainer's collator takes."""
    table = data.tokens
    return [
        {"input_ids": table.ids[begin:end].tolist(), "labels": int(label)}
        for begin, end, label in zip(table.offsets[:-1], table.offsets[1:], data.labels, strict=True)
    ]


def build(job: Job, settings: Rival, *, labels: int, seed: int = 0) -> nn.Module:
    """The model, adapted by stock PEFT."""
    torch.manual_seed(seed)
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(
            job.model,
            num_labels=labels,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.0,
            attn_implementation=settings.attention,
            dtype=torch.float32,
        )
    flags = METHODS[job.method]
    if flags["method"] == "standard":
        return model
    family = family_of(model.config)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=flags["rank"],
        lora_alpha=flags["alpha"],
        lora_dropout=0.0,
        target_modules=find_targets(model, family, flags["targets"]),
        modules_to_save=list(family.head),
    )
    adapted = get_peft_model(model, config)
    for module in adapted.modules():
        if settings.frozen == "all" or (settings.frozen == "linear" and isinstance(module, nn.Linear)):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = settings.cast_input
    return adapted


def plan(job: Job, settings: Rival, lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], int, float]:
    """The order of the examples, the steps of warm-up among them, and the rows these compute over those timed.

    The timed examples are the very ones that Loratory is timed on. Where batches are sorted by length, the sampler's
    own function sorts them, and the warm-up sees every padded length once: in a long training all are old.
    """
    warm, timed = job.order(len(lengths))
    longest = LONGEST[job.workload]
    if settings.by_length:
        generator = torch.Generator().manual_seed(0)
        grouped = get_length_grouped_indices(lengths[timed], job.batch_size, mega_batch_mult=50, generator=generator)
        timed = timed[grouped]
    batches = timed.reshape(job.steps, job.batch_size)
    rows = _padded(lengths[batches].max(1), settings, longest)
    if settings.by_length:
        first = np.unique(rows, return_index=True)[1]
        if settings.compile_mode == "reduce-overhead":  # a shape's first step warms up, its second is captured
            first = np.tile(first, 3)
        first = np.resize(first, max(len(first), job.warmup))
        warm = batches[first].reshape(-1)
    warm_rows = _padded(lengths[warm.reshape(-1, job.batch_size)].max(1), settings, longest)
    return np.concatenate([warm, timed]), len(warm_rows), float(warm_rows.sum() / rows.sum())


def _padded(lengths: NDArray[np.int64], settings: Rival, longest: int) -> NDArray[np.int64]:
    if settings.padding == "max_length":
        return np.full_like(lengths, longest)
    multiple = settings.multiple or 1
    return -(-lengths // multiple) * multiple


def arguments(job: Job, settings: Rival, model: nn.Module) -> TrainingArguments:
    """Trainer's arguments; the optimizer is its default, fused AdamW."""
    spec = job.spec()
    config = model.config
    return TrainingArguments(
        output_dir=f"{job.data}-rival",
        per_device_train_batch_size=job.batch_size,
        num_train_epochs=1,
        learning_rate=method_named(spec.method.name).default_lr(config.hidden_size),
        warmup_steps=spec.training.warmup,
        weight_decay=spec.training.weight_decay,
        max_grad_norm=spec.training.max_grad_norm,
        optim="adamw_torch_fused",
        use_cpu=job.device == "cpu",
        bf16=settings.bf16,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=settings.pinned,
        logging_nan_inf_filter=settings.nan_filter,
        torch_compile=settings.compile,
        torch_compile_mode=settings.compile_mode,
        label_names=["labels"],
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class _Planned(Trainer):
    """Trainer on examples in a given order."""

    planned: Sequence[int]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.planned


class _Steps(TrainerCallback):
    """Shows the clock each step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._clock.step(state.global_step)
