"""What every contender is given: the same texts, the same model, the same job, the same ruler.

texts of a data set ─▶ workload (short, long) ─▶ CSV files ─┐
packaged weights, or random ones ─▶ model directory ────────┴▶ Job ─▶ Measurement
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from loratory.data import epoch_order, load_source
from loratory.engine.hardware import Hardware
from loratory.engine.operations import operations as count
from loratory.methods import prepare, spec_from_flags
from loratory.models.flat import Classifier
from loratory.models.load import skeleton
from loratory.models.source import locate, pretrained
from loratory.spec import DataSpec, RunSpec

METHODS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    "lora": {"method": "lora", "rank": 8, "alpha": 16, "targets": "attention"},
    "lora-all": {"method": "lora", "rank": 8, "alpha": 16, "targets": "all-linear"},
}
"""Loratory's flags of each measured method; the rivals' adapters are built from the same values."""

LONGEST = {"short": 128, "long": 512}
"""Tokens at which each workload's texts are cut; what padding to the maximum pads to."""

ROBERTA_BASE = {
    "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}  # fmt: skip
MINILM = {
    "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "max_position_embeddings": 512,
}  # fmt: skip
"""The shape of all-MiniLM-L6-v2."""
MODERNBERT_BASE = {"vocab_size": 50368}
"""ModernBERT-base is its configuration's default: 22 layers of width 768."""
TINY = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 512,
}  # fmt: skip
TINY_WORDS = 60
"""Made-up words that the tiny model knows."""

LABELS, TELLING = ("negative", "positive"), 10
"""Of made-up texts, and how many words tell each."""

PLANNED = 1_000
"""Steps of the run of Loratory's of which those that are timed are the first: how many shapes of a batch are captured
on CUDA depends on how many steps will use them."""

RANDOM = ("roberta-base", "modernbert-base", "minilm-shape", "tiny")
"""Models built from their configuration, with random weights."""


