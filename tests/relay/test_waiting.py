"""Clients that wait for an absent runtime, for descriptors, or for the limit of connections."""

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.relay.sockets import Access
from tests.support.raw_sockets import accept, dial, listening, receive, receive_all
from tests.support.relaying import Relay
from tests.support.waiting import LIMIT_SECONDS, wait_until


def opened(relay: Relay, count: int) -> None:
    wait_until(lambda: len(relay.recorder.opened) >= count, f"connection {count}")


def test_client_is_held_until_the_runtime_is_there(short_dir: Path, loop: str) -> None:
    """Bytes that a client sends before the runtime listens arrive in order once it does."""
    path = short_dir / "runtime.sock"
    with Relay(short_dir, path, loop=loop) as relay, dial(relay.path) as client:
        opened(relay, 1)
        early = bytes(range(256)) * 200
        client.sendall(early)
        with listening(path) as listener, accept(listener) as runtime:
            assert receive(runtime, len(early)) == early
            client.sendall(b"later")
            runtime.sendall(b"answer")
            assert receive(runtime, 5) == b"later"
            assert receive(client, 6) == b"answer"
        assert relay.recorder.unreachable == []


def test_held_client_may_end_its_sending(short_dir: Path, loop: str) -> None:
    """A client that half-closes while it waits is still served."""
    path = short_dir / "runtime.sock"
    with Relay(short_dir, path, loop=loop) as relay, dial(relay.path) as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        opened(relay, 1)
        with listening(path) as listener, accept(listener) as runtime:
            assert receive_all(runtime) == b"question"
            runtime.sendall(b"answer")
            assert receive(client, 6) == b"answer"


def test_held_client_that_leaves_is_let_go(short_dir: Path, loop: str) -> None:
    """A client that closes while it waits is closed without an error."""
    with Relay(short_dir, short_dir / "absent.sock", loop=loop) as relay:
        with dial(relay.path) as client:
            client.sendall(b"question")
            opened(relay, 1)
        relay.recorder.all_closed()
        assert relay.recorder.unreachable == []


@pytest.mark.parametrize("runtime_wait", [0.0, 0.05])
def test_hold_time_over(short_dir: Path, loop: str, runtime_wait: float) -> None:
    """A client is closed after runtime_wait, and reported with its process."""
    absent = short_dir / "absent.sock"
    with (
        Relay(short_dir, absent, loop=loop, runtime_wait=runtime_wait) as relay,
        dial(relay.path) as client,
    ):
        assert receive_all(client) == b""
        ((listener, runtime, peer, error),) = relay.recorder.unreachable
        assert (listener, runtime) == (f"unix://{relay.path}", f"unix://{absent}")
        assert (peer.pid, error.errno) == (os.getpid(), errno.ENOENT)
        relay.recorder.all_closed()


