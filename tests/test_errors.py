"""The words of errors and notes."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

import loratory
from loratory import errors
from loratory.data import make_dataset
from loratory.errors import DataError, counted, redacted
from loratory.spec import DataSpec


def test_a_count_and_its_noun_agree() -> None:
    assert [counted(number, "text") for number in (0, 1, 2, 2114)] == ["0 texts", "1 text", "2 texts", "2,114 texts"]


def test_one_text_is_no_plural(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(20)), encoding="utf8")
    test.write_text("text,label\ntext 3,1\nnew,0\nnewer,1\n", encoding="utf8")
    with caplog.at_level(logging.WARNING, "loratory"):
        make_dataset(DataSpec(dataset=str(train), test=str(test)))
    assert "1 text of test also in train; kept" in caplog.text
    train.write_text("text,label\nx,0\ny,1\nz,1\n", encoding="utf8")
    with pytest.raises(DataError, match=r"has 1 distinct text \(line 2\), too few"):
        make_dataset(DataSpec(dataset=str(train)))


def test_the_page_of_errors_lists_every_exception_with_its_code_and_the_package_has_it() -> None:
    page = (Path(__file__).parents[1] / "docs" / "errors.md").read_text("utf8")
    listed = re.findall(r"^\| `(\w+)` \| (.+) \| (\d) \| .+ \|$", page.partition("## Exceptions")[2], re.MULTILINE)
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.LoratoryError)]
    codes = {one.__name__: str(one.exit_code) for one in kinds if one is not errors.LoratoryError}
    assert {name: code for name, _, code in listed} == codes
    for name, bases, _ in listed:
        one = getattr(loratory, name)
        assert name in loratory.__all__
        assert [base.__name__ for base in one.__bases__] == re.findall(r"`(\w+)`", bases)
    tree = re.findall(r"[├└]── (\w+) +(\d)", errors.__doc__ or "")
    assert dict(tree) == codes


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "hf_token", "TOKEN", "OPENAI_APIKEY", "openai_apikey", "apikey", "X_API_KEY", "GITHUB_ACCESSTOKEN"],
)
def test_what_a_secret_variable_holds_is_called_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "canary-of-it")
    assert redacted("no login with canary-of-it") == f"no login with ${name}"


@pytest.mark.parametrize("name", ["MONKEY", "TURKEY", "TOKENIZERS_PARALLELISM", "PWD", "KEYBOARD"])
def test_another_variable_is_no_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "no-secret-at-all")
    assert redacted("it is no-secret-at-all") == "it is no-secret-at-all"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://canary@host/x", "https://…@host/x"),
        ("https://me:canary@host", "https://…@host"),
        ("https://me:can@ry@host/a@b", "https://…@host/a@b"),
        ("https://canary@one,https://canary@two", "https://…@one,https://…@two"),
        ("https://host/a?mail=me@there", "https://host/a?mail=me@there"),
        ("https://host?mail=me@there and me@there", "https://host?mail=me@there and me@there"),
    ],
)
def test_of_an_address_only_the_host_and_what_follows_is_told(text: str, said: str) -> None:
    assert redacted(text) == said
