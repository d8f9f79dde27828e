"""Whether the tests run with the modules that they are meant to test."""

import ast
import importlib
import os
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOOK = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for pattern in HOOK["compiled"]
    for path in ROOT.glob(pattern)
)


def test_patterns_name_modules() -> None:
    """Each pattern of pyproject.toml's list of compiled modules matches some."""
    assert all(list(ROOT.glob(pattern)) for pattern in HOOK["compiled"])


def test_compiles_with_the_checked_mypy() -> None:
    """The modules are compiled by the version of mypy that checks them."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    compiler = [pin for pin in HOOK["compilers"] if pin.startswith("mypy==")]
    assert len(compiler) == 1
    assert compiler[0] in pins


@pytest.mark.parametrize("name", MODULES)
def test_names_of_exceptions(name: str) -> None:
    """No function of a compiled module binds exceptions of two types to one name: mypyc gives it
    the type of the first one, and the second is a TypeError then."""
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            types = defaultdict[str, set[str]](set)
            for each in ast.walk(function):
                if isinstance(each, ast.ExceptHandler) and each.name and each.type:
                    types[each.name].add(ast.unparse(each.type))
            assert not [each for each, found in types.items() if len(found) > 1], function.name


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_compiled(name: str) -> None:
    """With CRIPROXY_TEST_COMPILED, ``make test-compiled``, each of the list is an extension module
    of this tree; without it, none is one."""
    module = importlib.import_module(name.removesuffix(".__init__"))
    file = Path(module.__file__ or "")
    assert file.is_relative_to(ROOT)
    assert (file.suffix == ".so") == bool(os.environ.get("CRIPROXY_TEST_COMPILED"))
