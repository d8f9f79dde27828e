"""An upstream that is one of the daemon's own sockets is refused."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from criproxy.errors import EndpointError
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.own_sockets import OwnSockets
from tests.support.raw_sockets import accept, dial, listening, receive, receive_all
from tests.support.relaying import Relay


def _link(source: Path, target: Path) -> None:
    source.symlink_to(target)


def _link_of_a_directory(source: Path, target: Path) -> None:
    (source.parent / "directory").symlink_to(target.parent)
    source.symlink_to(source.parent / "directory" / target.name)


def _second_name(source: Path, target: Path) -> None:
    source.hardlink_to(target)


WAYS = [_link, _link_of_a_directory, _second_name]


@pytest.mark.parametrize("lead", WAYS)
def test_upstream_that_leads_to_the_listener(
    short_dir: Path, loop: str, lead: Callable[[Path, Path], None]
) -> None:
    """A client whose upstream is its own listener is closed at once, and the reason reported."""
    upstream = short_dir / "runtime.sock"
    with Relay(short_dir, upstream, loop=loop) as relay:
        lead(upstream, relay.path)
        with dial(relay.path) as client:
            assert receive_all(client) == b""
        relay.recorder.all_closed()
        assert len(relay.recorder.opened) == 1
        ((_, named, _, error),) = relay.recorder.unreachable
        assert (named, error.errno) == (f"unix://{upstream}", errno.ELOOP)
        assert str(relay.path) in error.strerror


def test_ring_of_listeners(short_dir: Path, loop: str) -> None:
    """Listeners that are each other's upstream are recognized as well."""
    paths = [short_dir / "a.sock", short_dir / "b.sock"]
    link = short_dir / "link.sock"
    link.symlink_to(paths[0])
    with (
        Relay(short_dir, paths[1], loop=loop, name="a.sock", own=paths) as first,
        Relay(short_dir, link, loop=loop, name="b.sock", own=paths) as second,
    ):
        for relay in (first, second):
            with dial(relay.path) as client:
                assert receive_all(client) == b""
            relay.recorder.all_closed()
            assert len(relay.recorder.opened) == 1
            assert relay.recorder.unreachable[0][3].errno == errno.ELOOP


def test_own_path_that_leads_to_the_runtime(short_dir: Path, loop: str) -> None:
    """A listener's path that has become a link to the runtime, as by a bypass, is not its own."""
    path = short_dir / "runtime.sock"
    with listening(path) as listener, Relay(short_dir, path, loop=loop) as relay:
        moved = short_dir / "moved.sock"
        relay.path.rename(moved)
        relay.path.symlink_to(path)
        with dial(moved) as client, accept(listener) as runtime:
            client.sendall(b"question")
            assert receive(runtime, 8) == b"question"


def test_process_that_listens(short_dir: Path) -> None:
    """A socket is recognized by the process that listens at it, where its inode differs."""
    path = short_dir / "a.sock"
    with listening(path), dial(path) as connected:
        OwnSockets([], {os.getpid() + 1}).check_peer(connected)
        with pytest.raises(OSError, match=f"criproxy itself .process {os.getpid()}.") as raised:
            OwnSockets([], {os.getpid()}).check_peer(connected)
        assert raised.value.errno == errno.ELOOP


def test_refused_at_start(short_dir: Path) -> None:
    """The error at start names the listener, the path that leads there, and what to write."""
    first, second, link = (
        Endpoint(str(short_dir / name)) for name in ("a.sock", "b.sock", "link.sock")
    )
    own = OwnSockets([first, second])
    own.refuse(first, link)  # absent: it may come
    Path(link.path).symlink_to(second.path)
    own.refuse(first, link)
    with listening(Path(first.path)), listening(Path(second.path)):
        with pytest.raises(EndpointError, match=r"has itself for a runtime; name the runtime's"):
            own.refuse(first, first)
        with pytest.raises(
            EndpointError, match=r"has listener unix://.*b\.sock of the same .*link\.sock leads to"
        ):
            own.refuse(first, link)
