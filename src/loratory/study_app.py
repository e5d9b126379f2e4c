"""The commands of studies: parse, call, print. No logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loratory.console import print_json, say, show, tell
from loratory.errors import counted
from loratory.flags import PLAIN, CheckpointEvery, Json, assignment

study_app = typer.Typer(help="Studies: many runs compared fairly.", no_args_is_help=True, **PLAIN)

KEPT_SHOWN = 12
"""Runs with weights that are named when a study ends."""


@study_app.command("run")
def run_study(
    file: Annotated[Path, typer.Argument(help="a study file, such as studies/seed.yaml")],
    output: Annotated[Path | None, typer.Option(help="the study's directory [results/ and its name]")] = None,
    executor: Annotated[str, typer.Option(metavar="local|ray", help="where the runs are carried out")] = "local",
    workers: Annotated[int | None, typer.Option(help="runs at once [1; with Ray as many as there is room for]")] = None,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="final runs one by one on each device, after all tuning runs: none slows another"),
    ] = False,
    cohort: Annotated[
        str | None,
        typer.Option(
            metavar="off|auto|K",
            help="K runs trained at once on one frozen base; auto: tuning runs, on CUDA [auto]",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="in place of what the file says: models=DIR, train.epochs=1"),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run again what failed before")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="run more than 1,000 runs")] = False,
    tracker: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,NAME", help="told of each run: tensorboard, wandb, mlflow, trackio"),
    ] = None,
    checkpoint_every: CheckpointEvery = None,
    as_json: Json = False,
) -> None:
    """Run what is missing of a study, tuning first; what exists is never run again."""
    from loratory.finish import complete
    from loratory.study.plan import Plan
    from loratory.study.progress import read_status
    from loratory.study_view import plan_lines, result_shown, study_shown

    def planned(plan: Plan, tuning: int, finals: int) -> None:
        for line in plan_lines(plan, tuning, finals):
            (tell if as_json else say)(line)

    with study_shown() as told:
        done = complete(
            file,
            output=output,
            executor=executor,
            workers=workers,
            alone=alone,
            cohort=cohort,
            retry_failed=retry_failed,
            yes=yes,
            tracker=tracker or (),
            checkpoint_every=checkpoint_every,
            overrides=list(map(assignment, settings or [])),
            planned=planned,
            told=told,
        )
    plan, directory = done.plan, done.directory
    for record in plan.failed:
        tell(f"{record.id}: {record.status.replace('_', ' ')}: {record.error}")
    if as_json:
        print_json(read_status(directory).to_dict())
    else:
        show(result_shown(directory))
        say(f"{counted(plan.done, 'run')} in {directory}, {len(plan.failed):,} of them failed; the page is {done.page}")
        for name, place in done.kept[:KEPT_SHOWN]:
            say(f"weights of {name}: {place}")
        if (more := len(done.kept) - KEPT_SHOWN) > 0:
            say(f"and {counted(more, 'run')} more with weights")
    done.check()


@study_app.command("status")
def study_status(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="a study's directory")], as_json: Json = False
) -> None:
    """How far a study has come, from any terminal."""
    from loratory.study.progress import read_status
    from loratory.study_view import status_table

    status = read_status(directory)
    if as_json:
        print_json(status.to_dict())
    else:
        show(status_table(status))
