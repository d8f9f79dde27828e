"""JSON Patches of protobuf messages."""

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from jsonpatch import make_patch

from criproxy.enforce.hooks.json_patch import PatchError, apply_patch, to_json
from tests.enforce.hook_calls import PB, UNKNOWN, create

VERSIONS = pytest.mark.parametrize("version", ["v1", "v1alpha2"])

PATCHES: list[tuple[Any, Any]] = [
    ([("add", "/podSandboxId", "s2")], lambda m: setattr(m, "pod_sandbox_id", "s2")),
    ([("replace", "/config/tty", True)], lambda m: setattr(m.config, "tty", True)),
    ([("add", "/config/labels/a.b~1c", "d")], lambda m: m.config.labels.update({"a.b/c": "d"})),
    ([("remove", "/config/labels/app", None)], lambda m: m.config.labels.clear()),
    ([("replace", "/config/labels", {})], lambda m: m.config.labels.clear()),
    ([("add", "/config/args/-", "x")], lambda m: m.config.args.append("x")),
    ([("add", "/config/args", ["x", "y"])], lambda m: m.config.args.extend("xy")),
    ([("remove", "/config/image", None)], lambda m: m.config.ClearField("image")),
    ([("replace", "/config/image", None)], lambda m: m.config.ClearField("image")),
    ([("remove", "/config/mounts/0", None)], lambda m: m.config.mounts.pop(0)),
    (
        [
            (
                "add",
                "/config/mounts/-",
                {"hostPath": "/x", "propagation": "PROPAGATION_HOST_TO_CONTAINER"},
            )
        ],
        lambda m: m.config.mounts.add(host_path="/x", propagation=1),
    ),
    (
        [("replace", "/config/mounts/1/readonly", True)],
        lambda m: setattr(m.config.mounts[1], "readonly", True),
    ),
    (
        [("add", "/config/linux", {"resources": {"cpuShares": "512"}})],
        lambda m: setattr(m.config.linux.resources, "cpu_shares", 512),
    ),
    ([("add", "/config/linux", {})], lambda m: m.config.linux.SetInParent()),
    ([("test", "/config/image/image", "nginx:1")], lambda m: None),
]


def ops(*operations: tuple[str, str, Any]) -> list[dict[str, Any]]:
    return [{"op": op, "path": path, "value": value} for op, path, value in operations]


def copy(message: Any) -> Any:
    same = type(message)()
    same.CopyFrom(message)
    return same


def hide(message: Any) -> Any:
    """Add an unknown field to each message in a message, each with another value."""
    _hide(message, [0])
    return message


def _hide(message: Any, count: list[int]) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else [value]:
                _hide(each, count)
    count[0] += 1
    message.MergeFromString(UNKNOWN[:2] + bytes(count))


@VERSIONS
@pytest.mark.parametrize(("operations", "change"), PATCHES)
def test_patches(version: str, operations: Any, change: Any) -> None:
    """A patch changes what it names; everything else stays, with the unknown fields."""
    message = hide(create(version, mounts=3))
    expected, before = copy(message), copy(message)
    change(expected)
    assert apply_patch(to_json(message), ops(*operations)) == expected
    assert message == before


def test_mapping() -> None:
    """The JSON contains defaults, and messages only if they are set."""
    request = create()
    assert to_json(request) == MessageToDict(request, always_print_fields_with_no_presence=True)
    assert to_json(request)["config"]["logPath"] == ""
    assert "linux" not in to_json(request)["config"]
    pb = PB["v1"]
    status = pb.ExecSyncResponse(stdout=b"\x00\xff", exit_code=3)
    assert to_json(status)["stdout"] == "AP8="
    image = pb.ListImagesResponse(images=[pb.Image(size=2**60)])
    assert to_json(image)["images"][0]["size"] == str(2**60)


