"""The model card: what the run's record says of an exported model, as Markdown with the hub's YAML before it.

Text that comes from data, labels or paths stands in code spans, where Markdown means nothing, and never in a table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loratory import units
from loratory.data.rows import PARTS
from loratory.errors import counted
from loratory.evaluation.metrics import metrics_of
from loratory.evaluation.quality import NumberQuality, Quality, read_quality
from loratory.exporting import FORMATS
from loratory.exporting.checked import Examples
from loratory.exporting.source import Source
from loratory.models.quantized import SETTINGS
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem
from loratory.spec import DataSpec
from loratory.store.naming import flat

CARD = "README.md"

WHAT_FOR: Mapping[Problem, str] = {
    SINGLE: "classify text",
    MULTI: "give text any of several labels",
    REGRESSION: "give text a number",
}
"""What a model of each problem is for."""

LIBRARIES = {"merged": "transformers", "adapter": "peft", "onnx": "onnx"}
"""The library that opens each format, as the hub calls it."""


def model_card(source: Source, kind: str, examples: Examples, apart: float) -> str:
    """The card of a run that was exported as `kind`.

    Args:
        examples: those on which it was compared with the run.
        apart: the largest difference between two logits there.
    """
    sections = {
        "Use": [f"In this directory, {FORMATS[kind]}:", "", *_example(source, kind)],
        "Labels": [*_labels(source)],
        "Data": [*_data(source)],
        "Settings": [*_settings(source)],
        "Results": [*_results(source)],
        "Limits": [*_limits(source)],
        "Licence": [
            "None is stated: whoever publishes this chooses one, and names it as `license` at the head of this file.",
            "The base and the data have terms of their own.",
        ],
    }
    lines = [
        f"# {source.record.id}",
        "",
        f"{code(source.base_name)}, fine-tuned to {WHAT_FOR[source.problem]} with the method {code(source.method)} by "
        f"Loratory {source.record.environment['version']}. Exported in the format {kind}; on {examples.what} its "
        f"logits differ from the run's by at most {apart:.1e}.",
    ]
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
    return f"---\n{_metadata(source, kind)}\n---\n\n" + "\n".join(lines) + "\n"


def code(text: str) -> str:
    """`text` as a code span, on one line, invisible characters spelled out."""
    shown = units.printable(text)
    fence = "`" * (_longest_ticks(shown) + 1)
    space = " " if shown.strip(" ") != shown or shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _metadata(source: Source, kind: str) -> str:
    from huggingface_hub import ModelCardData

    dataset = source.spec.data.dataset
    data = ModelCardData(
        library_name=LIBRARIES[kind],
        pipeline_tag="text-classification",
        tags=["loratory"],
        base_model=None if source.base_is_local else source.base_name,
        datasets=["/".join(dataset.removeprefix("hub:").split("/")[:2])] if dataset.startswith("hub:") else None,
    )
    return data.to_yaml()


@dataclass(frozen=True)
class _Said:
    """The lines of a program in which an answer is read, by the problem."""

    names: str
    pipeline: str
    torch: str
    onnx: str
    imports: str = ""


def _said(source: Source) -> _Said:
    labels = repr(list(source.labels))
    if source.problem == REGRESSION:
        return _Said(
            f"name = {source.labels[0]!r}",
            'print(classify({text}, truncation=True, max_length={longest}){first}["score"])',
            "print(name, float(model(**text).logits))",
            "print(logits[:, 0])",
        )
    if source.problem == MULTI:
        cuts = "[" + ", ".join(f"{cut:.6g}" for cut in source.record.thresholds or ()) + "]"
        thresholds = f"thresholds = {cuts}  # chosen on validation\n"
        pair = "for one, p, cut in zip(labels, {0}, thresholds) if p >= cut"
        return _Said(
            f"labels = {labels}\n{thresholds.rstrip()}",
            f"thresholds = dict(zip({_braced(labels)}, {cuts}))  # chosen on validation\n"
            "found = classify({text}, truncation=True, max_length={longest}, top_k=None)\n"
            'print([one["label"] for one in found if one["score"] >= thresholds[one["label"]]])',
            f"print([one {pair.format('model(**text).logits.sigmoid()[0].tolist()')}])",
            f"{thresholds}print([[one {pair.format('row').replace('labels', 'labels.values()')}] "
            "for row in 1 / (1 + np.exp(-logits))])",
            "import numpy as np\n",
        )
    return _Said(
        f"labels = {labels}",
        "print(classify({text}, truncation=True, max_length={longest}))",
        "print(labels[int(model(**text).logits.argmax())])",
        "print([labels[int(number)] for number in logits.argmax(-1)])",
    )


def _braced(text: str) -> str:
    """Text that `format` leaves as it is."""
    return text.replace("{", "{{").replace("}", "}}")


def _example(source: Source, kind: str) -> list[str]:
    longest = source.spec.data.max_length
    labels = repr(list(source.labels))
    paired = source.spec.data.pair_column is not None
    texts = ['"A text."', *(['"Its second text."'] if paired else [])]
    one, several = ", ".join(texts), ", ".join(f"[{text}]" for text in texts)
    piped = "{" + f'"text": {texts[0]}, "text_pair": {texts[1]}' + "}" if paired else one
    held, given = "", ""
    if source.quantize != "off":
        settings = {**SETTINGS[source.quantize], "llm_int8_skip_modules": list(source.head)}
        if source.quantize == "4bit":
            bf16 = source.record.environment["precision"] == "bf16"
            settings["bnb_4bit_compute_dtype"] = "bfloat16" if bf16 else "float32"
        held = f"\nheld = BitsAndBytesConfig({', '.join(f'{key}={value!r}' for key, value in settings.items())})"
        given = ", quantization_config=held"
    said = _said(source)
    programs = {
        "merged": f"""\
