"""What the tests share: tiny random models of every family, a small separable data set, and token tables."""

from __future__ import annotations

import csv
import gc
import hashlib
import json
import logging
import os
import random
import shlex
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test asks the network
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as the command line does: a CPU has no kernels for 4 bits

import pytest

from loratory.cli import main
from loratory.data import PACKAGED
from loratory.methods import METHODS, spec_from_flags
from loratory.spec import RunSpec
from loratory.store.directory import read_run
from loratory.store.record import RunRecord

if TYPE_CHECKING:  # torch is loaded by what runs tests, not by what deals them out to workers
    from loratory.run import Run

ROOT = Path(__file__).parents[1]

ModelDirectory = Callable[..., Path]

WORDS = [f"w{n}" for n in range(96)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
GOOD, BAD = ("w0", "w1", "w2"), ("w3", "w4", "w5")

BERT = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.2,  # wide, so that logits differ visibly from one text to the next
}
ROBERTA = {**BERT, "max_position_embeddings": 66, "type_vocab_size": 1, "bos_token_id": 2, "eos_token_id": 3}
DEBERTA = {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
DECODER = {**BERT, "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "electra": {**BERT, "embedding_size": 16},
    "distilbert": {
        "vocab_size": BERT["vocab_size"],
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    },
    "albert": {**BERT, "embedding_size": 16, "num_hidden_layers": 3},
    "modernbert": {
        **BERT,
        "num_hidden_layers": 3,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "local_attention": 8,  # shorter than most sequences of the tests
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
    },
    "gpt2": {
        "vocab_size": BERT["vocab_size"],
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "initializer_range": 0.2,
    },
    "llama": DECODER,
    "qwen2": DECODER,
    "qwen3": {**DECODER, "head_dim": 16},
    "mpnet": {**BERT, "pad_token_id": 0},
    "deberta": DEBERTA,
    "deberta-v2": {**DEBERTA, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
}


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _qwen_tokenizer() -> Any:
    """transformers opens Qwen2's directories with this class alone: byte pairs, no token around a text."""
    from transformers import Qwen2Tokenizer

    pairs = [("w", digit) for digit in "0123456789"]
    pairs += [(f"w{tens}", ones) for tens in "123456789" for ones in "0123456789" if int(tens + ones) < 80]
    tokens = [*SPECIAL, "Ġ", "w", *"0123456789", *("".join(pair) for pair in pairs)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return Qwen2Tokenizer(
        vocab=vocabulary, merges=pairs, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", bos_token="[CLS]"
    )


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tiny products gain nothing from more, and wait for one another on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def _libraries_are_no_garbage() -> None:
    """The collections that a run's meter asks for need not look through all of torch and transformers each time, nor
    through what the tests before have loaded.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Token caches of the tests lie in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORATORY_DATA", str(tmp_path_factory.mktemp("data")))
        yield


FORKED_SECONDS = 300
"""After which a process that a test has forked is ended: it hangs."""


class Fork:
    """A process that begins with the libraries that this one has: a Python that starts takes seconds to load them.

    Threads of libraries are not in it, so it cannot draw charts: a study that is to end in one has no page.

    Attributes:
        stdout: what it prints.
        returncode: its exit code, less the number of the signal that ended it; None until :meth:`communicate`.
    """

    def __init__(self, work: Callable[[], int | None]) -> None:
        reading, writing = os.pipe()
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf8")  # noqa: SIM115  # closed by communicate
        self.returncode: int | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries, which rest between tests
            self.pid = os.fork()
        if self.pid == 0:
            _work(work, writing, self._stderr.fileno())
        os.close(writing)
        self.stdout = os.fdopen(reading, encoding="utf8")

    def send_signal(self, number: int) -> None:
        """As :mod:`subprocess` does."""
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for its end: all that it printed, on standard output and error."""
        out = self.stdout.read()
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._stderr.seek(0)
        err = self._stderr.read()
        self.stdout.close()
        self._stderr.close()
        return out, err


def _work(work: Callable[[], int | None], out: int, err: int) -> None:
    """Do it and end this process, whatever comes: nothing of the tests may go on in it."""
    code: Any = 1
    try:
        signal.alarm(FORKED_SECONDS)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf8", buffering=1) for number in (1, 2))
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads are not in this process
        code = work()
        sys.stdout.flush()
    except SystemExit as end:
        code = end.code
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  # it is told, and ends here
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else int(code is not None))


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], int | None]], Fork]]:
    """(work) -> it in a process of its own, whose exit code it gives; killed where the test leaves it."""
    made: list[Fork] = []

    def start(work: Callable[[], int | None]) -> Fork:
        made.append(Fork(work))
        return made[-1]

    yield start
    for fork in made:
        if fork.returncode is None:
            fork.send_signal(signal.SIGKILL)
            fork.communicate()


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    """(family, **changes to its configuration) -> a directory with a tiny random pretrained encoder and a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel

    from loratory.models.source import quiet

    made: dict[str, Path] = {}

    def make(family: str, **changes: Any) -> Path:
        key = f"{family}{sorted(changes.items())}"
        if key not in made:
            place = tmp_path_factory.mktemp(family)
            config = AutoConfig.for_model(family, **{**CONFIGS[family], **changes})
            with quiet(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                model = AutoModel.from_config(config)
                for name, parameter in model.named_parameters():
                    if parameter.ndim == 1:  # biases of 0 and norms of 1 would hide a mistake
                        parameter.data += 0.1 * torch.randn_like(parameter)
                    assert "lora" not in name
                model.save_pretrained(place)
            (_qwen_tokenizer() if family == "qwen2" else _tokenizer()).save_pretrained(place)
            made[key] = place
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_bert(model_directory: ModelDirectory) -> Path:
    """The directory of a tiny BERT."""
    return model_directory("bert")


@pytest.fixture(scope="session")
def texts() -> list[tuple[str, str]]:
    """120 distinct (text, label): each text holds words of its class among words of no class."""
    draw = random.Random(0)
    rows = []
    for number in range(120):
        label, marks = (("bad", BAD), ("good", GOOD))[number % 2]
        words = [draw.choice(WORDS[6:]) for _ in range(draw.randint(2, 8))]
        words[draw.randrange(len(words)) : 0] = draw.choices(marks, k=6)
        rows.append((" ".join([*words, WORDS[6 + number % 90]]), label))
    assert len({text for text, _ in rows}) == 120
    return rows


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> Path:
    """`texts` as a CSV file with the columns text and label."""
    path = tmp_path_factory.mktemp("csv") / "tiny.csv"
    with path.open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *texts])
    return path


@pytest.fixture(scope="session")
def labelled() -> Callable[..., Any]:
    """(lengths, classes=2, seed=0) -> random token sequences of these lengths, `[CLS]` first, with labels."""
    import numpy as np

    from loratory.data import Labelled, TokenTable

    def make(lengths: list[int], *, classes: int = 2, seed: int = 0) -> Labelled:
        draw = np.random.default_rng(seed)
        ids = draw.integers(len(SPECIAL), len(SPECIAL) + len(WORDS), size=sum(lengths), dtype=np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids[offsets[:-1]] = 2
        return Labelled(TokenTable(ids, offsets), draw.integers(0, classes, size=len(lengths), dtype=np.int64))

    return make


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, str]]:
    """(folder) -> the digest of every file below it, and the name of every folder."""

    def take(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            for path in sorted(folder.rglob("*"))
        }

    return take


@pytest.fixture(scope="session")
def spec(tiny_bert: Path, tiny_csv: Path) -> Callable[..., RunSpec]:
    """(method, **flags) -> a small run."""

    def make(method: str = "standard", **flags: Any) -> RunSpec:
        given = {
            "model": str(tiny_bert),
            "dataset": str(tiny_csv),
            "epochs": 2,
            "batch_size": 16,
            "max_length": 32,
            "lr": 0.005,
            "device": "cpu",
            "precision": "fp32",
        }
        return spec_from_flags({"method": method, **given, **flags})

    return make


@pytest.fixture(scope="session")
def runs(spec: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One run of each method."""
    from loratory.run import train

    place = tmp_path_factory.mktemp("runs")
    return {method: train(spec(method), output=place / method) for method in METHODS}


