"""Fields that are removed from responses, and fields that are not."""

import json
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from criproxy.cri.messages import response_class
from criproxy.cri.methods import METHODS
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.rules.profiles.scrubbing import Scrubber
from tests.support.messages import messages

READS = sorted(path for path, each in METHODS.items() if not each.mutating)
SECRET = "s3cret-of-ours"

HIDDEN: dict[str, Any] = {
    "config": {"envs": [{"key": "A", "value": SECRET}], "mounts": [{"host_path": SECRET}]},
    "runtimeSpec": {
        "process": {"env": ["A=" + SECRET], "args": ["kept"]},
        "mounts": [{"source": SECRET}],
    },
    "imageSpec": {"config": {"Env": ["A=" + SECRET]}},
    "within": json.dumps({"spec": {"containers": [{"env": [{"value": SECRET}]}]}}),
}


def plant(message: Any, scrub: list[str]) -> None:
    """Put a secret into every field of a message that may contain one of these kinds."""
    for field in message.DESCRIPTOR.fields:
        kind = field.message_type
        if kind is None:
            if "mounts" in scrub and field.name == "log_path":
                message.log_path = SECRET
            continue
        value = getattr(message, field.name)
        if kind.GetOptions().map_entry:
            if field.name == "info":
                value["raw"] = SECRET if "info" in scrub else json.dumps(HIDDEN)
                value["broken"] = "{" + SECRET
            elif field.name == "annotations":
                value["kubectl.kubernetes.io/last-applied-configuration"] = json.dumps(HIDDEN)
        elif kind.name == "Mount" and "mounts" in scrub:
            value.add(host_path=SECRET, container_path=SECRET)
        elif field.is_repeated:
            for each in value or [value.add()]:
                plant(each, scrub)
        elif kind.name != "Mount":
            value.SetInParent()
            plant(value, scrub)


@pytest.mark.parametrize("path", READS)
@settings(max_examples=settings().max_examples // 4)
@given(data=st.data())
def test_nothing_planted_is_left(path: str, data: st.DataObject) -> None:
    """Every planted secret is removed from any response of a read."""
    kind: type[Message] = response_class(METHODS[path])
    message = data.draw(messages(kind, unknown=False))
    plant(message, ["environment", "info", "mounts"])
    Scrubber(["environment", "info", "mounts"]).scrub(message)
    assert SECRET.encode() not in message.SerializeToString()


@pytest.mark.parametrize("scrub", [["environment", "mounts"], ["environment"], ["mounts"]])
def test_json_of_verbose_answers(scrub: list[str]) -> None:
    """If info is not removed, environment and mounts are removed from its JSON."""
    response = v1.ContainerStatusResponse(info={"info": json.dumps(HIDDEN), "plain": "kept {}"})
    Scrubber(scrub).scrub(response)
    shown = json.loads(response.info["info"])
    assert ("env" in shown["runtimeSpec"]["process"]) is ("environment" not in scrub)
    assert ("Env" in shown["imageSpec"]["config"]) is ("environment" not in scrub)
    assert ("mounts" in shown["runtimeSpec"]) is ("mounts" not in scrub)
    assert (SECRET in shown["within"]) is ("environment" not in scrub)
    assert shown["runtimeSpec"]["process"]["args"] == ["kept"]
    assert response.info["plain"] == "kept {}"


def test_invalid_json_is_removed() -> None:
    """A text that looks like JSON and cannot be parsed is removed."""
    response = v1.ContainerStatusResponse(info={"a": "{" + SECRET, "b": "[" * 100_000})
    response.info["c"] = "\ufeff" + json.dumps(HIDDEN)
    Scrubber(["environment"]).scrub(response)
    assert dict(response.info) == {}


@pytest.mark.parametrize("quoted", [False, True])
def test_duplicate_keys(quoted: bool) -> None:
    """A secret before a duplicate of its key is removed."""
    text = '{"a": {"env": ["A=' + SECRET + '"]}, "a": 1}'
    response = v1.ContainerStatusResponse(info={"a": json.dumps([text]) if quoted else text})
    Scrubber(["environment"]).scrub(response)
    assert SECRET not in response.info.get("a", "")


def test_json_in_quotes() -> None:
    """JSON in a JSON string is scrubbed as well."""
    response = v1.ContainerStatusResponse(info={"a": json.dumps(json.dumps(HIDDEN)), "b": '"x"'})
    Scrubber(["environment", "mounts"]).scrub(response)
    assert SECRET not in response.info["a"]
    assert "kept" in response.info["a"]
    assert response.info["b"] == '"x"'


def test_environment() -> None:
    """Values of environment variables are removed, names are kept."""
    config = v1.ContainerConfig(envs=[v1.KeyValue(key="A", value=SECRET.encode())])
    Scrubber(["environment"]).scrub(config)
    assert config == v1.ContainerConfig(envs=[v1.KeyValue(key="A")])


def test_other_fields_are_kept() -> None:
    """Only the named kinds are removed; the mount point of an image filesystem is kept."""
    filesystem = v1.FilesystemUsage(fs_id={"mountpoint": "/var/lib/images"})
    images = v1.ImageFsInfoResponse(image_filesystems=[filesystem])
    status = v1.ContainerStatusResponse(
        status={"id": "c", "mounts": [{"host_path": "/a"}], "annotations": {"a": "[1, 2]"}},
    )
    for message, scrub in ((images, ["mounts", "info", "environment"]), (status, ["info"])):
        before = message.SerializeToString(deterministic=True)
        Scrubber(scrub).scrub(message)
        assert message.SerializeToString(deterministic=True) == before
    Scrubber(["mounts"]).scrub(status)
    assert status.status.id == "c"
    assert not status.status.mounts
    assert dict(status.status.annotations) == {"a": "[1, 2]"}
