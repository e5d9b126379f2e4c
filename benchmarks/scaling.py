"""Several GPUs of one host: processes that train together, and a study spread over devices by Ray.

    python benchmarks/scaling.py --device cuda --processes 1,2,4,8
    python benchmarks/scaling.py --device cpu --processes 1,2 --tiny

(a) `--part data-parallel` (together.py): standard fine-tuning and LoRA on long texts, 32 for each process and step.
(b) `--part study` (spread.py): 32 runs of LoRA and 8 of standard fine-tuning on short texts.

RoBERTa-base is built from its configuration with random weights, texts are made-up words: nothing is downloaded. Prints
tables; exit code 1 where losses or records are not those of one process or device, or a run was not alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import spread
import together
import torch
from workloads import TINY_WORDS, Job, model_directory, word_tokenizer, write_made_up

from loratory.engine.hardware import Hardware
from loratory.spec import HardwareSpec

WORDS = 20_000
"""Different words of the texts for RoBERTa-base."""

PARTS = ("data-parallel", "study", "all")


def main() -> int:
    """Measure what was asked for, and print it."""
    if sys.argv[1:2] == ["--worker"]:
        together.work(together.Launch.read(sys.argv[2]))
        return 0
    if sys.argv[1:2] == ["--study"]:
        spread.work(spread.Study(**json.loads(sys.argv[2])))
        return 0
    options = parse()
    os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    with tempfile.TemporaryDirectory(prefix="scaling-") as place:
        os.environ["LORATORY_DATA"] = str(Path(place) / "data")
        report = measured(options, Path(place))
    if options.output is not None:
        options.output.write_text(json.dumps(report, indent=1), encoding="utf8")
    print(markdown(report))
    return 0 if all(row["same"] and row.get("alone", True) for row in [*report["together"], *report["study"]]) else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=_counts, default=[1, 2], help="how many, or devices; 1 is the first")
    parser.add_argument("--part", choices=PARTS, default="all")
    parser.add_argument("--methods", default="standard,lora", help="of the first part")
    parser.add_argument("--steps", type=int, default=100, help="timed steps of the first part")
    parser.add_argument("--lr", type=float, help="of its loss curves [3e-4 standard, 3e-3 LoRA]")
    parser.add_argument("--texts", type=int, default=8000, help="of the study's data, in all")
    parser.add_argument("--epochs", type=int, default=3, help="of the study's runs")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, few steps and few runs: to see that it runs")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    return parser.parse_args()


def _counts(value: str) -> list[int]:
    counts = [int(one) for one in value.split(",")]
    if counts != sorted({1, *counts}):
        raise argparse.ArgumentTypeError("ascending numbers from 1 on, as 1,2,4: others are compared with one")
    return counts


def measured(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Every measurement, in processes of its own."""
    words = TINY_WORDS if options.tiny else WORDS
    word_tokenizer(words).save_pretrained(work / "words")
    name = "tiny" if options.tiny else "roberta-base"
    model = model_directory(name, work, tokenizer=str(work / "words"))
    report: dict[str, Any] = {
        "model": f"{name}, random weights; made-up texts",
        "environment": Hardware.of(HardwareSpec(device=options.device)).record(),
        "together": [],
        "study": [],
    }
    if options.part in ("data-parallel", "all"):
        job = Job(
            contender="loratory", method="standard", workload="long", model=model, data="", device=options.device,
            batch_size=4 if options.tiny else 32, warmup=2 if options.tiny else 20,
            steps=3 if options.tiny else options.steps, settings={},
        )  # fmt: skip
        methods = options.methods.split(",")
        batch_size, rates = (4, together.TINY_RATES) if options.tiny else (8, together.RATES)
        report["together"] = together.measure(
            job, options.processes, methods, batch_size=batch_size, words=words, work=work,
            rates=rates if options.lr is None else dict.fromkeys(methods, options.lr),
        )  # fmt: skip
    if options.part in ("study", "all"):
        file = study_file(options, model, words, work)
        report["study"] = spread.measure(file, options.device, options.processes, work)
    return report


def study_file(options: argparse.Namespace, model: str, words: int, work: Path) -> Path:
    """The study of the second part."""
    texts, epochs = (64, 1) if options.tiny else (options.texts, options.epochs)
    write_made_up(work / "texts", "short", count=texts, words=words)
    text = spread.STUDY.format(
        data=work / "texts" / "train.csv",
        model=model,
        ranks=[1, 2] if options.tiny else [2, 4, 8, 16],
        seeds=[0, 1] if options.tiny else list(range(8)),
        epochs=epochs,
        device=options.device,
        threads=4 if options.device == "cuda" else 1,
        fixed="'on'" if options.device == "cuda" else "'off'",
    )
    (work / "study.yaml").write_text(text, encoding="utf8")
    return work / "study.yaml"


def markdown(report: dict[str, Any]) -> str:
    """What was measured on what, and a table for each part."""
    machine = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [f"{machine['device']}; {machine['precision']}; {versions}. {report['model']}."]
    if report["together"]:
        lines += ["", *together.table(report["together"])]
    if report["study"]:
        lines += ["", *spread.table(report["study"])]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
