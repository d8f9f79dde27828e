"""Selects logged calls by an expression in CEL, on the variables of rules. Pure."""

import re
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Final

import msgspec
from google.protobuf.message import Message

from criproxy.cri.json_objects import message_from_json
from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS, Method
from criproxy.cri.naming import matches, resolve
from criproxy.peers.peer import Peer
from criproxy.rules.cel.expressions import CompileError, Expression, compiled
from criproxy.rules.cel.logged_calls import LoggedValues, LoggedVariableTypes
from criproxy.rules.cel.typed_ast import CelType
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Container, Facts, Pod
from criproxy.rules.image_names import AS_WRITTEN, image_of
from criproxy.timeline.logged_call import LoggedCall

_BOOL: Final = CelType("bool")

_ABOUT_MESSAGES: Final = re.compile(r"undeclared reference to '(?:request|response)\b")
_SELECTED: Final = re.compile(r"\b(request|response)\s*\.\s*(\w+)")
_LITERAL: Final = re.compile(r"""\"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""")


class _Caller(msgspec.Struct):
    uid: int = 0
    gid: int = 0
    unit: str | None = None
    kubelet: bool = False


class _Line(msgspec.Struct):
    """The fields of a line that only expressions look at."""

    uid: int = 0
    kind: str = ""
    caller: _Caller | None = None
    requestObject: dict[str, Any] | None = None  # noqa: N815  # its name there
    responseObject: dict[str, Any] | None = None  # noqa: N815


_decode: Final = msgspec.json.Decoder(_Line).decode


class Where:
    """A condition, which is compiled once."""

    def __init__(self, source: str, methods: tuple[str, ...] = ()) -> None:
        """``methods`` are globs of the calls that it is about; none: all.

        An expression on ``request`` or ``response`` is compiled for each method of the CRI, and
        holds for calls of no method whose messages do not have the fields. Raises ValueError, in
        one line, if that are all of them, and for an expression that is wrong.
        """
        self.needs_records = False
        """Whether it can be evaluated on records of the audit log alone."""
        self._any: Expression | None = None
        self._by_path: Mapping[str, Expression] = {}
        try:
            self._any = _boolean(source, LoggedVariableTypes())
        except CompileError:
            self.needs_records = True
            try:
                self._any = _boolean(source, LoggedVariableTypes(in_record=True))
            except CompileError as error:
                if not _ABOUT_MESSAGES.search(str(error)):
                    raise
                self._by_path = _by_path(source, methods)

    def holds(self, call: LoggedCall, text: bytes) -> bool:
        """Return whether it holds for a call, of which ``text`` is the line.

        It does not where it is about a pod, container or image and none is known. Raises
        EvaluationError for what cannot be evaluated.
        """
        path = f"/{call.service}/{call.method}"
        expression = self._any or self._by_path.get(path)
        if expression is None:
            return False
        try:
            line = _decode(text)
        except msgspec.DecodeError as error:
            raise EvaluationError("decode", str(error)) from error
        if self.needs_records and line.kind != "Event":
            raise EvaluationError("decode", "only the audit log says what it is about")
        values = _values(call, line, expression.names)
        try:
            holds = expression.evaluate(values.activation(expression.names, self.needs_records))
        except EvaluationError as error:
            if error.reason == "unknown_pod":
                return False
            raise
        return holds is True


def _by_path(source: str, methods: tuple[str, ...]) -> Mapping[str, Expression]:
    """Compile an expression for each method for which it can be.

    Raises CompileError if there is none: the error of the method for which it goes the furthest.
    """
    paths = {
        path: method
        for path, method in METHODS.items()
        if not methods or any(matches(each, resolve(path.encode())) for each in methods)
    }
    found: dict[str, Expression] = {}
    errors: list[tuple[tuple[int, int], str]] = []
    # Compiling for a method takes some ten milliseconds.
    likely = [path for path, method in paths.items() if _has_fields(method, source)]
    for path in likely or list(paths)[:1]:
        try:
            found[path] = _boolean(source, _types(paths[path]))
        except CompileError as error:
            errors.append((_location(str(error)), f"{paths[path].name}: {error}"))
    if not found:
        nothing = (0, 0), "there is a request only of the CRI's methods"
        raise CompileError(max(errors, key=itemgetter(0), default=nothing)[1])
    return found


def _has_fields(method: Method, source: str) -> bool:
    """Return whether the messages of a method have the fields that are selected of them."""
    kinds = {"request": request_class(method), "response": response_class(method)}
    return all(
        field in kinds[name].DESCRIPTOR.fields_by_name
        for name, field in _SELECTED.findall(_LITERAL.sub("", source))
    )


def _types(method: Method) -> LoggedVariableTypes:
    request, response = request_class(method).DESCRIPTOR, response_class(method).DESCRIPTOR
    return LoggedVariableTypes(
        request.full_name, response.full_name, request.file.package, in_record=True
    )


def _boolean(source: str, types: LoggedVariableTypes) -> Expression:
    expression = compiled(source, types)
    kind = expression.tree.root.kind
    if kind != _BOOL:
        raise CompileError(f"has to be bool, not {kind}")
    return expression


def _location(error: str) -> tuple[int, int]:
    """Return the line and column at the beginning of an error; (0, 0) for one without."""
    line, _, rest = error.partition(":")
    column = rest.partition(":")[0]
    return (int(line), int(column)) if line.isdigit() and column.isdigit() else (0, 0)


def _values(call: LoggedCall, line: _Line, names: frozenset[str]) -> LoggedValues:
    method_name = call.method_name
    caller = line.caller or _Caller(uid=line.uid)
    pod = container = image = request = response = None
    if call.pod or call.namespace or call.pod_uid:
        pod = Pod(call.pod_id, call.namespace, call.pod, call.pod_uid)
    if call.container or call.container_id:
        container = Container(call.container_id, call.container, call.image)
    if call.image:
        image = image_of(call.image, AS_WRITTEN)
    method = METHODS.get(f"/{call.service}/{call.method}")
    if method is not None and "request" in names:
        request = _message(request_class(method), line.requestObject)
    if method is not None and "response" in names:
        response = _message(response_class(method), line.responseObject)
    facts = Facts(
        method_name,
        call.listener,
        Peer(
            call.pid,
            caller.uid,
            caller.gid,
            call.executable,
            unit=caller.unit,
            kubelet=caller.kubelet,
        ),
        request=request,
        pod=pod,
        container=container,
        image=image,
    )
    return LoggedValues(facts, call.code, call.duration, response)


def _message(kind: type[Message], data: dict[str, Any] | None) -> Message | None:
    if data is None:
        return None
    try:
        return message_from_json(kind, data)
    except ValueError as error:
        raise EvaluationError("decode", str(error)) from error
