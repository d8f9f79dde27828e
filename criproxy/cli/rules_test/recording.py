"""Rules and an audit policy on the calls of a recorded connection: how many a rule matches, denies
and changes, and how many the policy records at which level.

A recording is a sequence of records, optionally compressed with gzip: a byte for the direction (0
client to server, 1 server to client, 2 and 3 their ends), the nanoseconds since the connection
began in 8 bytes, the length in 4, all little endian, and the bytes.
"""

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from criproxy.audit.items import CallAtStage
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.records.record_builder import RecordBuilder
from criproxy.audit.spec import LEVELS, AuditSpec
from criproxy.cli.rules_test.call_file import CallerSpec, CallFileEntry
from criproxy.cli.rules_test.simulation import ACTS, FAILS, simulate
from criproxy.config.schema import DEFAULT_ENDPOINT
from criproxy.cri.environment import decode_message
from criproxy.cri.messages import request_class, response_class
from criproxy.cri.naming import method_at, resolve
from criproxy.errors import UsageError
from criproxy.peers.peer import Connection, Peer
from criproxy.rules.compiled.rule import Rule
from criproxy.rules.compiled.ruleset import RuleSet, compile_rules
from criproxy.rules.errors import EvaluationError
from criproxy.rules.facts import Facts
from criproxy.rules.image_names import HUB
from criproxy.rules.messages.decompression import decompress
from criproxy.rules.pod_cache import PodCache
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import CallEnded, ConnectionReader, Event, Side
from criproxy.wire.reading.message_capture import CapturedMessages, CaptureLimits

KUBELET: Final = "/usr/bin/kubelet"
"""The executable of a recording's client, if no other is named."""

HEADER: Final = ("RULE", "ACTION", "CALLS", "MATCHED", "DENIED", "CHANGED", "FAILED")

AUDIT_HEADER: Final = ("METHOD", "CALLS", *(level.upper() for level in LEVELS))

ALL_METHODS: Final = "(all)"
"""The method of the last row of an audit table."""

_RECORD: Final = Struct("<BQI")
_ENDS: Final = 4
"""The number of directions."""

_LIMIT: Final = 64 << 20
"""Bytes of the messages of one direction of a call that are read."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The calls of a recorded connection, in the order in which they ended; those that had not
    ended with the recording are the last."""

    caller: Peer
    ended: Sequence[Call]
    """All calls, with their messages."""
    calls: Sequence[CallFileEntry]
    """Those of the CRI whose messages can be decoded. Pods, containers and images are known from
    the calls that created or pulled them."""


def read_recording(file: Path, executable: str = KUBELET, short_names: str = HUB) -> Recording:
    """Read a recorded connection of a client, root with an executable.

    ``short_names`` is how the runtime reads short names of images, see
    :mod:`criproxy.rules.image_names`. Raises UsageError for a file that is no recording.
    """
    caller = CallerSpec(executable=executable).peer()
    reader = ConnectionReader(select_capture=lambda path: CaptureLimits(_LIMIT, _LIMIT))
    events: list[Event] = []
    now = 0.0
    for side, data, now in _records(file):
        events += reader.receive(side, data, now)
    events += reader.end(Side.CLIENT, now)
    ended = [event.call for event in events if isinstance(event, CallEnded)]
    pod_cache = PodCache(short_names)
    entries = [_call(call, pod_cache, caller) for call in ended]
    return Recording(caller, ended, [entry for entry in entries if entry is not None])


def summarize(ruleset: RuleSet, recording: Recording) -> list[tuple[str, ...]]:
    """Return a table of what each rule by itself would have done to the calls of a recording.

    Dry-run rules are enforced, and hooks are not called.
    """
    return [HEADER, *(_row(rule, recording.calls) for rule in ruleset.rules)]


def summarize_audit(spec: AuditSpec, recording: Recording) -> list[tuple[str, ...]]:
    """Return a table of how many calls of a recording would have been recorded at which level."""
    builder = RecordBuilder(
        AuditPolicy(spec.policy), spec.redact, "", lambda now: round(now * 1e9), spec.message
    )
    connection = Connection(str(DEFAULT_ENDPOINT), recording.caller, 0.0)
    counts: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    for call in recording.ended:
        record = builder.make(CallAtStage("ResponseComplete", "", connection, call, call.began))
        level = "None" if record is None else record.fields["level"]
        counts.setdefault(resolve(call.path).method, Counter())[level] += 1
        total[level] += 1
    return [
        AUDIT_HEADER,
        *(
            (name, str(each.total()), *(str(each[level]) for level in LEVELS))
            for name, each in [*sorted(counts.items()), (ALL_METHODS, total)]
        ),
    ]


def _row(rule: Rule, calls: Sequence[CallFileEntry]) -> tuple[str, ...]:
    alone = compile_rules([replace(rule.spec, mode="enforce")])
    counts: Counter[str] = Counter()
    for call in calls:
        simulation = simulate(alone, {}, call)
        outcome = simulation.steps[0].outcome
        counts["CALLS"] += rule.may_apply_to(call.facts.method_name)
        counts["MATCHED"] += outcome == ACTS
        counts["FAILED"] += outcome == FAILS
        counts["DENIED"] += outcome == ACTS and bool(simulation.answer)
        before = [call.facts.request, *call.responses]
        counts["CHANGED"] += simulation.asked and before != [
            simulation.request,
            *simulation.responses,
        ]
    return (rule.name, rule.action, *(str(counts[column]) for column in HEADER[2:]))


def _records(file: Path) -> Iterator[tuple[Side, bytes, float]]:
    try:
        raw = file.read_bytes()
        raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from error
    position = 0
    while position < len(raw):
        end = position + _RECORD.size
        direction, nanoseconds, length = (
            _RECORD.unpack(raw[position:end]) if end <= len(raw) else (_ENDS, 0, 0)
        )
        if direction >= _ENDS or end + length > len(raw):
            raise UsageError(f"{file}: is no recording: no record at byte {position}")
        position = end + length
        if length:
            yield Side(direction & 1), raw[end:position], nanoseconds / 1e9


def _call(call: Call, pod_cache: PodCache, caller: Peer) -> CallFileEntry | None:
    method = method_at(call.path)
    if method is None or call.capture is None:
        return None
    requests, responses = _messages(call.capture.request), _messages(call.capture.response)
    if not requests:
        return None
    try:
        request = decode_message(request_class(method), requests[0])
        answers = tuple(decode_message(response_class(method), each) for each in responses)
    except DecodeError:
        return None
    name = resolve(call.path)
    pod, container = pod_cache.find(name, request, caller.kubelet)
    image = pod_cache.image(request, container, caller.kubelet)
    facts = Facts(name, str(DEFAULT_ENDPOINT), caller, {}, request, pod, container, image)
    if call.code is StatusCode.OK and responses:
        pod_cache.update(call.path, requests[0], responses[0])
    return CallFileEntry(method, facts, answers)


def _messages(captured: CapturedMessages | None) -> list[bytes]:
    """Return the messages of a direction, without those that cannot be decompressed."""
    found = []
    for data, compressed in captured.messages if captured is not None else ():
        with suppress(EvaluationError):
            encoding = captured.encoding or None if captured is not None else None
            found.append(decompress(data, encoding, _LIMIT) if compressed else data)
    return found
