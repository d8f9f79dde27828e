"""The bypass of a listener: a link to the runtime's socket in the place of criproxy's own."""

import os
import socket
from pathlib import Path

import pytest

from criproxy.errors import EndpointError, UnavailableError
from criproxy.relay.bypass import bypass, is_bypassed, kept_socket, restore
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.sockets import Access, BoundSocket, bind
from tests.support.raw_sockets import accept, dial, listening


@pytest.fixture
def endpoint(short_dir: Path) -> Endpoint:
    """A listener's endpoint."""
    return Endpoint(str(short_dir / "criproxy.sock"))


@pytest.fixture
def runtime(short_dir: Path) -> Endpoint:
    """A runtime's endpoint."""
    return Endpoint(str(short_dir / "runtime.sock"))


def served_by(endpoint: Endpoint, server: socket.socket) -> bool:
    """Return whether a client of an endpoint reaches a server."""
    with dial(Path(endpoint.path)) as client, accept(server) as served:
        client.sendall(b"x")
        return served.recv(1) == b"x"


def test_clients_reach_the_runtime_and_then_criproxy_again(
    endpoint: Endpoint, runtime: Endpoint
) -> None:
    """The path leads to the runtime while the bypass is on, and to the same socket after it."""
    bound = bind(endpoint, Access())
    bound.socket.setblocking(True)
    inode = os.stat(endpoint.path).st_ino
    with listening(Path(runtime.path)) as server, bound.socket:
        assert bypass(endpoint, runtime)
        assert is_bypassed(endpoint, runtime)
        accept(server).close()  # the look whether somebody listens
        assert served_by(endpoint, server)
        assert restore(endpoint, runtime)
        assert not is_bypassed(endpoint, runtime)
        accept(bound.socket).close()
        assert served_by(endpoint, bound.socket)
    assert os.stat(endpoint.path).st_ino == inode
    assert not kept_socket(endpoint).exists()


def test_a_second_time_changes_nothing(endpoint: Endpoint, runtime: Endpoint) -> None:
    """Each of the two says whether it has changed something."""
    with listening(Path(runtime.path)):
        assert not restore(endpoint, runtime)
        assert bypass(endpoint, runtime)
        assert not bypass(endpoint, runtime)
        assert restore(endpoint, runtime)
        assert not restore(endpoint, runtime)


def test_without_a_daemon_the_link_goes(endpoint: Endpoint, runtime: Endpoint) -> None:
    """Nothing is left in the directory when the socket that was kept has no listener."""
    bind(endpoint, Access()).socket.close()
    with listening(Path(runtime.path)):
        assert bypass(endpoint, runtime)
        assert restore(endpoint, runtime)
    assert sorted(os.listdir(Path(endpoint.path).parent)) == ["runtime.sock"]


def test_a_daemon_that_stops_meanwhile_leaves_the_link(
    endpoint: Endpoint, runtime: Endpoint
) -> None:
    """What a daemon unlinks at its end is its own socket, never the bypass."""
    bound: BoundSocket = bind(endpoint, Access())
    with listening(Path(runtime.path)):
        bypass(endpoint, runtime)
        bound.close()
        assert is_bypassed(endpoint, runtime)


def test_needs_a_runtime_that_listens(endpoint: Endpoint, runtime: Endpoint) -> None:
    """Without a listening runtime criproxy's socket stays in place."""
    with bind(endpoint, Access()).socket, pytest.raises(UnavailableError, match="nobody listens"):
        bypass(endpoint, runtime)
    assert not is_bypassed(endpoint, runtime)


def test_the_runtime_is_not_criproxy_itself(endpoint: Endpoint, runtime: Endpoint) -> None:
    """A runtime's path that leads back to the listener is refused: the link would be a circle."""
    with bind(endpoint, Access()).socket:
        os.symlink(endpoint.path, runtime.path)
        with pytest.raises(EndpointError, match="leads to it"):
            bypass(endpoint, runtime)
    assert not os.path.islink(endpoint.path)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_not_criproxys_stays(kind: str, endpoint: Endpoint, runtime: Endpoint) -> None:
    """A file, or a link to elsewhere, is not replaced, and the error says what it is."""
    if kind == "file":
        Path(endpoint.path).write_text("")
    else:
        os.symlink("/elsewhere", endpoint.path)
    with listening(Path(runtime.path)), pytest.raises(EndpointError, match="remove it first"):
        bypass(endpoint, runtime)
    assert os.path.lexists(endpoint.path)
    assert not is_bypassed(endpoint, runtime)
