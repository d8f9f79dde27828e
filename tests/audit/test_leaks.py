"""Secrets reach no disk: every method, through every kind of sink."""

import gzip
import socket
import threading
from base64 import b64encode
from pathlib import Path

import pytest

from criproxy.audit.counts import AuditCounts
from criproxy.audit.sinks.factory import make_sinks
from criproxy.audit.spec import (
    FileSpec,
    JournaldSpec,
    OtlpSpec,
    RotateSpec,
    SinkSpec,
    StdoutSpec,
    SyslogSpec,
)
from criproxy.configtypes.values import Size
from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from tests.support.audit_lines import Pipeline
from tests.support.audited import maker, observed
from tests.support.http_server import Handler, HttpServer, Response
from tests.support.planted import Secrets, fill, plant
from tests.support.waiting import wait_until

SINKS = ("file", "stdout", "syslog", "journald", "otlp")


class Catcher:
    """Servers for the sinks that have one; they write what they receive to files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.syslog = socket.create_server(("127.0.0.1", 0))
        self.journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.journal.bind(str(directory / "journal.sock"))
        self.otlp = HttpServer(self._take_logs)
        self._threads = [
            threading.Thread(target=self._serve_syslog),
            threading.Thread(target=self._serve_journal),
        ]
        for thread in self._threads:
            thread.start()
        self.otlp.start()

    def close(self) -> None:
        """Stop the servers once everything that was sent is in the files."""
        self.journal.shutdown(socket.SHUT_RD)
        self.otlp.close()
        for thread in self._threads:
            thread.join()
        self.journal.close()
        self.syslog.close()

    def _keep(self, name: str, data: bytes) -> None:
        with (self._directory / name).open("ab") as file:
            file.write(data)

    def _serve_syslog(self) -> None:
        connection, _ = self.syslog.accept()
        with connection:
            while data := connection.recv(1 << 20):
                self._keep("syslog", data)

    def _serve_journal(self) -> None:
        while data := self.journal.recv(1 << 20):
            self._keep("journald", data)

    def _take_logs(self, request: Handler, body: bytes) -> Response:
        gzipped = request.headers.get("content-encoding") == "gzip"
        self._keep("otlp", gzip.decompress(body) if gzipped else body)
        return Response()


def test_planted_secrets(short_dir: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """With everything recorded, nothing of what is to be redacted goes through any sink; all else
    does."""
    secrets, log, catcher = Secrets(), short_dir / "audit.jsonl", Catcher(short_dir)
    rotate = RotateSpec(size=Size(64 << 10), keep=None)
    port = catcher.syslog.getsockname()[1]
    specs = [
        SinkSpec(file=FileSpec(str(log), rotate=rotate, chain=True)),
        SinkSpec(stdout=StdoutSpec()),
        SinkSpec(syslog=SyslogSpec(f"tcp://127.0.0.1:{port}")),
        SinkSpec(journald=JournaldSpec(str(short_dir / "journal.sock"))),
        SinkSpec(otlp=OtlpSpec(f"{catcher.otlp.url}/v1/logs")),
    ]
    counts, errors = AuditCounts(), list[str]()
    sinks = make_sinks(specs, counts, "node-1", errors.append)
    made = maker("RequestResponse", annotations=["hidden.*"])
    pipeline = Pipeline(*sinks, maker=made.make, log_error=errors.append)
    for method in METHODS.values():
        messages = []
        for kind in (request_class(method), response_class(method)):
            message = kind()
            fill(message, lambda field: f"plain-{field.name}")
            plant(message, secrets)
            messages.append(message)
        pipeline.submit(observed(method.path, *messages))
    wait_until(
        lambda: {each.written for each in counts.sinks.values()} == {len(METHODS)},
        "all records in all sinks",
        report=lambda: f"{counts} {errors}",
    )
    wait_until(lambda: len([*short_dir.glob("audit.jsonl.*.gz")]) >= 2, "compressed files")
    pipeline.close(10)
    catcher.close()
    (short_dir / "stdout").write_bytes(capfdbinary.readouterr().out)
    assert not errors
    for sink in SINKS:
        files = [*short_dir.glob("audit.jsonl*")] if sink == "file" else [short_dir / sink]
        found = b"".join(
            gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            for file in files
        )
        assert found.count(b"[redacted: ") > len(METHODS), sink
        assert found.count(b"plain-") > len(METHODS), sink
        for secret in secrets.made:
            assert secret.encode() not in found, (sink, secret)
            assert b64encode(secret.encode()) not in found, (sink, secret)