from transformers import pipeline

classify = pipeline("text-classification", model=".")
{said.pipeline.format(text=piped, longest=longest, first="" if paired else "[0]")}""",
        "adapter": f"""\
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer{", BitsAndBytesConfig" if held else ""}

{said.names}{held}
model = AutoPeftModelForSequenceClassification.from_pretrained(".", num_labels={len(source.labels)}{given})
tokenizer = AutoTokenizer.from_pretrained(".")
text = tokenizer({one}, truncation=True, max_length={longest}, return_tensors="pt")
{said.torch}""",
        "onnx": f"""\
{said.imports}import onnxruntime
from transformers import AutoConfig, AutoTokenizer

labels, tokenizer = AutoConfig.from_pretrained(".").id2label, AutoTokenizer.from_pretrained(".")
session = onnxruntime.InferenceSession("model.onnx")
texts = tokenizer({several}, padding=True, truncation=True, max_length={longest}, return_tensors="np")
(logits,) = session.run(None, {{one.name: texts[one.name] for one in session.get_inputs()}})
{said.onnx}""",
    }
    fence = "`" * max(3, _longest_ticks(labels) + 1)
    lines = [f"{fence}python", *programs[kind].split("\n"), fence]
    if kind == "adapter" and source.base_is_local:
        base = f"The base {code(source.base_name)} was a directory; its SHA-256 is below."
        where = "Give the path where you have it as `base_model_name_or_path` in `adapter_config.json`"
        here = ", which names its place on the machine that trained" if source.local_names else ""
        lines += ["", f"{base} {where}{here}."]
    return lines


def _labels(source: Source) -> Iterator[str]:
    counts = source.record.data.get("class_counts")
    if counts is None:
        yield f"- a number: {code(source.labels[0])}"
        for part, said in source.record.data["targets"].items():
            yield f"- {part}: " + ", ".join(f"{name} {value:.6g}" for name, value in said.items())
        return
    cuts = source.record.thresholds
    for number, label in enumerate(source.labels):
        examples = ", ".join(f"{part} {counts[part][number]:,}" for part in PARTS)
        cut = "" if cuts is None else f", given from a probability of {cuts[number]:.3f} on"
        yield f"- {number}: {code(label)} ({examples}){cut}"


def _data(source: Source) -> Iterator[str]:
    data, spec = source.record.data, source.spec.data
    named = {"data set": spec.dataset, "validation file": spec.validation, "test file": spec.test}
    for what, name in named.items():
        if name is not None:
            yield f"- {what}: {code(_public(name))}"
    yield from _columns(spec)
    if data["revision"]:
        yield f"- revision: {code(str(data['revision']))}"
    yield f"- SHA-256 of the source: `{data['digest']}`"
    for part in PARTS:
        yield f"- {part}: {counted(data['sizes'][part], 'example')}, SHA-256 `{data['digests'][part]}`"
    for pair, number in data["overlap"].items():
        if number:
            yield f"- texts alike in {pair.replace('-', ' and ')}: {number:,}"
    if groups := data.get("groups"):  # records of earlier versions know of none
        yield f"- groups, each in one split unless it is said here: {groups['count']:,}"
        for pair, number in groups["overlap"].items():
            if number:
                first, second = pair.split("-")
                yield f"- examples of {second} whose group is in {first}, too: {number:,}"
    if data["conflicts"]:
        yield f"- texts with different labels: {data['conflicts']:,}"
    if data["dropped"]:
        yield f"- rows without a class, left out: {data['dropped']:,}"


def _columns(spec: DataSpec) -> Iterator[str]:
    """Where the texts stand in a table, and what was made of several columns."""
    if spec.dataset.startswith("hutto:"):
        return
    several = " (columns by commas: their cells that are not empty, a line break between them, are one text)"
    joined = several if "," in spec.text_column else ""
    yield f"- text column: {code(spec.text_column)}{joined}"
    if spec.pair_column is not None:
        yield f"- column of the second text: {code(spec.pair_column)}"
    yield f"- label column: {code(spec.label_column)}"


def _public(name: str) -> str:
    """A data set's name without folders of this machine."""
    return name if name.startswith(("hutto:", "hub:")) else Path(name).name


