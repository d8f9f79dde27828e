"""Endpoints as users write them."""

import os
from pathlib import Path

import pytest

from criproxy.errors import EndpointError
from criproxy.relay.endpoints import Endpoint, find_runtime, parse_endpoint
from tests.support.raw_sockets import listening

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
    ("text", "complaint"),
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
def test_errors(text: str, complaint: str) -> None:
    """Whatever else is one line that quotes it and says what to write."""
    with pytest.raises(EndpointError, match=complaint) as caught:
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


def test_runtime_is_found_where_it_is(short_dir: Path) -> None:
    """The first well-known path that is a socket is the runtime's."""
    absent, file, sock = (short_dir / name for name in ("absent", "file", "sock"))
    file.touch()
    with listening(sock):
        assert find_runtime((str(absent), str(file), str(sock))) == Endpoint(str(sock))


def test_no_runtime_is_found(short_dir: Path) -> None:
    """Where there is none, every place that was looked at is named, and how to name another."""
    places = (str(short_dir / "one.sock"), str(short_dir / "two.sock"))
    with pytest.raises(EndpointError) as caught:
        find_runtime(places)
    assert all(place in str(caught.value) for place in places)
    assert "--runtime-endpoint" in str(caught.value)
