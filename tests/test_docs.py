"""What the README shows runs, on tiny stand-ins for the packaged model and data; what pages name is there."""

from __future__ import annotations

import json
import re
import runpy
import tarfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import typer

from loratory.cli import app
from loratory.flags import whole
from loratory.methods import METHODS, all_flags
from loratory.study.reading import read_study
from loratory.study.spec import StudySpec

ROOT = Path(__file__).parents[1]


def blocks(document: Path, language: str) -> list[str]:
    """The document's blocks of code in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text("utf8"), flags=re.MULTILINE | re.DOTALL)


README_BLOCKS = blocks(ROOT / "README.md", "sh")
"""Its commands."""


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
def test_every_command_of_the_readme_runs_and_so_does_its_code(
    workplace: Path, commands: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sum(map(commands, README_BLOCKS)) >= 10
    assert (workplace / "predictions.csv").is_file()
    *codes, stock = blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    for code in codes:  # one after the other, as a reader would type them
        exec(compile(code, "README.md", "exec"), names)
    assert {"from-python", "from-lists", "best"} <= {path.name for path in (workplace / "models").iterdir()}
    capsys.readouterr()
    exec(compile(stock, "README.md", "exec"), {})
    assert capsys.readouterr().out in ("negative\n", "positive\n")


def test_the_studys_own_commands_need_no_other_block(workplace: Path, commands: Callable[[str], int]) -> None:
    (block,) = (block for block in README_BLOCKS if "scripts/evaluate.py --model_path models/your_model.pth" in block)
    assert commands(block) >= 3


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
@pytest.mark.parametrize(("page", "leaves"), [("own-data", "models/reviews-merged"), ("choosing", "results/small")])
def test_every_command_of_a_page_runs_in_its_order(
    page: str, leaves: str, workplace: Path, commands: Callable[[str], int]
) -> None:
    document = ROOT / "docs" / f"{page}.md"
    for text in blocks(document, "yaml"):
        name = re.match(r"# (\w+\.yaml)\n", text)
        assert name, "a file's first line is its name"
        (workplace / name[1]).write_text(text, encoding="utf8")
    assert sum(map(commands, blocks(document, "sh"))) >= 2
    assert (workplace / leaves).is_dir()


def test_the_page_about_choosing_has_no_number_of_its_own() -> None:
    tables = (ROOT / "results").glob("*/*/table.md")
    sources = [
        *(ROOT / name / "README.md" for name in ("results", "benchmarks")),
        *(ROOT / "docs").glob("*.md"),
        *tables,
    ]
    choosing = ROOT / "docs" / "choosing.md"
    number = r"(?<![\w.])\d+(?:[.,]\d+)*"
    known = {one for page in sources if page != choosing for one in re.findall(number, page.read_text("utf8"))}
    prose = re.sub(r"^```.*?^```|\]\([^)]*\)", "", choosing.read_text("utf8"), flags=re.MULTILINE | re.DOTALL)
    found = set(re.findall(number, prose))
    assert len(found) >= 10
    assert found <= known


PAGES = [
    *ROOT.glob("*.md"),
    *(page for page in ROOT.glob("docs/*.md") if page.name != "errors.md"),  # it shows flags that there are not
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
    known = {*re.findall(r'"(--[a-z-]+)"', source), *OTHERS_FLAGS, *flags_of(typer.main.get_command(app))}
    known |= {"--help", "--debug", *map(flag, all_flags())}
    for word in re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text):
        assert word.replace("_", "-") in known, word


def flag(name: str) -> str:
    """A setting's."""
    return f"--{name.replace('_', '-')}"


def flags_of(command: Any) -> set[str]:
    """Those of a command, and of all that stand below it."""
    own = {word for one in whole(command).params for word in (*one.opts, *one.secondary_opts) if word[:2] == "--"}
    return own.union(*map(flags_of, getattr(command, "commands", {}).values()))


def test_the_study_that_the_readme_shows_is_one(tmp_path: Path) -> None:
    own, text = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "own.yaml").write_text(own, encoding="utf8")
    assert read_study(tmp_path / "own.yaml")[0].train["text_column"] == "review"
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf8")
    shown, ships = read_study(path)[0], read_study(ROOT / "studies" / "seed.yaml")[0]
    left_out = {"price_per_hour", "folds"}  # said in the text below
    assert set(shown.model_fields_set) == set(StudySpec.model_fields) - left_out
    assert [line.partition(":")[0] for line in shown.differences(ships)] == ["methods", "train"]


def test_the_page_of_methods_is_what_their_files_say() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "methods.py"))["page"]()
    assert (ROOT / "docs" / "methods.md").read_text("utf8") == written, "run python docs/methods.py"


def test_the_page_of_commands_is_what_the_program_says_with_an_example_of_each() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "commands.py"))
    assert (ROOT / "docs" / "commands.md").read_text("utf8") == made["page"](), "run python docs/commands.py"
    page = (ROOT / "docs" / "commands.md").read_text("utf8")
    shown = [block.strip() for block in blocks(ROOT / "docs" / "commands.md", "sh")]
    run = "".join(README_BLOCKS).splitlines()  # by the first test of this file
    names = [name for name, _ in made["commands"](typer.main.get_command(app))]
    assert {"train", "rerun", "report", "study run", "study status", "data list", "data fetch"} <= set(names)
    for name, example in zip(names, shown, strict=True):
        assert example.startswith(f"loratory {name} ") or example == f"loratory {name}"
        assert example in run
    of_methods = {flag(name) for method in METHODS.values() for name in method.settings.model_fields}  # methods.md's
    flags = flags_of(typer.main.get_command(app)) - of_methods
    assert {"--method", "--lr", "--learning-rate", "--threads", "--no-baselines", "--push"} <= flags
    assert flags <= set(re.findall(r"(?<=[`, ])--[a-z-]+", page))


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
