"""CEL: expressions that are typed against the CRI's messages when they are loaded.

Besides CEL's own functions there are those for strings (``replace``, ``split``, ``lowerAscii``) and
for base64. What may be named is in :mod:`criproxy.rules.cel.variables`.
"""

import difflib
import re
from functools import lru_cache
from typing import Any, Final

from cel_expr_python import cel  # type: ignore[import-untyped]  # it comes without py.typed

from criproxy.rules.cel.typed_ast import TypedAst
from criproxy.rules.cel.variables import (
    POD_SUBJECTS,
    POOL,
    VariableTypes,
    environment,
    no_variables,
)
from criproxy.rules.errors import EvaluationError

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
"""What a misspelt name may have been meant to be."""

_FIRST_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")
_UNDEFINED: Final = re.compile(r"undefined field '(.*)' not found in struct '(.*)'")
_UNDECLARED: Final = re.compile(r"undeclared reference to '(.*?)'")
_STATUS: Final = re.compile(r"^[A-Z_]+: ")
_UNBOUND: Final = re.compile(r'No value with name "(\w+)" found')
_LARGEST_INT: Final = (1 << 63) - 1
_ERROR: Final = cel.Type.ERROR

_REMEMBERED: Final = 512
"""Compiled expressions that are kept, for methods that share them and for the next reload."""


class CompileError(ValueError):
    """An expression that cannot be used: one line, with line:column within the expression."""


class Expression:
    """An expression that has been compiled and checked: made by :func:`compiled`.

    ``names`` are the variables that it names, ``tree`` what the checker says of it.
    """

    __slots__ = ("_program", "names", "source", "tree")

    def __init__(self, source: str, scope: VariableTypes) -> None:
        """Raises RuntimeError, in CEL's own words, or CompileError."""
        self._program = environment(scope).compile(source)
        self.source = source
        self.names = frozenset(name for name in scope.variables() if _names(source, name, scope))
        self.tree = TypedAst(self._program.serialize())
        _check_patterns(self.tree)

    def evaluate(self, activation: cel.Activation) -> Any:
        """Return the expression's value: plain Python, or a protobuf message.

        Raises EvaluationError: ``unknown_pod`` or ``decode`` if what it hangs on is not known,
        ``cel`` for all else.
        """
        try:
            value = self._program.eval(activation)
            if value.type() != _ERROR:
                return value.plain_value()
        except RuntimeError as error:
            raise _failure(str(error)) from error
        raise _failure(str(value.value()))


_expression = lru_cache(maxsize=_REMEMBERED)(Expression)


def compiled(source: str, scope: VariableTypes) -> Expression:
    """Compile and check an expression. Raises CompileError.

    One that does not have the word ``request`` is the same for all methods: it is compiled once.
    """
    narrow = VariableTypes(
        scope.request if _has_word(source, "request") else None,
        scope.response if _has_word(source, "response") else None,
        scope.container,
    )
    try:
        return _expression(source, narrow)
    except RuntimeError as error:
        raise CompileError(_explained(str(error), scope)) from error
    except TypeError as error:  # half a surrogate pair, which YAML can write
        raise CompileError("is not text that UTF-8 can have") from error


def source_of(value: str | bool | int | float) -> str:
    """Return the CEL for what the configuration has: text is CEL, other scalars are themselves."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value}u" if isinstance(value, int) and value > _LARGEST_INT else repr(value)


def _names(source: str, name: str, scope: VariableTypes) -> bool:
    """Tell whether an expression names a variable: without it, it does not compile."""
    if not _has_word(source, name):
        return False
    try:
        environment(scope, name).compile(source)
    except RuntimeError:
        return True
    return False


def _check_patterns(tree: TypedAst) -> None:
    """Refuse a regular expression that is none, which CEL would only find out in a call."""
    for node in tree.root.walk():
        function, arguments = node.call or ("", [])
        pattern = arguments[-1] if function == "matches" else None
        if pattern is not None and pattern.text is not None:
            known = no_variables(method=pattern.text)
            value = environment(VariableTypes()).compile("''.matches(method)").eval(known)
            if value.type() == _ERROR:
                what = _STATUS.sub("", " ".join(str(value.value()).split()))
                raise CompileError(f"{pattern.place}: {what}")


def _has_word(source: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", source) is not None


def _explained(text: str, scope: VariableTypes) -> str:
    found = _FIRST_ERROR.search(text)
    if not found:  # it has no place: the whole is too long, or nests too deep
        first = text.splitlines()[0].replace("ERROR: <input>:-1:-1: ", "")
        return _STATUS.sub("", first).partition(" [")[0]
    line, column, what = found.groups()
    return f"{line}:{column}: {what.partition(' expecting ')[0]}{_mend(what, scope)}"


def _mend(what: str, scope: VariableTypes) -> str:
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
    """Return which of ``words`` may have been meant, as the end of an error's line."""
    if close := difflib.get_close_matches(word, words, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(words)}" if or_all and words else ""


def _failure(text: str) -> EvaluationError:
    if found := _UNBOUND.search(text):
        if found[1] in POD_SUBJECTS:
            return EvaluationError("unknown_pod", f"the call's {found[1]} is not known")
        return EvaluationError("decode", f"there is no {found[1]} to look at")
    return EvaluationError("cel", _STATUS.sub("", " ".join(text.split())))
