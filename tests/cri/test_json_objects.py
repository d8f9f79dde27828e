"""Messages from the objects of records."""

import pytest

from criproxy.cri.json_objects import message_from_json
from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.cri.redaction import Redactor
from tests.support.planted import HIDDEN_ANNOTATION, Secrets, fill, plant


def test_all_methods() -> None:
    """The message of an object is the one that was redacted, secrets replaced by their marks."""
    secrets = Secrets()
    redactor = Redactor(annotations=[HIDDEN_ANNOTATION])
    for method in METHODS.values():
        for kind in (request_class(method), response_class(method)):
            message = kind()
            fill(message, lambda field: f"plain-{field.name}")
            plant(message, secrets)
            shown = redactor.to_json(message)
            redactor.redact(message)
            assert message_from_json(kind, shown) == message, method.path


@pytest.mark.parametrize(
    "data", [{"config": []}, {"config": {"metadata": "x"}}, {"runtimeHandler": 7}]
)
def test_another_object(data: dict[str, object]) -> None:
    """What is no such object is an error that names the message; unknown fields are ignored."""
    with pytest.raises(ValueError, match="not a RunPodSandboxRequest"):
        message_from_json(v1.RunPodSandboxRequest, data)
    assert message_from_json(v1.VersionRequest, data) == v1.VersionRequest()
