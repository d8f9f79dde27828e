"""The fuzz targets: functions that read untrusted bytes, and the errors that they may raise.

A target takes the bytes of one case. Whatever it raises is a finding. The bytes of a connection are
a sequence of chunks: a byte whose lowest bit is the side, two bytes of length (big endian), and
what that side sent.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import hpack
from google.protobuf.message import DecodeError
from msgspec import MsgspecError

from criproxy.audit.channel import (
    HEADER,
    Kind,
    connection_frame,
    decode_connection,
    decode_dropped,
    decode_item,
    encode_item,
)
from criproxy.audit.files.hash_chain import START, check, digest, link
from criproxy.config.load import parse
from criproxy.errors import ConfigError
from criproxy.wire.errors import WireError
from criproxy.wire.hpack.decoder import Decoder
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from criproxy.wire.intercept.interceptor import ConnectionInterceptor
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.connection import ConnectionReader, Side
from tests.support.audited import create_container, observed, run_pod
from tests.support.calls import CONNECTION
from tests.support.captures import NAMES, capture, sent_by
from tests.support.held import Rules
from tests.support.wire import HEADERS, PREFACE
from tests.support.worlds import frames as split_frames

ROOT: Final = Path(__file__).parents[2]
BLOCK_LIMIT: Final = 8_192
STREAM_LIMIT: Final = 100
CHUNK: Final = 0xFFFF

RULES: Final[list[dict[str, Any]]] = [
    {
        "match": {"methods": ["RunPodSandbox"], "where": 'request.config.hostname == "never"'},
        "deny": {"code": "ABORTED"},
    },
    {
        "match": {"methods": ["CreateContainer"]},
        "rewrite": {"request": {"config.log_path": '"x"'}},
    },
    {"match": {"methods": ["StopContainer"]}, "deny": {"code": "PERMISSION_DENIED"}},
    {
        "match": {"methods": ["Version"]},
        "rewrite": {"response": {"runtime_name": '"fuzz"'}, "metadata": {"add": {"x-fuzz": '"1"'}}},
    },
    {
        "match": {"methods": ["Status"], "where": 'metadata["x"] == "y"'},
        "deny": {"code": "ABORTED"},
    },
]


def chunks(data: bytes) -> Iterator[tuple[Side, bytes]]:
    """Read a connection's chunks; the last may be cut short."""
    at = 0
    while at + 3 <= len(data):
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        yield Side(data[at] & 1), data[at + 3 : at + 3 + length]
        at += 3 + length


def recorded(name: str) -> bytes:
    """Return a recorded connection as a case."""
    return b"".join(
        _chunk(sent.side, part)
        for sent in capture(name)
        for part in (sent.data[at : at + CHUNK] for at in range(0, len(sent.data), CHUNK))
    )


def new_reader() -> ConnectionReader:
    """Return a reader with small limits, so that cases reach them."""
    return ConnectionReader(header_block_limit=BLOCK_LIMIT, stream_limit=STREAM_LIMIT)


def frames(data: bytes) -> None:
    """A connection is read in passing: nothing raises, and calls end once."""
    reader = new_reader()
    for side, chunk in chunks(data):
        if chunk:
            reader.receive(side, chunk, 0.0)
        else:
            reader.end(side, 0.0)
    assert len(reader.calls) <= STREAM_LIMIT


def hpack_blocks(data: bytes) -> None:
    """Header blocks decode as by ``hpack``: the same fields, or an error in both.

    Where ``hpack`` sees an error alone, its own limits are the reason.
    """
    ours, oracle = Decoder(), hpack.Decoder(max_header_list_size=1 << 30)
    for _, block in chunks(data):
        try:
            expected = [(bytes(n), bytes(v)) for n, v in oracle.decode(block, raw=True)]
        except hpack.HPACKError:
            with suppress(WireError):
                ours.decode(block)
            return
        try:
            decoded = ours.decode(block)
        except WireError:
            return
        assert [(name, value) for name, value in decoded] == expected


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _rules() -> Rules:
    async def made() -> Rules:
        return Rules(*RULES)

    return _loop().run_until_complete(made())


def interception(data: bytes) -> None:
    """Calls of a connection are held by rules: only a WireError ends it, nothing else raises."""
    rules = _rules()
    _loop().run_until_complete(_intercept(rules, data))
    assert not rules.crashed


