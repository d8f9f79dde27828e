"""The records of connections, also while the other process takes none."""

from criproxy.capture.observer import RecordingObserver
from criproxy.cassette.records import AnyRecord
from criproxy.peers.peer import Connection, Peer
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import CallBegan


class Output:
    """Takes what is essential, and the rest unless it is full."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.full = False

    def put(self, record: AnyRecord, *, essential: bool = False) -> bool:
        if self.full and not essential:
            return False
        self.taken.append(type(record).__name__)
        return True


def connect(observer: RecordingObserver) -> Connection:
    connection = Connection("unix:///run/test.sock", Peer(7, 0, 0, None), 0.0)
    observer.connection_opened(connection)
    return connection


def test_connections_while_the_channel_is_full() -> None:
    """The end of a connection is only told if anything of it was, so that a client that connects
    again and again does not fill the memory while nobody reads; otherwise it is told in any
    case."""
    output = Output()
    observer = RecordingObserver(output, lambda: 0.0)
    known = connect(observer)
    output.full = True
    for _ in range(100):
        observer.connection_closed(connect(observer))
    late = connect(observer)
    assert output.taken == ["ConnectionOpened"]
    observer.connection_closed(known)
    output.full = False
    observer.observe(late, CallBegan(Call(1, b"/a", b"", True, 0.0)))
    output.full = True
    observer.connection_closed(late)
    assert output.taken[1:] == ["ConnectionClosed", "CallBegan", "ConnectionClosed"]


def test_connections_of_another_recording() -> None:
    """Connections that are open when another process begins are told to it, and their end."""
    output = Output()
    observer = RecordingObserver(output, lambda: 0.0)
    first, second = connect(observer), connect(observer)
    output.taken.clear()
    observer.begin_again()
    output.full = True
    observer.connection_closed(first)
    observer.begin_again()
    observer.connection_closed(second)
    assert output.taken == ["ConnectionOpened"] * 2 + ["ConnectionClosed"]