def test_bytes_and_large_numbers() -> None:
    """Bytes are patched as base64, 64-bit integers as strings or as numbers."""
    pb = PB["v1"]
    output = to_json(pb.ExecSyncResponse(stdout=b"a"))
    assert apply_patch(output, ops(("replace", "/stdout", "Yg=="))) == pb.ExecSyncResponse(
        stdout=b"b"
    )
    for size in ("5", 5):
        images = pb.ListImagesResponse(images=[pb.Image()])
        after = apply_patch(to_json(images), ops(("replace", "/images/0/size", size)))
        assert after == pb.ListImagesResponse(images=[pb.Image(size=5)])


def test_moved() -> None:
    """A moved or copied object keeps its hidden part."""
    message = hide(create(mounts=3))
    mounts = list(copy(message).config.mounts)
    move = [{"op": "move", "from": "/config/mounts/0", "path": "/config/mounts/2"}]
    after: Any = apply_patch(to_json(message), move)
    assert list(after.config.mounts) == [mounts[1], mounts[2], mounts[0]]
    duplicate = [{"op": "copy", "from": "/config/mounts/0", "path": "/config/mounts/1"}]
    after = apply_patch(to_json(message), duplicate)
    assert list(after.config.mounts) == [mounts[0], mounts[0], mounts[1], mounts[2]]


def test_written_anew() -> None:
    """A replaced object keeps its hidden part; list items do if the patch is unambiguous."""
    message = hide(create(mounts=3))
    expected = copy(message)
    config: Any = dict(to_json(message)["config"])
    config["tty"] = True
    config["mounts"] = [dict(mount) for mount in reversed(config["mounts"])]
    after: Any = apply_patch(to_json(message), ops(("replace", "/config", config)))
    mounts = list(expected.config.mounts)
    del expected.config.mounts[:]
    expected.config.mounts.extend(reversed(mounts))
    expected.config.tty = True
    assert after == expected


def test_root_written_anew() -> None:
    """The whole message may be replaced."""
    message = hide(create())
    expected = copy(message)
    expected.pod_sandbox_id = "s2"
    document = {**to_json(message), "podSandboxId": "s2"}
    assert apply_patch(to_json(message), ops(("replace", "", document))) == expected


def test_list_item_in_doubt() -> None:
    """A patch that replaces a list item with a hidden part by a new item is refused."""
    message = create(mounts=2)
    message.config.mounts[0].MergeFromString(UNKNOWN)
    patch = ops(("replace", "/config/mounts/0", {"hostPath": "/x"}))
    with pytest.raises(PatchError, match="/config/mounts: fields of a Mount that are not shown"):
        apply_patch(to_json(message), patch)
    patch = ops(("replace", "/config/mounts/1", {"hostPath": "/x"}))
    after: Any = apply_patch(to_json(message), patch)
    assert after.config.mounts[0] == message.config.mounts[0]


def test_moved_onto_another() -> None:
    """A move over a message, or into a field of another type, must not lose a hidden part."""
    message = hide(create())
    message.sandbox_config.metadata.name = "web"
    hide(message.sandbox_config)
    for path in ("/sandboxConfig/metadata", "/config/metadata"):
        other = "/config/metadata" if "sandbox" in path else "/sandboxConfig/metadata"
        with pytest.raises(PatchError, match="would be lost"):
            apply_patch(to_json(message), [{"op": "move", "from": other, "path": path}])


@pytest.mark.parametrize(
    ("operations", "told"),
    [
        ([("replace", "/config/nope", 1)], "nope"),
        ([("add", "/config/nope", 1)], "/config/nope: ContainerConfig has no such field"),
        ([("add", "/config/log_path", "x")], "/config/log_path: ContainerConfig has no such field"),
        ([("add", "/config/tty", "yes")], "/config: Failed to parse tty field"),
        ([("add", "/config/mounts", {})], "/config/mounts has to be a list"),
        ([("add", "/config/mounts/-", 7)], "/config/mounts/2 has to be an object"),
        ([("add", "/config/mounts/-", None)], "/config/mounts/2 has to be an object"),
        ([("add", "/config", "x")], "/config has to be an object"),
        ([("replace", "", [])], "/ has to be an object"),
        ([("remove", "", None)], ""),
        ([("add", "/config/labels/x", 5)], "/config: Failed to parse labels field"),
        ([("add", "/config/labels/x", None)], "/config: Failed to parse labels field"),
        ([("add", "/config/mounts/0/propagation", "NOPE")], "/config/mounts/0: Failed to parse"),
        ([("remove", "/config/labels/nope", None)], "nope"),
        ([("test", "/config/image/image", "other")], "other"),
        ([("frob", "/config", 1)], "Unknown operation 'frob'"),
        ([("add", "config", 1)], ""),
        ([("add", "/config/mounts/9", {})], ""),
        ([("add", "/config/image/image/x", {})], ""),
    ],
)
def test_refused(operations: Any, told: str) -> None:
    """A patch that cannot be applied is an error with its location."""
    with pytest.raises(PatchError) as caught:
        apply_patch(to_json(create(mounts=2)), ops(*operations))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("patch", [["x"], [5], [{}], [{"op": "add"}], [{"op": "add", "path": 5}]])
