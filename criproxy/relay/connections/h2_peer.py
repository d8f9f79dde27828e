"""One of the HTTP/2 connections of a split connection, terminated by the `h2` library."""

import asyncio
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection, H2ConnectionStateMachine
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from criproxy.relay.connections.bounded import BoundedProtocol
from criproxy.relay.connections.pausable import BACKPRESSURE
from criproxy.relay.notifier import Clock
from criproxy.wire.constants import DEFAULT_MAX_FRAME_SIZE, PREFACE
from criproxy.wire.errors import WireError
from criproxy.wire.http2.frame_buffer import FrameBuffer
from criproxy.wire.http2.work import TERMINATED, part_size

if TYPE_CHECKING:
    from criproxy.relay.connections.exchange import Exchange, Headers

WINDOW: Final = 1 << 20
"""Bytes that a peer may send, per connection, before some of them have been forwarded."""

_STREAM_WINDOW: Final = 1 << 16
"""The same per stream: several streams that wait leave room for the others of the connection."""

_HEADER_LIST: Final = 1 << 20
"""Bytes of a decoded header list that are accepted, and of an encoded one."""

STREAMS: Final = 1000
"""SETTINGS_MAX_CONCURRENT_STREAMS towards a client; calls above that are refused."""


class Owner(Protocol):
    """Receives a connection's events: the Split."""

    clock: Clock

    @property
    def client_to_boundary(self) -> int | None:
        """Bytes that the client has still to send until the next frame header; None: unknown."""

    def begin(self, stream: int, headers: "Headers") -> None:
        """Called when the client opens a stream."""

    def flush(self) -> None:
        """Called when output may have come about on any connection."""

    def from_client(self, data: bytes, arrived: float) -> None:
        """Called with the client's bytes; :meth:`PeerConnection.receive` handles them."""

    def going(self, peer: "PeerConnection", left_out: "list[Exchange]") -> None:
        """Called at an upstream's GOAWAY, with the calls that it leaves out as not processed."""

    def lost(self, peer: "PeerConnection") -> None:
        """Called when a connection is closed."""

    def ping_acknowledged(self, payload: bytes) -> None:
        """Called when the client acknowledges a PING."""

    def woken(self, arrived: float) -> None:
        """Called when an upstream has sent something, before it is handled."""


