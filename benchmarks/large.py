"""How fast a large file is read, divided, tokenised and cut into batches, and in how much memory.

    python benchmarks/large.py                       # 10 million rows
    python benchmarks/large.py --rows 1000000 --format jsonl

A file of made-up rows is written to a folder for temporary files (`TMPDIR`) first. A fresh process then goes the way of
a run's data, with a tokenizer of whole words, and measures itself after each stage.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORDS = 5_000
"""Distinct words of the texts."""

LENGTHS = (4, 12)
"""Words of a text, at least and at most."""

BATCH = 32


def main() -> None:
    """Write the file, measure in a process of its own, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--format", choices=["csv", "jsonl"], default="csv")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measured(options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{options.format}"
        write_rows(path, options.rows)
        environment = {**os.environ, "LORATORY_DATA": str(Path(folder) / "data"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, "--measure", str(path)]
        found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        size = path.stat().st_size
    print(f"{options.rows:,} rows, {size / 1e6:,.0f} MB of {options.format.upper()}, {os.cpu_count()} processors\n")
    print("| stage | seconds | rows/s | peak memory so far | of it mapped files now |\n|---|--:|--:|--:|--:|")
    for stage in json.loads(found.stdout):
        rate = f"{options.rows / stage['seconds']:,.0f}" if stage["rows"] else "–"
        memory = f"{stage['peak'] / 2**20:,.0f} MiB | {stage['mapped'] / 2**20:,.0f} MiB"
        print(f"| {stage['name']} | {stage['seconds']:,.1f} | {rate} | {memory} |")


def write_rows(path: Path, rows: int) -> None:
    """Write texts of random words with one of three labels, the same for every call."""
    draw = random.Random(0)
    words = [f"word{number}" for number in range(WORDS)]
    with path.open("w", encoding="utf8") as file:
        if path.suffix == ".csv":
            file.write("text,label\n")
        for number in range(rows):
            text = " ".join(draw.choices(words, k=draw.randint(*LENGTHS)))
            label = ("bad", "fair", "good")[number % 3]
            file.write(f"{text},{label}\n" if path.suffix == ".csv" else f'{{"text": "{text}", "label": "{label}"}}\n')


def measured(path: Path) -> list[dict[str, Any]]:
    """Each stage's seconds, and the process's peak and mapped memory in bytes at its end."""
    stages: list[dict[str, Any]] = []
    begin = time.perf_counter()

    def done(name: str, *, rows: bool = True) -> None:
        nonlocal begin
        now = time.perf_counter()
        status = memory()
        stages.append(
            {"name": name, "seconds": now - begin, "rows": rows, "peak": status["VmHWM"], "mapped": status["RssFile"]}
        )
        begin = now

    import torch  # noqa: F401  a run has it

    from loratory.data import Cut, Labelled, divided, epoch_order, load_source, tokenize
    from loratory.spec import DataSpec

    tokenizer = make_tokenizer()
    done("importing", rows=False)
    spec = DataSpec(dataset=str(path))
    source = load_source(spec)
    done("reading")
    dataset = divided(source, spec)
    del source
    done("dividing")
    parts = [dataset.train, dataset.validation, dataset.test]
    tables = [tokenize(part, tokenizer, 32, path.parent / "tokens") for part in parts]
    done("tokenising")
    data = Labelled(tables[0], dataset.train.labels)
    for step in data.steps(epoch_order(len(data.labels), 0, 1), Cut(BATCH)):
        assert step
    done(f"batches of {BATCH}, one epoch")
    return stages


def memory() -> dict[str, int]:
    """What Linux says of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    pairs = (line.split(":") for line in lines if line.endswith("kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def make_tokenizer() -> Any:
    """A token for each word, `[CLS]` before and `[SEP]` behind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: n for n, word in enumerate([*special, *(f"word{n}" for n in range(WORDS))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


if __name__ == "__main__":
    main()
