"""CEL expressions, whose types are checked against the CRI's messages when they are loaded.

In addition to CEL's standard functions there are its extensions for strings (``replace``,
``split``, ``lowerAscii``) and base64. :mod:`criproxy.rules.cel.variables` defines the variables.
"""

import difflib
import re
from dataclasses import replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from criproxy.rules.cel.text_values import TextExpression, functions, with_text_values
from criproxy.rules.cel.typed_ast import TypedAst
from criproxy.rules.cel.variables import (
    POD_SUBJECTS,
    POOL,
    VariableTypes,
    new_environment,
    no_variables,
)
from criproxy.rules.errors import EvaluationError

if TYPE_CHECKING:  # see criproxy.rules.cel.variables
    from cel_expr_python import cel  # type: ignore[import-untyped]

_FUNCTIONS: Final = (
    "all",
    "base64",
    "bool",
    "bytes",
    "charAt",
    "contains",
    "double",
    "duration",
    "dyn",
    "encode",
    "endsWith",
    "exists",
    "exists_one",
    "filter",
    "format",
    "has",
    "indexOf",
    "int",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "map",
    "matches",
    "quote",
    "replace",
    "reverse",
    "size",
    "split",
    "startsWith",
    "string",
    "substring",
    "timestamp",
    "trim",
    "type",
    "uint",
    "upperAscii",
)
"""The functions that are suggested for a misspelt name."""

_FIRST_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_UNDEFINED: Final = re.compile(r"undefined field '(.*)' not found in struct '(.*)'")
_UNDECLARED: Final = re.compile(r"undeclared reference to '(.*?)'")
_STATUS: Final = re.compile(r"^[A-Z_]+: ")
_UNBOUND: Final = re.compile(r'No value with name "(\w+)" found')
_LARGEST_INT: Final = (1 << 63) - 1

_CACHED_EXPRESSIONS: Final = 512
"""Compiled expressions that are cached, for methods that share them and for the next reload."""


class CompileError(ValueError):
    """An invalid expression: one line, with line:column within the expression."""


class Expression:
    """A compiled and checked expression, returned by :func:`compiled`.

    ``names`` are the variables that it uses, ``tree`` is its typed syntax tree.
    """

    __slots__ = ("_program", "names", "source", "tree")

    def __init__(self, source: str, scope: VariableTypes) -> None:
        """Raises RuntimeError with CEL's message, or CompileError."""
        text = _with_text_values(source, scope)
        self.source = source if text is None else text.source
        self._program = environment(scope).compile(self.source)
        names = scope.variables()
        self.names = frozenset(name for name in names if _uses(self.source, name, scope))
        self.tree = TypedAst(self._program.serialize()) if text is None else text.tree
        _check_patterns(self.tree)

    def evaluate(self, activation: "cel.Activation") -> Any:
        """Return the expression's value: a plain Python value, or a protobuf message.

        Raises EvaluationError: ``unknown_pod`` or ``decode`` if the value depends on a variable
        that is unknown, ``cel`` for any other error.
        """
        try:
            value = self._program.eval(activation)
            plain = value.plain_value()
            # An error's is its text: for what a condition has, its type need not be asked for.
            if isinstance(plain, bool) or value.type() != _error_type():
                return plain
        except RuntimeError as error:
            raise _failure(str(error)) from error
        raise _failure(str(value.value()))


@cache
def _error_type() -> "cel.Type":
    from cel_expr_python import cel

    return cel.Type.ERROR


@cache  # bounded by the numbers of the CRI's methods and of variables
def environment(scope: VariableTypes, without: str | None = None) -> "cel.Env":
    """Return the environment that compiles expressions, optionally without one variable."""
    return new_environment(POOL, scope, without, functions())


def _with_text_values(source: str, scope: VariableTypes) -> TextExpression | None:
    """Return the expression with strings for the values of environment variables.

    None if it has none, or if it only compiles with bytes: ``e.value == b"x"`` in CRI v1.
    """
    try:
        text = with_text_values(source, scope)
        if text is not None:
            environment(scope).compile(text.source)
    except RuntimeError as error:
        try:
            environment(scope).compile(source)
        except RuntimeError:
            raise error from None
        return None
    return text


_expression = lru_cache(maxsize=_CACHED_EXPRESSIONS)(Expression)


def compiled(source: str, scope: VariableTypes) -> Expression:
    """Compile and check an expression. Raises CompileError.

    An expression without the word ``request`` is compiled once for all methods.
    """
    narrow = replace(
        scope,
        request=scope.request if _has_word(source, "request") else None,
        response=scope.response if _has_word(source, "response") else None,
    )
    try:
        return _expression(source, narrow)
    except RuntimeError as error:
        raise CompileError(_error_message(str(error), scope)) from error
    except TypeError as error:  # a lone surrogate, which YAML can contain
        raise CompileError("is not text that UTF-8 can have") from error


def source_of(value: str | bool | int | float) -> str:
    """Return the CEL source of a configuration value, of which only a string is CEL already."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value}u" if isinstance(value, int) and value > _LARGEST_INT else repr(value)


def _uses(source: str, name: str, scope: VariableTypes) -> bool:
    """Return whether an expression uses a variable, which means that it needs it to compile."""
    if not _has_word(source, name):
        return False
    try:
        environment(scope, name).compile(source)
    except RuntimeError:
        return True
    return False


def _check_patterns(tree: TypedAst) -> None:
    """Raise CompileError for an invalid regular expression, which CEL would report in each call."""
    for node in tree.root.walk():
        function, arguments = node.call or ("", [])
        pattern = arguments[-1] if function == "matches" else None
        if pattern is not None and pattern.text is not None:
            known = no_variables(method=pattern.text)
            value = environment(VariableTypes()).compile("''.matches(method)").eval(known)
            if value.type() == _error_type():
                what = _STATUS.sub("", " ".join(str(value.value()).split()))
                raise CompileError(f"{pattern.location}: {what}")


def _has_word(source: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", source) is not None


def _error_message(text: str, scope: VariableTypes) -> str:
    found = _FIRST_ERROR.search(text)
    if not found:  # without a location: the expression is too long or nested too deeply
        first = text.splitlines()[0].replace("ERROR: <input>:-1:-1: ", "")
        return _STATUS.sub("", first).partition(" [")[0]
    line, column, what = found.groups()
    return f"{line}:{column}: {what.partition(' expecting ')[0]}{_hint(what, scope)}"


def _hint(what: str, scope: VariableTypes) -> str:
    if found := _UNDEFINED.search(what):
        struct = POOL.FindMessageTypeByName(found[2])
        return suggestion(found[1], [field.name for field in struct.fields])
    if found := _UNDECLARED.search(what):
        if found[1].partition(".")[0] == "response":
            return "; only rewrite.response and fault.drop are about the response"
        if found[1].partition(".")[0] == "request":
            return "; there is a request only of the CRI's methods"
        return suggestion(found[1], [*scope.variables(), *_FUNCTIONS], or_all=False)
    return ""


def suggestion(word: str, words: list[str], or_all: bool = True) -> str:
    """Return the end of an error message that suggests one of ``words`` for a misspelt one."""
    if close := difflib.get_close_matches(word, words, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(words)}" if or_all and words else ""


def _failure(text: str) -> EvaluationError:
    if found := _UNBOUND.search(text):
        if found[1] in POD_SUBJECTS:
            return EvaluationError("unknown_pod", f"the call's {found[1]} is not known")
        return EvaluationError("decode", f"there is no {found[1]} to look at")
    return EvaluationError("cel", _STATUS.sub("", " ".join(text.split())))
