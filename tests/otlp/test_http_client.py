"""HttpClient: what becomes of requests that a peer answers in odd ways, or that are broken off."""

import socket
import ssl
import threading
from pathlib import Path

import pytest

from criproxy.otlp.answer import Answer, Outcome
from criproxy.otlp.http_client import HttpClient
from tests.support.certificate import make_certificate


def client(url: str, timeout: float = 3600.0) -> HttpClient:
    return HttpClient(url, {}, timeout, example="http://127.0.0.1:4318/v1/traces")


def url_of(listening: socket.socket, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{listening.getsockname()[1]}/v1/traces"


def test_a_request_over_tls_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that waits for its answer over TLS ends when it is broken off."""
    key, certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    answers: list[Answer] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = client(url_of(listening, "https"))
        waiting = threading.Thread(target=lambda: answers.append(one.post(b"x")), daemon=True)
        waiting.start()
        with context.wrap_socket(listening.accept()[0], server_side=True) as accepted:
            assert accepted.recv(4) == b"POST"
            one.abort()
            waiting.join()
    assert answers[0].outcome is Outcome.UNAVAILABLE
    assert "broken off" in one.post(b"x").because
    one.close()
