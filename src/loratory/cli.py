"""The commands: parse, call, print. No logic."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from loratory import __version__
from loratory.console import Lines, any_encoding, fail, print_json, progress_shown, rank, say, show, tell
from loratory.data_app import data_app
from loratory.errors import Interrupted, LoratoryError, SettingsError, TrainingError, counted, first_line
from loratory.exporting import FORMATS
from loratory.flags import (
    PLAIN,
    CheckpointEvery,
    Commands,
    Json,
    assignment,
    hyphens,
    usage_message,
    with_settings,
)
from loratory.study_app import study_app

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What Typer raises for a wrong command line; its home has moved between Typer's versions."""


class Kept(Exception):  # noqa: N818  # not an error of its own: it carries one
    """Carries what Typer would turn into exit codes of its own past it, to `main`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Program(Commands):
    """All commands; interruptions and broken pipes reach `main` as they are."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError, EOFError) as error:
            raise Kept(error) from error


app = typer.Typer(
    name="loratory",
    cls=Program,
    help="Which way of fine-tuning should I use, and what does it cost me?",
    no_args_is_help=True,
    **PLAIN,
)
app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")


ModelPath = Annotated[Path, typer.Option("--model-path", help="a run's directory, or a .pth file")]
AnySetting = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="any setting by its path")]
Price = Annotated[
    float | None, typer.Option(metavar="X", help="of one device, in any currency: total time is then money, too")
]


def _version(asked: bool) -> None:
    if asked:
        say(f"loratory {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="print the version, and leave")
    ] = False,
) -> None:
    """What stands before a command."""


@with_settings(app, "run", "data", "training", "hardware", "method")
def train(
    *,
    output: Annotated[Path | None, typer.Option(help="the run's directory [models/ and the run's id]")] = None,
    tracker: Annotated[
        list[str] | None, typer.Option(metavar="NAME,NAME", help="told of the run: tensorboard, wandb, mlflow, trackio")
    ] = None,
    checkpoint_every: CheckpointEvery = None,
    settings: AnySetting = None,
    as_json: Json = False,
    flags: dict[str, Any],
) -> None:
    """Train once, and commit the run's directory. One that was interrupted goes on from its newest checkpoint."""
    from loratory.methods import spec_from_flags

    spec = spec_from_flags({**flags, **dict(map(assignment, settings or []))})  # before torch is loaded
    from loratory.run import train as train_run

    with progress_shown(spec) as on_step:
        run = train_run(spec, output=output, tracker=tracker or (), checkpoint_every=checkpoint_every, on_step=on_step)
    if rank() > 0:
        return
    document = {**run.record.to_dict(), "directory": str(run.directory)}
    if as_json:
        print_json(document)
        return
    from loratory.report.tables import comparison

    show(comparison([document]).to_rich())
    say(f"The run is in {run.directory}")


@with_settings(app, "run", "data", "training", "hardware", "method")
def estimate(
    *,
    method: Annotated[str, typer.Option(help="as train's; several by commas give a row each")] = "standard",
    ranks: Annotated[str | None, typer.Option(metavar="N,N", help="a row for each, where the method has one")] = None,
    batch_sizes: Annotated[str | None, typer.Option(metavar="N,N", help="a row for each")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="say the largest batch that stays below it, such as 24GiB")
    ] = None,
    price_per_hour: Price = None,
    settings: AnySetting = None,
    as_json: Json = False,
    flags: dict[str, Any],
) -> None:
    """Say what training would cost: parameters, memory, time. Needs no weights, and leaves nothing."""
    from loratory.estimates import estimates

    found = estimates(
        {**flags, **dict(map(assignment, settings or []))},
        methods=method,
        ranks=ranks,
        batch_sizes=batch_sizes,
        memory=memory,
        price_per_hour=price_per_hour,
    )
    if as_json:
        print_json([one.to_dict() for one in found.rows])
    else:
        show(found.table.to_rich())


@with_settings(app, "data", "hardware")
def evaluate(
    *,
    model_path: ModelPath,
    split: Annotated[str, typer.Option(help="train, validation or test")] = "test",
    model: Annotated[str | None, typer.Option(help="for a .pth file alone: the base whose architecture it has")] = None,
    as_json: Json = False,
    flags: dict[str, Any],
) -> None:
    """Score a trained model on its own test split, on all rows of another file, or on a split of other data."""
    from loratory import api

    found = api.evaluate(model_path, split=split, model=model, **flags)
    if as_json:
        print_json(found.to_dict())
        return
    from loratory.report.terminal import quality_table

    title = f"{model_path} on {found.dataset}, {found.split}: {counted(found.quality.examples, 'example')}"
    show(quality_table(found.quality, title))