class PeerConnection(BoundedProtocol):
    """An HTTP/2 connection to one peer."""

    def __init__(
        self, owner: Owner, write_buffer: int, upstream: socket.socket | None = None
    ) -> None:
        """``upstream``: the socket that is connected to an upstream; None: the peer is the client.

        ``write_buffer``: bytes buffered for it before it is sent no more DATA and no more calls.
        """
        super().__init__()
        self.clock = owner.clock
        client_side = upstream is not None
        self._owner = owner
        self._socket = upstream
        self._write_buffer = write_buffer
        self._client_side = client_side
        self.h2 = _Connection(client_side)
        self._preface = b"" if client_side else PREFACE  # what has not come yet
        self._frames = FrameBuffer(DEFAULT_MAX_FRAME_SIZE, _HEADER_LIST)
        self.exchanges: dict[int, Exchange] = {}
        self.closed = asyncio.get_running_loop().create_future()
        self.going = False
        """Whether the peer has sent GOAWAY."""
        self._settled = False
        self.writable = True
        """Whether the peer reads what it is sent."""
        self.received = b""
        """What was read from the peer before the connection was made."""

    @property
    def has_room(self) -> bool:
        """Whether a stream may be opened: not before the peer has sent its limit in SETTINGS."""
        limit = self.h2.remote_settings.max_concurrent_streams
        return self._settled and self.writable and self.h2.open_outbound_streams < limit

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is sent to the peer."""
        return self._transport is not None and self._transport.is_closing()

    @property
    def is_connected(self) -> bool:
        """Whether the connection has been made."""
        return self._transport is not None

    def close(self) -> None:
        """Close after what is buffered has been written."""
        self.drop_parts()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        self.drop_parts()
        if self._transport is not None:
            self._transport.abort()

    def write(self, data: bytes) -> None:
        """Send to the peer."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop: send SETTINGS and open the window."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._write_buffer)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(WINDOW - self.h2.inbound_flow_control_window)
        self._owner.flush()
        if self.received:
            self.data_received(self.received)
            self.received = b""

    def part_size(self, data: bytes, start: int) -> int:
        """See BoundedProtocol."""
        to_boundary = self.to_boundary if self._client_side else self._owner.client_to_boundary
        return part_size(data, start, to_boundary, TERMINATED)

    @property
    def to_boundary(self) -> int | None:
        """Bytes to be handled until the next frame header; None where it is unknown."""
        return len(self._preface) or self._frames.to_boundary

    def take(self, data: bytes, arrived: float) -> None:
        """See BoundedProtocol."""
        if self._client_side:
            self._owner.woken(arrived)
            self.receive(data)
        else:
            self._owner.from_client(data, arrived)

    def receive(self, data: bytes) -> None:
        """Handle bytes of the peer, frame by frame: those before one that cannot be read count.

        An interceptor has forwarded them if the peer is the client.
        """
        if self.is_closing:
            return
        changed: dict[Exchange, None] = {}
        failed = everything = False
        try:
            if self._preface:
                size = min(len(self._preface), len(data))
                self.h2.receive_data(data[:size])
                self._preface, data = self._preface[size:], data[size:]
            for frame in self._frames.feed(data):
                for event in self.h2.receive_data(frame.raw):
                    found = self._handle(event)
                    if found is None:
                        everything = True
                    else:
                        changed.update(dict.fromkeys(found))
        except WireError as error:
            self.h2.close_connection(error.code)
            failed = True
        except H2Error:  # h2 has a GOAWAY ready for the peer
            failed = True
        if everything:
            changed.update(dict.fromkeys(self.exchanges.values()))
        for exchange in changed:
            exchange.pump()
        self._owner.flush()
        if failed:
            self.close()

    def pause_writing(self) -> None:
        """Called when the peer does not read. A client is not read from either: it could send
        frames that are to be answered without end."""
        self.writable = False
        if self._socket is None:
            self.pause_reading(BACKPRESSURE)

    def resume_writing(self) -> None:
        """Called when the peer reads again."""
        self.writable = True
        self.resume_reading(BACKPRESSURE)
        for exchange in list(self.exchanges.values()):
            exchange.pump()
        self._owner.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection is closed."""
        self._transport = None
        self.writable = False
        if exc is not None and self._socket is not None:
            self.take_rest(self._socket)
        self.after_parts(self._lost)

    def _lost(self) -> None:
        if not self.closed.done():  # cancelled together with run()
            self.closed.set_result(None)
        self._owner.lost(self)

    def _handle(self, event: Event) -> "Iterable[Exchange] | None":
        """Handle an event; return the exchanges that may have something to forward; None: all."""
        if isinstance(event, RequestReceived):
            self._owner.begin(event.stream_id, event.headers)
            return ()
        if isinstance(event, PingAckReceived):
            self._owner.ping_acknowledged(event.ping_data)
            return ()
        if isinstance(event, ConnectionTerminated):
            last = event.last_stream_id or 0
            self.going = True
            if self._client_side:
                left_out = [each for stream, each in self.exchanges.items() if stream > last]
                self._owner.going(self, left_out)
            return ()
        if isinstance(event, RemoteSettingsChanged):
            self._settled = True
            return None
        stream = getattr(event, "stream_id", None)
        if isinstance(event, WindowUpdated) and not stream:
            return None
        found = self.exchanges.get(stream or 0)
        if found is not None:
            self._handle_in(found, event)
            return (found,)
        if isinstance(event, DataReceived):
            self.acknowledge(event.flow_controlled_length or 0, event.stream_id)
        return ()

    def _handle_in(self, exchange: "Exchange", event: Any) -> None:
        flow = exchange.flow_from(self)
        if isinstance(event, ResponseReceived | InformationalResponseReceived | TrailersReceived):
            flow.add_headers(event.headers)
        elif isinstance(event, DataReceived):
            flow.add_data(event.data, event.flow_controlled_length)
        elif isinstance(event, StreamEnded):
            flow.is_complete = True
        elif isinstance(event, StreamReset):
            exchange.reset_by(self, event.error_code)

    def acknowledge(self, length: int, stream: int) -> None:
        """Open the peer's windows by ``length`` bytes, which have been forwarded."""
        if length and not self.closed.done():
            self.h2.acknowledge_received_data(length, stream)


class _Graceful(H2ConnectionStateMachine):
    """Keeps a connection open after GOAWAY, as RFC 9113 section 6.8 says; h2 closes it."""

    def process_input(self, input_: ConnectionInputs) -> list[Event]:
        if input_ in (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY):
            return []
        return super().process_input(input_)


_KNOWN_SETTINGS: Final = frozenset(SettingCodes)


class _KnownSettings(Settings):
    """Ignores settings that are not known, of which a peer can send 65,536 (section 6.5.2)."""

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        if key in _KNOWN_SETTINGS:
            super().__setitem__(key, value)


class _Connection(H2Connection):
    """An h2 connection with our windows that does not validate or normalize headers."""

    def __init__(self, client_side: bool) -> None:
        super().__init__(
            H2Configuration(
                client_side=client_side,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.state_machine = _Graceful()
        values = {
            SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
            SettingCodes.MAX_HEADER_LIST_SIZE: _HEADER_LIST,
            SettingCodes.ENABLE_PUSH: 0,
        }
        if not client_side:
            del values[SettingCodes.ENABLE_PUSH]
            values[SettingCodes.MAX_CONCURRENT_STREAMS] = STREAMS
        self.local_settings = Settings(client=client_side, initial_values=values)
        self.remote_settings = _KnownSettings(client=not client_side)
        self.decoder.max_header_list_size = _HEADER_LIST

    @property
    def open_inbound_streams(self) -> int:
        """None: h2 would end a connection with too many, where we refuse a stream."""
        _ = super().open_inbound_streams  # which forgets those that are closed
        return 0

    def clear_outbound_data_buffer(self) -> None:
        """Keep the output, which h2 discards at a GOAWAY: calls in flight go on."""
