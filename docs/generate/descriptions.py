"""The descriptions that stand in the code: docstrings of classes, and of their attributes.

They are read from the source: compiled classes have no docstrings.
"""

import ast
from functools import cache
from pathlib import Path

import criproxy

_ROOT = Path(criproxy.__file__).parents[1]


@cache
def attributes(kind: type) -> dict[str, str]:
    """Return the docstring behind each attribute of a class, by the attribute's name."""
    definition = _definition(kind)
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
    return joined((ast.get_docstring(_definition(kind)) or "").partition("\n\n")[0])


def joined(text: str) -> str:
    """Return text on one line, with the code markup of Markdown instead of reStructuredText."""
    return " ".join(text.split()).replace("``", "`")


def _definition(kind: type) -> ast.ClassDef:
    """Return the definition of a class of criproxy's, which stands at the top of its module."""
    return _classes(kind.__module__)[kind.__name__]


@cache
def _classes(name: str) -> dict[str, ast.ClassDef]:
    """Return the classes at the top of a module, by their names."""
    module = _ROOT.joinpath(*name.split("."))
    source = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
    body = ast.parse(source.read_text()).body
    return {each.name: each for each in body if isinstance(each, ast.ClassDef)}


def _assigned(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None