@with_settings(app, "hardware")
def predict(
    *,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="texts to label")] = None,
    model_path: Annotated[
        list[Path], typer.Option("--model-path", help="a run's directory, or a .pth file; several give several columns")
    ],
    input_file: Annotated[
        Path | None, typer.Option("--input", help="CSV, TSV, JSONL, Parquet, or a text a line; - is standard input")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="column of the input that holds the text, as train's [that of training, or text]")
    ] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="column that holds the second text, for a model of pairs [that of training]")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="write CSV, JSONL or Parquet here, with the input's other columns, not to standard output"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="for a .pth file alone: the base whose architecture it has")] = None,
    as_json: Json = False,
    flags: dict[str, Any],
) -> None:
    """Label texts: arguments, a file, or lines on standard input. Each line gets a label; blank ones are named."""
    from loratory import predicting
    from loratory.report import predictions as shown
    from loratory.spec import divided

    if output is not None:
        shown.check_output(output)
    models = predicting.find(model_path)
    if texts and pair_column is not None:
        raise SettingsError("--pair-column: a TEXT stands alone; give a table with both columns, --input FILE")
    learned = predicting.learned_columns(models)
    if texts:
        asked = predicting.of_arguments(texts)
    else:
        asked = predicting.given_texts(input_file, text_column, pair_column, learned)
    given, others = asked.texts, asked.others
    said = predicting.predict(models, asked, hardware=divided(flags)[0], model=model)
    if output is not None:
        shown.write_predictions(output, given, said, others)
        tell(f"{output} holds {counted(len(given), 'prediction')}")
    elif as_json:
        print_json(shown.predictions_document(given, said))
    else:
        show(shown.predictions_table(given, said))
    for rule in [] if as_json else [one.rule for one in said if one.rule is not None]:
        (say if output is None else tell)(rule)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="runs' directories")],
    baselines: Annotated[bool, typer.Option(help="compute the baselines on the same test split")] = True,
    price_per_hour: Price = None,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="print the table as Markdown")] = False,
) -> None:
    """The table of runs beside the baselines."""
    from loratory import api

    table = api.compare(runs, baselines=baselines, price_per_hour=price_per_hour)
    if as_json:
        print_json(table.to_dict())
    elif markdown:
        typer.echo(table.to_markdown(), nl=False)
    else:
        show(table.to_rich())


@app.command()
def rerun(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="a run's directory")],
    output: Annotated[Path | None, typer.Option(help="keep the second run here [it is removed]")] = None,
    as_json: Json = False,
) -> None:
    """Train a run again, and say whether the same came out: weights, predictions, scores. Else the exit code is 7."""
    from loratory import api

    found = api.rerun(directory, output=output)
    if as_json:
        print_json(found.to_dict())
    else:
        for what, said in found.lines():
            say(f"{what}: {said}")
    if not found.same:
        raise TrainingError(found.verdict)
    if not as_json:
        say(found.verdict)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="a study's directory")],
    price_per_hour: Price = None,
    as_json: Json = False,
) -> None:
    """The page of a study, report.html, with its tables (Markdown, CSV) and figures (SVG)."""
    from loratory.finish import finish

    written = finish(directory, price_per_hour=price_per_hour)
    if as_json:
        print_json([str(path) for path in written])
    else:
        say(f"The page is {written[0]}; beside it are table.md, table.csv and figures")


@app.command()
def export(
    model_path: ModelPath,
    output: Annotated[Path, typer.Option(help="where to write: a directory, for pth a file")],
    kind: Annotated[
        str, typer.Option("--format", help="; ".join(f"{name}: {what}" for name, what in FORMATS.items()))
    ] = "pth",
    push: Annotated[
        str | None, typer.Option(metavar="REPO_ID", help="upload the directory to the hub, with your own token")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="with --push: for everybody to see, not private")] = False,
) -> None:
    """Take a trained model away, checked against the run."""
    from loratory.exporting.export import export as export_run
    from loratory.exporting.push import Upload

    if public and push is None:
        raise SettingsError("--public: it says who sees what --push uploads; give --push REPO_ID too")
    address = export_run(model_path, output, kind, upload=None if push is None else Upload(push, public))
    beside = f", its labels and base in {output.with_suffix('.json')}" if output.is_file() else ""
    tell(f"The model is in {output}{beside}")
    if address is not None:
        tell(f"It is uploaded to {address}")


@app.command()
def models(as_json: Json = False) -> None:
    """The families of models: how each runs, and which methods it refuses."""
    from loratory.report.architectures import family_rows, family_table

    if as_json:
        print_json(family_rows())
    else:
        show(family_table())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code and raises nothing.

    Underscores in flags are read as hyphens. `--debug` anywhere shows tracebacks: of an error, and of what failed in a
    study that went on.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [hyphens(word) for word in words if word != "--debug"]
    any_encoding()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    log = logging.getLogger("loratory")
    log.handlers[:] = [handler]
    told = logging.DEBUG if debug else logging.INFO  # downloads say that they are under way
    log.setLevel(told if rank() == 0 else logging.ERROR)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns that a CPU has no 4-bit kernels; we refuse it
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(words)
    except LoratoryError as error:
        return fail(str(error), error.exit_code, debug)
    except UsageError as error:
        return fail(usage_message(error), 2, debug)
    except Interrupted as error:
        return fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return fail("interrupted", 130, debug)
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  # the last door: a defect too is one line, its traceback with --debug
        return fail(f"{type(error).__name__}: {first_line(error)}; --debug shows where", 1, debug)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(words: list[str]) -> int:
    """The exit code that Typer returns: 0 unless `--help` or the like ends it otherwise."""
    try:
        return int(_command()(words, standalone_mode=False) or 0)
    except Kept as kept:
        raise kept.error from None


@cache
def _command() -> Any:
    """All commands, built once: their flags are many."""
    return typer.main.get_command(app)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)
