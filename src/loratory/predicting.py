"""Labels for texts, by one trained model or by several.

Each model has its own columns, whatever its base and its labels are. Adapters of one base with the same labels share
it: it is read once, and its digest is compared with that of each adapter. Any other model is read by itself, and is
given back before the next.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loratory.data.columns import LONGEST, Text, are_pairs, parts
from loratory.data.files import Asked, encodable, lines, read_texts
from loratory.data.places import places_said
from loratory.errors import ColumnError, DataError, SettingsError, counted
from loratory.evaluation.thresholds import sigmoid
from loratory.methods import parse_spec
from loratory.models.load import Bases
from loratory.models.pth import Card
from loratory.problems import MULTI, REGRESSION
from loratory.report.predictions import Answers, Predicted, PredictedLabels, PredictedNumbers
from loratory.spec import DataSpec, HardwareSpec, validated
from loratory.store.record import RunRecord
from loratory.trained import Trained, check_kind, check_there, open_run, open_trained, with_weights

log = logging.getLogger("loratory")

STDIN = "standard input"

USUAL: str = DataSpec.model_fields["text_column"].default
"""What the column of texts is called where nobody says it."""


@dataclass(frozen=True)
class Found:
    """A trained model that is to predict."""

    name: str
    """Its own among those asked, for its columns; empty where it is the only one."""
    path: Path
    record: RunRecord | None
    """None for a `.pth` file."""
    data: DataSpec | None
    """What it was trained on; None for a `.pth` file without its card."""


def find(paths: Sequence[Path]) -> list[Found]:
    """The trained models in `paths`, checked but not loaded.

    Raises:
        SettingsError: one stands there twice.
        StorageError: one is not there, is damaged, or has no weights.
        ModelError: the card of a `.pth` file is none.
    """
    for position, path in enumerate(paths):
        if path.resolve() in (other.resolve() for other in paths[:position]):
            raise SettingsError(f"--model-path {path}: it is given twice; its columns would be the same")
        check_there(path)
    return [_found(name, path) for name, path in zip(_names(paths), paths, strict=True)]


def _found(name: str, path: Path) -> Found:
    if path.suffix == ".pth":
        card = Card.read(path.with_suffix(".json"))
        return Found(name, path, None, None if card is None else validated(DataSpec, card.data))
    record = with_weights(path)
    return Found(name, path, record, parse_spec(record.spec).data)


def _names(paths: Sequence[Path]) -> list[str]:
    """The last name of each path; all of it where two share that."""
    if len(paths) == 1:
        return [""]
    last = [path.stem if path.suffix == ".pth" else path.resolve().name for path in paths]
    return [name if last.count(name) == 1 else str(path) for name, path in zip(last, paths, strict=True)]


def predict(
    models: Sequence[Found], asked: Asked | Sequence[Text], *, hardware: HardwareSpec, model: str | None = None
) -> list[Answers]:
    """What each of `models` says of the texts.

    Args:
        asked: texts, or texts with where they stand, which errors name; of others the positions from 0.
        model: for `.pth` files without their cards, as :func:`loratory.trained.open_trained` takes it.

    Raises:
        DataError: there is no text, or one that is not Unicode.
        LoratoryError: a model cannot be loaded.
    """
    if as_values := not isinstance(asked, Asked):
        asked = Asked(asked, "texts", "position", range(len(asked)))
    texts = asked.texts
    if not texts:
        raise DataError("no text to predict; give texts as arguments, --input FILE, or lines on standard input")
    odd = next((number for number, text in enumerate(texts) if not encodable(text)), None)
    if odd is not None:
        raise DataError(f"{asked.at(odd)} holds half a surrogate pair, or bytes that are no UTF-8; mend it")
    long = next((n for n, text in enumerate(texts) if any(len(one) > LONGEST for one in parts(text).values())), None)
    if long is not None:
        raise DataError(f"{asked.at(long)} has more than {LONGEST:,} characters; cut it")
    for data in (found.data for found in models if found.data is not None):
        check_kind(data, pairs=are_pairs(texts), as_values=as_values)
    _warn_of_empty(asked)
    records = [found.record for found in models if found.record is not None and found.record.adapted]
    shared = [one for one in records if one.spec["training"].get("quantize", "off") == "off"]
    bases = Bases((record.spec["model"], record.labels, record.problem) for record in shared)
    return [answers(found.name, _opened(found, bases, hardware, model), texts) for found in models]


def _warn_of_empty(asked: Asked) -> None:
    """Each text of an input keeps its place, an empty one too, which training would refuse: the log names it."""
    found = zip(asked.places, asked.texts, strict=True)
    empty = [place for place, text in found if not all(one.strip() for one in parts(text).values())]
    if empty:
        one = len(empty) == 1
        said = f"{counted(len(empty), 'text')} of {len(asked.texts):,} {'is' if one else 'are'} empty"
        log.warning(
            f"{asked.source}: {said} ({places_said(asked.unit, len(empty), empty)}): "
            f"what is predicted for {'it' if one else 'them'} means nothing; training takes no such text"
        )


def _opened(found: Found, bases: Bases, hardware: HardwareSpec, model: str | None) -> Trained:
    if found.record is None:
        return open_trained(found.path, hardware=hardware, model=model)
    return open_run(found.path, found.record, hardware=hardware, bases=bases)


def answers(name: str, trained: Trained, texts: Sequence[Text]) -> Answers:
    """What a model says of N texts, in the form of its problem."""
    logits = trained.logits(texts).double()
    if trained.problem == REGRESSION:
        return PredictedNumbers(name, trained.labels, logits[:, 0].numpy())
    if trained.problem == MULTI:
        assert trained.thresholds is not None
        probabilities = sigmoid(logits.numpy())
        return PredictedLabels(name, trained.labels, probabilities, trained.thresholds, bool(trained.digests))
    return Predicted(name, trained.labels, logits.softmax(dim=-1).numpy())


Columns = tuple[str, str | None]
"""Of the text, and of the second one of a pair."""


def learned_columns(models: Sequence[Found]) -> Columns | None:
    """The columns on which all of `models` were trained; None where they differ, or a `.pth` file has no card."""
    data = [found.data for found in models if found.data is not None]
    columns = {(one.text_column, one.pair_column) for one in data}
    return columns.pop() if len(columns) == 1 and len(data) == len(models) else None


def of_arguments(texts: Sequence[str]) -> Asked:
    """The texts of a command line."""
    return Asked(texts, "arguments", "text", range(1, len(texts) + 1))


def given_texts(
    path: Path | None, column: str | None, pair_column: str | None = None, learned: Columns | None = None
) -> Asked:
    """The texts of a file, and the other cells of each one's row; or the lines of standard input.

    Args:
        path: None or `-` for standard input; a terminal there has none without `-`.
        column: by default the `learned` ones where the table has them, else `text`.
        pair_column: of the second text, where pairs are labelled.

    Raises:
        DataError: as :func:`loratory.data.files.read_texts`; or standard input is not UTF-8.
        SettingsError: pairs are asked for of standard input.
    """
    if path is not None and path != Path("-"):
        if column is not None or path.suffix.lower() == ".txt":
            return read_texts(path, column or USUAL, pair_column)
        return _table_texts(path, pair_column, learned or (USUAL, None))
    if pair_column is not None:
        raise SettingsError("--pair-column: a line holds one text; give a table with both columns, --input FILE")
    if sys.stdin is None or (path is None and sys.stdin.isatty()):
        return Asked([], STDIN, "line", [])
    try:
        found = lines(sys.stdin)
    except UnicodeDecodeError as error:
        raise DataError(f"{STDIN}: not {error.encoding} ({error.reason}); save the texts as UTF-8") from None
    return Asked(found, STDIN, "line", range(1, len(found) + 1))


def _table_texts(path: Path, pair_column: str | None, learned: Columns) -> Asked:
    """The texts of the `learned` columns; where the table lacks them, of the usual one, or the line names both."""
    column, pair = learned[0], pair_column or learned[1]
    try:
        found = read_texts(path, column, pair)
    except ColumnError:
        if (column, pair) == (USUAL, pair_column):
            raise
        try:
            return read_texts(path, USUAL, pair_column)
        except ColumnError as error:
            trained_on = " and ".join(repr(one) for one in learned if one is not None)
            raise ColumnError(f"{error} (the model was trained on {trained_on})") from None
    if (column, pair) != (USUAL, pair_column):
        log.info(
            "%s: texts of %s, as the model was trained", path, " and ".join(repr(one) for one in (column, pair) if one)
        )
    return found
