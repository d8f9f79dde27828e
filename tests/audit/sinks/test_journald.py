"""The journald outlet."""

import array
import os
import socket
from pathlib import Path

import pytest

from criproxy.audit.counts import SinkCounts
from criproxy.audit.sinks.journald import JournaldOutlet, entry
from criproxy.audit.spec import JournaldSpec
from tests.support.audit_lines import Pipeline, item, record, sink
from tests.support.waiting import LIMIT_SECONDS, wait_until

_LINE = (
    b'{"kind":"Event","auditID":"a-1","stage":"ResponseComplete","listener":"unix:///l",'
    b'"service":"runtime.v1.RuntimeService","method":"ExecSync","code":"PERMISSION_DENIED",'
    b'"denied":"not\\nallowed","caller":{"pid":7,"uid":0,"executable":"/usr/bin/crictl"},'
    b'"pod":{"id":"p1","namespace":"default","name":"web"},"container":{"id":"c1","name":"app"}}'
)


def parse(data: bytes) -> dict[str, bytes]:
    """Parse an entry as journald does."""
    fields: dict[str, bytes] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        fields[name.decode()] = value
        data = rest
    return fields


def test_an_entry_has_the_record_and_fields_to_ask_for() -> None:
    """An entry has the record's JSON as its message, and fields; newlines are encoded."""
    assert parse(entry(_LINE)) == {
        "MESSAGE": _LINE,
        "PRIORITY": b"5",
        "SYSLOG_IDENTIFIER": b"criproxy-audit",
        "CRIPROXY_KIND": b"Event",
        "CRIPROXY_AUDIT_ID": b"a-1",
        "CRIPROXY_STAGE": b"ResponseComplete",
        "CRIPROXY_LISTENER": b"unix:///l",
        "CRIPROXY_SERVICE": b"runtime.v1.RuntimeService",
        "CRIPROXY_METHOD": b"ExecSync",
        "CRIPROXY_CODE": b"PERMISSION_DENIED",
        "CRIPROXY_DENIED": b"not\nallowed",
        "CRIPROXY_CALLER_EXECUTABLE": b"/usr/bin/crictl",
        "CRIPROXY_CALLER_PID": b"7",
        "CRIPROXY_CALLER_UID": b"0",
        "CRIPROXY_POD_NAME": b"web",
        "CRIPROXY_POD_NAMESPACE": b"default",
        "CRIPROXY_POD_ID": b"p1",
        "CRIPROXY_CONTAINER_NAME": b"app",
        "CRIPROXY_CONTAINER_ID": b"c1",
    }


@pytest.fixture
def journal(short_dir: Path) -> Path:
    return short_dir / "journal"


def _bind(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(path))
    server.settimeout(LIMIT_SECONDS)
    return server


def test_entries_arrive(journal: Path) -> None:
    """Each record is one datagram."""
    with _bind(journal) as server:
        outlet = JournaldOutlet(JournaldSpec(str(journal)))
        assert outlet.write([record(0), record(1)]).done == 2
        outlet.close()
        got = [parse(server.recv(1 << 20))["MESSAGE"] for _ in range(2)]

    assert got == [record(0), record(1)]


def test_a_large_entry_goes_as_a_file(journal: Path) -> None:
    """An entry too large for a datagram is sent as a sealed memory file."""
    line = record(0, padding=4 << 20)
    with _bind(journal) as server:
        outlet = JournaldOutlet(JournaldSpec(str(journal)))
        assert outlet.write([line]).done == 1
        outlet.close()
        data, rights, _, _ = server.recvmsg(1024, socket.CMSG_SPACE(4))
    (fd,) = array.array("i", rights[0][2])
    with open(fd, "rb") as file:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        content = os.pread(file.fileno(), 8 << 20, 0)

    assert data == b""
    assert parse(content)["MESSAGE"] == line


def test_a_journal_that_restarts_gets_what_waited(journal: Path) -> None:
    """Without journald records wait and an error is logged; they are sent once it is back."""
    counts = SinkCounts()
    errors: list[str] = []
    outlet = JournaldOutlet(JournaldSpec(str(journal)))
    running = Pipeline(sink(outlet, counts, log_error=errors.append))
    running.submit(item(0))
    wait_until(lambda: counts.errors, "a failure to send")
    with _bind(journal) as server:
        assert parse(server.recv(1 << 20))["MESSAGE"] == record(0)
        running.close(within=30)

    assert (counts.written, counts.dropped) == (1, {})
    assert "cannot send to the journal" in errors[0]
