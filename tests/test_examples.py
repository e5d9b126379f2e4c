"""Every example does what its head says, with a tiny model and tiny data under the names that it has."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import loratory
from loratory.store.directory import read_run
from loratory.study.document import Summary

EXAMPLES = Path(__file__).parents[1] / "examples"


def script(name: str) -> str:
    """The commands of a shell script, which a shell can read."""
    subprocess.run(["sh", "-n", EXAMPLES / name], check=True)
    return (EXAMPLES / name).read_text("utf8")


def test_own_csv(workplace: Path, commands: Callable[[str], int], capsys: pytest.CaptureFixture[str]) -> None:
    assert commands(script("own_csv.sh")) == 4
    methods = [read_run(workplace / "models" / f"csv-{name}").spec["method"]["name"] for name in ("standard", "lora")]
    assert methods == ["standard", "lora"]
    table = capsys.readouterr().out
    assert "majority class" in table
    with (workplace / "labelled.csv").open(encoding="utf8", newline="") as file:
        labelled = list(csv.DictReader(file))
    said = loratory.predict("models/csv-lora", [row["text"] for row in labelled])
    assert len(labelled) == 120
    assert [row["label"] for row in labelled] == said.chosen
    assert {row["stars"] for row in labelled} == set(said.labels) == {"1", "5"}


def test_hub(
    workplace: Path,
    model_directory: Callable[..., Path],
    texts: list[tuple[str, str]],
    commands: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", workplace / "cache")
    model, data = "distilbert/distilbert-base-uncased", "cornell-movie-review-data/rotten_tomatoes"
    shutil.copytree(model_directory("distilbert", max_position_embeddings=128), workplace / model)
    (workplace / data).mkdir(parents=True)
    for part, rows in {"train": texts[:80], "validation": texts[80:100], "test": texts[100:]}.items():
        with (workplace / data / f"{part}.csv").open("w", encoding="utf8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    assert commands(script("hub.sh")) == 4
    record = read_run(workplace / "models" / "hub-lora")
    assert record.spec["data"]["dataset"] == f"hub:{data}"
    assert record.spec["model"] == model
    assert record.data["sizes"] == {"train": 80, "validation": 20, "test": 20}


def test_ranks(workplace: Path, commands: Callable[[str], int]) -> None:
    assert commands(script("ranks.sh")) == 3
    found = Summary.read(workplace / "results" / "own-ranks")
    assert found.complete
    assert [cell.approach for cell in found.cells] == [f"lora r={rank} attention" for rank in (1, 4, 16)]
    assert (workplace / "results" / "own-ranks" / "report.html").is_file()


def test_from_python(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "from_python.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "| standard |" in printed
    assert "| lora r=8 attention |" in printed
    assert len(re.findall(r"^[15] \{'1': 0\.\d+, '5': 0\.\d+\}$", printed, flags=re.MULTILINE)) == 2
    scores = json.loads(printed.splitlines()[-1].partition(": ")[2])
    assert len(scores) == 3
    assert all(0 <= score <= 1 for score in scores)


@pytest.fixture
def server(workplace: Path, commands: Callable[[str], int]) -> Iterator[str]:
    """The address of the server that serve.sh starts; the model is there already, made by the script's own commands."""
    lines = [line.strip() for line in script("serve.sh").splitlines()]
    assert commands("\n".join(line for line in lines if line.startswith("loratory "))) == 2
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PORT": "0", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        ["sh", "examples/serve.sh"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        said = []
        try:
            for line in process.stdout:  # until it serves, or ends
                said.append(line)
                if running := re.search(r"running on (http://\S+)", line):
                    yield running[1]
                    break
            else:
                pytest.fail("".join(said))
        finally:
            process.terminate()


def test_serve(server: str, workplace: Path, texts: list[tuple[str, str]]) -> None:
    asked = [
        *(text for text, _ in texts[:6]),
        " ".join(text for text, _ in texts[:40]),
    ]  # one is longer than 128 tokens

    def post(text: str) -> dict[str, object]:
        body = json.dumps({"text": text}).encode()
        request = Request(f"{server}/classify", data=body, headers={"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(post, asked))
    expected = loratory.predict(workplace / "models" / "to-serve", asked, precision="fp32")
    assert len({answer["label"] for answer in answers}) == 2
    for answer, said in zip(answers, expected.documents(), strict=True):
        assert answer["label"] == said["label"]
        assert answer["probabilities"] == pytest.approx(said["probabilities"], abs=1e-3)


def test_every_example_has_a_test_and_a_head_of_two_lines() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    files = sorted(EXAMPLES.iterdir())
    assert {path.stem for path in files if path.name[0] not in "._"} <= tested
    for path in files:
        if path.suffix in (".sh", ".py"):
            head = path.read_text("utf8").removeprefix("#!/bin/sh\n").splitlines()[:3]
            assert all(line.startswith("# ") for line in head[:2]) or (head[0].startswith('"""') and '"""' in head[1])
            assert not head[2].startswith("# ")
