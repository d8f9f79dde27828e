"""Makes the records of the audit log.

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
                               which the container was created.
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
                               at most 100 paths of fields. Values are never recorded.
    denied                     Why criproxy denied the call.

Event at ResponseComplete::

    code                       The name of the gRPC code; `UNREAD` if it is not known.
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
from functools import lru_cache
from typing import Any, Final
from uuid import uuid4

import msgspec
from google.protobuf.message import Message

from criproxy.audit.dropped import API_VERSION, timestamp
from criproxy.audit.items import CallAtStage, Item, UnreadConnection
from criproxy.audit.policy import UNRECORDED, AuditPolicy, covers
from criproxy.audit.records.caller import CallerEncoder
from criproxy.audit.records.object_encoder import ObjectEncoder
from criproxy.audit.records.subject import (
    CallSubject,
    DirectionMessages,
    names_something,
    read,
    request_kind,
    response_kind,
    subject_of,
)
from criproxy.audit.spec import Level, RedactSpec
from criproxy.cri.naming import MethodName, resolve
from criproxy.cri.redaction import Redactor, mark, secrets_in
from criproxy.peers.peer import Connection
from criproxy.rules.errors import EvaluationError
from criproxy.rules.messages.diff import diff_messages
from criproxy.rules.pod_cache import PodCache
from criproxy.wire.grpc import StatusCode, parse_message
from criproxy.wire.reading.message_capture import CaptureLimits

_NAMES: Final = 64 << 10
"""Bytes of a request that are kept for the names in it, where fewer are recorded."""

_NEW_IDS: Final = 16 << 10
"""Bytes of a response that are kept for the ids that it gives out."""

_REMEMBERED: Final = 1024
"""Methods at levels for which it is remembered what has to be kept."""

_CHANGES: Final = 100
"""Fields that are named of what one rule changed in one message."""

_SHORTEST: Final = 4
"""Characters from which on a password is looked for in a status message: a shorter one would be
found where it does not stand."""

_WORDS: Final = frozenset(
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
"""Fields that no text of a client's or a runtime's is in, or in which it is redacted already."""

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Record:
    """One record: as data, and as the line that is written, without its newline."""

    line: bytes
    fields: dict[str, Any]
    audit_id: str


class RecordBuilder:
    """Makes records of what was observed, and remembers pods and containers for their names.

    ``make`` is called on one thread alone; ``wanted`` may be called from any.
    """

    def __init__(
        self,
        policy: AuditPolicy,
        redact: RedactSpec,
        node: str,
        wall_ns: Callable[[float], int],
        message_limit: int,
        memory: PodCache | None = None,
    ) -> None:
        """``wall_ns`` turns a time of the calls' clock into nanoseconds since the epoch;
        ``message_limit`` is in bytes, of the messages of one direction. ``memory`` is that of a
        maker in whose place this one is to work; None: a new one."""
        self.memory = PodCache() if memory is None else memory
        """What pods and containers are called."""
        self._policy = policy
        self._redactor = Redactor(
            redact.environment, redact.info, redact.annotations, redact.values
        )
        self._node = node
        self._wall_ns = wall_ns
        self._limit = message_limit
        self._read_limit = max(message_limit, _NAMES)
        self._callers = CallerEncoder(self.memory)
        self._objects = ObjectEncoder(self._redactor, message_limit)
        self.wanted = lru_cache(_REMEMBERED)(self._wanted)
        """Says which messages have to be kept of a method's calls that are recorded at a level at
        most: ``wanted(named, ceiling) -> Limits``."""

    def make(self, item: Item) -> Record | None:
        """Return the record of what was observed; None where there is to be none.

        Nothing that a peer has sent raises.
        """
        if isinstance(item, CallAtStage):
            return self._event(item)
        if isinstance(item, UnreadConnection):
            return self._unread(item)
        with suppress(EvaluationError):  # not readable: then names are not known, ids are told
            self.memory.listed(item.pods, item.containers)
        return None

    def _wanted(self, named: MethodName, ceiling: Level) -> CaptureLimits:
        request = response = 0
        if self._teaches(named):
            request, response = self._read_limit, _NEW_IDS
        if covers(ceiling, "Request"):
            request = max(request, self._limit)
        if ceiling != "None" and names_something(named):
            request = max(request, self._read_limit)
        if ceiling == "RequestResponse":
            response = max(response, self._limit)
        return CaptureLimits(request, response)

    def _teaches(self, named: MethodName) -> bool:
        return self.memory.wants(f"/{named.service}/{named.method}".encode(errors="replace"))

    def _event(self, item: CallAtStage) -> Record | None:
        """Make a call's record, then learn from the call: a pod that it removes has a name yet."""
        call = item.call
        named = resolve(call.path)
        done = item.stage == "ResponseComplete"
        teaches = done and call.code is StatusCode.OK and self.memory.wants(call.path)
        ceiling = self._policy.ceiling(named, item.connection)
        if ceiling == "None" and not teaches and not call.denied:
            return None
        kept = call.capture
        request = response = DirectionMessages()
        if kept is not None:
            if teaches or covers(ceiling, "Request") or names_something(named):
                request = read(kept.request, request_kind(named), self._read_limit)
            if teaches or (done and ceiling == "RequestResponse"):
                response = read(kept.response, response_kind(named), self._read_limit)
        subject = subject_of(named, request.first, response.first if teaches else None, self.memory)
        record = self._record(item, named, subject, request, response)
        if teaches and request.data and response.data:
            with suppress(EvaluationError):
                self.memory.learn(call.path, request.data[0], response.data[0])
        return record

    def _record(
        self,
        item: CallAtStage,
        named: MethodName,
        subject: CallSubject,
        request: DirectionMessages,
        response: DirectionMessages,
    ) -> Record | None:
        call, done = item.call, item.stage == "ResponseComplete"
        code = duration = None
        if done and call.ended is not None:
            code, duration = call.code, call.ended - call.began
        decision = self._policy.decide(named, item.connection, subject.pod, code, duration)
        level = decision.level
        if level == "None":
            if not call.denied:
                return None
            decision, level = UNRECORDED, "Metadata"
        fields = self._head("Event", level, item.audit_id, item.at, item.connection)
        fields["stage"] = item.stage
        fields["requestReceivedTimestamp"] = timestamp(self._wall_ns(call.began))
        fields["service"] = named.service
        fields["method"] = named.method
        if named.api_version is not None:
            fields["criVersion"] = named.api_version
        fields.update(subject.fields())
        passed = call.request.messages if done else len(request.messages)
        told = self._objects.of_request(level, named, request, passed)
        if done:
            more = self._objects.of_response(level, named, response, call.response.messages)
            for lack in told.keys() & more.keys():  # truncated, unreadable: of both directions
                more[lack] = told[lack] | more[lack]
            told |= more
        fields.update(told)
        quoted = (request.first, *(change[3] for change in call.changes))
        if done:
            fields["code"] = "UNREAD" if call.code is None else call.code.name
            if call.message:
                fields["message"] = _without(parse_message(call.message), quoted)
            if duration is not None:
                fields["durationSeconds"] = round(duration, 9)
            fields["requestMessages"] = call.request.messages
            fields["requestBytes"] = call.request.bytes
            fields["responseMessages"] = call.response.messages
            fields["responseBytes"] = call.response.bytes
        if call.rules:
            fields["rules"] = list(call.rules)
        if call.changes:
            fields["changes"] = [self._change(*change) for change in call.changes]
        if call.denied:
            fields["denied"] = _without(call.denied, quoted)
        return self._finish(fields, decision.omit)

    def _change(self, rule: str, half: str, before: Any, after: Any) -> dict[str, Any]:
        """Return what a rule changed: names of fields alone."""
        names: list[str] = []
        if isinstance(before, Message) and isinstance(after, Message):
            changed = diff_messages(before, after, self._redactor.text)
            names = [each.path for each in changed[:_CHANGES]]
            if len(changed) > _CHANGES:
                names.append(f"({len(changed) - _CHANGES} more)")
        return {"rule": rule, "half": half, "fields": names}

    def _unread(self, item: UnreadConnection) -> Record:
        fields = self._head("ConnectionUnread", "Metadata", str(uuid4()), item.at, item.connection)
        fields["reason"] = item.reason
        if item.detail:
            # The last line says it all; those before, of a fault of ours, are for the daemon's log.
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
        if self._redactor.reads_texts:
            texts = self._redactor.texts
            fields = {
                key: value if key in _WORDS else texts(value) for key, value in fields.items()
            }
        return Record(_encode(fields), fields, fields["auditID"])


def _without(text: str, messages: Iterable[Any]) -> str:
    """Return a text without the credentials of messages that it may quote: a registry's refusal,
    for one, may have those of the request, or those that a rule has put there."""
    for message in messages:
        for secret in secrets_in(message) if isinstance(message, Message) else ():
            if len(secret) >= _SHORTEST:
                text = text.replace(secret, mark(len(secret.encode())))
    return text


def _without_field(value: Any, path: list[str]) -> Any:
    """Return data without a field, in all members of lists on the way; it is not changed itself."""
    if isinstance(value, list):
        return [_without_field(each, path) for each in value]
    if not isinstance(value, dict) or path[0] not in value:
        return value
    name, *rest = path
    if rest:
        return {**value, name: _without_field(value[name], rest)}
    return {key: each for key, each in value.items() if key != name}
