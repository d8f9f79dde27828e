"""RecordBuilder: the fields of records, and what they never contain."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.audit.items import RuntimeListing, UnreadConnection
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.records.capture import CaptureSelector
from criproxy.audit.records.record_builder import RecordBuilder
from criproxy.audit.spec import LEVELS, AuditRuleSpec, RedactSpec
from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS, Method
from criproxy.cri.naming import resolve
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.peers.peer import Connection, Peer
from criproxy.rules.spec import CallersSpec
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.message_capture import CaptureLimits
from tests.support.audited import (
    AGENT,
    CONTAINER_CONFIG,
    CONTAINER_ID,
    KUBELET,
    LISTENER,
    POD_CONFIG,
    POD_ID,
    create_container,
    fields_of,
    maker,
    observed,
    path_of,
    populated,
    run_pod,
)
from tests.support.messages import messages
from tests.support.planted import Secrets, fill, plant

INVENTED = "/runtime.v9.RuntimeService/Invented"
WEB = {"id": POD_ID, "namespace": "shop", "name": "web", "uid": "uid-web"}
MAIN = {"id": CONTAINER_ID, "name": "main", "image": "nginx:1"}
EXEC = v1.ExecSyncRequest(container_id=CONTAINER_ID, cmd=["id"])
OBJECTS = {"requestObject", "responseObject", "responseObjects"}


def test_a_record_whole() -> None:
    """A record has all known fields of a call under the schema's names."""
    made = populated(maker())
    item = observed(
        "ExecSync", EXEC, v1.ExecSyncResponse(stdout=b"uid=0"), peer=AGENT, rules=("slow",)
    )
    record = made.make(item)
    assert record is not None
    assert record.audit_id == "audit-id"
    assert b"\n" not in record.line
    assert json.loads(record.line) == record.fields
    assert record.fields == {
        "apiVersion": "audit.criproxy.io/v1",
        "kind": "Event",
        "level": "RequestResponse",
        "auditID": "audit-id",
        "stage": "ResponseComplete",
        "requestReceivedTimestamp": "2023-11-14T22:13:30.000000000Z",
        "stageTimestamp": "2023-11-14T22:13:30.250000000Z",
        "node": "node-1",
        "listener": LISTENER,
        "caller": {
            "pid": 815,
            "uid": 1000,
            "gid": 100,
            "executable": None,
            "kubelet": False,
            "container": {
                "id": CONTAINER_ID,
                "name": "main",
                "podNamespace": "shop",
                "podName": "web",
                "podUID": "uid-web",
            },
        },
        "service": "runtime.v1.RuntimeService",
        "method": "ExecSync",
        "criVersion": "v1",
        "pod": WEB,
        "container": MAIN,
        "image": "nginx:1",
        "requestObject": {"containerId": CONTAINER_ID, "cmd": ["id"]},
        "responseObject": {"stdout": b64encode(b"uid=0").decode()},
        "code": "OK",
        "exitCode": 0,
        "durationSeconds": 0.25,
        "requestMessages": 1,
        "requestBytes": len(EXEC.SerializeToString()),
        "responseMessages": 1,
        "responseBytes": 7,
        "rules": ["slow"],
    }


@pytest.mark.parametrize(
    ("level", "objects"),
    [
        ("Metadata", set()),
        ("Request", {"requestObject"}),
        ("RequestResponse", {"requestObject", "responseObject"}),
    ],
)
def test_levels(level, objects) -> None:
    """A level determines the objects in a record; every level has the names."""
    fields = fields_of(populated(maker(level)), observed("ExecSync", EXEC, v1.ExecSyncResponse()))
    assert fields["level"] == level
    assert OBJECTS & set(fields) == objects
    assert (fields["pod"], fields["container"], fields["code"]) == (WEB, MAIN, "OK")


