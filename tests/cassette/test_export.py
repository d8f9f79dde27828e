"""criproxy export: packets for Wireshark, and a trace for Perfetto."""

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pcapng
import pytest
from click.testing import CliRunner
from pcapng.blocks import EnhancedPacket, InterfaceDescription

from criproxy.cassette.records import Dropped, MessagePassed
from criproxy.cassette.writer import CassetteWriter
from criproxy.cli.export import command
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.errors import UnavailableError, UsageError
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import CallEnded, ConnectionReader, Side
from criproxy.wire.reading.message_capture import CaptureLimits
from tests.support.cassettes import SECOND, Made, cassette_of
from tests.support.requirements import require

# The parser's own table of options lacks a type.
pytestmark = pytest.mark.filterwarnings("ignore:Field type should not be:DeprecationWarning")

PROTO = Path(__file__).parents[2] / "proto"
POD, BOX = "a" * 64, "c" * 64
LONG = "x" * 100_000
CONFIG = v1.PodSandboxConfig(
    metadata=v1.PodSandboxMetadata(name="web", namespace="shop", uid="u1"), hostname=LONG
)
CALLS = [
    Made("Version", 1, 1.5, v1.VersionRequest(), [v1.VersionResponse(runtime_name="test")]),
    Made(
        "GetContainerEvents",
        *(1.2, 9, v1.GetEventsRequest()),
        [(at, v1.ContainerEventResponse(container_id=BOX)) for at in (3, 5)],
        code="CANCELLED",
        end="client_reset",
    ),
    Made(
        "RunPodSandbox",
        *(2, 4, v1.RunPodSandboxRequest(config=CONFIG)),
        [v1.RunPodSandboxResponse(pod_sandbox_id=POD)],
        timeout="100S",
    ),
    Made(
        "PodSandboxStatus",
        *(5, 6, v1.PodSandboxStatusRequest(pod_sandbox_id=POD)),
        code="NOT_FOUND",
        message="no such pod: ünknown",
    ),
    Made(
        "StopPodSandbox",
        *(7, 8, v1.StopPodSandboxRequest(pod_sandbox_id=POD)),
        code="UNAVAILABLE",
        end="runtime_reset",
    ),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return cassette_of(tmp_path / "calls.cassette", CALLS)


def export(file: Path, output: Path, *options: str) -> Path:
    result = CliRunner().invoke(
        command, [str(file), "-o", str(output), *options], catch_exceptions=False
    )
    assert (result.exit_code, result.stdout) == (0, "")
    return output


def packets(path: Path) -> list[Any]:
    """The packets of a capture, read by a parser of others."""
    with path.open("rb") as capture:
        blocks = list(pcapng.FileScanner(capture))
    (interface,) = [each for each in blocks if isinstance(each, InterfaceDescription)]
    assert (interface.link_type, interface.timestamp_resolution) == (101, 1e-9)
    return [each for each in blocks if isinstance(each, EnhancedPacket)]


def calls_in(path: Path) -> list[Call]:
    """The calls in the TCP payload of a capture's packets, which have to be in sequence."""
    reader = ConnectionReader(select_capture=lambda path: CaptureLimits(1 << 20, 1 << 20))
    expected: dict[bytes, int] = {}
    ended = []
    for each in packets(path):
        ip, tcp = each.packet_data[:20], each.packet_data[20:]
        assert int.from_bytes(ip[2:4], "big") == len(each.packet_data)
        assert checksum(ip) == 0
        assert checksum(ip[12:20] + b"\0\6" + len(tcp).to_bytes(2, "big") + tcp) == 0
        flags, payload = tcp[13], tcp[20:]
        sequence = int.from_bytes(tcp[4:8], "big")
        assert sequence == expected.get(ip[12:16], 0)
        expected[ip[12:16]] = sequence + len(payload) + bool(flags & 3)
        side = Side.RUNTIME if ip[12] == 10 and ip[13] == 255 else Side.CLIENT
        if payload:
            events = reader.receive(side, payload, each.timestamp)
            ended += [event.call for event in events if isinstance(event, CallEnded)]
    assert reader.reading
    return ended


def checksum(data: bytes) -> int:
    """The one's complement of the sum of 16-bit words; 0 for a block with a right checksum."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def test_packets_have_the_calls(tmp_path: Path, file: Path) -> None:
    """What is read from the packets are the calls of the cassette: messages, codes and times."""
    ended = calls_in(export(file, tmp_path / "a.pcapng"))
    assert [
        (call.path.rpartition(b"/")[2], "" if call.code is None else call.code.name)
        for call in ended
    ] == [
        (b"Version", "OK"),
        (b"RunPodSandbox", "OK"),
        (b"PodSandboxStatus", "NOT_FOUND"),
        (b"StopPodSandbox", "UNAVAILABLE"),
        (b"GetContainerEvents", "CANCELLED"),
    ]
    by_stream = {call.stream: call for call in ended}
    for number, made in enumerate(CALLS):
        call = by_stream[2 * number + 1]
        assert call.capture is not None
        assert call.capture.request is not None
        assert call.capture.response is not None
        requests = [data for data, _ in call.capture.request.messages]
        assert requests == [made.request.SerializeToString()]
        answers = [each[1] if isinstance(each, tuple) else each for each in made.responses]
        responses = [data for data, _ in call.capture.response.messages]
        assert responses == [each.SerializeToString() for each in answers]
        assert call.half_closed
        assert call.began == pytest.approx(1_700_000_000 + made.began)
        assert call.ended == pytest.approx(1_700_000_000 + made.ended)
    assert by_stream[5].timeout == b"100S"
    assert by_stream[7].message == b"no such pod: %C3%BCnknown"


def test_what_is_missing_is_a_comment(tmp_path: Path) -> None:
    """Lost records and messages are comments of packets, as is the client of a connection."""
    path = cassette_of(tmp_path / "whole", CALLS[:1])
    writer = CassetteWriter(path, replace=True)
    for record in read_records(tmp_path / "again"):
        if isinstance(record, MessagePassed) and record.response:
            record = MessagePassed(
                call=1, at=record.at, size=12, response=True, missing="undecodable"
            )
            writer.write(Dropped(at=record.at, since=1, records=3))
        writer.write(record)
    writer.close()
    comments = [
        text
        for each in packets(export(path, tmp_path / "a.pcapng"))
        for text in each.options.get_all("opt_comment")
    ]
    assert comments == [
        " (pid 7, uid 0)",
        "3 records are missing before this packet",
        "a message of 12 bytes is missing: undecodable",
    ]


def read_records(path: Path) -> list[Any]:
    from criproxy.cassette.reader import CassetteReader

    with CassetteReader(cassette_of(path, CALLS[:1])) as reader:
        return list(reader)


@pytest.mark.e2e
def test_wireshark_dissects_the_calls(tmp_path: Path, file: Path) -> None:
    """tshark finds HTTP/2, gRPC and, with the .proto files, the fields of the CRI's messages."""
    require([] if shutil.which("tshark") else ["tshark (Debian: tshark)"])
    capture = export(file, tmp_path / "a.pcapng")

    def dissect(*arguments: str) -> list[str]:
        command = ["tshark", "-r", str(capture), *arguments]
        command += ["-o", f'uat:protobuf_search_paths:"{PROTO}","TRUE"']
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    paths = dissect("-Y", "http2.headers.path", "-T", "fields", "-e", "http2.headers.path")
    assert [path.rpartition("/")[2] for path in paths] == [
        *("Version", "GetContainerEvents", "RunPodSandbox", "PodSandboxStatus", "StopPodSandbox")
    ]
    messages = dissect("-Y", "grpc", "-T", "fields", "-e", "protobuf.message.name")
    names = Counter(each for line in messages for each in line.split(","))
    assert names["runtime.v1.RunPodSandboxRequest"] == 1
    assert names["runtime.v1.PodSandboxMetadata"] == 1
    assert names["runtime.v1.ContainerEventResponse"] == 2
    lines = [line.strip() for line in dissect("-V")]
    statuses = [line for line in lines if line.startswith("Header: grpc-status: ")]
    assert statuses == [f"Header: grpc-status: {code}" for code in (0, 0, 5)]
    assert "Header: grpc-timeout: 100S" in lines
    assert f"Field(1): pod_sandbox_id = {POD} (string)" in lines
    assert dissect("-Y", "_ws.malformed || tcp.analysis.flags") == []


def test_a_trace(tmp_path: Path, file: Path) -> None:
    """Each call is a pair of events of the Trace Event Format, with its pod and its code; the
    messages of a stream are instants between them, and a counter has the calls in flight."""
    trace = json.loads(export(file, tmp_path / "a.json").read_text())
    assert trace["otherData"]["began_ns"] == str(1_700_000_000 * SECOND)
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "b", "n", "e", "C"}
    times = [event["ts"] for event in events if event["ph"] != "M"]
    assert times == sorted(times)
    spans: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for event in events:
        if event["ph"] in "bne":
            spans.setdefault((event["cat"], event["id"], event["pid"]), []).append(event)
    kinds = {span[0]["name"]: "".join(event["ph"] for event in span) for span in spans.values()}
    assert kinds == {each.method: "be" for each in CALLS} | {"GetContainerEvents": "bnne"}
    ends = {span[0]["name"]: span[-1] for span in spans.values()}
    for made in CALLS:
        assert ends[made.method]["args"]["code"] == made.code
        assert ends[made.method]["ts"] == made.ended * 1e6
    assert ends["StopPodSandbox"]["args"]["namespace"] == "shop"
    assert ends["StopPodSandbox"]["args"]["pod"] == "web"
    counts = [event["args"]["calls"] for event in events if event["ph"] == "C"]
    assert (counts[0], max(counts), counts[-1]) == (1, 2, 0)


def test_damaged_and_wrong_files(tmp_path: Path, file: Path) -> None:
    """What is left of a torn cassette is exported, with a note; wrong names are one line."""
    torn = tmp_path / "torn"
    whole = export(file, tmp_path / "a.json").read_bytes()
    torn.write_bytes(file.read_bytes() + b"\x1f\x8b\x08")
    result = CliRunner().invoke(command, [str(torn), "-o", str(tmp_path / "b.json")])
    assert result.exit_code == 0
    assert f"torn: byte {file.stat().st_size}: damaged or cut off there; 3 bytes" in result.stderr
    assert (tmp_path / "b.json").read_bytes() == whole
    for output, kind, message in (
        ("a.json", UsageError, "exists; choose another, or overwrite it with --force"),
        ("a.txt", UsageError, "has no known suffix"),
        ("none/a.json", UnavailableError, "cannot be written: No such file"),
    ):
        error = CliRunner().invoke(command, [str(file), "-o", str(tmp_path / output)]).exception
        assert isinstance(error, kind)
        assert message in str(error)
    assert export(file, tmp_path / "a.json", "--force").read_bytes() == whole
