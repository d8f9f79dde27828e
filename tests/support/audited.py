"""Calls with captured messages, and their records."""

import gzip
import zlib
from typing import Any

from google.protobuf.message import Message

from criproxy.audit.items import CallAtStage, Stage
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.records.record_builder import Record, RecordBuilder
from criproxy.audit.spec import AuditRuleSpec, Level, RedactSpec
from criproxy.cri.methods import METHODS
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.peers.peer import Connection, Peer
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.message_capture import CapturedMessages, CaptureLimits, MessageCapture
from tests.support.calls import ended, running

POD_ID = "aa" * 32
CONTAINER_ID = "bb" * 32
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
"""When the calls' clock was at 0, in nanoseconds since the epoch."""

KUBELET = Peer(
    4711, 0, 0, "/usr/bin/kubelet", ("kubelet", "--v=2"), unit="kubelet.service", kubelet=True
)
AGENT = Peer(815, 1000, 100, None, container=CONTAINER_ID, pod_uid="uid-web")
LISTENER = "unix:///run/criproxy/criproxy.sock"

POD_CONFIG = v1.PodSandboxConfig(
    metadata=v1.PodSandboxMetadata(name="web", namespace="shop", uid="uid-web"),
    labels={"app": "web"},
)
CONTAINER_CONFIG = v1.ContainerConfig(
    metadata=v1.ContainerMetadata(name="main"), image=v1.ImageSpec(image="nginx:1")
)


def maker(level: Level | AuditPolicy = "RequestResponse", limit: int = 1 << 18, **redact: Any):
    """Return a RecordBuilder with one level for all calls, or with a policy."""
    policy = level if isinstance(level, AuditPolicy) else AuditPolicy([AuditRuleSpec(level)])
    return RecordBuilder(
        policy, RedactSpec(**redact), "node-1", lambda now: START + round(now * SECOND), limit
    )


def packed(message: Message | bytes, encoding: bytes = b"") -> tuple[bytes, bool]:
    """Return a message as on the wire, compressed if there is an encoding."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    if not encoding:
        return data, False
    return (gzip.compress(data) if encoding == b"gzip" else zlib.compress(data)), True


def captured(messages: tuple[Message | bytes, ...], encoding: bytes = b"") -> CapturedMessages:
    """Return the captured messages of one direction."""
    kept = CapturedMessages(1 << 30)
    kept.encoding = encoding
    kept.messages = [packed(message, encoding) for message in messages]
    return kept


def observed(
    method: str,
    request: Message | bytes | None = None,
    *responses: Message | bytes,
    peer: Peer = KUBELET,
    code: StatusCode | None = StatusCode.OK,
    stage: Stage = "ResponseComplete",
    message: bytes = b"",
    encoding: bytes = b"",
    rules: tuple[str, ...] = (),
    denied: str = "",
    changes: tuple[tuple[str, str, Any, Any], ...] = (),
) -> CallAtStage:
    """Return a call of a method (of v1, or a path) at a stage, with its messages."""
    path = method if method.startswith("/") else path_of(method)
    requests = () if request is None else (request,)
    if stage == "ResponseComplete":
        call: Call = ended(
            path.encode(),
            code,
            began=10.0,
            took=0.25,
            message=message,
            rules=rules,
            request=(len(requests), sum(len(packed(each)[0]) for each in requests)),
            response=(len(responses), sum(len(packed(each)[0]) for each in responses)),
        )
    else:
        call = running(path.encode(), began=10.0)
        call.rules = rules
    call.capture = MessageCapture(CaptureLimits(1, 1))
    call.capture.request = captured(requests, encoding)
    call.capture.response = captured(responses, encoding)
    call.denied, call.changes = denied, changes
    return CallAtStage(stage, "audit-id", Connection(LISTENER, peer, 0.0), call, at=10.25)


def path_of(method: str, version: str = "v1") -> str:
    """Return the path of a CRI method."""
    return next(
        path
        for path, each in METHODS.items()
        if each.name == method and each.api_version == version
    )


def run_pod(peer: Peer = KUBELET) -> CallAtStage:
    """Return a call that creates a pod."""
    response = v1.RunPodSandboxResponse(pod_sandbox_id=POD_ID)
    return observed("RunPodSandbox", v1.RunPodSandboxRequest(config=POD_CONFIG), response)


def create_container() -> CallAtStage:
    """Return a call that creates a container in it."""
    request = v1.CreateContainerRequest(pod_sandbox_id=POD_ID, config=CONTAINER_CONFIG)
    return observed(
        "CreateContainer", request, v1.CreateContainerResponse(container_id=CONTAINER_ID)
    )


def populated(made: RecordBuilder) -> RecordBuilder:
    """Let a builder record the creation of the pod and its container."""
    made.make(run_pod())
    made.make(create_container())
    return made


def fields_of(made: RecordBuilder, item: Any) -> dict[str, Any]:
    """Return the fields of an item's record."""
    record = made.make(item)
    assert isinstance(record, Record)
    return record.fields
