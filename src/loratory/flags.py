"""A command's flags are its settings' own fields, so that a setting's name, help and default stand in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from loratory.errors import SettingsError, nearest
from loratory.every import Every

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from loratory.spec import Settings

Json = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]


def _interval(text: str | None) -> str | None:
    """`text`, once it is known to be one: said before libraries are loaded."""
    Every.read(text)
    return text


CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-every",
        callback=_interval,
        metavar="TIME|STEPS|off",
        help="a run's state is kept so often: 90s, 10m, '500 steps' [10m]",
    ),
]

PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}
"""How every group of commands is made: without Rich, which takes a while to import."""

ALSO = {"lr": ["--learning-rate"]}
"""Other names of a flag, by its setting."""


class Commands(TyperGroup):
    """Commands of which those with settings are made whole where one is meant, not where they are listed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, whole(command), rest


class Listed(TyperCommand):
    """A command as lists show it: its flags are fields of settings, and reading those takes longer than a list may."""

    groups: tuple[str, ...] = ()
    """Whose fields its flags are, as :func:`with_settings` takes them."""
    own: tuple[inspect.Parameter, ...] = ()
    """Its other parameters."""
    run: Callable[..., None]

    @cached_property
    def whole(self) -> Any:
        """The command with all its flags, as Typer makes it."""
        asked = {name: one for name, one in fields(*self.groups).items() if name not in {p.name for p in self.own}}
        parameters = [*self.own, *(_parameter(name, field) for name, field in asked.items())]

        def command(**given: Any) -> None:
            flags = {name: given.pop(name) for name in asked}
            self.run(**given, flags={name: value for name, value in flags.items() if value is not None})

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        alone = typer.Typer(**PLAIN)
        alone.command(self.name, help=self.help)(command)
        return typer.main.get_command(alone)


def whole(command: Any) -> Any:
    """`command` with all its flags."""
    return command.whole if isinstance(command, Listed) else command


def with_settings(
    app: typer.Typer, *groups: str, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of `app`, with one flag more for each field of its settings; it gets those that were
    given as `flags`.

    Args:
        groups: `run` (method, model, seed), a name of :data:`loratory.spec.GROUPS`, or `method`: what any method has.
        name: the command's, where it is not the function's.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
        own = tuple(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters if p.name != "flags")
        kind = type("Listed", (Listed,), {"groups": groups, "own": own, "run": staticmethod(function)})

        def listed() -> None:
            """Only a name and a help text."""

        app.command(name or function.__name__, cls=kind, help=inspect.getdoc(function))(listed)
        return function

    return decorate


def fields(*groups: str) -> dict[str, FieldInfo]:
    """The fields of groups of settings, by the name of their flag; those that are groups themselves are none."""
    from loratory.methods import METHODS, Choice
    from loratory.spec import GROUPS, RunSpec

    kinds: dict[str, Sequence[type[Settings]]] = {name: [kind] for name, kind in GROUPS.items()}
    kinds |= {"run": [RunSpec, Choice], "method": [method.settings for method in METHODS.values()]}
    found = {name: field for group in groups for kind in kinds[group] for name, field in kind.model_fields.items()}
    return {name: field for name, field in found.items() if name not in ("name", *GROUPS)}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """The flag of a field, as Typer reads it."""
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
