from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from criproxy.cri.messages import MODULES, request_class
from criproxy.cri.methods import METHODS, Method
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.rules.cel.variables import VariableTypes, VariableValues, values_of
from criproxy.rules.errors import EvaluationError
from criproxy.rules.messages.rewriting import AssignmentError, Rewriting
from tests.support.messages import messages
from tests.support.rules import facts

UNKNOWN = b"\xf8\x07\x01"
"""Field 127, a varint: no message has it."""


def rewriting(kind: type[Message], assignments: dict[str, Any]) -> Rewriting:
    descriptor = kind.DESCRIPTOR
    return Rewriting(
        assignments, descriptor, VariableTypes(descriptor.full_name, None, descriptor.file.package)
    )


def rewritten(message: Message, assignments: dict[str, Any]) -> Message:
    values = values_of(facts("/runtime.v1.RuntimeService/CreateContainer", message))
    return rewriting(type(message), assignments).apply(message, values)


def versions() -> list[Any]:
    return [pytest.param(module, id=version) for version, module in MODULES.items()]


@pytest.mark.parametrize("module", versions())
@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("config.image.image", '"x/" + request.config.image.image', "x/nginx"),
        ("config.image", '{"image": "x"}', 'ImageSpec(image="x")'),
        ("config.image", 'ImageSpec{image: "x"}', 'ImageSpec(image="x")'),
        ("config.image", "request.config.image", 'ImageSpec(image="nginx")'),
        ("config.image", 'true ? {"image": "a"} : {"image": "b"}', 'ImageSpec(image="a")'),
        ("config.tty", True, True),
        ("config.tty", "request.config.metadata.attempt == 0u", True),
        ("config.metadata.attempt", 5, 5),
        ("config.metadata.attempt", "5", 5),
        ("config.metadata.attempt", "5u", 5),
        ("config.metadata.attempt", "int(5)", 5),
        ("config.metadata.attempt", 4294967295, 4294967295),
        ("config.linux.resources.cpu_quota", -(1 << 63), -(1 << 63)),
        ("config.linux.resources.cpu_quota", "uint(7)", 7),
        ("config.labels", "{'a': 'b'}", {"a": "b"}),
        ("config.labels", "{}", {}),
        ("config.labels['k']", '"v"', {"app": "web", "k": "v"}),
        ("config.command", '["sh", "-c"]', ["sh", "-c"]),
        ("config.command", "[]", []),
        ("config.command[]", '"-x"', ["run", "-x"]),
        ("config.command[0]", "method + listener.substring(0, 4)", ["CreateContainer/run"]),
        ("config.command", "request.config.command.map(c, c.upperAscii())", ["RUN"]),
        (
            "config.mounts[]",
            '{"host_path": "/x", "readonly": true}',
            "M(host_path='/x',readonly=1)",
        ),
        ("config.mounts[]", '{"propagation": "PROPAGATION_BIDIRECTIONAL"}', "M(propagation=2)"),
        (
            "config.mounts[]",
            '{"propagation": MountPropagation.PROPAGATION_BIDIRECTIONAL}',
            "M(propagation=2)",
        ),
        (
            "config.mounts[]",
            "Mount{propagation: MountPropagation.PROPAGATION_BIDIRECTIONAL}",
            "M(propagation=2)",
        ),
        ("config.mounts[]", '{"propagation": 77}', "M(propagation=77)"),
        ("config.mounts[]", 'dyn({"host_path": "/x"})', "M(host_path='/x')"),
        ("config.envs[0].value", '"text"', "text"),
        ("config.envs[]", '{"key": "K", "value": "V"}', "V"),
        ("config.image.annotations", "{'a': dyn('b')}", {"a": "b"}),
        ("config.envs", '[{"key": "K", "value": "V"}]', "V"),
        ("config.linux.security_context", '{"run_as_user": {"value": 5}}', 5),
    ],
)
def test_values_of_every_kind(module: Any, path: str, value: Any, expected: Any) -> None:
    """A value that fits is converted to the field's type, in both API versions."""
    before = module.CreateContainerRequest(
        config=module.ContainerConfig(
            image=module.ImageSpec(image="nginx"),
            labels={"app": "web"},
            command=["run"],
            envs=[module.KeyValue(key="A")],
            metadata=module.ContainerMetadata(),
        )
    )
    after = rewritten(before, {path: value})
    assert isinstance(after, module.CreateContainerRequest)
    steps = path.partition("[")[0]
    found = eval(f"after.{steps}", {"after": after})
    if steps == "config.mounts":
        assert list(found) == [eval(expected, {"M": module.Mount})]
    elif steps == "config.envs":
        text = found[-1].value
        assert (text if isinstance(text, str) else text.decode()) == expected
    elif steps.endswith("security_context"):
        assert found.run_as_user.value == expected
    elif isinstance(expected, str) and expected.startswith("ImageSpec"):
        assert found == eval(expected, {"ImageSpec": module.ImageSpec})
    else:
        assert type(expected)(found) == expected


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (
            "config.imag",
            '"x"',
            "undefined field 'imag' in runtime.v1.ContainerConfig; did you mean 'image'?",
        ),
        ("config.image.image", 5, "1:1: takes string, not int"),
        ("config.image.image", 'b"x"', "1:1: takes string, not bytes"),
        (
            "config.image.image",
            "request.config.image",
            "1:15: takes string, not runtime.v1.ImageSpec",
        ),
        ("config.image", '"x"', "1:1: takes runtime.v1.ImageSpec, not string"),
        (
            "config.image",
            "request.config.metadata",
            "1:15: takes runtime.v1.ImageSpec, not runtime.v1.ContainerMetadata",
        ),
        (
            "config.image",
            '{"imag": "x"}',
            "1:2: undefined field 'imag' in runtime.v1.ImageSpec; did you mean 'image'?",
        ),
        ("config.image", '{1: "x"}', "1:2: keys are string, not int"),
        ("config.image", '{"image": "x", "annotations": {"a": 1}}', "1:37: takes string, not int"),
        ("config.image", '{"image":\n  5}', "2:3: takes string, not int"),
        (
            "config.image",
            'request.config.tty ? {"image": "a"} : {"imag": "b"}',
            "1:40: undefined field 'imag' in runtime.v1.ImageSpec; did you mean 'image'?",
        ),
        ("config.tty", 1, "1:1: takes bool, not int"),
        ("config.metadata.attempt", -1, "-1 is out of the range of uint"),
        ("config.metadata.attempt", 1 << 32, "4294967296 is out of the range of uint"),
        ("config.metadata.attempt", 1.5, "1:1: takes uint, not double"),
        ("config.metadata.attempt", "'1'", "1:1: takes uint, not string"),
        (
            "config.linux.resources.cpu_quota",
            1 << 63,
            "9223372036854775808 is out of the range of int",
        ),
        ("config.labels", '["a"]', "1:1: takes map(string, string), not list(string)"),
        ("config.labels", '{"a": 1}', "1:7: takes string, not int"),
        ("config.labels['a']", "1", "1:1: takes string, not int"),
        ("config.command", '"x"', "1:1: takes list(string), not string"),
        ("config.command", '["x", 1]', "1:7: takes string, not int"),
        (
            "config.command",
            "request.config.envs",
            "1:15: takes list(string), not list(runtime.v1.KeyValue)",
        ),
        ("config.command[]", '["x"]', "1:1: takes string, not list(string)"),
        ("config.command[]", None, "null cannot be appended"),
        ("config.command[]", "null", "null cannot be appended"),
        (
            "config.mounts[]",
            '{"propagation": "PROPAGATION_BOTH"}',
            "1:17: 'PROPAGATION_BOTH' is no MountPropagation; did you mean 'PROPAGATION_PRIVATE'?",
        ),
        (
            "config.mounts[]",
            '{"propagation": true}',
            "1:17: takes MountPropagation (a name or number), not bool",
        ),
        (
            "config.mounts[]",
            'Mount{host: "x"}',
            "1:11: undefined field 'host' not found in struct 'runtime.v1.Mount'; did you"
            " mean 'host_path'?",
        ),
        (
            "config.mounts[]",
            "Mount{propagation: 3000000000}",
            "type conversion error from 'int' to 'runtime.v1.MountPropagation'",
        ),
        (
            "config.mounts[]",
            '{"propagation": 3000000000}',
            "3000000000 is out of the range of MountPropagation (a name or number)",
        ),
        (
            "config.image.image",
            "request.confi",
            "1:8: undefined field 'confi' not found in struct"
            " 'runtime.v1.CreateContainerRequest'; did you mean 'config'?",
        ),
        ("config.image.image", "1 +", "1:4: Syntax error: mismatched input '<EOF>'"),
        ("config.image.image", "", "1:1: Syntax error: mismatched input '<EOF>'"),
        (
            "config.image.image",
            "response.x",
            "1:9: undeclared reference to 'response.x' (in container 'runtime.v1'); only"
            " rewrite.response and fault.drop are about the response",
        ),
    ],
)
def test_type_errors_at_load(path: str, value: Any, error: str) -> None:
    """An error is one line, with line:column within the expression if it has one."""
    with pytest.raises(AssignmentError) as caught:
        rewriting(v1.CreateContainerRequest, {path: value})
    assert caught.value.path == path
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("path", "value", "detail"),
    [
        (
            "config.image",
            "dyn(request.config.tty ? 1 : 2)",
            "config.image: takes runtime.v1.ImageSpec, not int",
        ),
        (
            "config.image.image",
            "dyn([request.config.log_path])",
            "config.image.image: takes string, not list",
        ),
        (
            "config.image",
            "{request.config.log_path: 'x'}",
            "config.image: undefined field 'l' in runtime.v1.ImageSpec; there are image,"
            " annotations, user_specified_image, runtime_handler, image_ref",
        ),
        ("config.tty", "dyn(request.config.log_path)", "config.tty: takes bool, not string"),
        (
            "config.command",
            "dyn(request.config.log_path)",
            "config.command: takes list(string), not string",
        ),
        (
            "config.command",
            "dyn([request.config.log_path, 1])",
            "config.command: takes string, not int",
        ),
        (
            "config.command",
            "[request.config.log_path, null]",
            "config.command: takes string, not null",
        ),
        (
            "config.labels",
            "dyn({1: request.config.log_path})",
            "config.labels: takes map(string, string), not map",
        ),
        (
            "config.labels['a']",
            "dyn(size(request.config.log_path))",
            "config.labels['a']: takes string, not int",
        ),
        (
            "config.metadata.attempt",
            "size(request.config.log_path) - 2",
            "config.metadata.attempt: -1 is out of the range of uint",
        ),
        (
            "config.metadata.attempt",
            "dyn(request.config.tty)",
            "config.metadata.attempt: takes uint, not bool",
        ),
        (
            "config.mounts[]",
            "{'propagation': request.config.log_path}",
            "config.mounts[]: 'l' is no MountPropagation; there are PROPAGATION_PRIVATE,"
            " PROPAGATION_HOST_TO_CONTAINER, PROPAGATION_BIDIRECTIONAL",
        ),
        (
            "config.command[]",
            "request.config.tty ? dyn('a') : dyn(null)",
            "config.command[]: null cannot be appended",
        ),
        ("config.command[3]", "'a'", "config.command[3]: command has 0, counted from 0"),
        (
            "config.image.image",
            "request.config.command[0]",
            "config.image.image: Index error: index=0 size=0",
        ),
    ],
)
def test_type_errors_at_run_time(path: str, value: str, detail: str) -> None:
    """A value that the type checker could not know is an EvaluationError that names the path."""
    message = v1.CreateContainerRequest(config=v1.ContainerConfig(log_path="l"))
    before = message.SerializeToString()
    with pytest.raises(EvaluationError) as caught:
        rewritten(message, {path: value})
    assert caught.value.reason == "cel"
    assert caught.value.detail == detail
    assert message.SerializeToString() == before


