"""The descriptions that stand in the code: docstrings of classes, and of their attributes."""

import ast
import inspect
from functools import cache


@cache
def attributes(kind: type) -> dict[str, str]:
    """Return the docstring behind each attribute of a class, by the attribute's name."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, behind in zip(definition.body, definition.body[1:], strict=False):
        name = _assigned(statement)
        if (
            name is not None
            and isinstance(behind, ast.Expr)
            and isinstance(behind.value, ast.Constant)
            and isinstance(behind.value.value, str)
        ):
            found[name] = joined(behind.value.value)
    return found


def summary(kind: type) -> str:
    """Return the first paragraph of a class's docstring on one line."""
    return joined((inspect.getdoc(kind) or "").partition("\n\n")[0])


def joined(text: str) -> str:
    """Return text on one line, with the code markup of Markdown instead of reStructuredText."""
    return " ".join(text.split()).replace("``", "`")


def _assigned(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None
