"""The variables of CEL expressions: their types, and their values in a call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from criproxy.rules.facts import Facts
from criproxy.rules.image_names import checked

if TYPE_CHECKING:  # 10 MiB of memory, which only rules with expressions need
    from cel_expr_python import cel  # type: ignore[import-untyped]  # it comes without py.typed

SUBJECTS: Final = frozenset({"request", "pod", "container", "image"})
"""The variables that are known only after the request's message has been received."""

POD_SUBJECTS: Final = frozenset({"pod", "container", "image"})
"""The variables that are looked up in the pod cache."""

PACKAGE: Final = "criproxy.rules"
"""The package of the message types of variables."""
POOL: Final = descriptor_pool.Default()
"""The descriptor pool of the CRI's messages and of the variables' messages."""

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
    "Image": {
        "name": "string",
        "registry": "string",
        "repository": "string",
        "tag": "string",
        "digest": "string",
        "id": "string",
    },
    "Caller": {
        "pid": "int64",
        "uid": "int64",
        "gid": "int64",
        "executable": "string",
        "unit": "string",
        "kubelet": "bool",
    },
    "LoggedPod": {
        "namespace": "string",
        "name": "string",
        "uid": "string",
    },
    "LoggedContainer": {
        "id": "string",
        "name": "string",
        "image": "string",
    },
    "LoggedCaller": {
        "pid": "int64",
        "uid": "int64",
        "executable": "string",
    },
}
"""The message types of variables, in addition to the CRI's: the types of their fields. Those of
logged calls have what a line of a log says, see :mod:`criproxy.rules.cel.logged_calls`."""

VARIABLES: Final[Mapping[str, str]] = {
    "request": "The request message, with the CRI's field names.",
    "response": "The response message. Only `rewrite.response` and `drop` may use it.",
    "pod": "The pod that the call is about.",
    "container": "The container that the call is about.",
    "image": "The image of the call, or of its container, by the name that a person uses, also if "
    "a kubelet names it by its id. `name` is the full name, `docker.io/library/nginx:latest`, and "
    "`repository` the part between registry and tag. What is not known is empty.",
    "caller": "The process that made the call.",
    "listener": "The endpoint that received the call.",
    "method": "The short name of the method: `PullImage`.",
    "api_version": "`v1`, `v1alpha2`, or empty outside the CRI.",
    "metadata": "The request's headers. The values of a repeated header are joined by commas.",
}
"""The descriptions of the variables."""


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
            declared.type_name = f".{PACKAGE}.{name}.{entry.name}"


def _classes() -> Mapping[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="criproxy/rules.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        _declare(name, fields, file)
    POOL.AddSerializedFile(file.SerializeToString())
    return {
        name: GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES: Final = _classes()


# Types
# -----


@dataclass(frozen=True, slots=True)
class VariableTypes:
    """The variables of an expression whose types depend on the method.

    ``request`` and ``response`` are full names of messages, None if the expression may not use the
    variable; ``container`` is the package in which short names of messages and enums are looked up:
    ``runtime.v1``.
    """

    request: str | None = None
    response: str | None = None
    container: str = ""

    def variables(self) -> dict[str, "cel.Type"]:
        """Return the variables and their types."""
        from cel_expr_python import cel

        string = cel.Type.STRING
        found = {
            "pod": cel.Type(f"{PACKAGE}.Pod"),
            "container": cel.Type(f"{PACKAGE}.Container"),
            "image": cel.Type(f"{PACKAGE}.Image"),
            "caller": cel.Type(f"{PACKAGE}.Caller"),
            "listener": string,
            "api_version": string,
            "method": string,
            "metadata": cel.Type.Map(string, string),
        }
        for name, kind in (("request", self.request), ("response", self.response)):
            if kind is not None:
                found[name] = cel.Type(kind)
        return found


def new_environment(
    pool: descriptor_pool.DescriptorPool,
    scope: VariableTypes,
    without: str | None = None,
    functions: Sequence["cel.FunctionDecl"] = (),
) -> "cel.Env":
    """Return an environment that compiles expressions on the messages of a descriptor pool.

    ``without`` is a variable that they may not use; ``functions`` are declared in addition.
    """
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_encoders, ext_strings  # type: ignore[import-untyped]

    variables = scope.variables()
    if without is not None:
        del variables[without]
    return cel.NewEnv(
        pool,
        variables=variables,
        container=scope.container,
        extensions=[ext_strings.ExtStrings(), ext_encoders.ExtEncoders()],
        functions=list(functions),
    )


# Values
# ------


class VariableValues:
    """The values of the variables in one call, created on first use."""

    def __init__(
        self, facts: Facts, response: Message | None = None, memo: dict[str, Any] | None = None
    ) -> None:
        """``response`` is the value of the variable ``response``; in ``memo`` the values are
        kept."""
        self._facts = facts
        self._response = response
        memo = {} if memo is None else memo
        self._values: dict[str, Any] = memo.setdefault("values", {})
        self._activations: dict[frozenset[str], cel.Activation] = memo.setdefault("activations", {})

    def activation(self, names: frozenset[str]) -> "cel.Activation":
        """Return the activation for an expression that uses only the variables ``names``."""
        activation = self._activations.get(names)
        if activation is None:
            known = {name: value for name in names if (value := self._value(name)) is not None}
            activation = self._activations[names] = _all_calls().Activation(known)
        return activation

    def _value(self, name: str) -> Any:
        if name == "response":
            return self._response
        if name not in self._values:
            value = FACTS[name](self._facts)
            kind = _KINDS.get(name)
            self._values[name] = value if kind is None else message_of(kind, value)
        return self._values[name]


def no_variables(**but: Any) -> "cel.Activation":
    """Return an activation without variables, except those in ``but``."""
    return _all_calls().Activation(but)


def values_of(facts: Facts) -> VariableValues:
    """Return the values of a call's variables, which are kept in its facts.

    The facts do not refer to what refers to them: they are freed with the call, without the garbage
    collector.
    """
    return VariableValues(facts, memo=facts.memo)


def message_of(kind: str, value: Any) -> Message | None:
    """Return the message of a fact, whose attributes have the names of the fields; None of None."""
    if value is None:
        return None
    return _CLASSES[kind](**{field: getattr(value, field) for field in _MESSAGES[kind]})


@cache
def _all_calls() -> "cel.Env":
    return new_environment(POOL, VariableTypes())


FACTS: Final[Mapping[str, Callable[[Facts], Any]]] = {
    "request": lambda facts: facts.request,
    "pod": lambda facts: facts.pod,
    "container": lambda facts: facts.container,
    "image": lambda facts: checked(facts.image),
    "caller": lambda facts: facts.caller,
    "listener": lambda facts: facts.listener,
    "api_version": lambda facts: facts.method_name.api_version or "",
    "method": lambda facts: facts.method_name.method,
    "metadata": lambda facts: dict(facts.metadata),
}
"""What the variables, except ``response``, are made from; None for what is not known. That of
``image`` may raise EvaluationError."""

_KINDS: Final = {"pod": "Pod", "container": "Container", "image": "Image", "caller": "Caller"}
"""The variables whose values are messages, of these types."""