def test_null_clears() -> None:
    """YAML's and CEL's null clear a field, an element and a key."""
    message = v1.CreateContainerRequest(
        config=v1.ContainerConfig(command=["a", "b"], labels={"a": "1", "b": "2"}, log_path="x")
    )
    after = rewritten(
        message,
        {
            "config.command[0]": None,
            'config.labels["a"]': "dyn(null)",
            "config.log_path": None,
            "config.image": "null",
        },
    )
    assert after == v1.CreateContainerRequest(
        config=v1.ContainerConfig(command=["b"], labels={"b": "2"})
    )


def test_expressions_use_the_original_message() -> None:
    """No assignment uses the result of another one."""
    message = v1.CreateContainerRequest(pod_sandbox_id="p", config=v1.ContainerConfig(log_path="l"))
    after = rewritten(
        message,
        {"pod_sandbox_id": "request.config.log_path", "config.log_path": "request.pod_sandbox_id"},
    )
    assert (after.pod_sandbox_id, after.config.log_path) == ("l", "p")


def test_an_unchanged_message_is_returned_itself() -> None:
    """A message that does not change is returned itself; the original is never changed."""
    message = v1.CreateContainerRequest(config=v1.ContainerConfig(log_path="l"))
    assert rewritten(message, {"config.log_path": '"l"', "config.image": None}) is message
    assert rewritten(message, {"config.log_path": '"m"'}) is not message
    assert message.config.log_path == "l"