@pytest.fixture(scope="session")
def flags(tiny_bert: Path, tiny_csv: Path) -> list[str]:
    """A small run's, on the command line."""
    given = f"--model {tiny_bert} --dataset {tiny_csv} --epochs 1 --max-length 32 --lr 0.005 --device cpu"
    return [*given.split(), "--precision", "fp32"]


@pytest.fixture(scope="session")
def run_directory(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that `train` committed."""
    place = tmp_path_factory.mktemp("cli") / "lora"
    assert main(["train", "--method", "lora", *flags, "--output", str(place)]) == 0
    return place


SMALL_STUDY = """
name: small
data: [{data}]
models: [{model}]
methods:
  - {{name: head, tune: {{lr: [1e-3, 5e-3]}}}}
  - {{name: lora, rank: 2, tune: {{lr: [5e-3, 1e-2]}}}}
seeds: [3, 4]
tune_seeds: {tune_seeds}
train: {{epochs: 1, max_length: 32, batch_size: 32, device: cpu, precision: fp32, threads: 1}}
"""


@pytest.fixture(scope="session")
def study_text(tiny_bert: Path, tiny_csv: Path) -> Callable[..., str]:
    """(text=SMALL_STUDY, tune_seeds=first) -> a study of the tiny model and data."""

    def given(text: str = SMALL_STUDY, *, tune_seeds: str = "first") -> str:
        return text.format(data=tiny_csv, model=tiny_bert, tune_seeds=tune_seeds)

    return given


@pytest.fixture
def study_file(study_text: Callable[..., str], tmp_path: Path) -> Callable[..., Path]:
    """:func:`study_text` in a file."""

    def write(*text: str, **settings: str) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(study_text(*text, **settings), encoding="utf8")
        return path

    return write


@pytest.fixture(scope="session")
def _ran(study_text: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study's directory, which no test may touch."""
    place = tmp_path_factory.mktemp("ran")
    (place / "study.yaml").write_text(study_text(), encoding="utf8")
    assert main(["study", "run", str(place / "study.yaml"), "--output", str(place / "out")]) == 0
    return place / "out"


@pytest.fixture
def ran(_ran: Path, tmp_path: Path) -> Path:
    """The directory of the small study, finished: a copy."""
    return Path(shutil.copytree(_ran, tmp_path / "ran"))


@pytest.fixture
def records() -> Callable[[Path], dict[str, RunRecord]]:
    """(directory) -> every run of a study by its id, each checked against its manifest."""

    def read(directory: Path) -> dict[str, RunRecord]:
        places = [path for path in (directory / "runs").iterdir() if path.name[0] != "."]
        found = {path.name: read_run(path) for path in places}
        assert all(record.id == name for name, record in found.items())
        return found

    return read


@pytest.fixture
def plan() -> Callable[[Path], dict[str, Any]]:
    """(directory) -> a study's plan.json."""
    return lambda directory: json.loads((directory / "plan.json").read_text("utf8"))


@pytest.fixture
def workplace(
    tmp_path: Path,
    model_directory: ModelDirectory,
    texts: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A working directory: `data/` with a tiny model and tiny rated texts under the packaged names, reviews.csv with
    the columns review and stars, pairs.csv with question, answer and right, and the repository's studies and examples.
    """
    for name, item in PACKAGED.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for file in item.files:
            (folder / file).write_text("{}" if file.endswith(".json") else "", encoding="utf8")
    model = model_directory("bert", max_position_embeddings=128)  # what runs are cut at by default
    shutil.copytree(model, tmp_path / "data" / "minilm", dirs_exist_ok=True)
    rated = [f"{number}\t{2.0 if label == 'good' else -2.0}\t{text}\n" for number, (text, label) in enumerate(texts)]
    for file in (tmp_path / "data" / "hutto").glob("*_GroundTruth.txt"):
        file.write_text("".join(rated), encoding="utf8")
    with (tmp_path / "reviews.csv").open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows(
            [("review", "stars"), *((text, 5 if label == "good" else 1) for text, label in texts)]
        )
    with (tmp_path / "pairs.csv").open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows(
            [("question", "answer", "right"), *((text, text[:5], label == "good") for text, label in texts)]
        )
    for name in ("studies", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORATORY_DATA", "data")
    return tmp_path


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Callable[[str], int]:
    """(block of shell) -> run each of its commands here, which must succeed; how many there are."""

    def run(block: str) -> int:
        lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
        lines = [words for words in lines if words and words[0] != "set"]
        for words in lines:
            if words[0] == "python":
                script = Path(words[1])
                assert (ROOT / script).is_file()
                arguments = [script.stem, *words[2:]]
            else:
                assert words[0] == "loratory"
                arguments = words[1:]
            if arguments[:2] == ["study", "run"]:
                arguments += ["--set", "seeds=[0]", "--set", "train.epochs=1"]
            code = main(arguments)
            assert code == 0, f"{' '.join(words)}: {capsys.readouterr().err}"
        return len(lines)

    return run
