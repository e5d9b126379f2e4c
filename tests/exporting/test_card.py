"""The card says what the record says, whatever labels and files are called."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from loratory.data import Labelled, TokenTable
from loratory.exporting.card import code, model_card
from loratory.exporting.checked import Examples
from loratory.exporting.export import export
from loratory.exporting.source import Source
from loratory.methods import parse_spec
from loratory.run import Run, train
from loratory.units import printable

SECTIONS = ["Use", "Labels", "Data", "Settings", "Results", "Limits", "Licence"]
NO_EXAMPLES = Examples(Labelled(TokenTable(np.empty(0, np.int32), np.zeros(1, np.int64)), np.empty(0)), "none", None)
HOSTILE = ["a | b `c` ``d``", "---\n# w\n```\n<script>", "[x](y) *z* &lt; \u202e"]


def parsed(card: str) -> tuple[dict[str, Any], list[Token]]:
    """The metadata, and the tokens of the text."""
    _, head, text = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head), MarkdownIt().enable("table").parse(text)


def headings(tokens: list[Token], tag: str) -> list[str]:
    return [after.content for token, after in pairwise(tokens) if token.tag == tag and after.type == "inline"]


def spans(tokens: list[Token]) -> list[str]:
    return [child.content for token in tokens for child in token.children or () if child.type == "code_inline"]


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_code_span_holds_any_text(text: str) -> None:
    (inline,) = (token for token in MarkdownIt().parse(f"- 0: {code(text)} (train 3)") if token.type == "inline")
    assert [child.type for child in inline.children or ()] == ["text", "code_inline", "text"]
    assert spans([inline])[0].strip(" ") == printable(text).strip(" ")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_labels_and_names_of_files_break_nothing(
    kind: str, spec: Any, texts: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    data = tmp_path / "x`y` | # z.jsonl"
    rows = [{"text": text, "label": HOSTILE[number % 3]} for number, (text, _) in enumerate(texts)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    run = train(spec("lora", dataset=str(data), epochs=1), output=tmp_path / "run")
    export(run.directory, tmp_path / "out", kind)
    metadata, tokens = parsed((tmp_path / "out" / "README.md").read_text("utf8"))
    library = {"merged": "transformers", "adapter": "peft"}[kind]
    assert metadata == {"library_name": library, "pipeline_tag": "text-classification", "tags": ["loratory"]}
    assert headings(tokens, "h1") == [run.record.id]
    assert headings(tokens, "h2") == SECTIONS
    assert {printable(label) for label in HOSTILE} <= set(spans(tokens))
    assert printable(data.name) in spans(tokens)
    assert not [token for token in tokens if token.type == "html_block"]
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text("utf8")
    (program,) = (token.content for token in tokens if token.type == "fence")
    monkeypatch.chdir(tmp_path / "out")
    capsys.readouterr()
    exec(compile(program, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert any(text in printed for label in HOSTILE for text in (label, repr(label)))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"text_column": "title,body"},
            ["- text column: `title,body` (columns by commas: their cells that are not empty, a line break between"],
        ),
        (
            {"text_column": "a", "pair_column": "b", "label_column": "stars"},
            ["- text column: `a`\n", "- column of the second text: `b`\n", "- label column: `stars`\n"],
        ),
    ],
)
def test_the_card_says_which_columns_were_read_and_how_they_were_joined(
    columns: dict[str, str], said: list[str], runs: dict[str, Run]
) -> None:
    record = runs["lora"].record
    read = replace(record, spec=record.spec | {"data": record.spec["data"] | columns})
    source = Source(runs["lora"].directory, read, parse_spec(read.spec), local_names=True)
    card = model_card(source, "adapter", NO_EXAMPLES, 0.0)
    for line in said:
        assert card.count(line) == 1
    assert "data.text_column" not in card


def test_the_card_holds_the_records_numbers(runs: dict[str, Run], tmp_path: Path) -> None:
    record = runs["standard"].record
    export(runs["standard"].directory, tmp_path / "out", "merged")
    card = (tmp_path / "out" / "README.md").read_text("utf8")
    quality = record.quality["test"]
    assert "|  | validation (12 examples) | test (24 examples) |" in card
    assert f"| Accuracy | {record.quality['validation']['accuracy']:.1%} | {quality['accuracy']:.1%} |" in card
    for number, label in enumerate(("bad", "good")):
        one = quality["per_class"][label]
        cells = [f"{one[name]:.3f}" for name in ("precision", "recall", "f1")]
        assert f"| {number} | {' | '.join(cells)} | {one['support']} |" in card
    for digest in (record.data["digest"], *record.data["digests"].values(), record.environment["model_digest"]):
        assert digest in card
    for line in ("- method.name: `standard`", "- training.lr: `0.005`", "- seed: `0`", "- data.max_length: `32`"):
        assert line in card
    assert "license:" not in card


def test_a_hub_base_and_a_hub_data_set_are_named_as_such(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from loratory.exporting.card import model_card
    from loratory.exporting.checked import Examples
    from loratory.exporting.source import Source

    source = Source.of(runs["lora"].directory)
    environment = {**source.record.environment, "model_digest": "0" * 40}
    data = source.spec.data.model_copy(update={"dataset": "hub:cardiffnlp/tweet_eval/sentiment"})
    spec = source.spec.model_copy(update={"model": "some/base", "data": data})
    hub = replace(source, record=replace(source.record, environment=environment), spec=spec)
    metadata, tokens = parsed(model_card(hub, "merged", Examples(None, "64 validation examples", None), 1e-7))
    assert metadata["base_model"] == "some/base"
    assert metadata["datasets"] == ["cardiffnlp/tweet_eval"]
    assert "hub:cardiffnlp/tweet_eval/sentiment" in spans(tokens)