@pytest.mark.parametrize("encoding", [b"", b"gzip"])
@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
@pytest.mark.parametrize("exit_code", [0, 1, 137, -1])
def test_exec_probes(exit_code: int, version: str, encoding: bytes) -> None:
    """Under the default policy an exec probe has a record unless its exit code is 0, one with the
    exit code; and everybody else's ExecSync has one."""
    path = path_of("ExecSync", version)
    messages = EXEC, v1.ExecSyncResponse(stdout=b"ok", exit_code=exit_code)
    for peer in (KUBELET, AGENT):
        record = maker(AuditPolicy()).make(observed(path, *messages, peer=peer, encoding=encoding))
        if peer is KUBELET and exit_code == 0:
            assert record is None
        else:
            assert record is not None
            assert (record.fields["level"], record.fields["exitCode"]) == ("Request", exit_code)
            assert record.fields["requestObject"]["cmd"] == ["id"]
            assert "responseObject" not in record.fields


@pytest.mark.parametrize(
    ("responses", "more"),
    [
        ((), {}),
        ((b"\xff",), {}),
        ((v1.ExecSyncResponse(stdout=b"x" * (1 << 18)),), {}),
        ((), {"code": StatusCode.DEADLINE_EXCEEDED}),
        ((v1.ExecSyncResponse(),), {"code": StatusCode.INTERNAL}),
        ((v1.ExecSyncResponse(),), {"code": None}),
        ((v1.ExecSyncResponse(),), {"code": StatusCode.UNAVAILABLE, "denied": "rule deny"}),
    ],
)
def test_probes_that_did_not_end_well(responses: tuple[Any, ...], more: dict[str, Any]) -> None:
    """A probe has a record if its call has failed, and if its exit code is not known: because
    there is no response, it cannot be decoded, or it is too large."""
    fields = fields_of(maker(AuditPolicy()), observed("ExecSync", EXEC, *responses, **more))
    assert ("exitCode" in fields) == (bool(responses) and bool(more))


def test_probes_that_run() -> None:
    """A probe has no record at RequestReceived, as it may need none; an agent's exec has one."""
    made = maker(AuditPolicy())
    assert made.make(observed("ExecSync", EXEC, stage="RequestReceived")) is None
    fields = fields_of(made, observed("ExecSync", EXEC, stage="RequestReceived", peer=AGENT))
    assert "exitCode" not in fields


def test_no_level() -> None:
    """A call without a record still updates the pod cache."""
    policy = AuditPolicy([AuditRuleSpec("Metadata", methods=["@exec"])])
    made = maker(policy)
    assert made.make(run_pod()) is None
    assert made.make(create_container()) is None
    assert made.make(observed("Version", v1.VersionRequest())) is None
    assert fields_of(made, observed("ExecSync", EXEC))["container"] == MAIN


def test_a_stream_has_all_its_responses() -> None:
    """Every message of a server stream is recorded."""
    events = [v1.ContainerEventResponse(container_id=each) for each in ("a", "b")]
    fields = fields_of(maker(), observed("GetContainerEvents", v1.GetEventsRequest(), *events))
    assert fields["responseObjects"] == [{"containerId": "a"}, {"containerId": "b"}]
    assert "responseObject" not in fields
    assert "container" not in fields  # it is about all of them
    assert "truncated" not in fields


def test_names_of_what_is_just_made() -> None:
    """A call that makes a pod or a container has its name from the request, its id from the
    response."""
    made = maker("Metadata")
    assert fields_of(made, run_pod())["pod"] == WEB
    created = fields_of(made, create_container())
    assert (created["pod"], created["container"], created["image"]) == (WEB, MAIN, "nginx:1")


def test_names_of_what_is_removed() -> None:
    """The record of a removal has the names, which are then removed from the pod cache."""
    made = populated(maker("Metadata"))
    remove = observed(
        "RemoveContainer",
        v1.RemoveContainerRequest(container_id=CONTAINER_ID),
        v1.RemoveContainerResponse(),
    )
    assert fields_of(made, remove)["container"] == MAIN
    assert fields_of(made, remove)["container"] == {"id": CONTAINER_ID}
    remove = observed(
        "RemovePodSandbox",
        v1.RemovePodSandboxRequest(pod_sandbox_id=POD_ID),
        v1.RemovePodSandboxResponse(),
    )
    assert fields_of(made, remove)["pod"] == WEB
    assert fields_of(made, remove)["pod"] == {"id": POD_ID}


