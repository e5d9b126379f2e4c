"""A command's flags are its settings' own fields, so that a setting's name, help and default stand in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from loratory.errors import SettingsError, nearest
from loratory.spec import RunSpec, Settings

CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        metavar="TIME|STEPS|off",
        help="a run's state is kept so often: 90s, 10m, '500 steps' [10m]",
    ),
]

ALSO = {"lr": ["--learning-rate"]}
"""Other names of a flag, by its setting."""


def with_settings(*kinds: type[Settings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one flag for each field of `kinds`; the command gets those that were given as `flags`."""
    nested = {"name", *RunSpec.model_fields} - {"model", "seed"}  # groups, and the method's name, are no flags
    fields = {name: field for kind in kinds for name, field in kind.model_fields.items() if name not in nested}

    def parameter(name: str) -> inspect.Parameter:
        """The flag of a field, as Typer reads it."""
        field = fields[name]
        if field.annotation is bool:
            switch = Annotated[bool | None, typer.Option(f"--{name.replace('_', '-')}", help=field.description)]
            return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=switch)
        default = "" if field.default is None else f" [{field.default}]"
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            *ALSO.get(name, []),
            help=f"{field.description}{default}",
            metavar=_metavar(field.annotation),
        )
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
        )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        """The command as Typer sees it: its own parameters, then one for each field."""
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "flags"]

        def wrapper(**given: Any) -> None:
            flags = {name: given.pop(name) for name in fields}
            command(**given, flags={name: value for name, value in flags.items() if value is not None})

        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        parameters = [*own, *map(parameter, fields)]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        wrapper.__doc__ = command.__doc__
        wrapper.__name__ = command.__name__
        return wrapper

    return decorate


def _metavar(annotation: Any) -> str:
    choices = [a for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal for a in get_args(part)]
    if choices:
        return "|".join(choices)
    kinds = {int: "N", float: "X", str: "TEXT"}
    return next((kinds[part] for part in (annotation, *get_args(annotation)) if part in kinds), "TEXT")


def usage_message(error: Any) -> str:
    """Typer's own message of a usage error, and the nearest flag of the command where it has none of that name."""
    if not hasattr(error, "possibilities"):
        return str(error.format_message())
    flags = [flag for one in error.ctx.command.get_params(error.ctx) for flag in one.opts if flag.startswith("--")]
    return f"{error.message}; {nearest(error.option_name, flags)}"


def hyphens(word: str) -> str:
    """`word`, with hyphens for underscores where it is a flag."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def assignment(text: str) -> tuple[str, str]:
    """`a.b=c` as (a.b, c)."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {text!r}: write it as a.b=c")
    return key, value
