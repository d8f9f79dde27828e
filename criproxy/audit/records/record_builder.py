"""Builds the records of the audit log.

A record is a JSON object on a line of its own. ``apiVersion`` names the version of this schema: a
reader of a version can read all its records; fields may be added to a version, and no field
changes its meaning. Fields that are unknown or do not apply are left out. Times are RFC 3339 in
UTC with nine digits. Objects are protobuf's JSON mapping: camelCase names, 64-bit numbers and
bytes as strings, bytes in base64. The reference of the schema is generated from these tables.

All records::

    apiVersion                 `audit.criproxy.io/v1`.
    kind                       `Event`: a call. `ConnectionUnread`: a connection whose calls are no
                               longer recorded. `Dropped`: records that are missing here.
    level                      `Metadata`, `Request` or `RequestResponse`.
    auditID                    A UUID; all records of a call have the same.
    stageTimestamp             When the stage was reached.
    node                       `audit.node` of the configuration, otherwise the host name.
    sequence, previous         With `chain: true`: the record's number, and the SHA-256 of the
                               previous line in hex.

Event and ConnectionUnread::

    listener                   The endpoint that the client is connected to.
    caller.pid, caller.uid, caller.gid
                               The caller's ids, as the kernel reports them.
    caller.executable          The path of the executable; null if /proc does not tell.
    caller.kubelet             Whether the caller is the node's kubelet.
    caller.command             At most 8 KiB of the command line; values of flags for credentials
                               are redacted.
    caller.unit                The systemd unit.
    caller.container.id, caller.container.name
                               The container in which the caller runs, from its cgroup.
    caller.container.podNamespace, caller.container.podName, caller.container.podUID
                               The pod of that container.
    message                    The status message (of an Event at ResponseComplete), or what was
                               wrong with the connection.

Event::

    stage                      `RequestReceived` (a call that has run for `audit.received_after`) or
                               `ResponseComplete`.
    requestReceivedTimestamp   When the call began.
    service, method            The parts of the call's path: `runtime.v1.RuntimeService`,
                               `ExecSync`.
    criVersion                 `v1` or `v1alpha2`; left out outside the CRI.
    pod.id, pod.namespace, pod.name, pod.uid
                               The pod that the call is about.
    container.id, container.name, container.image
                               The container that the call is about; the image is the one with
                               which the container was created, by its name where that is known.
    image                      The image that the request names, otherwise the container's.
    requestObject              From level `Request`: the request as the client sent it.
    responseObject             At level `RequestResponse`: the response as the client received it.
    responseObjects            The same for a server stream: a list.
    truncated.request, truncated.response
                               true if messages are missing that the level asks for, for example
                               because one exceeds `audit.message`.
    unreadable.request, unreadable.response
                               Why a message is missing: it cannot be decoded, or the method is
                               outside the CRI.
    rules                      The names of the rules that acted on the call.
    changes.rule, changes.half, changes.fields
                               A list of what rules changed: the rule, `request` or `response`, and
                               at most 100 paths of fields, or `(too large to compare)` for messages
                               of more than 2 MiB. Values are never recorded.
    denied                     Why criproxy denied the call.

Event at ResponseComplete::

    code                       The name of the gRPC code; `UNREAD` if it is not known.
    exitCode                   The exit code of an ExecSync's command, unless its response is larger
                               than both `audit.message` and 64 KiB.
    durationSeconds            Seconds from the beginning of the call to its end.
    requestMessages, requestBytes, responseMessages, responseBytes
                               Sizes on the wire.

ConnectionUnread::

    reason                     Why the connection cannot be parsed, in one word.

Dropped::

    sink                       The sink whose records are missing.
    dropped                    The number of missing records.
    reasons                    The number of missing records by reason.
    since, until               The times of the first and the last loss.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import msgspec
from google.protobuf.message import Message

from criproxy.audit.dropped import API_VERSION, timestamp
from criproxy.audit.items import TOO_LARGE, CallAtStage, Item, UnreadConnection
from criproxy.audit.policy import UNRECORDED, AuditPolicy, Outcome, covers
from criproxy.audit.records.caller import CallerEncoder
from criproxy.audit.records.capture import decode_limit
from criproxy.audit.records.object_encoder import ObjectEncoder
from criproxy.audit.records.subject import (
    CallSubject,
    DirectionMessages,
    decode,
    has_exit_code,
    has_subject,
    request_class_of,
    response_class_of,
    subject_of,
)
from criproxy.audit.spec import Level, RedactSpec
from criproxy.cri.naming import MethodName, resolve
from criproxy.cri.redaction import Redactor, secrets_in
from criproxy.cri.text_redaction import mark, redact_text
from criproxy.peers.peer import Connection
from criproxy.rules.errors import EvaluationError
from criproxy.rules.messages.diff import diff_messages
from criproxy.rules.pod_cache import PodCache
from criproxy.wire.grpc import StatusCode, parse_message
from criproxy.wire.reading.calls import Call

_MAX_CHANGES: Final = 100
"""Paths of changed fields that are recorded for one rule and message."""

_MAX_TEXT: Final = 64 << 10
"""Characters of a status message that are recorded."""

_FIXED_FIELDS: Final = frozenset(
    {
        "apiVersion",
        "kind",
        "level",
        "auditID",
        "stage",
        "stageTimestamp",
        "requestReceivedTimestamp",
        "criVersion",
        "code",
        "requestObject",
        "responseObject",
        "responseObjects",
    }
)
"""Fields without text of clients or runtimes, or whose text is already redacted."""

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Record:
    """A record: its data, and its JSON without a newline."""

    line: bytes
    fields: dict[str, Any]
    audit_id: str


class RecordBuilder:
    """Builds records of items, and caches the names of pods and containers. Not thread-safe."""

    def __init__(
        self,
        policy: AuditPolicy,
        redact: RedactSpec,
        node: str,
        wall_ns: Callable[[float], int],
        message_limit: int,
        pod_cache: PodCache | None = None,
    ) -> None:
        """Create a builder.

        ``wall_ns`` converts a time of the calls' clock to nanoseconds since the epoch;
        ``message_limit`` is in bytes of the messages of one direction. ``pod_cache`` is that of a
        previous builder; None: a new one.
        """
        self.pod_cache = PodCache(short_names=None) if pod_cache is None else pod_cache
        """The names of pods and containers."""
        self._policy = policy
        self._redactor = Redactor(
            redact.environment, redact.info, redact.annotations, redact.values
        )
        self._node = node
        self._wall_ns = wall_ns
        self._decode_limit = decode_limit(message_limit)
        self._callers = CallerEncoder(self.pod_cache)
        self._objects = ObjectEncoder(self._redactor, message_limit)

    def make(self, item: Item) -> Record | None:
        """Return the record of an item; None if there is none. No input of a peer raises."""
        if isinstance(item, CallAtStage):
            return self._event(item)
        if isinstance(item, UnreadConnection):
            return self._unread(item)
        if item.short_names is not None:
            self.pod_cache.short_names = item.short_names
        with suppress(EvaluationError):  # undecodable: records have ids without names then
            self.pod_cache.add_listing(item.pods, item.containers, item.images)
        return None

    def _event(self, item: CallAtStage) -> Record | None:
        """Build a call's record, then update the pod cache: a removed pod still has its name."""
        call = item.call
        method_name = resolve(call.path)
        done = item.stage == "ResponseComplete"
        updates_pod_cache = done and call.code is StatusCode.OK and self.pod_cache.wants(call.path)
        max_level = self._policy.max_level(method_name, item.connection)
        if max_level == "None" and not updates_pod_cache and not call.denied:
            return None
        captured = call.capture
        request = response = DirectionMessages()
        if captured is not None:
            if updates_pod_cache or covers(max_level, "Request") or has_subject(method_name):
                request = decode(
                    captured.request, request_class_of(method_name), self._decode_limit
                )
            if updates_pod_cache or (
                done and (max_level == "RequestResponse" or has_exit_code(method_name))
            ):
                response = decode(
                    captured.response, response_class_of(method_name), self._decode_limit
                )
        subject = subject_of(
            method_name,
            request.first,
            response.first if updates_pod_cache else None,
            self.pod_cache,
            item.connection.peer.kubelet,
        )
        record = self._record(item, method_name, subject, request, response)
        if updates_pod_cache and request.data and response.data:
            with suppress(EvaluationError):
                self.pod_cache.update(call.path, request.data[0], response.data[0])
        return record

    def _record(
        self,
        item: CallAtStage,
        method_name: MethodName,
        subject: CallSubject,
        request: DirectionMessages,
        response: DirectionMessages,
    ) -> Record | None:
        call, done = item.call, item.stage == "ResponseComplete"
        outcome = _outcome_of(call, method_name, response) if done else None
        decision = self._policy.decide(method_name, item.connection, subject.pod, outcome)
        level = decision.level
        if level == "None":
            if not call.denied:
                return None
            decision, level = UNRECORDED, "Metadata"
        fields = self._head("Event", level, item.audit_id, item.at, item.connection)
        fields["stage"] = item.stage
        fields["requestReceivedTimestamp"] = timestamp(self._wall_ns(call.began))
        fields["service"] = method_name.service
        fields["method"] = method_name.method
        if method_name.api_version is not None:
            fields["criVersion"] = method_name.api_version
        fields.update(subject.fields())
        passed = call.request.messages if done else len(request.messages)
        objects = self._objects.request_fields(level, method_name, request, passed)
        if done:
            more = self._objects.response_fields(
                level, method_name, response, call.response.messages
            )
            for key in objects.keys() & more.keys():  # truncated, unreadable of both directions
                more[key] = objects[key] | more[key]
            objects |= more
        fields.update(objects)
        messages = (request.first, *(change[3] for change in call.changes))
        if outcome is not None:
            fields["code"] = "UNREAD" if call.code is None else call.code.name
            if call.message:
                fields["message"] = _redacted(parse_message(call.message), messages)
            if outcome.exit_code is not None:
                fields["exitCode"] = outcome.exit_code
            if outcome.duration is not None:
                fields["durationSeconds"] = round(outcome.duration, 9)
            fields["requestMessages"] = call.request.messages
            fields["requestBytes"] = call.request.bytes
            fields["responseMessages"] = call.response.messages
            fields["responseBytes"] = call.response.bytes
        if call.rules:
            fields["rules"] = list(call.rules)
        if call.changes:
            fields["changes"] = [self._change(*change) for change in call.changes]
        if call.denied:
            fields["denied"] = _redacted(call.denied, messages)
        return self._finish(fields, decision.omit)

    def _change(self, rule: str, direction: str, before: Any, after: Any) -> dict[str, Any]:
        """Return the paths of the fields that a rule changed, without their values."""
        names: list[str] = []
        if before == TOO_LARGE:
            names = [TOO_LARGE]
        if isinstance(before, Message) and isinstance(after, Message):
            changed = diff_messages(before, after, self._redactor.text)
            names = [each.path for each in changed[:_MAX_CHANGES]]
            if len(changed) > _MAX_CHANGES:
                names.append(f"({len(changed) - _MAX_CHANGES} more)")
        return {"rule": rule, "half": direction, "fields": names}

    def _unread(self, item: UnreadConnection) -> Record:
        fields = self._head("ConnectionUnread", "Metadata", str(uuid4()), item.at, item.connection)
        fields["reason"] = item.reason
        if item.detail:
            # The last line is enough; a traceback before it belongs to the daemon's log.
            fields["message"] = item.detail.strip().rpartition("\n")[2]
        return self._finish(fields, ())

    def _head(
        self, kind: str, level: Level, audit_id: str, at: float, connection: Connection
    ) -> dict[str, Any]:
        return {
            "apiVersion": API_VERSION,
            "kind": kind,
            "level": level,
            "auditID": audit_id,
            "stageTimestamp": timestamp(self._wall_ns(at)),
            "node": self._node,
            "listener": connection.listener,
            "caller": self._callers.describe(connection.peer),
        }

    def _finish(self, fields: dict[str, Any], omit: Iterable[str]) -> Record:
        for path in omit:
            fields = _without_field(fields, path.split("."))
        if self._redactor.redacts_text:
            texts = self._redactor.texts
            fields = {
                key: value if key in _FIXED_FIELDS else texts(value)
                for key, value in fields.items()
            }
        return Record(_encode(fields), fields, fields["auditID"])