def test_nothing_is_learned_of_what_failed() -> None:
    """A failed removal keeps the pod's name."""
    made = populated(maker("Metadata"))
    remove = observed(
        "RemovePodSandbox",
        v1.RemovePodSandboxRequest(pod_sandbox_id=POD_ID),
        code=StatusCode.INTERNAL,
    )
    for _ in range(2):
        assert fields_of(made, remove)["pod"] == WEB


def test_names_from_a_listing() -> None:
    """Pods created before the proxy's start have their names from the runtime's listing."""
    made = maker("Metadata")
    pods = v1.ListPodSandboxResponse(
        items=[v1.PodSandbox(id=POD_ID, metadata=POD_CONFIG.metadata, labels=POD_CONFIG.labels)]
    )
    containers = v1.ListContainersResponse(
        containers=[
            v1.Container(
                id=CONTAINER_ID,
                pod_sandbox_id=POD_ID,
                metadata=CONTAINER_CONFIG.metadata,
                image=CONTAINER_CONFIG.image,
            )
        ]
    )
    listed = RuntimeListing(pods.SerializeToString(), containers.SerializeToString())
    assert made.make(RuntimeListing(b"\xff", b"\xff")) is None
    assert "name" not in fields_of(made, observed("ExecSync", EXEC))["container"]
    assert made.make(listed) is None
    fields = fields_of(made, observed("ExecSync", EXEC))
    assert (fields["pod"], fields["container"]) == (WEB, MAIN)


def test_images_are_named() -> None:
    """Records of image calls have the image's name."""
    for method in ("PullImage", "RemoveImage", "ImageStatus"):
        request = request_class(METHODS[path_of(method)])(image=v1.ImageSpec(image="nginx:2"))
        assert fields_of(maker("Metadata"), observed(method, request))["image"] == "nginx:2"


def test_a_call_that_runs() -> None:
    """A record at RequestReceived has the request and no result."""
    made = populated(maker())
    fields = fields_of(made, observed("ExecSync", EXEC, stage="RequestReceived"))
    assert fields["stage"] == "RequestReceived"
    assert fields["requestObject"]["cmd"] == ["id"]
    assert fields["container"] == MAIN
    assert not {"code", "durationSeconds", "responseObject", "responseBytes"} & set(fields)


def test_nothing_is_learned_of_a_call_that_runs() -> None:
    """Conditions on the result do not match at RequestReceived."""
    made = maker("Metadata")
    begun = observed(
        "RunPodSandbox", v1.RunPodSandboxRequest(config=POD_CONFIG), stage="RequestReceived"
    )
    assert fields_of(made, begun)["pod"] == {key: WEB[key] for key in ("namespace", "name", "uid")}
    assert fields_of(made, create_container())["pod"] == {"id": POD_ID}


def test_denials_are_always_recorded() -> None:
    """A denied call is recorded at Metadata or higher, whatever the policy is."""
    for level, expected in (("None", "Metadata"), ("Request", "Request")):
        item = observed(
            "ExecSync", EXEC, code=StatusCode.PERMISSION_DENIED, denied="profile read-only"
        )
        fields = fields_of(maker(level), item)
        assert fields["level"] == expected
        assert fields["denied"] == "profile read-only"
        assert fields["code"] == "PERMISSION_DENIED"
        assert OBJECTS & set(fields) == ({"requestObject"} if level == "Request" else set())


