"""What expressions may name: the variables of a call, their types, and their values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from cel_expr_python import cel  # type: ignore[import-untyped]  # it comes without py.typed
from cel_expr_python.ext import ext_encoders, ext_strings  # type: ignore[import-untyped]
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from criproxy.rules.facts import Facts

SUBJECTS: Final = frozenset({"request", "pod", "container"})
"""The variables that take the request's message to be known."""

POD_SUBJECTS: Final = frozenset({"pod", "container"})

_PACKAGE: Final = "criproxy.rules"
POOL: Final = descriptor_pool.Default()
"""Where the CRI's messages are, and those of the variables."""

_MESSAGES: Final[Mapping[str, Mapping[str, str]]] = {
    "Pod": {
        "namespace": "string",
        "name": "string",
        "uid": "string",
        "labels": "map",
        "annotations": "map",
    },
    "Container": {
        "id": "string",
        "name": "string",
        "image": "string",
        "labels": "map",
        "annotations": "map",
    },
    "Caller": {
        "pid": "int64",
        "uid": "int64",
        "gid": "int64",
        "executable": "string",
        "unit": "string",
        "kubelet": "bool",
    },
}
"""The messages that variables are, beside the CRI's: their fields and what those are."""

VARIABLES: Final[Mapping[str, str]] = {
    "request": "The request message, with the CRI's field names.",
    "response": "The response message. Only `rewrite.response` and `drop` may use it.",
    "pod": "The pod that the call is about.",
    "container": "The container that the call is about.",
    "caller": "The process that made the call.",
    "listener": "The endpoint that received the call.",
    "method": "The short name of the method: `PullImage`.",
    "api_version": "`v1`, `v1alpha2`, or empty outside the CRI.",
    "metadata": "The request's headers. The values of a repeated header are joined by commas.",
}
"""What the variables of an expression mean."""


def _declare(
    name: str, fields: Mapping[str, str], file: descriptor_pb2.FileDescriptorProto
) -> None:
    kinds = {
        "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
        "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
        "map": descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
    }
    one = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    many = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    message = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        declared = message.field.add(name=field, number=number, type=kinds[kind], label=one)
        if kind == "map":
            entry = message.nested_type.add(name=f"{field.capitalize()}Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, type=kinds["string"], label=one)
            entry.field.add(name="value", number=2, type=kinds["string"], label=one)
            declared.label = many
            declared.type_name = f".{_PACKAGE}.{name}.{entry.name}"


def _classes() -> Mapping[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="criproxy/rules.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        _declare(name, fields, file)
    POOL.AddSerializedFile(file.SerializeToString())
    return {
        name: GetMessageClass(POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


_CLASSES: Final = _classes()


# Types
# -----


@dataclass(frozen=True, slots=True)
class VariableTypes:
    """What an expression may name beside what every call has.

    ``request`` and ``response`` are full names of messages, None where there are none;
    ``container`` is where short names of messages and enums are looked for: ``runtime.v1``.
    """

    request: str | None = None
    response: str | None = None
    container: str = ""

    def variables(self) -> dict[str, cel.Type]:
        """Return the variables and their types."""
        string = cel.Type.STRING
        found = {
            "pod": cel.Type(f"{_PACKAGE}.Pod"),
            "container": cel.Type(f"{_PACKAGE}.Container"),
            "caller": cel.Type(f"{_PACKAGE}.Caller"),
            "listener": string,
            "api_version": string,
            "method": string,
            "metadata": cel.Type.Map(string, string),
        }
        for name, kind in (("request", self.request), ("response", self.response)):
            if kind is not None:
                found[name] = cel.Type(kind)
        return found


@cache  # as many as the CRI has methods, and as often again as expressions name variables
def environment(scope: VariableTypes, without: str | None = None) -> cel.Env:
    """Return what compiles expressions; ``without`` is a variable that they may not name."""
    variables = scope.variables()
    if without is not None:
        del variables[without]
    return cel.NewEnv(
        POOL,
        variables=variables,
        container=scope.container,
        extensions=[ext_strings.ExtStrings(), ext_encoders.ExtEncoders()],
    )


# Values
# ------


class VariableValues:
    """What the variables are in one call, made as expressions ask for it.

    ``response`` is the message that an expression about responses looks at.
    """

    def __init__(self, facts: Facts, response: Message | None = None) -> None:
        self._facts = facts
        self._response = response
        self._made: dict[str, Any] = {}
        self._activations: dict[frozenset[str], cel.Activation] = {}

    def activation(self, names: frozenset[str]) -> cel.Activation:
        """Return what an expression that names no other variables is evaluated with."""
        found = self._activations.get(names)
        if found is None:
            known = {name: value for name in names if (value := self._value(name)) is not None}
            found = self._activations[names] = environment(_ANYWHERE).Activation(known)
        return found

    def _value(self, name: str) -> Any:
        if name == "request":
            return self._facts.request
        if name == "response":
            return self._response
        if name not in self._made:
            self._made[name] = _MAKERS[name](self._facts)
        return self._made[name]


def no_variables(**but: Any) -> cel.Activation:
    """Return what an expression is evaluated with that names no variables, ``but`` these."""
    return environment(_ANYWHERE).Activation(but)


def values_of(facts: Facts) -> VariableValues:
    """Return the values of a call, the same ones for all rules that ask with the same facts."""
    found = facts.memo.get("values")
    if found is None:
        found = facts.memo["values"] = VariableValues(facts)
    assert isinstance(found, VariableValues)
    return found


def _pod(facts: Facts) -> Message | None:
    pod = facts.pod
    if pod is None:
        return None
    return _CLASSES["Pod"](
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        labels=pod.labels,
        annotations=pod.annotations,
    )


def _container(facts: Facts) -> Message | None:
    container = facts.container
    if container is None:
        return None
    return _CLASSES["Container"](
        id=container.id,
        name=container.name,
        image=container.image,
        labels=container.labels,
        annotations=container.annotations,
    )


def _caller(facts: Facts) -> Message:
    caller = facts.caller
    return _CLASSES["Caller"](
        pid=caller.pid,
        uid=caller.uid,
        gid=caller.gid,
        executable=caller.executable or "",
        unit=caller.unit or "",
        kubelet=caller.kubelet,
    )


_ANYWHERE: Final = VariableTypes()
_MAKERS: Final[Mapping[str, Callable[[Facts], Any]]] = {
    "pod": _pod,
    "container": _container,
    "caller": _caller,
    "listener": lambda facts: facts.listener,
    "api_version": lambda facts: facts.named.api_version or "",
    "method": lambda facts: facts.named.method,
    "metadata": lambda facts: dict(facts.metadata),
}
