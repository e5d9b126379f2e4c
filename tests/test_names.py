"""Names that one Python takes for another thing than the next."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import loratory

PACKAGE = Path(loratory.__file__).parent
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp)


def _of_the_module(tree: ast.Module) -> Iterator[str]:
    """What its functions, classes, constants and imports are called."""
    conditional = [inner for one in tree.body if isinstance(one, ast.If) for inner in one.body]
    for one in (*tree.body, *conditional):
        match one:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.FunctionDef() | ast.ClassDef():
                yield one.name
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name).split(".")[0] for alias in one.names)


def test_no_variable_of_a_comprehension_bears_a_name_of_its_module() -> None:
    """Where a function also uses that name, Python 3.12.1 takes it for the comprehension's variable, without a value
    outside it (UnboundLocalError); 3.11 and 3.13 do not.
    """
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf8"))
        taken = set(_of_the_module(tree))
        for one in ast.walk(tree):
            if isinstance(one, COMPREHENSIONS):
                targets = [name for part in one.generators for name in ast.walk(part.target)]
                names = {name.id for name in targets if isinstance(name, ast.Name)}
                found += [f"{path.relative_to(PACKAGE)}:{one.lineno}: {name}" for name in sorted(names & taken)]
    assert not found
