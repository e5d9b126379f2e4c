"""Whether the engine learns what a plain loop of HF Trainer and PEFT learns: test accuracy of both, over seeds.

    python benchmarks/quality.py --device cpu --methods standard,lora --seeds 0,1,2,3,4

Same data and split, rates, schedule, batch size, epochs, clipping, dropout and precision; each has its own order of the
data and its own draws, so that the two differ by chance as two seeds do.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from rivals import arguments, build, examples, rival
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer
from workloads import METHODS, Job, model_directory

from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.predict import predict
from loratory.methods import spec_from_flags
from loratory.run import optimize
from loratory.setup import Setup, prepare


def main() -> None:
    """Train both with each seed, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--dataset", default="hutto:movies")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["standard", "lora"])
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch|transformers|peft|accelerate")
    print(f"{options.model}, {options.dataset}, {options.epochs} epochs, {options.device}, seeds {options.seeds}\n")
    print("| method | HF Trainer + PEFT, test accuracy | Loratory | difference | its standard error |")
    print("|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="quality-") as work:
        for method in options.methods:
            theirs, ours = [], []
            for seed in options.seeds:
                setup = prepared(options, method, seed)
                theirs.append(100 * rival_accuracy(setup, options, method, seed, Path(work)))
                ours.append(100 * our_accuracy(setup))
                print(
                    f"{method} seed {seed}: HF {theirs[-1]:.2f}, Loratory {ours[-1]:.2f}", file=sys.stderr, flush=True
                )
            error = math.nan
            if len(ours) > 1:
                error = math.sqrt((statistics.variance(theirs) + statistics.variance(ours)) / len(ours))
            difference = statistics.mean(ours) - statistics.mean(theirs)
            print(
                f"| {method} | {statistics.mean(theirs):.2f} | {statistics.mean(ours):.2f} | {difference:+.2f} | "
                f"{error:.2f} |",
                flush=True,
            )


def prepared(options: argparse.Namespace, method: str, seed: int) -> Setup:
    """Our run, before its first step."""
    flags: dict[str, Any] = {"model": options.model, "dataset": options.dataset, "epochs": options.epochs}
    if options.limit is not None:
        flags["limit"] = options.limit
    spec = spec_from_flags({**METHODS[method], **flags, "seed": seed, "device": options.device})
    return prepare(spec, Hardware.of(spec.hardware))


def our_accuracy(setup: Setup) -> float:
    """Train as `loratory train` does; the share of test examples that are predicted rightly."""
    optimize(setup, Meter(setup.hardware), validated=False)
    logits = predict(setup.classifier, setup.tokens["test"], hardware=setup.hardware)
    return float((logits.argmax(1).numpy() == setup.tokens["test"].labels).mean())


def rival_accuracy(setup: Setup, options: argparse.Namespace, method: str, seed: int, work: Path) -> float:
    """The same by Trainer, in its own random order."""
    job = Job(
        contender="tuned",
        method=method,
        workload="short",
        model=model_directory(options.model, work, tokenizer=options.model),
        data=str(work / "texts"),
        device=options.device,
        batch_size=setup.spec.training.batch_size,
        warmup=0,
        steps=0,
        settings={"bf16": setup.hardware.precision == "bf16"},
    )
    settings = rival(job)
    model = build(job, settings, labels=len(setup.labels), seed=seed)
    given = arguments(job, settings, model)
    given.num_train_epochs, given.seed = setup.spec.training.epochs, seed
    trainer = Trainer(
        model=model,
        args=given,
        train_dataset=examples(setup.tokens["train"]),
        data_collator=DataCollatorWithPadding(setup.base.tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    found = trainer.predict(examples(setup.tokens["test"]))
    return float((found.predictions.argmax(1) == setup.tokens["test"].labels).mean())


if __name__ == "__main__":
    main()
