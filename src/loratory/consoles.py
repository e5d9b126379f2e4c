"""Rich's consoles, on which text stays text: apart from :mod:`loratory.console`, as importing Rich takes a while."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult

from loratory.console import spelled


@dataclass(frozen=True)
class _Spelled:
    """A renderable as it is, but for the characters that a terminal would obey."""

    inner: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else segment._replace(text=spelled(segment.text))


class _Spelling(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """All that is printed, spelled out; what Rich itself draws with (colours, a bar's moves) is no text."""
        return [_Spelled(one) for one in renderables]


class _Pipe(Console):
    """Lets a broken pipe out, which `main` takes for no error."""

    def on_broken_pipe(self) -> None:
        raise  # called where it was caught


def console(*, stderr: bool = False) -> Console:
    """Rich's own, on standard output or error."""
    made = _Pipe(stderr=stderr, highlight=False, markup=False, emoji=False)
    made.push_render_hook(_Spelling())
    return made


errors = console(stderr=True)