def test_no_patch(patch: Any) -> None:
    """A document that is not a JSON Patch is an error."""
    with pytest.raises(PatchError):
        apply_patch(to_json(create()), patch)


@VERSIONS
def test_credentials(version: str) -> None:
    """Credentials are hidden, kept, and cannot be patched."""
    pb = PB[version]
    request = pb.PullImageRequest(auth=pb.AuthConfig(username="u", password="hunter2"))
    request.image.image = "nginx"
    request.auth.MergeFromString(UNKNOWN)
    assert "auth" not in to_json(request)
    assert "hunter2" not in str(to_json(request))
    expected = copy(request)
    expected.image.image = "redis"
    assert apply_patch(to_json(request), ops(("replace", "/image/image", "redis"))) == expected
    assert (
        apply_patch(to_json(request), ops(("replace", "", {"image": {"image": "redis"}})))
        == expected
    )
    for patch in (
        ops(("add", "/auth", {"username": "v"})),
        ops(("add", "/auth", None)),
        ops(("replace", "/auth", {})),
        ops(("remove", "/auth", None)),
        ops(("add", "/auth/username", "v")),
        ops(("test", "/auth/username", "u")),
        [{"op": "copy", "from": "/auth", "path": "/image"}],
    ):
        with pytest.raises(PatchError):
            apply_patch(to_json(request), patch)


_mounts = st.lists(st.sampled_from("abcd"), max_size=5)


@given(_mounts, _mounts, st.booleans())
def test_any_patch(before: list[str], after: list[str], hidden: bool) -> None:
    """A patch from one message to another gives that message and keeps the hidden parts of what
    is still there; or it is refused, if there is a hidden part."""
    one, other = create(), create()
    for request, paths in ((one, before), (other, after)):
        for path in paths:
            request.config.mounts.add(host_path=path)
    patch = json.loads(make_patch(to_json(one), to_json(other)).to_string())
    if hidden:
        for mount in one.config.mounts:
            mount.MergeFromString(UNKNOWN[:2] + mount.host_path.encode())
    try:
        result: Any = apply_patch(to_json(one), patch)
    except PatchError:
        assert hidden
    else:
        assert to_json(result) == to_json(other)
        kept = sum(mount.ByteSize() > 3 for mount in result.config.mounts)
        assert kept >= (min(len(before), len(after)) if hidden else 0)


@VERSIONS
@pytest.mark.parametrize("patched", [False, True])
def test_secrets_in_status_texts(version: str, patched: bool) -> None:
    """A webhook gets a status' text with marks for secrets; unless it changes the text, no byte of
    the response changes."""
    api = PB[version]
    status = api.ContainerStatus(message="https://me:pw@r: 401", exit_code=1)
    response = api.ContainerStatusResponse(status=status)
    shown = to_json(response)
    assert shown["status"]["message"] == "https://[redacted: 5 bytes]@r: 401"
    patch = [{"op": "replace", "path": "/status/exitCode", "value": 2}]
    if patched:
        patch.append({"op": "replace", "path": "/status/message", "value": "no"})
    after = apply_patch(shown, patch)
    response.status.exit_code = 2
    if patched:
        response.status.message = "no"
    assert after == response