def test_what_rules_changed() -> None:
    """Changed fields are recorded by path without values, at most 100."""
    before = v1.ContainerConfig(labels={"a": "old-value"}, log_path="old-value")
    after = v1.ContainerConfig(labels={"a": "new-value"}, log_path="new-value")
    many = v1.ContainerConfig(labels={f"{number:03}": "new-value" for number in range(150)})
    changes = (
        ("mirror", "request", before, after),
        ("more", "response", before, many),
        ("header", "request", None, None),
    )
    record = maker().make(observed("Version", changes=changes))
    assert record is not None
    mirror, more, header = record.fields["changes"]
    assert mirror == {
        "rule": "mirror",
        "half": "request",
        "fields": ['labels["a"]', "log_path"],
    }
    assert len(more["fields"]) == 101
    assert more["fields"][-1] == "(52 more)"
    assert header["fields"] == []
    assert b"-value" not in record.line


def test_what_is_too_large() -> None:
    """Of a message above the limit only the size and the names are recorded."""
    made = populated(maker(limit=100))
    large = v1.ExecSyncRequest(container_id=CONTAINER_ID, cmd=["x" * 100])
    fields = fields_of(made, observed("ExecSync", large, v1.ExecSyncResponse(stdout=b"y" * 100)))
    assert fields["truncated"] == {"request": True, "response": True}
    assert not OBJECTS & set(fields)
    assert fields["container"] == MAIN
    assert fields["requestBytes"] > 100
    events = [v1.ContainerEventResponse(container_id="a" * 30)] * 4
    fields = fields_of(made, observed("GetContainerEvents", v1.GetEventsRequest(), *events))
    assert fields["truncated"] == {"response": True}
    assert len(fields["responseObjects"]) == 3


def test_what_was_not_kept() -> None:
    """Messages that were not captured are recorded as truncated."""
    item = observed("ExecSync", EXEC, v1.ExecSyncResponse())
    assert item.call.capture is not None
    item.call.capture.request = item.call.capture.response = None
    assert fields_of(maker(), item)["truncated"] == {"request": True, "response": True}
    item.call.capture = None
    assert fields_of(maker("Request"), item)["truncated"] == {"request": True}
    assert "truncated" not in fields_of(maker("Metadata"), item)
    item = observed("ExecSync")
    assert item.call.capture is not None
    assert item.call.capture.request is not None
    item.call.capture.request.cut = True
    assert fields_of(maker("Metadata"), item)["truncated"] == {"request": True}


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_compressed_messages(encoding: bytes) -> None:
    """Compressed messages are recorded decompressed."""
    item = observed("ExecSync", EXEC, v1.ExecSyncResponse(exit_code=3), encoding=encoding)
    fields = fields_of(maker(), item)
    assert fields["requestObject"]["cmd"] == ["id"]
    assert fields["responseObject"] == {"exitCode": 3}


def test_a_bomb() -> None:
    """A message that decompresses to more than the limit is truncated."""
    item = observed("ExecSync", v1.ExecSyncRequest(cmd=["x" * (1 << 20)]), encoding=b"gzip")
    assert fields_of(maker(limit=1000), item)["truncated"] == {"request": True}


@pytest.mark.parametrize("level", ["Metadata", "RequestResponse"])
def test_what_cannot_be_read(level) -> None:
    """No byte of an undecodable message is recorded."""
    junk = b"\xffplanted-secret"
    made = maker(level)
    for item in (
        observed("ExecSync", junk, junk),
        observed("ExecSync", junk, junk, encoding=b"gzip"),
        observed(INVENTED, junk, junk),
    ):
        item.call.capture.request.encoding = (
            b"zstd-planted" if item.call.capture.request.encoding else b""
        )
        record = made.make(item)
        assert record is not None
        assert b"planted" not in record.line
        assert b64encode(junk)[4:16] not in record.line
        unreadable = set(record.fields.get("unreadable", ()))
        if level == "RequestResponse":
            assert unreadable >= {"request", "response"} - (
                {"response"} if item.call.capture.response.encoding else set()
            )
            assert not OBJECTS & set(record.fields)


