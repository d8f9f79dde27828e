"""Binding: a stale socket is replaced, a live one never; ours is removed at the end."""

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from criproxy.errors import EndpointError, UnavailableError
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.sockets import (
    Access,
    BoundSocket,
    access_of,
    adopt,
    bind,
    inherit,
    parse_owner,
)
from tests.support.raw_sockets import accept, dial, listening
from tests.support.waiting import LIMIT_SECONDS

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def path(short_dir: Path) -> Path:
    return short_dir / "criproxy.sock"


@pytest.fixture
def bound(path: Path) -> Iterator[BoundSocket]:
    bound = bind(Endpoint(str(path)), Access())
    yield bound
    bound.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def reaches(path: Path, bound: BoundSocket) -> bool:
    """Return whether a client that connects to the path reaches this socket."""
    bound.socket.settimeout(LIMIT_SECONDS)
    with dial(path) as client:
        client.sendall(b"x")
        while True:
            with accept(bound.socket) as server:
                if server.recv(1) == b"x":  # else it was another binder, who had a look
                    return True


def test_bound_and_gone(path: Path, bound: BoundSocket) -> None:
    """A bound socket is alone in its directory, with the usual mode; closing removes it."""
    assert reaches(path, bound)
    assert mode_of(path) == 0o660
    assert os.listdir(path.parent) == [path.name]
    bound.close()
    assert os.listdir(path.parent) == []


def test_stale_socket_is_replaced(path: Path) -> None:
    """A socket that nobody listens at any more is replaced."""
    with listening(path):
        pass
    assert path.is_socket()
    bound = bind(Endpoint(str(path)), Access())
    assert reaches(path, bound)
    bound.close()


def test_live_socket_is_never_stolen(path: Path) -> None:
    """Where another process listens, it goes on listening, and the error says so."""
    with listening(path) as other:
        before = path.stat().st_ino
        with pytest.raises(UnavailableError, match="another process listens there"):
            bind(Endpoint(str(path)), Access())
        assert path.stat().st_ino == before
        with dial(path):
            accept(other).close()
    assert os.listdir(path.parent) == [path.name]


def test_live_socket_with_a_full_backlog(path: Path) -> None:
    """A listener whose backlog is full counts as alive."""
    with (
        listening(path, backlog=0),
        dial(path),
        pytest.raises(UnavailableError, match="another process listens there"),
    ):
        bind(Endpoint(str(path)), Access())


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    """A file or a directory of that name is not removed."""
    path.write_text("precious") if kind == "file" else path.mkdir()
    with pytest.raises(EndpointError, match="something there that is not a socket"):
        bind(Endpoint(str(path)), Access())
    assert path.exists()


def test_replaced_socket_is_kept(path: Path, bound: BoundSocket) -> None:
    """A socket that has replaced ours is not removed."""
    path.unlink()
    with listening(path):
        bound.close()
        assert path.is_socket()
        bound.grant(Access(mode=0o600))
        assert mode_of(path) != 0o600


def test_removed_socket_is_no_trouble(path: Path, bound: BoundSocket) -> None:
    """A socket that was removed already is no error."""
    path.unlink()
    bound.close()


def test_second_binder_finds_the_first(path: Path, bound: BoundSocket) -> None:
    """A second binder is refused, and the first goes on listening."""
    with pytest.raises(UnavailableError, match="another process listens there"):
        bind(Endpoint(str(path)), Access())
    assert reaches(path, bound)


_BINDER = """
import sys
from criproxy.errors import UnavailableError
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.sockets import Access, bind
sys.stdin.readline()
try:
    bound = bind(Endpoint(sys.argv[1]), Access())
except UnavailableError:
    print("refused", flush=True)
else:
    print("bound", flush=True)
sys.stdin.readline()
"""


