import pytest

from criproxy.cri.messages import is_map, request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.cri.pb.runtime_v1_pb2 import (
    ContainerConfig,
    CreateContainerRequest,
    KeyValue,
    ListContainerStatsRequest,
    Mount,
    PullImageRequest,
)
from criproxy.rules.errors import EvaluationError
from criproxy.rules.messages.field_paths import PathError, parse_path


def create() -> CreateContainerRequest:
    config = ContainerConfig(
        command=["a", "b"],
        envs=[KeyValue(key="A", value=b"1"), KeyValue(key="B", value=b"2")],
        labels={"app": "web"},
    )
    return CreateContainerRequest(pod_sandbox_id="p", config=config)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("pod_sandbox_id", "q", "q"),
        ("config.image.image", "nginx", "nginx"),
        ("config.envs[1].value", b"3", b"3"),
        ("config.command[0]", "c", "c"),
        ("config.envs[0]", KeyValue(key="C"), KeyValue(key="C")),
        ('config.labels["team"]', "blue", "blue"),
        ("config.labels['it\\'s']", "blue", "blue"),
        ('config.labels["a.b/c[0]"]', "blue", "blue"),
        ("config.tty", True, True),
    ],
)
def test_set(path: str, value: object, expected: object) -> None:
    """A path sets a field, an element or a key, and creates missing parents."""
    message = create()
    parse_path(path, message.DESCRIPTOR).set(message, value)
    steps = path.replace("['it\\'s']", '["it\'s"]')
    assert eval(f"message.{steps}", {"message": message}) == expected


def test_a_bracket_without_an_index_appends() -> None:
    """``[]`` appends one element, a scalar or a message."""
    message = create()
    parse_path("config.command[]", message.DESCRIPTOR).set(message, "c")
    parse_path("config.mounts[]", message.DESCRIPTOR).set(message, Mount(host_path="/x"))
    assert list(message.config.command) == ["a", "b", "c"]
    assert list(message.config.mounts) == [Mount(host_path="/x")]


def test_whole_lists_and_maps_are_replaced() -> None:
    """A path without a bracket sets the whole list or map."""
    message = create()
    parse_path("config.command", message.DESCRIPTOR).set(message, ["z"])
    parse_path("config.labels", message.DESCRIPTOR).set(message, {"x": "y"})
    assert list(message.config.command) == ["z"]
    assert dict(message.config.labels) == {"x": "y"}


def test_missing_parents_are_created() -> None:
    """Setting a field to its default creates its parents, too."""
    message = CreateContainerRequest()
    parse_path("config.image.image", message.DESCRIPTOR).set(message, "")
    assert message.HasField("config")
    assert message.config.HasField("image")


@pytest.mark.parametrize(
    "path",
    ["config.command", "config.command[1]", "config.envs[0]", 'config.labels["app"]', "config"],
)
def test_clear(path: str) -> None:
    """A field is cleared, an element or a key removed, and nothing else."""
    message = create()
    expected = create()
    match path:
        case "config.command":
            del expected.config.command[:]
        case "config.command[1]":
            del expected.config.command[1]
        case "config.envs[0]":
            del expected.config.envs[0]
        case "config":
            expected.ClearField("config")
        case _:
            expected.config.labels.clear()
    parse_path(path, message.DESCRIPTOR).clear(message)
    assert message == expected


@pytest.mark.parametrize(
    "path",
    [
        "sandbox_config.linux.cgroup_parent",
        "config.command[7]",
        "config.mounts[0].host_path",
        'config.labels["none"]',
        "config.image",
    ],
)
def test_clear_an_absent_field(path: str) -> None:
    """Clearing an absent field creates no parent and does not fail."""
    message = create()
    parse_path(path, message.DESCRIPTOR).clear(message)
    assert message == create()


@pytest.mark.parametrize("path", ["config.envs[2].value", "config.envs[2]"])
def test_missing_index(path: str) -> None:
    """Setting an element that does not exist is an EvaluationError."""
    message = create()
    with pytest.raises(EvaluationError) as caught:
        parse_path(path, message.DESCRIPTOR).set(message, b"x")
    assert caught.value.reason == "cel"
    assert caught.value.detail == f"{path}: envs has 2, counted from 0"


FORM = (
    'is no path; write it like image.image, config.labels["team"], config.mounts[]'
    " or config.mounts[0].host_path"
)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("", FORM),
        ("config.", FORM),
        (".config", FORM),
        ("config..image", FORM),
        ("config.envs[-1]", FORM),
        ("config.envs[0", FORM),
        ('config.labels["a]', FORM),
        ("config image", FORM),
        ('config.labels["\ud800"]', "is not text that UTF-8 can have"),
        ("config.envs[0][1]", FORM),
        (
            "confg",
            "undefined field 'confg' in runtime.v1.CreateContainerRequest; did you mean 'config'?",
        ),
        (
            "config.image.zzz",
            "undefined field 'zzz' in runtime.v1.ImageSpec; there are image, annotations,"
            " user_specified_image, runtime_handler, image_ref",
        ),
        ("pod_sandbox_id.x", "pod_sandbox_id is string, which has no fields"),
        ('config.labels["a"].x', "labels is map(string, string), which has no fields"),
        ("config.labels.team", "labels is map(string, string), which has no fields"),
        ("config.labels[]", 'labels is a map: say which key, labels["key"]'),
        ("config.labels[0]", 'labels is a map: say which key, labels["key"]'),
        ("config.mounts.host_path", "mounts is a list: say which one, mounts[0]"),
        ('config.mounts["a"]', "mounts is a list: say which one, mounts[0], or mounts[] to append"),
        ("config.mounts[].x", "mounts[] is a new element, which is set as a whole: {...}"),
        ("pod_sandbox_id[0]", "pod_sandbox_id is string, which has no elements"),
    ],
)
def test_invalid_paths(path: str, error: str) -> None:
    """An error in a path is one line that says how to correct it."""
    with pytest.raises(PathError) as caught:
        parse_path(path, CreateContainerRequest.DESCRIPTOR)
    assert str(caught.value) == error


def test_all_maps_of_the_cri_have_strings_for_keys() -> None:
    """A key in a path is a string: no map of the CRI has other keys."""
    seen = set()

    def look(descriptor) -> None:
        if descriptor.full_name in seen:
            return
        seen.add(descriptor.full_name)
        for field in descriptor.fields:
            if is_map(field):
                key, value = field.message_type.fields
                assert key.type == value.type == key.TYPE_STRING
            elif field.message_type is not None:
                look(field.message_type)

    for method in METHODS.values():
        look(request_class(method).DESCRIPTOR)
        look(response_class(method).DESCRIPTOR)
    assert len(seen) > 100


def test_a_path_works_in_every_message() -> None:
    """A path is parsed against any message type."""
    for kind, path in ((PullImageRequest, "image.image"), (ListContainerStatsRequest, "filter.id")):
        message = kind()
        parse_path(path, kind.DESCRIPTOR).set(message, "x")
        assert message.ListFields()