def test_a_path_of_any_bytes() -> None:
    """A call of any path has a record in JSON."""
    for path in (b"", b"/", b"/\xff\xfe/\x00\n", b"x" * 5000):
        item = observed(INVENTED)
        item.call.path = path
        record = maker().make(item)
        assert record is not None
        assert json.loads(record.line)["kind"] == "Event"
        assert b"\n" not in record.line


def test_a_connection_that_is_not_read_any_more() -> None:
    """An unread connection has a record, whatever the policy is."""
    item = UnreadConnection(
        Connection(LISTENER, KUBELET, 0.0), "internal_error", "Trace:\n  x\nLast: y\n", 1.5
    )
    fields = fields_of(maker("None"), item)
    assert fields["kind"] == "ConnectionUnread"
    assert fields["reason"] == "internal_error"
    assert fields["message"] == "Last: y"
    assert fields["caller"]["command"] == ["kubelet", "--v=2"]
    assert fields["stageTimestamp"] == "2023-11-14T22:13:21.500000000Z"


def test_omitted_fields() -> None:
    """``omit`` removes paths, through lists, from the records of its rule only."""
    omit = [
        "caller.command",
        "requestObject.config.labels",
        "responseObjects.containerId",
        "image",
        "pod.none.of",
        "message",
    ]
    policy = AuditPolicy(
        [
            AuditRuleSpec("RequestResponse", methods=["Exec*"]),
            AuditRuleSpec("RequestResponse", omit=omit),
        ]
    )
    made = populated(maker(policy))
    request = v1.RunPodSandboxRequest(config=POD_CONFIG)
    fields = fields_of(made, observed("RunPodSandbox", request, code=StatusCode.UNKNOWN))
    assert fields["requestObject"] == {
        "config": {"metadata": {"name": "web", "namespace": "shop", "uid": "uid-web"}}
    }
    assert "command" not in fields["caller"]
    assert fields["caller"]["pid"] == KUBELET.pid
    events = [v1.ContainerEventResponse(container_id="a", created_at=5)]
    fields = fields_of(made, observed("GetContainerEvents", v1.GetEventsRequest(), *events))
    assert fields["responseObjects"] == [{"createdAt": "5"}]
    assert fields_of(made, observed("ExecSync", EXEC))["caller"]["command"] == ["kubelet", "--v=2"]


def test_a_status_message_does_not_quote_credentials() -> None:
    """Credentials of a request are redacted in the status message."""
    request = v1.PullImageRequest(
        image=v1.ImageSpec(image="x"), auth=v1.AuthConfig(username="me", password="hunter22")
    )
    for level in ("Metadata", "RequestResponse"):
        item = observed(
            "PullImage", request, code=StatusCode.UNKNOWN, message=b"https://me:hunter22@r: 401"
        )
        fields = fields_of(maker(level), item)
        assert fields["message"] == "https://[redacted: 11 bytes]@r: 401"


def test_status_texts_in_responses() -> None:
    """What a runtime says in the fields of a status is redacted as its status messages are."""
    status = v1.ContainerStatus(message="h?sig=ab", reason="x", image_ref="h?sig=ab")
    request = v1.ContainerStatusRequest(container_id="a")
    item = observed("ContainerStatus", request, v1.ContainerStatusResponse(status=status))
    assert fields_of(maker(), item)["responseObject"]["status"] == {
        "message": "h?sig=[redacted: 2 bytes]",
        "reason": "x",
        "imageRef": "h?sig=ab",
    }


def test_no_text_quotes_what_a_rule_has_put_in() -> None:
    """Credentials that a rule sets are redacted in the status message."""
    request = v1.PullImageRequest(image=v1.ImageSpec(image="x"))
    after = v1.PullImageRequest(auth=v1.AuthConfig(registry_token="hunter22"))
    item = observed(
        "PullImage",
        request,
        message=b"no hunter22",
        denied="not hunter22",
        changes=(("login", "request", request, after),),
    )
    fields = fields_of(maker("Metadata"), item)
    assert fields["message"] == "no [redacted: 8 bytes]"
    assert fields["denied"] == "not [redacted: 8 bytes]"


