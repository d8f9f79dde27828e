"""The syslog outlet over each transport."""

import json
import os
import re
import socket
import threading
from pathlib import Path

import pytest

from criproxy.audit.counts import SinkCounts
from criproxy.audit.sinks.syslog import SyslogOutlet
from criproxy.audit.spec import SyslogSpec
from criproxy.errors import UsageError
from tests.support.audit_lines import Pipeline, item, numbers, record, reported, sink
from tests.support.waiting import LIMIT_SECONDS, wait_until

_RFC5424 = re.compile(
    rb"<(\d+)>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (\S+) criproxy-audit (\d+) (\S+) - (.*)",
    re.DOTALL,
)


def _parse(message: bytes) -> tuple[bytes, ...]:
    found = _RFC5424.fullmatch(message)
    assert found is not None, message
    return found.groups()


def _take(server: socket.socket, count: int) -> list[bytes]:
    server.settimeout(LIMIT_SECONDS)
    return [server.recv(1 << 20) for _ in range(count)]


def _read_counted(connection: socket.socket, count: int) -> list[bytes]:
    """Parse messages with octet counting (RFC 6587 section 3.4.1)."""
    connection.settimeout(LIMIT_SECONDS)
    messages = []
    with connection.makefile("rb") as stream:
        for _ in range(count):
            length = b""
            while (byte := stream.read(1)) != b" ":
                length += byte
            messages.append(stream.read(int(length)))
    return messages


def test_over_a_unix_socket(short_dir: Path) -> None:
    """Each record is a datagram with an RFC 5424 header and the record's JSON."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(short_dir / "log"))
        outlet = SyslogOutlet(SyslogSpec(f"unix://{short_dir}/log", "local3"), "node 1")
        assert outlet.write([record(7)]).done == 1
        outlet.close()
        (message,) = _take(server, 1)

    priority, at, host, pid, kind, text = _parse(message)
    assert int(priority) == 19 * 8 + 6
    assert at == b"2026-11-23T10:30:00.123456Z"
    assert (host, int(pid), kind, text) == (b"node-1", os.getpid(), b"Event", record(7))


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        (b'{"kind":"Dropped","dropped":1}', 4),
        (b'{"kind":"Event","denied":"read-only"}', 5),
        (b'{"kind":"Event"}', 6),
    ],
)
def test_severities(short_dir: Path, line: bytes, severity: int) -> None:
    """The severity is warning for missing records, notice for denied calls, else info."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(short_dir / "log"))
        outlet = SyslogOutlet(SyslogSpec(f"unix://{short_dir}/log"), "node")
        outlet.write([line])
        outlet.close()
        (message,) = _take(server, 1)

    assert int(_parse(message)[0]) == 10 * 8 + severity


def test_over_a_unix_stream(short_dir: Path) -> None:
    """Over a unix stream socket each message is a line."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(short_dir / "log"))
        server.listen()
        outlet = SyslogOutlet(SyslogSpec(f"unix://{short_dir}/log"), "node")
        assert outlet.write([record(0), record(1)]).done == 2
        outlet.close()
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as stream:
            messages = stream.read().splitlines()

    assert [_parse(message)[-1] for message in messages] == [record(0), record(1)]


def test_over_udp() -> None:
    """Each record is one datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        outlet = SyslogOutlet(SyslogSpec(f"udp://127.0.0.1:{server.getsockname()[1]}"), "node")
        assert outlet.write([record(0), record(1)]).done == 2
        outlet.close()
        messages = _take(server, 2)

    assert [_parse(message)[-1] for message in messages] == [record(0), record(1)]


def test_what_is_too_large_for_a_datagram_is_dropped_and_reported() -> None:
    """A record too large for a datagram is dropped, counted and reported."""
    counts = SinkCounts()
    errors: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        outlet = SyslogOutlet(SyslogSpec(f"udp://127.0.0.1:{server.getsockname()[1]}"), "node")
        one = sink(outlet, counts, log_error=errors.append)
        one.start()
        one.queue.put([record(0), record(1, padding=70_000), record(2)])
        lines = [_parse(message)[-1] for message in _take(server, 3)]
        one.stop_by(0)
        one.join()

    assert numbers(lines) == [0, 2]
    assert reported(lines) == 1
    assert counts.dropped == {"too_large": 1}
    assert "too large" in errors[0]


def test_over_tcp_whatever_the_size() -> None:
    """Over TCP messages are counted in octets, and none is too large."""
    lines = [record(0), record(1, padding=300_000), record(2)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        outlet = SyslogOutlet(SyslogSpec(f"tcp://127.0.0.1:{server.getsockname()[1]}"), "node")
        got: list[bytes] = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                got.extend(_read_counted(connection, 3))

        thread = threading.Thread(target=serve)
        thread.start()
        assert outlet.write(lines).done == 3
        thread.join()
        outlet.close()

    assert [_parse(message)[-1] for message in got] == lines


def test_a_server_that_comes_back_gets_what_waited() -> None:
    """Records wait without a server and are sent on a new connection."""
    counts = SinkCounts()
    errors: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        outlet = SyslogOutlet(SyslogSpec(f"tcp://127.0.0.1:{port}"), "node")
        running = Pipeline(sink(outlet, counts, log_error=errors.append))
        running.submit(item(0))
        connection, _ = first.accept()
        with connection:
            assert _parse(_read_counted(connection, 1)[0])[-1] == record(0)
    running.submit(item(1))
    wait_until(lambda: counts.errors, "a failure to send")
    with socket.create_server(("127.0.0.1", port)) as second:
        connection, _ = second.accept()
        with connection:
            assert _parse(_read_counted(connection, 1)[0])[-1] == record(1)
            running.close(within=30)

    assert (counts.written, counts.dropped) == (2, {})
    assert f"cannot send to tcp://127.0.0.1:{port}" in errors[0]


def test_a_server_that_does_not_read_is_left_in_time() -> None:
    """Closing aborts a waiting send."""
    counts = SinkCounts()
    with socket.create_server(("127.0.0.1", 0)) as server:
        outlet = SyslogOutlet(SyslogSpec(f"tcp://127.0.0.1:{server.getsockname()[1]}"), "node")
        one = sink(outlet, counts, blocking=True)
        one.start()
        one.queue.put([record(number, padding=1 << 20) for number in range(20)])
        connection, _ = server.accept()
        before = threading.active_count()
        one.stop_by(0)
        one.join()
        connection.close()

    assert threading.active_count() < before
    assert counts.written + counts.dropped["closing"] == 20


@pytest.mark.parametrize(
    "address", ["", "/dev/log", "unix://", "udp://", "tcp://host:x", "http://host:514"]
)
def test_an_address_that_is_none(address: str) -> None:
    """A bad address is an error with examples of good ones."""
    with pytest.raises(UsageError, match="write it like"):
        SyslogOutlet(SyslogSpec(address), "node")


def test_a_record_is_no_less_readable_for_the_server() -> None:
    """The text is the record's JSON without a byte order mark."""
    message = SyslogOutlet(SyslogSpec(), "node")._message(record(3))

    assert json.loads(_parse(message)[-1])["number"] == 3