async def _intercept(rules: Rules, data: bytes) -> None:
    reader = new_reader()

    def decide(stream: HeldStream) -> Hold | None:
        call = reader.call(stream.id)
        return rules.policy.begin(CONNECTION, call, stream, list(stream.headers))

    core = ConnectionInterceptor(
        reader, rules.policy.wanted, decide, lambda: None, HeldBytesBudget(), BLOCK_LIMIT
    )
    with suppress(WireError):
        for side, chunk in chunks(data):
            if not reader.reading:
                return
            _pass(core, reader, side, chunk)
            await asyncio.sleep(0)
            core.take(Side.CLIENT)
            core.take(Side.RUNTIME)


def _pass(core: ConnectionInterceptor, reader: ConnectionReader, side: Side, data: bytes) -> None:
    """Give the interceptor bytes as the relay does."""
    if core.raw:
        passed, data = (data, b"") if side is Side.RUNTIME else core.scan(data)
        if passed:
            reader.receive(side, passed, 0.0)
        if not data:
            return
        core.start()
    elif core.try_pass_through(side, data):
        reader.receive(side, data, 0.0)
        return
    if side is Side.CLIENT:
        reader.receive(side, data, 0.0)
    core.receive(side, data, 0.0)


def config(data: bytes) -> None:
    """A configuration is loaded, or the error is one ConfigError."""
    with suppress(ConfigError):
        parse(data.decode(errors="surrogateescape"), "fuzz")


def audit_log(data: bytes) -> None:
    """The chain of an audit log is checked, whatever the lines are."""
    lines = data.splitlines(keepends=True)
    report = check(iter(lines))
    assert report.records <= len(lines)
    for line in lines:
        digest(line)


def recorder_channel(data: bytes) -> None:
    """A frame of the channel between a worker and the recorder decodes, or is refused."""
    if len(data) < 3:
        return
    size = int.from_bytes(data[1:3], "big")
    fields, payload = data[3 : 3 + size], data[3 + size :]
    with suppress(MsgspecError, DecodeError, ValueError):
        kind = Kind(data[0] % len(Kind))
        if kind is Kind.CONNECTION:
            decode_connection(fields)
        elif kind is Kind.DROPPED:
            decode_dropped(fields)
        else:
            decode_item(kind, fields, payload, CONNECTION)


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "frames": frames,
    "hpack": hpack_blocks,
    "interception": interception,
    "config": config,
    "audit-log": audit_log,
    "recorder-channel": recorder_channel,
}
"""The targets by name."""


def corpus(name: str) -> list[bytes]:
    """Return the cases that a target begins with."""
    return _CORPORA[name]()


def _connections() -> list[bytes]:
    return [recorded(name) for name in NAMES]


def _header_blocks() -> list[bytes]:
    """The header blocks of each side of the recorded connections."""
    cases = []
    for name in NAMES:
        for side in Side:
            data = sent_by(side, capture(name)).removeprefix(PREFACE)
            blocks = [frame.payload for frame in split_frames(data) if frame.kind == HEADERS]
            cases.append(b"".join(_chunk(side, block) for block in blocks))
    return [case for case in cases if case]


def _configurations() -> list[bytes]:
    files = ("config.example.yaml", "deploy/rules.example.yaml")
    return [(ROOT / file).read_bytes() for file in files]


def _audit_logs() -> list[bytes]:
    """A chained log, and one whose chain is broken."""
    after, lines = START, []
    for number in range(20):
        line, after = link(json.dumps({"auditID": str(number)}).encode(), after)
        lines.append(line + b"\n")
    return [b"".join(lines), b"".join(lines[:9] + lines[10:])]


def _recorder_frames() -> list[bytes]:
    """A frame of each kind, as :func:`recorder_channel` reads it."""
    items = [run_pod(), create_container(), observed("Version", code=None)]
    cases = []
    for item in map(encode_item, items):
        payload = b"".join(item.payloads)
        size = len(item.fields).to_bytes(2, "big")
        cases.append(bytes((item.kind,)) + size + item.fields + payload)
    fields = connection_frame(1, 1, CONNECTION)[HEADER.size :]
    return [*cases, bytes((Kind.CONNECTION,)) + len(fields).to_bytes(2, "big") + fields]


def _chunk(side: Side, data: bytes) -> bytes:
    return bytes((side,)) + len(data).to_bytes(2, "big") + data


_CORPORA: Final[Mapping[str, Callable[[], list[bytes]]]] = {
    "frames": _connections,
    "hpack": _header_blocks,
    "interception": _connections,
    "config": _configurations,
    "audit-log": _audit_logs,
    "recorder-channel": _recorder_frames,
}
