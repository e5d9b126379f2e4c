"""Help and version come without what training needs: nothing of it is imported."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from loratory.cli import main

ROOT = Path(__file__).parents[1]
SLOW = {
    *("torch", "transformers", "peft", "numpy", "scipy", "sklearn", "pandas", "pyarrow", "rich", "yaml"),
    *("loratory.spec", "loratory.methods", "loratory.study.spec"),
}
"""What takes long to import, and what imports it."""
PYDANTIC = {"pydantic", "importlib.metadata"}
"""Typer's own, for the flags of a command below another."""


@pytest.mark.parametrize(
    ("words", "slow"),
    [
        (["--help"], SLOW | PYDANTIC),
        ([], SLOW | PYDANTIC),
        (["--version"], SLOW | PYDANTIC),
        (["data", "--help"], SLOW),
        (["study", "run", "--help"], SLOW),
    ],
)
def test_help_imports_nothing_that_takes_long(words: list[str], slow: set[str]) -> None:
    code = f"import sys; from loratory.cli import main; code = main({words!r}); "
    code += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "loratory.cli" in loaded
    assert not loaded & slow


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--method", "lora", "--rank", "0"],
        ["train", "--method", "lora", "--checkpoint-every", "5"],
        ["study", "run", "study.yaml", "--checkpoint-every", "5"],
    ],
    ids=" ".join,
)
def test_a_setting_that_cannot_be_meant_is_refused_before_torch_is_loaded(words: list[str]) -> None:
    code = f"import sys; from loratory.cli import main; code = main({words!r}); "
    code += "print(code, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code, *loaded = done.stdout.split()
    assert code == "2"
    assert done.stderr.startswith(f"error: {words[-2]} '{words[-1]}'")
    assert "torch" not in loaded


def test_every_command_stands_in_the_help_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = {words[0]: " ".join(words[1:]) for line in lines if (words := line.split())}
    for name in ("train", "estimate", "evaluate", "predict", "compare", "rerun", "report", "export", "models", "data"):
        assert said[name], name
    assert said["train"].startswith("Train once")


def test_flags_are_those_of_the_settings_with_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "one of: standard, lora, hybrid" in text
    for flag in ("--method", "--rank", "--epochs", "--dataset", "--threads", "--output", "--lr,--learning-rate"):
        assert flag in text.replace(", --", ",--"), flag
    assert main(["predict", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--threads" in text
    assert "--epochs" not in text


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["version"]
    assert capsys.readouterr().out == f"loratory {version}\n"