def test_an_empty_message_is_a_change() -> None:
    """An empty message differs from an absent one."""
    message = v1.CreateContainerRequest()
    after = rewritten(message, {"config.image": "{}"})
    assert after.config.HasField("image")
    assert rewritten(after, {"config.image": "ImageSpec{}"}) is after


def test_unknown_fields_are_preserved() -> None:
    """Unknown fields are preserved beside a changed field, above it, and in assigned messages."""
    image = v1.ImageSpec(image="nginx")
    image.MergeFromString(UNKNOWN)
    config = v1.ContainerConfig(image=image)
    config.MergeFromString(UNKNOWN)
    message = v1.CreateContainerRequest(config=config)
    message.MergeFromString(UNKNOWN)

    after = rewritten(message, {"config.image.image": '"x"', "config.log_path": '"y"'})
    expected = v1.CreateContainerRequest()
    expected.CopyFrom(message)
    expected.config.image.image = "x"
    expected.config.log_path = "y"
    assert after.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )
    assert after.SerializeToString().count(UNKNOWN) == 3

    moved = rewritten(message, {"config.image": "request.config.image", "pod_sandbox_id": '"x"'})
    assert moved.config.image.SerializeToString() == image.SerializeToString()


@pytest.mark.parametrize("size", [1 << 16, (1 << 20) + 1])
def test_long_strings(size: int) -> None:
    """The size of strings is not limited."""
    message = v1.PullImageRequest(image=v1.ImageSpec(image="x" * size))
    values = values_of(facts("/runtime.v1.ImageService/PullImage", message))
    after = rewriting(v1.PullImageRequest, {"image.image": 'request.image.image + "é"'}).apply(
        message, values
    )
    assert after.image.image == "x" * size + "é"


