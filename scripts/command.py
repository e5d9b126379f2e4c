"""What the study's scripts share: one of `loratory`'s commands, or one line where this Python lacks the package."""

import sys


def run(name: str) -> int:
    """Run `loratory NAME` with the script's own arguments; returns the exit code."""
    try:
        from loratory.cli import main
    except ModuleNotFoundError as error:
        print(
            f"error: {sys.executable} has no {error.name}; activate an environment that has it (. .venv/bin/activate), "
            "or make one: python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt",
            file=sys.stderr,
        )
        return 6
    return main([name, *sys.argv[1:]])