def test_full_backlog_is_tried_again(short_dir: Path, loop: str) -> None:
    """A runtime whose backlog is full is tried again until it has room."""
    path = short_dir / "runtime.sock"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening(path, backlog=0))
        others = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                other.setblocking(False)
                other.connect(str(path))
                others += 1
        relay = stack.enter_context(Relay(short_dir, path, loop=loop))
        client = stack.enter_context(dial(relay.path))
        client.sendall(b"question")
        opened(relay, 1)
        for _ in range(others):
            accept(listener).close()
        runtime = stack.enter_context(accept(listener))
        assert receive(runtime, 8) == b"question"


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """No file descriptor may be opened in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptors_left(short_dir: Path, loop: str) -> None:
    """Without a free descriptor clients wait in the backlog, and are accepted when there is one."""
    path = short_dir / "runtime.sock"
    with (
        listening(path) as listener,
        Relay(short_dir, path, loop=loop) as relay,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
    ):
        client.settimeout(LIMIT_SECONDS)
        with no_descriptors_left():
            client.connect(str(relay.path))
            client.sendall(b"question")
            wait_until(lambda: relay.recorder.paused, "notice")
        assert relay.recorder.paused[0] == (f"unix://{relay.path}", os.strerror(errno.EMFILE))
        with accept(listener) as runtime:
            assert receive(runtime, 8) == b"question"


def test_no_descriptor_left_for_the_runtime(short_dir: Path, loop: str) -> None:
    """A client that was accepted with the last descriptor waits for one for its upstream."""
    path = short_dir / "runtime.sock"
    with (
        listening(path) as listener,
        Relay(short_dir, path, loop=loop) as relay,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
    ):
        client.settimeout(LIMIT_SECONDS)
        spare = os.dup(0)
        with no_descriptors_left():
            os.close(spare)
            client.connect(str(relay.path))
            client.sendall(b"question")
            opened(relay, 1)
        with accept(listener) as runtime:
            assert receive(runtime, 8) == b"question"


def test_limit_of_connections(short_dir: Path, loop: str) -> None:
    """Clients above the limit wait in the backlog, each until another leaves."""
    path = short_dir / "runtime.sock"
    with (
        listening(path) as listener,
        Relay(short_dir, path, loop=loop, connections=2) as relay,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(dial(relay.path)) for _ in range(4)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
        runtimes = [stack.enter_context(accept(listener)) for _ in range(2)]
        assert {receive(runtime, 1) for runtime in runtimes} == {b"0", b"1"}
        wait_until(lambda: relay.recorder.paused, "notice")
        assert "limits.connections" in relay.recorder.paused[0][1]
        for leaving, expected in ((0, b"2"), (1, b"3")):
            assert len(relay.recorder.opened) - len(relay.recorder.closed) == 2
            clients[leaving].close()
            assert receive(stack.enter_context(accept(listener)), 1) == expected


def test_stopped_listener_keeps_its_clients(short_dir: Path, loop: str) -> None:
    """Connected clients go on being served when no more are accepted; others wait."""
    path = short_dir / "runtime.sock"
    with (
        listening(path) as listener,
        Relay(short_dir, path, loop=loop) as relay,
        dial(relay.path) as client,
        accept(listener) as runtime,
    ):
        relay.stop_accepting()
        with dial(relay.path):
            client.sendall(b"still here")
            assert receive(runtime, 10) == b"still here"
        assert len(relay.recorder.opened) == 1


def test_access_of_a_late_runtime(short_dir: Path, loop: str) -> None:
    """Owner and mode of an absent runtime's socket are copied when it is first reached."""
    path = short_dir / "runtime.sock"
    with Relay(short_dir, path, loop=loop, access=Access(gid=os.getegid())) as relay:
        assert stat.S_IMODE(relay.path.stat().st_mode) == 0o660
        with listening(path) as listener:
            path.chmod(0o604)
            with dial(relay.path), accept(listener):
                wait_until(lambda: stat.S_IMODE(relay.path.stat().st_mode) == 0o604, "mode")


def test_access_of_a_socket_that_has_taken_the_path(short_dir: Path, loop: str) -> None:
    """Owner and mode are not copied to another socket that is at the listener's path by now."""
    path = short_dir / "runtime.sock"
    with (
        listening(path) as listener,
        Relay(short_dir, path, loop=loop) as relay,
        contextlib.ExitStack() as stack,
    ):
        relay.path.rename(short_dir / "moved.sock")
        stack.enter_context(listening(relay.path))
        relay.path.chmod(0o600)
        path.chmod(0o604)
        stack.enter_context(dial(short_dir / "moved.sock"))
        stack.enter_context(accept(listener))
        wait_until(lambda: relay.recorder.opened, "connection")
        assert stat.S_IMODE(relay.path.stat().st_mode) == 0o600


def test_socket_shared_by_two_listeners(short_dir: Path, loop: str) -> None:
    """Two processes may accept clients at one socket: each client is served by one of them."""
    path = short_dir / "runtime.sock"
    with listening(path) as listener, Relay(short_dir, path, loop=loop) as relay:
        sharing = Relay(short_dir, path, loop=loop, shared=relay.socket)
        with sharing as other, contextlib.ExitStack() as s:
            for _ in range(20):
                s.enter_context(dial(relay.path))
                s.enter_context(accept(listener))
            opened = [*relay.recorder.opened, *other.recorder.opened]
            assert len({id(each) for each in opened}) == 20
            relay.stop_accepting()
            s.enter_context(dial(relay.path))
            s.enter_context(accept(listener))
            assert len([*relay.recorder.opened, *other.recorder.opened]) == 21


def test_socket_that_cannot_be_accepted_at(short_dir: Path, loop: str) -> None:
    """An error of accept() that does not pass by itself is reported: no client is served."""
    relay = Relay(short_dir, short_dir / "runtime.sock", loop=loop)
    with relay, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as broken:
        relay.call(lambda: relay.listener._accept(broken))
        assert [type(each) for each in relay.crashes] == [OSError]
        relay.crashes.clear()