@dataclass(frozen=True)
class Job:
    """One measurement to make in a process of its own."""

    contender: str
    """`defaults`, `tuned`, `compiled` or `loratory`."""
    method: str
    workload: str
    model: str
    """A model directory."""
    data: str
    """A directory with train.csv, validation.csv and test.csv."""
    device: str
    batch_size: int
    warmup: int
    """Steps before the clock starts."""
    steps: int
    """Steps timed."""
    settings: dict[str, Any]
    """Changes to the tuned rivals' settings."""

    def spec(self, **changes: Any) -> RunSpec:
        """The job as Loratory's run, with changes to its flags."""
        files = {part: f"{self.data}/{part}.csv" for part in ("validation", "test")}
        return spec_from_flags(
            {
                **METHODS[self.method],
                **files,
                "dataset": f"{self.data}/train.csv",
                "model": self.model,
                "max_length": LONGEST[self.workload],
                "batch_size": self.batch_size,
                "epochs": math.ceil(PLANNED / (self.warmup + self.steps)),
                "until": 1,
                "dropout": 0.1,
                "device": self.device,
                **changes,
            }
        )

    def order(self, n: int, processes: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Loratory's order of the n examples: those of its warm-up steps, and those of the timed steps."""
        order, warm = epoch_order(n, self.spec().seed, 1), self.warmup * self.batch_size * processes
        return order[:warm], order[warm:]


class Clock:
    """Times the steps after the warm-up, the device synchronised at both ends. Set-up counts from `begin`."""

    def __init__(self, hardware: Hardware, *, begin: float, warmup: int, steps: int) -> None:
        self._hardware = hardware
        self._marks = {warmup, warmup + steps}
        self._times: list[float] = []
        self._waits: list[float] = []
        self._begin = begin
        self.loading = 0.0
        """Seconds of the set-up in which the model was loaded and adapted; to be set by whoever does it."""

    def step(self, done: int) -> None:
        """To be called after each step with the number of steps done so far."""
        if done in self._marks:
            self._hardware.synchronize()
            self._times.append(time.perf_counter())
            self._waits.append(_waited())

    @property
    def seconds(self) -> float:
        """Of the timed steps."""
        first, last = self._times
        return last - first

    @property
    def waiting(self) -> float:
        """Share of the timed seconds in which some process waited for a processor; 0 where the kernel does not say."""
        first, last = self._waits
        return (last - first) / self.seconds

    def setup(self, share: float) -> float:
        """Seconds before the timed steps, less what the warm-up would have cost at full speed.

        Args:
            share: rows computed in the warm-up over rows computed in the timed steps.
        """
        return max(0.0, self._times[0] - self._begin - share * self.seconds)


def _waited() -> float:
    """Seconds in which a process that could run had no processor, since the machine started (Linux' PSI)."""
    try:
        return int(Path("/proc/pressure/cpu").read_text("ascii").split("total=")[1].split()[0]) / 1e6
    except (OSError, IndexError):
        return 0.0


def write_texts(directory: Path, workload: str, *, dataset: str, count: int) -> None:
    """Write `count` training texts of a workload, and a few for the parts that are not timed."""
    examples = load_source(DataSpec(dataset=dataset)).parts["all"]
    random = np.random.default_rng(0)
    directory.mkdir(parents=True)
    for part, rows in (("train", count), ("validation", 16), ("test", 16)):
        with (directory / f"{part}.csv").open("w", encoding="utf8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for chosen in _choose(workload, rows, len(examples.texts), random):
                writer.writerow([" ".join(examples.texts[i] for i in chosen), examples.labels[chosen[0]]])


def _choose(workload: str, count: int, texts: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """The texts that make up each of `count` examples: one (short), or a log-normal number of them (long)."""
    if workload == "short":  # without replacement, as often through as it takes
        rounds = [random.permutation(texts) for _ in range(math.ceil(count / texts))]
        return list(np.concatenate(rounds)[:count, None])
    return [random.integers(0, texts, size=n) for n in _parts(count, random)]


def _parts(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """(count,) of how many texts a long one is made up: lengths of reviews, the mean about 260 tokens of 25 a text, one
    in twenty cut at 512."""
    return np.maximum(1, random.lognormal(math.log(9.5), 0.5, count).round().astype(np.int64))


def write_made_up(
    directory: Path, workload: str, *, count: int, words: int, telling: float = 1 / 8, held_out: int = 16
) -> None:
    """As :func:`write_texts`, of made-up words, `words` different ones: for a machine that has no data set.

    Args:
        telling: the share of words that tell the label.
    """
    random, names = np.random.default_rng(0), [f"w{number}" for number in range(words)]
    directory.mkdir(parents=True)
    for part, rows in (("train", count), ("validation", held_out), ("test", held_out)):
        short = random.lognormal(math.log(22), 0.5, rows).round().astype(np.int64)
        lengths = short if workload == "short" else 25 * _parts(rows, random)
        with (directory / f"{part}.csv").open("w", encoding="utf8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for number, length in enumerate(lengths):
                label = number % len(LABELS)
                chosen = random.integers(TELLING * len(LABELS), words, length)
                tells = random.random(length) < telling
                chosen[tells] = random.integers(TELLING * label, TELLING * (label + 1), tells.sum())
                writer.writerow([" ".join([names[i] for i in chosen.tolist()]), LABELS[label]])


def model_directory(name: str, work: Path, *, tokenizer: str = "minilm") -> str:
    """The directory of `minilm`, or of a model with random weights made in `work`, or `name` itself."""
    if name not in RANDOM:
        return locate(name)
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, ModernBertConfig, RobertaConfig
    from transformers import ModernBertForSequenceClassification as ModernBert
    from transformers import RobertaForSequenceClassification as Roberta

    torch.manual_seed(0)
    if name == "tiny":
        model, chosen = BertForSequenceClassification(BertConfig(**TINY)), word_tokenizer(TINY_WORDS)
    elif name == "minilm-shape":
        chosen = AutoTokenizer.from_pretrained(locate(tokenizer))
        model = BertForSequenceClassification(BertConfig(**MINILM))
    elif name == "modernbert-base":
        chosen = AutoTokenizer.from_pretrained(locate(tokenizer))
        ends = {f"{kind}_token_id": getattr(chosen, f"{kind}_token_id") for kind in ("pad", "cls", "sep")}
        model = ModernBert(ModernBertConfig(**MODERNBERT_BASE, **ends, bos_token_id=None, eos_token_id=None))
    else:
        model, chosen = Roberta(RobertaConfig(**ROBERTA_BASE)), AutoTokenizer.from_pretrained(locate(tokenizer))
        chosen.pad_token = chosen.convert_ids_to_tokens(1)  # RoBERTa counts positions by its padding id
    model.save_pretrained(work / name)
    chosen.save_pretrained(work / name)
    return str(work / name)


def word_tokenizer(words: int) -> Any:
    """Knows the words `w0`, `w1` … of made-up texts; every other is [UNK]."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    known = {f"w{number}": len(special) + number for number in range(words)}
    tokenizer = Tokenizer(models.WordLevel({**special, **known}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, special[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def operations(job: Job, lengths: NDArray[np.int64]) -> float:
    """Floating-point operations that one epoch of the job over sequences of `lengths` (N,) asks for, as
    :func:`loratory.engine.operations.operations` counts them: what is not asked for is waste.
    """
    base = skeleton(pretrained(job.model, weights=False), ("negative", "positive"))
    prepare(base, job.spec())
    return count(Classifier(base.model, base.family, base.pad_id), lengths, epochs=1)


def matrix_rate(device: str, *, quick: bool) -> tuple[float, str]:
    """Operations a second of a large product, the best of several, and the precision in which it is faster."""
    rates = {precision: _rate(device, kind, quick=True) for precision, kind in PRECISIONS.items()}
    if not quick:  # a processor without bf16 would take minutes for a large product in it
        likely = [name for name, rate in rates.items() if rate > max(rates.values()) / 10]
        rates = {precision: _rate(device, PRECISIONS[precision], quick=False) for precision in likely}
    precision = max(rates, key=lambda name: rates[name])
    return rates[precision], precision


PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def _rate(device: str, kind: torch.dtype, *, quick: bool) -> float:
    size = 512 if quick else 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = math.inf
    for _ in range(3 if quick else 20):
        wait()
        begin = time.perf_counter()
        a @ b
        wait()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best