def test_many_binders_at_once(path: Path) -> None:
    """Of several processes that find the same stale socket at once, exactly one gets its place."""
    with listening(path):
        pass
    binders = [
        subprocess.Popen(
            [sys.executable, "-c", _BINDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for each in binders:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
        said = sorted(each.stdout.readline().strip() for each in binders if each.stdout)
    finally:
        for each in binders:
            each.communicate("\n")
    assert said == ["bound", "refused", "refused", "refused"]


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_parents_are_made_safely(short_dir: Path, umask: int) -> None:
    """Directories that are missing are made writable by their owner alone, whatever the umask."""
    path = short_dir / "run" / "criproxy" / "criproxy.sock"
    before = os.umask(umask)
    try:
        bound = bind(Endpoint(str(path)), Access())
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert [mode_of(path.parent), mode_of(path.parent.parent)] == [0o755, 0o755]
    assert mode_of(path) == 0o660
    bound.close()


def test_existing_parents_keep_their_modes(path: Path) -> None:
    """The mode of an existing directory is not changed."""
    path.parent.chmod(0o710)
    bind(Endpoint(str(path)), Access()).close()
    assert mode_of(path.parent) == 0o710


def test_parent_that_cannot_be_made(short_dir: Path) -> None:
    """Where the directories cannot be made, the error names the endpoint and the remedy."""
    (short_dir / "file").touch()
    with pytest.raises(UnavailableError, match=r"cannot listen at .*; choose another --listen"):
        bind(Endpoint(str(short_dir / "file" / "x.sock")), Access())


def test_longest_path(short_dir: Path) -> None:
    """A path of 107 bytes, the most that the system allows, can be listened at."""
    room = 107 - len(str(short_dir)) - 1
    path = short_dir / ("s" * room)
    bound = bind(Endpoint(str(path)), Access())
    assert reaches(path, bound)
    bound.close()


def test_copied_access(path: Path, short_dir: Path) -> None:
    """The runtime's mode is read from its socket; an absent one has none."""
    runtime = short_dir / "runtime.sock"
    assert access_of(Endpoint(str(runtime))) is None
    with listening(runtime):
        runtime.chmod(0o606)
        copied = access_of(Endpoint(str(runtime)))
    assert copied is not None
    bound = bind(Endpoint(str(path)), copied)
    assert mode_of(path) == 0o606
    bound.grant(Access(mode=0o600))
    assert mode_of(path) == 0o600
    bound.close()


@as_root
def test_copied_owner(path: Path, short_dir: Path) -> None:
    """Root copies the owner too."""
    runtime = short_dir / "runtime.sock"
    with listening(runtime):
        os.chown(runtime, 12, 34)
        assert access_of(Endpoint(str(runtime))) == Access(mode_of(runtime), 12, 34)
    bound = bind(Endpoint(str(path)), Access(0o640, 12, 34))
    found = path.stat()
    assert (found.st_uid, found.st_gid, mode_of(path)) == (12, 34, 0o640)
    bound.close()


@pytest.mark.parametrize(
    ("configured", "copied", "expected"),
    [
        (Access(), Access(0o600, 1, 2), Access(0o600, 1, 2)),
        (Access(0o660), Access(0o600, 1, 2), Access(0o660, 1, 2)),
        (Access(0, 0, 0), Access(0o600, 1, 2), Access(0, 0, 0)),
        (Access(gid=5), Access(), Access(gid=5)),
    ],
)
def test_configured_access_has_precedence(
    configured: Access, copied: Access, expected: Access
) -> None:
    """Configured values have precedence, root and mode 0 too; the rest is copied."""
    assert configured.or_else(copied) == expected


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("root", (0, None)),
        ("root:root", (0, 0)),
        (":root", (None, 0)),
        ("12:34", (12, 34)),
        ("12", (12, None)),
        (":34", (None, 34)),
    ],
)
def test_owner(text: str, owner: tuple[int | None, int | None]) -> None:
    """Owners are written as for chown, names or numbers."""
    assert parse_owner(text) == owner


@pytest.mark.parametrize(
    ("text", "message"),
    [("no-such-user", "user 'no-such-user'"), ("root:no-such-group", "group 'no-such-group'")],
)
def test_unknown_owner(text: str, message: str) -> None:
    """A name that the system does not know is named."""
    with pytest.raises(ValueError, match=message):
        parse_owner(text)


def test_adopted_socket_of_systemd(path: Path) -> None:
    """A listening socket that was bound to the endpoint's path is adopted; closing unlinks it."""
    with listening(path, backlog=0) as passed:
        bound = adopt(passed.dup(), Endpoint(str(path)))
        assert reaches(path, bound)
        bound.close()
        assert not path.exists()


def test_adopted_path_behind_a_link(short_dir: Path) -> None:
    """Two paths of one socket are the same, as /var/run and /run are."""
    (short_dir / "run").mkdir()
    (short_dir / "var").symlink_to("run")
    with listening(short_dir / "run" / "a.sock") as passed:
        endpoint = Endpoint(str(short_dir / "var" / "a.sock"))
        adopt(passed.dup(), endpoint).close()


def test_inherited_socket_of_an_earlier_process(path: Path, bound: BoundSocket) -> None:
    """A socket that was bound by criproxy is inherited, though its name was a temporary one."""
    again = inherit(bound.socket.dup(), Endpoint(str(path)))
    assert reaches(path, again)
    again.socket.close()


def test_adopted_backlog(path: Path) -> None:
    """An adopted socket has the backlog of one that was bound here, however small it was."""
    with listening(path, backlog=0) as passed, contextlib.ExitStack() as stack:
        bound = adopt(passed.dup(), Endpoint(str(path)))
        for _ in range(10):
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.setblocking(False)
            client.connect(str(path))
        bound.close()


def test_socket_of_another_path_is_not_adopted(short_dir: Path, path: Path) -> None:
    """A socket that clients of the endpoint would not reach is refused, with what to change."""
    with listening(short_dir / "other.sock") as passed:
        for _ in range(2):
            with pytest.raises(EndpointError, match=r"is bound to '.*/other\.sock'; make"):
                adopt(passed, Endpoint(str(path)))
            path.unlink(missing_ok=True)
            path.symlink_to("absent")


@pytest.mark.parametrize(
    ("family", "kind", "message"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "not a unix stream socket"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, "not a unix stream socket"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "does not listen"),
    ],
)
def test_what_is_no_listening_socket_is_not_adopted(
    path: Path, family: int, kind: int, message: str
) -> None:
    """Only a listening unix stream socket can be adopted."""
    with socket.socket(family, kind) as passed, pytest.raises(EndpointError, match=message):
        adopt(passed, Endpoint(str(path)))


def test_socket_is_not_inherited(bound: BoundSocket) -> None:
    """A child process does not keep the listener alive."""
    assert not bound.socket.get_inheritable()
    assert isinstance(bound.socket, socket.socket)
