"""The request and response classes of each method, from the generated descriptors."""

from collections.abc import Mapping
from types import ModuleType
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from criproxy.cri.methods import Method
from criproxy.cri.pb import runtime_v1_pb2, runtime_v1alpha2_pb2

MODULES: Final[Mapping[str, ModuleType]] = {
    "v1": runtime_v1_pb2,
    "v1alpha2": runtime_v1alpha2_pb2,
}
"""The generated module of each API version."""

# protobuf makes the classes of options for the first that is asked for: 1.6 MiB, which processes
# share that are forked after this import.
runtime_v1_pb2.DESCRIPTOR.GetOptions()


def request_class(method: Method) -> type[Message]:
    """Return the class of the method's request."""
    return _class(_descriptor(method).input_type)


def response_class(method: Method) -> type[Message]:
    """Return the class of the method's response, or of one message of its response stream."""
    return _class(_descriptor(method).output_type)


def is_map(field: FieldDescriptor) -> bool:
    """Return whether a field is a map."""
    message = field.message_type
    return message is not None and message.GetOptions().map_entry


def _descriptor(method: Method) -> MethodDescriptor:
    file = MODULES[method.api_version].DESCRIPTOR
    service = file.services_by_name[method.service.rpartition(".")[2]]
    method_descriptor: MethodDescriptor = service.methods_by_name[method.name]
    return method_descriptor


def _class(descriptor: Descriptor) -> type[Message]:
    return GetMessageClass(descriptor)