def _outcome_of(call: Call, method_name: MethodName, response: DirectionMessages) -> Outcome:
    """Return the outcome of an ended call; the exit code is the response's."""
    exit_code = None
    if response.first is not None and has_exit_code(method_name):
        exit_code = getattr(response.first, "exit_code", None)
    if call.ended is None:
        return Outcome(exit_code=exit_code)
    return Outcome(call.code, call.ended - call.began, exit_code)


def _redacted(text: str, messages: Iterable[Any]) -> str:
    """Redact a text that may quote the credentials of messages: a registry's error may contain
    those of the request, or those that a rule has set."""
    credentials: set[str] = set()
    for message in messages:
        if message == TOO_LARGE:  # its credentials are unknown
            return mark(len(text.encode()))
        if isinstance(message, Message):
            credentials.update(secrets_in(message))
    return redact_text(text, credentials, _MAX_TEXT)


def _without_field(value: Any, path: list[str]) -> Any:
    """Return a copy of data without a field; a path applies to all items of a list."""
    if isinstance(value, list):
        return [_without_field(each, path) for each in value]
    if not isinstance(value, dict) or path[0] not in value:
        return value
    name, *rest = path
    if rest:
        return {**value, name: _without_field(value[name], rest)}
    return {key: each for key, each in value.items() if key != name}