PLACES = {
    *("model", "data.dataset", "data.validation", "data.test"),
    *("data.text_column", "data.pair_column", "data.label_column"),
}
"""Settings that name files and columns, and stand elsewhere in the card."""


def _settings(source: Source) -> Iterator[str]:
    environment = source.record.environment
    digest = "SHA-256" if source.base_is_local else "revision"
    known = f", {digest} `{environment['model_digest']}`" if environment["model_digest"] else ""
    yield f"- base: {code(source.base_name)}{known}"
    if source.quantize != "off":
        held = environment["engine"]["quantized"]
        how = ", ".join(f"{key}={value}" for key, value in held.items() if key not in ("layers", "bitsandbytes"))
        yield (
            f"- {counted(held['layers'], 'linear layer')} of the base held in {source.quantize} by bitsandbytes "
            f"{held['bitsandbytes']} ({how}) while the adapter was trained; it belongs to a base that is held so"
        )
    for key, value in flat(source.record.to_dict()).items():
        if key not in PLACES and not key.startswith("hardware.") and value != "null":
            yield f"- {key}: {code(json.loads(value) if value.startswith(chr(34)) else value)}"
    yield f"- precision: {environment['precision']}"
    yield f"- device: {code(str(environment['device']))}"
    versions = (f"{name} {version}" for name, version in environment["versions"].items())
    yield f"- versions: {code(', '.join(versions))}"


def _results(source: Source) -> Iterator[str]:
    found = {part: read_quality(source.record.quality[part]) for part in PARTS if part in source.record.quality}
    yield _row("", *(f"{part} ({counted(quality.examples, 'example')})" for part, quality in found.items()))
    yield _row("---", *("---:" for _ in found))
    last, quality = list(found.items())[-1]
    for metric in metrics_of(quality.problem).values():
        yield _row(metric.title, *(metric.shown(one.value(metric.name)) for one in found.values()))
    if isinstance(quality, NumberQuality):
        said = ", ".join(f"{name} {value:.6g}" for name, value in quality.target.items())
        yield from ("", f"The true numbers of {last}: {said}.")
        return
    what, rows = (
        ("class", quality.per_class)
        if isinstance(quality, Quality)
        else ("label against its absence", quality.per_label)
    )
    yield from ("", f"Each {what} of {last}, by the number of its label:", "")
    yield _row("label", "precision", "recall", "F1", "examples")
    yield _row("---", *["---:"] * 4)
    for number, label in enumerate(quality.labels):
        one = rows[label]
        yield _row(str(number), *map(units.fraction, (one.precision, one.recall, one.f1)), f"{one.support:,}")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _limits(source: Source) -> Iterator[str]:
    spec, record = source.spec, source.record
    yield {
        SINGLE: f"- It gives one of the {len(source.labels)} labels to any text, whatever the text is about.",
        MULTI: f"- It gives some of the {len(source.labels)} labels, or none, to any text, whatever the text is about.",
        REGRESSION: "- It gives a number to any text, whatever the text is about.",
    }[source.problem]
    what = "pair of texts, the longer cut first" if spec.data.pair_column is not None else "text"
    yield f"- It was trained on the first {spec.data.max_length} tokens of each {what}."
    yield f"- The results are those of one training, seed {spec.seed}; how much they vary with the seed is not in them."
    yield "- Data of other sources was not scored."
    if "test" not in record.quality:
        yield "- No test split was scored. Validation chose settings, so that its results may be too good."
    elif spec.training.keep == "best":
        yield "- Validation chose the epoch, so that its results may be too good; the test split chose nothing."