def test_large_messages_that_come_again() -> None:
    """Unchanged lists share a cached object, which ``omit`` does not change."""
    rules = [
        AuditRuleSpec("RequestResponse", codes=["OK"]),
        AuditRuleSpec("RequestResponse", omit=["responseObject.images.id"]),
    ]
    made = maker(AuditPolicy(rules))
    for _ in range(2):
        for count in range(100, 120):
            images = [v1.Image(id=f"{number:060}") for number in range(count)]
            response = v1.ListImagesResponse(images=images)
            for code in (StatusCode.UNKNOWN, StatusCode.OK, StatusCode.UNKNOWN):
                item = observed("ListImages", v1.ListImagesRequest(), response, code=code)
                shown = fields_of(made, item)["responseObject"]["images"]
                known = [{"id": each.id} if code is StatusCode.OK else {} for each in images]
                assert shown == known


@given(
    method=st.sampled_from(list(METHODS.values())),
    level=st.sampled_from(LEVELS[1:]),
    stage=st.sampled_from(["RequestReceived", "ResponseComplete"]),
    encoding=st.sampled_from([b"", b"gzip"]),
    data=st.data(),
)
def test_no_planted_secret_is_recorded(method: Method, level, stage, encoding, data) -> None:
    """Whatever the messages of a call are, at every level: what is to be redacted is in no record,
    nor what the CRI of today does not know."""
    secrets = Secrets()
    sent = []
    for kind in (request_class(method), response_class(method)):
        message = data.draw(messages(kind))
        plant(message, secrets)
        sent.append(message)
    request, response = sent
    bare = type(request)()
    item = observed(
        method.path,
        request,
        response,
        stage=stage,
        encoding=encoding,
        changes=(("a", "request", bare, request), ("b", "request", request, bare)),
    )
    made = maker(level, annotations=["hidden.*"])
    for _ in range(2):  # again, now that something may have been learned
        record = made.make(item)
        assert record is not None
        line = record.line.decode()
        for secret in secrets.made:
            assert secret not in line
            assert b64encode(secret.encode()).decode() not in line


@pytest.mark.parametrize("path", [*METHODS, "/tok-12.RuntimeService/tok-34"])
def test_what_expressions_find_is_recorded_nowhere(path: str) -> None:
    """``redact.values`` applies to all text of clients, runtimes and rules."""
    method = METHODS.get(path)
    kinds = (request_class(method), response_class(method)) if method else (v1.AuthConfig,) * 2
    sent = [kind() for kind in kinds]
    for message in sent:
        fill(message, lambda field: f"é tok-{len(field.name):02x}0")
    command = ("tok-1", "--flag=tok-2", "--password", "tok-3", "-c", "x tok-4")
    peer = Peer(1, 2, 3, "/bin/tok-5", command, "tok-6.service", "tok-7", "tok-8")
    made = maker(values=["tok-[0-9a-f]+"])
    item = observed(
        path,
        *sent,
        peer=peer,
        message=b"caf%C3%A9 tok-9 %74ok-a",
        rules=("tok-b",),
        denied="tok-c",
        changes=(("tok-d", "request", type(sent[0])(), sent[0]),),
    )
    for each in (item, item, UnreadConnection(item.connection, "tok-e", "tok-f", 1.0)):
        record = made.make(each)
        assert record is not None
        assert b"tok-" not in record.line
        assert b64encode(b"\xc3\xa9 tok-")[:8] not in record.line


def test_what_expressions_find_in_names_of_fields() -> None:
    """Keys in the paths of changed fields are redacted before they are shortened and escaped."""
    after = v1.ContainerConfig(labels={"x" * 50 + "tok-" + "1" * 100: "1", 'tok-"é': "2"})
    changes = (("a", "request", v1.ContainerConfig(), after),)
    record = maker(values=["tok-.+"]).make(observed("Version", changes=changes))
    assert record is not None
    assert record.fields["changes"][0]["fields"] == [
        'labels["[redacted: 7 bytes]"]',
        f'labels["{"x" * 50}[redacted: 104 bytes]"]',
    ]


