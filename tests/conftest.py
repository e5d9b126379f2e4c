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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test asks the network
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as the command line does: a CPU has no kernels for 4 bits

import pytest
from forking import Fork
from pairs import COLUMNS
from tiny import SPECIAL, WORDS, save_model

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

GOOD, BAD = ("w0", "w1", "w2"), ("w3", "w4", "w5")


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


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], int | None]], Fork]]:
    """(work) -> it in a process of its own, whose exit code it gives; killed where the test leaves it."""
    import torch

    if torch.cuda.is_initialized():
        pytest.skip("CUDA has started in this process, which cannot be forked any more")
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
    made: dict[str, Path] = {}

    def make(family: str, **changes: Any) -> Path:
        key = f"{family}{sorted(changes.items())}"
        if key not in made:
            made[key] = save_model(family, tmp_path_factory.mktemp(family), **changes)
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


@pytest.fixture(scope="session")
def pairs_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 pairs of 45 first texts; of each label the second text begins with the first one's first word, or not."""
    draw = random.Random(3)
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    with path.open("w", encoding="utf8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "premise", "hypothesis", "same"])
        for number in range(45):
            words = [f"w{draw.randrange(96)}" for _ in range(5)]
            for same in ("yes", "no"):
                first = words[0] if same == "yes" else f"w{number + 1}"
                rows.writerow([number, " ".join(words), f"{first} w{draw.randrange(96)} w{number}", same])
    return path


@pytest.fixture(scope="session")
def paired_model(
    model_directory: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """(family) -> a tiny model whose tokenizer gives types of tokens, as BERT's own does."""

    from transformers import AutoTokenizer

    def make(family: str) -> Path:
        place = tmp_path_factory.mktemp(family) / "model"
        shutil.copytree(model_directory(family), place)
        if family != "qwen2":
            names = ["input_ids", "token_type_ids", "attention_mask"]
            AutoTokenizer.from_pretrained(place, model_input_names=names).save_pretrained(place)
        return place

    return make


@pytest.fixture(scope="session")
def paired_bert(paired_model: Callable[[str], Path]) -> Path:
    """A tiny BERT with types of tokens."""
    return paired_model("bert")


@pytest.fixture(scope="session")
def paired_data(pairs_csv: Path) -> Any:
    """These pairs, divided."""
    from loratory.data import make_dataset
    from loratory.spec import DataSpec

    return make_dataset(DataSpec(dataset=str(pairs_csv), **COLUMNS))
