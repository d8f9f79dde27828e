"""The generated messages and the method table, compared with the CRI in tests/data/cri."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from criproxy.cri.methods import METHODS, READS, SERVER_STREAMING, Method
from criproxy.cri.pb import runtime_v1_pb2, runtime_v1alpha2_pb2

ROOT = Path(__file__).resolve().parents[2]
FILES: dict[str, FileDescriptor] = {
    "v1": runtime_v1_pb2.DESCRIPTOR,
    "v1alpha2": runtime_v1alpha2_pb2.DESCRIPTOR,
}


def facts(version: str) -> Any:
    return json.loads((ROOT / "tests/data/cri" / f"runtime-{version}.json").read_text())


def scalar(kind: int) -> str:
    return descriptor_pb2.FieldDescriptorProto.Type.Name(kind).removeprefix("TYPE_").lower()


def type_name(field: FieldDescriptor, package: str) -> str:
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"map<{type_name(key, package)}, {type_name(value, package)}>"
    named = field.message_type or field.enum_type
    return named.full_name.removeprefix(package + ".") if named else scalar(field.type)


def field_fact(field: FieldDescriptor, package: str) -> dict[str, Any]:
    kind = type_name(field, package)
    fact: dict[str, Any] = {"name": field.name, "number": field.number, "type": kind}
    if field.is_repeated and not kind.startswith("map<"):
        fact["repeated"] = True
    for option, value in field.GetOptions().ListFields():
        fact[option.name] = value
    return fact


def nested_enums(message: Descriptor) -> dict[str, dict[str, int]]:
    return {
        f"{message.name}.{enum.name}": {value.name: value.number for value in enum.values}
        for enum in message.enum_types
    }


def file_facts(file: FileDescriptor) -> dict[str, Any]:
    """Read out of a descriptor what the facts state, in the facts' own shape."""
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    enums = {
        enum.name: {value.name: value.number for value in enum.values}
        for enum in file.enum_types_by_name.values()
    }
    for message in file.message_types_by_name.values():
        enums |= nested_enums(message)
    return {
        "package": file.package,
        "syntax": proto.syntax,
        "services": {
            service.name: {
                method.name: {
                    "request": method.input_type.name,
                    "response": method.output_type.name,
                }
                | ({"server_streaming": True} if method.server_streaming else {})
                for method in service.methods
            }
            for service in file.services_by_name.values()
        },
        "enums": enums,
        "messages": {
            message.name: {"fields": [field_fact(f, file.package) for f in message.fields]}
            for message in file.message_types_by_name.values()
        },
    }


@pytest.mark.parametrize("part", ["package", "syntax", "services", "enums", "messages"])
@pytest.mark.parametrize("version", list(FILES))
def test_descriptors_equal_the_facts(version: str, part: str) -> None:
    """Every service, method, message, field, number, type, label, option and enum is the CRI's."""
    assert file_facts(FILES[version])[part] == facts(version)[part]


@pytest.mark.parametrize("version", list(FILES))
def test_messages_have_no_oneofs_or_extensions(version: str) -> None:
    """No message has a oneof, an extension or a nested message except the entries of maps."""
    for message in FILES[version].message_types_by_name.values():
        assert not message.oneofs, message.name
        assert not message.extensions, message.name
        assert all(nested.GetOptions().map_entry for nested in message.nested_types), message.name


def test_v1alpha2_is_v1_with_less_in_it() -> None:
    """Every v1alpha2 field is in v1 under the same number, name and wire type."""
    old, new = facts("v1alpha2")["messages"], facts("v1")["messages"]
    for name, message in old.items():
        later = {field["number"]: field for field in new[name]["fields"]}
        for field in message["fields"]:
            same = later[field["number"]]
            if (name, field["name"]) == ("KeyValue", "value"):
                # A string and bytes are the same on the wire.
                assert (field["type"], same["type"]) == ("string", "bytes")
                continue
            for key in ("name", "type", "repeated"):
                assert field.get(key) == same.get(key), (name, field)


@pytest.mark.parametrize("version", list(FILES))
def test_no_method_takes_a_stream(version: str) -> None:
    """No CRI method is client-streaming, which the method table relies on."""
    services = FILES[version].services_by_name.values()
    assert not any(method.client_streaming for s in services for method in s.methods)


@pytest.mark.parametrize("version", list(FILES))
def test_method_table_equals_the_descriptors(version: str) -> None:
    """The table has exactly the methods of the descriptors, with their streaming."""
    described = {
        (service.full_name, method.name, method.server_streaming)
        for service in FILES[version].services_by_name.values()
        for method in service.methods
    }
    table = {
        (m.service, m.name, m.server_streaming)
        for m in METHODS.values()
        if m.api_version == version
    }
    assert table == described


def test_methods_are_found_by_their_path() -> None:
    """A method's key is the :path of its calls, and an unknown path has no method."""
    assert METHODS["/runtime.v1.RuntimeService/Version"] == Method(
        service="runtime.v1.RuntimeService",
        name="Version",
        api_version="v1",
        server_streaming=False,
        mutating=False,
    )
    assert all(path == method.path for path, method in METHODS.items())
    assert METHODS.get("/runtime.v1.RuntimeService/Nonsense") is None


def test_named_sets_have_no_stray_names() -> None:
    """Every name in the sets of reads and of streaming methods is a method of the CRI."""
    names = {method.name for method in METHODS.values()}
    assert names >= READS
    assert names >= SERVER_STREAMING


@pytest.mark.parametrize(
    "name",
    [
        "Attach",
        "CheckpointContainer",
        "Exec",
        "ExecSync",
        "PortForward",
        "PullImage",
        "ReopenContainerLog",
        "RestorePod",
        "UpdateContainerResources",
        "UpdateRuntimeConfig",
    ],
)
def test_mutating_methods(name: str) -> None:
    """A method that runs a command, writes a file or changes state is mutating."""
    assert all(method.mutating for method in METHODS.values() if method.name == name)


def test_method_table_does_without_protobuf() -> None:
    """Importing the method table loads neither protobuf nor grpc."""
    code = (
        "import sys, criproxy.cri.methods; "
        "print([m for m in sys.modules if m.startswith(('google', 'grpc'))])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_generated_modules_are_current() -> None:
    """The committed modules are what proto/ generates."""
    command = [sys.executable, "proto/generate.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")
