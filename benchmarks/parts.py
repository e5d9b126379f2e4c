"""The record's parts of training time, held against what torch's profiler counts in kernels (CUDA).

python benchmarks/parts.py --model roberta-base
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from costs import profiled
from engine import STEPS
from workloads import LONGEST, Job, model_directory, write_texts

from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.run import optimize
from loratory.setup import prepare
from loratory.spec import HardwareSpec

WORK = ("forward", "backward", "optimizer")


def main() -> None:
    """Train twice each, with the profiler and without, and print a Markdown table: milliseconds a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="roberta-base")
    parser.add_argument("--tokenizer", default="minilm")
    parser.add_argument("--methods", default="standard,lora")
    parser.add_argument("--workloads", default=",".join(LONGEST))
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    print("| method | texts | steps | forward | backward | optimizer | data | gaps | work | kernels | work ÷ kernels |")
    print("|---|---|---|" + "--:|" * 8)
    with tempfile.TemporaryDirectory(prefix="parts-") as work:
        model = model_directory(options.model, Path(work), tokenizer=options.tokenizer)
        for workload in options.workloads.split(","):
            warmup = STEPS["cuda", workload][0]
            texts = str(Path(work) / workload)
            write_texts(Path(texts), workload, dataset="hutto:movies", count=(warmup + options.steps) * 32)
            for method in options.methods.split(","):
                for graphs in ("auto", "off"):
                    job = Job(
                        contender="loratory", method=method, workload=workload, model=model, data=texts,
                        device="cuda", batch_size=32, warmup=warmup, steps=options.steps, settings={},
                    )  # fmt: skip
                    print(line(job, graphs), flush=True)


def line(job: Job, graphs: str) -> str:
    """A row of the table."""
    parts = {part: 1e3 * seconds for part, seconds in measured(job, graphs).items()}
    work, kernels = sum(parts[part] for part in WORK), 1e3 * in_kernels(job, graphs)
    shown = " | ".join(f"{parts[part]:.2f}" for part in (*WORK, "data", "gaps"))
    how = "captured" if graphs == "auto" else "one by one"
    return f"| {job.method} | {job.workload} | {how} | {shown} | {work:.2f} | {kernels:.2f} | {work / kernels:.2f} |"


def measured(job: Job, graphs: str) -> dict[str, float]:
    """Seconds a step by part, as the record has them."""
    hardware = Hardware.of(HardwareSpec(device="cuda", graphs=graphs))
    meter = Meter(hardware)
    optimize(prepare(job.spec(), hardware), meter, validated=False)
    parts = meter.record()["time_parts_seconds"]
    return {part: seconds / meter.steps for part, seconds in parts.items()}


def in_kernels(job: Job, graphs: str) -> float:
    """Seconds a step in kernels, copies and fills, after the warm-up."""
    setup = prepare(job.spec(), Hardware.of(HardwareSpec(device="cuda", graphs=graphs)))
    return sum(cost for cost, _, _ in profiled(job, setup)) / 1e6 / job.steps


if __name__ == "__main__":
    main()