def test_a_maker_in_anothers_place() -> None:
    """A new builder can take over the pod cache."""
    made = RecordBuilder(
        AuditPolicy(), RedactSpec(), "node-1", round, 1000, populated(maker()).pod_cache
    )
    assert fields_of(made, observed("ExecSync", EXEC))["container"] == MAIN


def test_command_lines_hide_credentials() -> None:
    """Credentials in a caller's command line are redacted."""
    peer = Peer(1, 0, 0, "/bin/crictl", ("crictl", "pull", "--creds", "me:hunter2", "nginx"))
    fields = fields_of(maker("Metadata"), observed("Version", peer=peer))
    assert fields["caller"]["command"] == [
        "crictl",
        "pull",
        "--creds",
        "[redacted: 10 bytes]",
        "nginx",
    ]


def documented() -> dict[str, dict[str, str]]:
    """The fields of each kind of record: ``+`` always, ``?`` sometimes."""
    table: dict[str, dict[str, str]] = {"received": {}, "complete": {}, "unread": {}}
    for line in (Path(__file__).parents[1] / "record_fields.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, *marks = line.split()
            for fields, mark in zip(table.values(), marks, strict=True):
                if mark != "-":
                    fields[name] = mark
    return table


def names(value: Any, prefix: str = "") -> set[str]:
    """Return the names of a record's fields, without those of CRI objects."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return set().union(*(names(each, prefix) for each in value))
    if not isinstance(value, dict) or prefix.removesuffix(".") in OBJECTS:
        return {prefix.removesuffix(".")}
    return set().union(*(names(each, f"{prefix}{key}.") for key, each in value.items()))


def examples() -> list[dict[str, Any]]:
    made = populated(maker())
    message = v1.ContainerConfig(log_path="x")
    more: dict[str, Any] = {
        "rules": ("a",),
        "changes": (("a", "request", message, v1.ContainerConfig()),),
        "denied": "because",
    }
    cut = observed("ExecSync", EXEC, v1.ExecSyncResponse())
    assert cut.call.capture is not None
    cut.call.capture.request = cut.call.capture.response = None
    begun = observed("ExecSync", stage="RequestReceived")
    assert begun.call.capture is not None
    assert begun.call.capture.request is not None
    begun.call.capture.request.cut = True
    items = [
        run_pod(),
        create_container(),
        cut,
        begun,
        observed("ExecSync", EXEC, v1.ExecSyncResponse(), peer=AGENT, message=b"x", **more),
        observed("ExecSync", EXEC, peer=AGENT, stage="RequestReceived", **more),
        observed("ExecSync", b"\xff", b"\xff"),
        observed("ExecSync", b"\xff", stage="RequestReceived"),
        observed("Version", v1.VersionRequest(), code=None),
        observed("GetContainerEvents", v1.GetEventsRequest(), v1.ContainerEventResponse()),
        observed(INVENTED),
        observed(INVENTED, stage="RequestReceived"),
        UnreadConnection(Connection(LISTENER, KUBELET, 0.0), "limit", "too long", 1.0),
        UnreadConnection(Connection(LISTENER, AGENT, 0.0), "limit", "", 1.0),
    ]
    return [fields_of(made, item) for item in items]


def test_records_keep_to_their_schema() -> None:
    """Records have exactly the documented fields."""
    met: dict[str, set[str]] = {"received": set(), "complete": set(), "unread": set()}
    for fields in examples():
        if fields["kind"] == "Event":
            kind = "received" if fields["stage"] == "RequestReceived" else "complete"
        else:
            kind = "unread"
        known = documented()[kind]
        assert names(fields) <= set(known)
        assert {name for name, mark in known.items() if mark == "+"} <= names(fields)
        met[kind] |= names(fields)
    for kind, known in documented().items():
        assert met[kind] == set(known)


@pytest.mark.parametrize("path", [*METHODS, INVENTED])
def test_what_has_to_be_kept(path: str) -> None:
    """With the messages that are asked for, a record is as with all of them, and so is what is
    learned: at every level, for every method."""
    method_name = resolve(path.encode())
    made = CaptureSelector(1 << 20)
    assert made.limits(method_name, "RequestResponse") == CaptureLimits(1 << 20, 1 << 20)
    assert made.limits(method_name, "Request").request == 1 << 20
    updates_pod_cache = method_name.method in {
        "RunPodSandbox",
        "RestorePod",
        "RemovePodSandbox",
        "CreateContainer",
        "RemoveContainer",
        "PullImage",
    }
    none = made.limits(method_name, "None")
    assert bool(none.request and none.response) == updates_pod_cache
    assert bool(none.request or none.response) == updates_pod_cache
    if path == INVENTED:
        assert made.limits(method_name, "Metadata") == CaptureLimits(0, 0)
        return
    method = METHODS[path]
    request, response = request_class(method)(), response_class(method)()
    for message in (request, response):
        fill(message, lambda field: f"{field.name}-x")
    for level in LEVELS:
        whole, part = maker(level), maker(level)
        limits = CaptureSelector(1 << 18).limits(method_name, level)
        item = observed(path, request, response)
        assert item.call.capture is not None
        record = whole.make(item)
        if not limits.request:
            item.call.capture.request = None
        if not limits.response:
            item.call.capture.response = None
        assert part.make(item) == record
        for id_ in ("container_id-x", "pod_sandbox_id-x"):
            assert part.pod_cache.container(id_) == whole.pod_cache.container(id_)


def test_the_default_policy_by_records() -> None:
    """The kubelet's reads are not recorded. Its changes are recorded with names, an exec with its
    command, and calls of other clients with the request."""
    made = populated(maker(AuditPolicy()))
    status = v1.ContainerStatusRequest(container_id=CONTAINER_ID)
    start = v1.StartContainerRequest(container_id=CONTAINER_ID)
    assert made.make(observed("ContainerStatus", status)) is None
    fields = fields_of(made, observed("StartContainer", start))
    assert (fields["level"], fields["pod"], fields["image"]) == ("Metadata", WEB, "nginx:1")
    fields = fields_of(made, observed("ExecSync", EXEC))
    assert (fields["level"], fields["requestObject"]["cmd"]) == ("Request", ["id"])
    fields = fields_of(made, observed("ContainerStatus", status, peer=AGENT))
    assert (fields["level"], fields["container"]) == ("Request", MAIN)


def test_rules_about_pods() -> None:
    """Conditions on pods use the names known at the call's end."""
    policy = AuditPolicy(
        [
            AuditRuleSpec("None", namespaces=["shop"], callers=CallersSpec(uid=[0])),
            AuditRuleSpec("Metadata"),
        ]
    )
    made = maker(policy)
    assert made.make(observed("ExecSync", EXEC)) is not None
    populated(made)
    assert made.make(observed("ExecSync", EXEC)) is None
    assert made.make(observed("ExecSync", EXEC, peer=AGENT)) is not None


@given(
    path=st.sampled_from(list(METHODS)),
    junk=st.tuples(st.binary(max_size=60), st.binary(max_size=60)),
    compressed=st.booleans(),
    encoding=st.sampled_from([b"", b"gzip", b"identity", b"\xff"]),
    message=st.binary(max_size=20),
)
def test_nothing_that_a_peer_sends_raises(path, junk, compressed, encoding, message) -> None:
    """Messages and status of any bytes have a record in JSON."""
    made = maker(values=["[a-z]+"])
    item = observed(path, *junk, message=message)
    assert item.call.capture is not None
    for direction, data in zip(
        (item.call.capture.request, item.call.capture.response), junk, strict=True
    ):
        assert direction is not None
        direction.messages = [(data, compressed)]
        direction.encoding = encoding
    for _ in range(2):  # again, with what may have been learned
        record = made.make(item)
        assert record is not None
        assert json.loads(record.line) == record.fields