def test_deep_expressions() -> None:
    """Expressions are checked at any depth; above CEL's own limit, CEL's error is reported."""
    value = "+".join(['"x"'] * 28)
    after = rewritten(v1.CreateContainerRequest(), {"pod_sandbox_id": f"[{value}][0]"})
    assert after.pod_sandbox_id == "x" * 28
    with pytest.raises(AssignmentError) as caught:
        rewriting(v1.CreateContainerRequest, {"pod_sandbox_id": "+".join([value] * 3)})
    assert str(caught.value) == "Exceeded max recursion depth of 32 when parsing."


def first_path(kind: type[Message]) -> tuple[str, Any] | None:
    """Return the path of a field of a message that takes a text, and what it is set to."""
    for field in kind.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING and not field.is_repeated:
            return field.name, '"set"'
        message = field.message_type
        if message is not None and not field.is_repeated:
            for inner in message.fields:
                if inner.type == inner.TYPE_STRING and not inner.is_repeated:
                    return f"{field.name}.{inner.name}", '"set"'
    return None


SETTABLE = [method for method in METHODS.values() if first_path(request_class(method))]


@given(method=st.sampled_from(SETTABLE), data=st.data())
def test_other_fields_are_unchanged(method: Method, data: st.DataObject) -> None:
    """For any request of any method, only the named field differs, byte for byte."""
    kind = request_class(method)
    found = first_path(kind)
    assert found is not None
    path, value = found
    message = data.draw(messages(kind))
    before = message.SerializeToString(deterministic=True)

    after = rewriting(kind, {path: value}).apply(
        message, VariableValues(facts(method.path, message))
    )

    assert message.SerializeToString(deterministic=True) == before
    expected = kind.FromString(before)
    *parents, last = path.split(".")
    place: Any = expected
    for parent in parents:
        place = getattr(place, parent)
    setattr(place, last, "set")
    wanted = expected.SerializeToString(deterministic=True)
    assert after.SerializeToString(deterministic=True) == wanted
