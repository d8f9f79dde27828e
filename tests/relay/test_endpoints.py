"""Parsing of endpoints."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import EndpointError
from criproxy.relay.endpoints import Endpoint, find_runtime, parse_endpoint
from tests.support.raw_sockets import dial, listening

LONGEST = "/" + "a" * 106


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:///run/containerd/containerd.sock", "/run/containerd/containerd.sock"),
        ("unix://run/criproxy.sock", "/run/criproxy.sock"),
        ("/run/criproxy.sock", "/run/criproxy.sock"),
        ("unix:/run/criproxy.sock", "/run/criproxy.sock"),
        ("/run/with:colon.sock", "/run/with:colon.sock"),
        ("unix:///run/with space/ü.sock", "/run/with space/ü.sock"),
        (LONGEST, LONGEST),
        ("unix://" + LONGEST, LONGEST),
    ],
)
def test_forms(text: str, path: str) -> None:
    """Every form that the kubelet and crictl accept names a path; str() writes it in full."""
    endpoint = parse_endpoint(text)
    assert endpoint == Endpoint(path)
    assert str(endpoint) == f"unix://{path}"
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the path is empty"),
        ("unix://", "the path is empty"),
        ("unix:", "the path is empty"),
        ("npipe:////./pipe/containerd", "scheme 'npipe' is not supported"),
        ("tcp://127.0.0.1:1234", "scheme 'tcp' is not supported"),
        ("http://localhost", "scheme 'http' is not supported"),
        ("unx:///run/x.sock", "scheme 'unx' is not supported"),
        ("UNIX:///run/x.sock", "scheme 'UNIX' is not supported"),
        ("://x", "scheme '' is not supported"),
        ("localhost:1234", "only unix sockets are supported"),
        ("tcp:127.0.0.1", "only unix sockets are supported"),
        ("run/x.sock", "not an absolute path"),
        ("unix:x.sock", "not an absolute path"),
        ("criproxy.sock", "not an absolute path"),
        ("/run/\0.sock", "NUL"),
        ("unix:///run/x.sock/", "names a directory"),
        (os.fsdecode(b"/run/\xff.sock"), "has to be UTF-8"),
        (LONGEST + "a", "has 108 bytes"),
        ("/" + "ü" * 54, "has 109 bytes"),
    ],
)
def test_errors(text: str, expected: str) -> None:
    """Whatever else is one line that quotes it and says what to write."""
    with pytest.raises(EndpointError, match=expected) as caught:
        parse_endpoint(text)
    message = str(caught.value)
    assert message.startswith(f"endpoint {text!r}: ")
    assert "\n" not in message
    assert (
        "unix:///path/to.sock" in message
        or "shorter" in message
        or "NUL" in message
        or "UTF-8" in message
    )


def test_endpoints_are_values() -> None:
    """Equal paths are equal endpoints, and can be looked up."""
    assert {Endpoint("/a"): 1}[Endpoint("/a")] == 1
    assert Endpoint("/a") != Endpoint("/b")
    assert Endpoint("/a") != "/a"
    assert repr(Endpoint("/a")) == "Endpoint('/a')"


@pytest.fixture
def places(short_dir: Path) -> Iterator[dict[str, str]]:
    """What may be found where a runtime is looked for, and how it is described."""
    (short_dir / "file").touch()
    with (
        listening(short_dir / "dead") as dead,
        listening(short_dir / "hung"),
        _answering(short_dir / "http", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        _answering(short_dir / "closes", b""),
        serving(short_dir / "empty"),
    ):
        dead.close()
        yield {
            str(short_dir / "absent"): "No such file or directory",
            str(short_dir / "file"): "no socket",
            str(short_dir / "dead"): "Connection refused",
            str(short_dir / "hung"): "no answer within 0.2 s",
            str(short_dir / "http"): "something listens that does not speak gRPC",
            str(short_dir / "closes"): "it closes connections without an answer",
            str(short_dir / "empty"): "it answers, but has no CRI service "
            "(is the CRI plugin disabled?)",
        }


def test_first_runtime_that_answers_is_found(places: dict[str, str], short_dir: Path) -> None:
    """A stale file, and whatever else is no runtime, does not end the search."""
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock") as runtime:
        found = find_runtime((*places, f"{short_dir}/cri.sock"), 0.2)
    assert str(found) == runtime.endpoint


def test_no_runtime_is_found(places: dict[str, str], short_dir: Path) -> None:
    """Without a runtime the error says what was found at each path, and how to give another."""
    (short_dir / "1000/k3s/containerd").mkdir(parents=True)
    rootless = short_dir / "1000/k3s/containerd/containerd.sock"
    rootless.touch()
    with pytest.raises(EndpointError) as caught:
        find_runtime(tuple(places), 0.2, short_dir)
    for place, what in places.items():
        assert f"{place} ({what})" in str(caught.value)
    assert f"{rootless} (rootless" in str(caught.value)
    assert "--runtime-endpoint" in str(caught.value)
    assert "\n" not in str(caught.value)


@contextmanager
def _answering(path: Path, answer: bytes) -> Iterator[None]:
    """Listen at a path; answer each client with these bytes, and close."""

    def serve() -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                if not connection.recv(1 << 16):
                    return
                connection.sendall(answer)

    with listening(path) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        dial(path).close()
        thread.join()


@contextmanager
def serving(path: Path) -> Iterator[None]:
    """Serve gRPC at a path, without any service: a containerd whose CRI plugin is disabled."""
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix://{path}")
    server.start()
    yield
    server.stop(None).wait()
