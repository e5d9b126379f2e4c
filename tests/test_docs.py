"""What the README shows runs, on tiny stand-ins for the packaged model and data; what pages name is there."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shlex
import shutil
import tarfile
from inspect import signature
from pathlib import Path
from statistics import mean

import pytest

from loratory.cli import app, main
from loratory.data import PACKAGED
from loratory.methods import all_flags
from loratory.study.reading import read_study
from loratory.study.spec import StudySpec
from loratory.study_app import study_app

ROOT = Path(__file__).parents[1]


def blocks(document: Path, language: str) -> list[str]:
    """The document's blocks of code in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text("utf8"), flags=re.MULTILINE | re.DOTALL)


README_BLOCKS = blocks(ROOT / "README.md", "sh")
"""Its commands."""


def run(block: str, capsys: pytest.CaptureFixture[str]) -> int:
    """Run each command of a block, which must succeed; returns how many there are."""
    lines = [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]
    for words in lines:
        if words[0] == "python":
            script = Path(words[1])
            assert (ROOT / script).is_file()
            arguments = [script.stem, *words[2:]]
        else:
            assert words[0] == "loratory"
            arguments = words[1:]
        if arguments[0] in ("train", "estimate"):
            arguments += ["--max-length", "48"]  # the tiny model takes no more than 64
        if arguments[:2] == ["study", "run"]:
            arguments += ["--set", "train.max_length=48", "--set", "seeds=[0, 1]"]
        code = main(arguments)
        assert code == 0, f"{' '.join(words)}: {capsys.readouterr().err}"
    return len(lines)


@pytest.fixture
def workplace(tmp_path: Path, tiny_bert: Path, texts: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose `data/` holds a tiny model and tiny rated texts under the packaged names."""
    for name, item in PACKAGED.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for file in item.files:
            (folder / file).write_text("{}" if file.endswith(".json") else "", encoding="utf8")
    shutil.copytree(tiny_bert, tmp_path / "data" / "minilm", dirs_exist_ok=True)
    rated = [f"{number}\t{2.0 if label == 'good' else -2.0}\t{text}\n" for number, (text, label) in enumerate(texts)]
    for file in (tmp_path / "data" / "hutto").glob("*_GroundTruth.txt"):
        file.write_text("".join(rated), encoding="utf8")
    with (tmp_path / "reviews.csv").open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows(
            [("review", "stars"), *((text, 5 if label == "good" else 1) for text, label in texts)]
        )
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORATORY_DATA", "data")
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
def test_every_command_of_the_readme_runs_and_so_does_its_code(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sum(run(block, capsys) for block in README_BLOCKS) >= 10
    assert (workplace / "predictions.csv").is_file()
    *codes, stock = blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    for code in codes:  # one after the other, as a reader would type them
        exec(compile(code, "README.md", "exec"), names)
    assert {"from-python", "from-lists", "best"} <= {path.name for path in (workplace / "models").iterdir()}
    capsys.readouterr()
    exec(compile(stock, "README.md", "exec"), {})
    assert capsys.readouterr().out in ("negative\n", "positive\n")


def test_the_studys_own_commands_need_no_other_block(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (block for block in README_BLOCKS if "scripts/evaluate.py --model_path models/your_model.pth" in block)
    assert run(block, capsys) >= 3


PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *(ROOT / name / "README.md" for name in ("benchmarks", "results")),
]
OTHERS_FLAGS = {"--nproc-per-node", "--strict"}  # torchrun, mypy


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_flags_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text("utf8")
    for name in re.findall(r"(?<![\w/.-])((?:[\w-]+/)*[\w-]+\.(?:py|md|txt|toml))\b", text):
        places = (ROOT, ROOT / "src" / "loratory", ROOT / "benchmarks", page.parent)
        assert any((place / name).is_file() for place in places), name
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    source = "".join(file.read_text("utf8") for file in (ROOT / "benchmarks").glob("*.py"))
    known = {*re.findall(r'"(--[a-z-]+)"', (ROOT / "src" / "loratory" / "cli.py").read_text("utf8"))}
    known |= {*re.findall(r'"(--[a-z-]+)"', source), *OTHERS_FLAGS, "--help", "--debug"}
    known |= {"--" + name.replace("_", "-") for name in (*all_flags(), *parameters_of_commands())}
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text):
        assert flag.replace("_", "-") in known, flag


def parameters_of_commands() -> list[str]:
    commands = (*app.registered_commands, *study_app.registered_commands)
    return [parameter for command in commands for parameter in signature(command.callback).parameters]


def test_the_study_that_the_readme_shows_is_one(tmp_path: Path) -> None:
    text, own = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "own.yaml").write_text(own, encoding="utf8")
    assert read_study(tmp_path / "own.yaml")[0].train["text_column"] == "review"
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf8")
    shown, ships = read_study(path)[0], read_study(ROOT / "studies" / "seed.yaml")[0]
    assert set(shown.model_fields_set) == set(StudySpec.model_fields)
    assert [line.partition(":")[0] for line in shown.differences(ships)] == ["methods", "train"]


def test_the_page_of_methods_is_what_their_files_say() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "methods.py"))["page"]()
    assert (ROOT / "docs" / "methods.md").read_text("utf8") == written, "run python docs/methods.py"


RESULTS = sorted((ROOT / "results" / "h100").iterdir())


@pytest.mark.parametrize("place", RESULTS, ids=lambda place: place.name)
def test_the_means_of_published_results_are_those_of_their_records(place: Path) -> None:
    cells = json.loads((place / "summary.json").read_text("utf8"))["cells"]
    finals = {f"runs/{run}/run.json": cell["id"] for cell in cells for run in cell["runs"]}
    scores: dict[str, list[float]] = {cell["id"]: [] for cell in cells}
    with tarfile.open(place / "records.tar.xz") as records:
        for member in records:
            if member.name in finals:
                record = json.loads(records.extractfile(member).read())
                scores[finals[member.name]].append(record["quality"]["test"]["accuracy"])
    for cell in cells:
        assert len(scores[cell["id"]]) == len(cell["seeds"]) == 5
        assert mean(scores[cell["id"]]) == pytest.approx(cell["quality"]["test"]["accuracy"]["mean"], abs=1e-12)


def test_the_readme_shows_rows_of_the_published_table() -> None:
    table = (ROOT / "results" / "h100" / "seed" / "table.md").read_text("utf8").splitlines()
    shown = [row for row in (ROOT / "README.md").read_text("utf8").splitlines() if row.startswith("| hutto:")]
    assert len(shown) == 10
    assert set(shown) <= set(table)
