"""Where the time of a training step goes: Loratory's kernels (CUDA) or operators (CPU), the largest first.

python benchmarks/costs.py --device cuda --model roberta-base --method lora --workload short
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from engine import STEPS
from torch.profiler import ProfilerActivity, profile
from workloads import LONGEST, METHODS, Job, matrix_rate, model_directory, operations, write_texts

from loratory.engine.epoch import Progress
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.run import optimize
from loratory.setup import Setup, prepare
from loratory.spec import HardwareSpec

KINDS = {
    "attention": r"_attention_|flash|aten::bmm|softmax",
    "products of the linear layers": r"nvjet|gemm|cutlass|splitK|aten::(add)?mm_?$|mkldnn_linear|onednn",
    "GELU and its gradient": r"gelu",
    "dropout, residuals, LayerNorm": r"_norm_|_dropped|layer_norm|random|bernoulli|native_dropout",
    "optimizer, clipping, rounding of weights": r"multi_tensor_apply|_fused_adam|lpnorm",
    "embeddings": r"embedding|index",
    "copies, casts, filling": r"copy|Memcpy|Memset|fill|CatArray|aten::(cat|zero_)|FillFunctor",
    "sums: biases' gradients and others": r"reduce_kernel|_column_sums|aten::sum",
}
"""What a kernel (CUDA) or operator (CPU) is for, by its name: the first that fits."""


def main() -> None:
    """Train some steps under torch's profiler and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--tokenizer", default="minilm")
    parser.add_argument("--method", choices=list(METHODS), default="lora")
    parser.add_argument("--workload", choices=list(LONGEST), default="short")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rows", type=int, default=15)
    options = parser.parse_args()
    hardware = Hardware.of(HardwareSpec(device=options.device))
    warmup = STEPS[options.device, options.workload][0]
    with tempfile.TemporaryDirectory(prefix="costs-") as work:
        job = Job(
            contender="loratory",
            method=options.method,
            workload=options.workload,
            model=model_directory(options.model, Path(work), tokenizer=options.tokenizer),
            data=str(Path(work) / "texts"),
            device=options.device,
            batch_size=32,
            warmup=warmup,
            steps=options.steps,
            settings={},
        )
        write_texts(Path(job.data), job.workload, dataset="hutto:movies", count=(warmup + options.steps) * 32)
        report(job, hardware, rows=options.rows)


def profiled(job: Job, setup: Setup) -> list[tuple[float, int, str]]:
    """Microseconds, calls and name of every kernel (CUDA) or operator (CPU) of the steps after the warm-up."""
    cuda, hardware = job.device == "cuda", setup.hardware
    profiler = profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU])

    def on_step(progress: Progress) -> None:
        if progress.step == job.warmup:
            hardware.synchronize()
            profiler.start()
        elif progress.step == job.warmup + job.steps:
            hardware.synchronize()
            profiler.stop()

    optimize(setup, Meter(hardware), validated=False, on_step=on_step)
    events = profiler.key_averages()
    return [(e.self_device_time_total if cuda else e.self_cpu_time_total, e.count, e.key) for e in events]


def report(job: Job, hardware: Hardware, *, rows: int) -> None:
    """Print what the steps after the warm-up cost."""
    setup = prepare(job.spec(), hardware)
    costs = profiled(job, setup)
    total = sum(cost for cost, _, _ in costs)
    rate, precision = matrix_rate(job.device, quick=False)
    train = setup.tokens["train"]
    timed = train.tokens.lengths[job.order(len(train.labels))[1]]
    floor = operations(job, timed) / rate / job.steps
    print(
        f"{job.method}, {job.workload}: {total / job.steps / 1e3:.3f} ms a step in kernels; the floor, its operations"
    )
    print(f"at a large product's rate ({rate / 1e12:.2f} TFLOP/s in {precision}): {floor * 1e3:.3f} ms\n")
    kinds: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for cost, count, name in costs:
        kind = next((kind for kind, names in KINDS.items() if re.search(names, name, re.IGNORECASE)), "other")
        kinds[kind][0] += cost
        kinds[kind][1] += count
    print("| share | ms a step | calls a step | what it is for |\n|--:|--:|--:|---|")
    for kind, (cost, count) in sorted(kinds.items(), key=lambda one: -one[1][0]):
        print(f"| {cost / total:.1%} | {cost / job.steps / 1e3:.3f} | {count / job.steps:.0f} | {kind} |")
    print("\n| share | ms a step | calls a step | what |\n|--:|--:|--:|---|")
    for cost, count, name in sorted(costs, reverse=True)[:rows]:
        print(f"| {cost / total:.1%} | {cost / job.steps / 1e3:.3f} | {count / job.steps:.0f} | {name[:110]} |")


if __name__ == "__main__":
    main()
