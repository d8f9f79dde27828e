"""One of the HTTP/2 connections of a split connection, terminated by the `h2` library."""

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    PingAckReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from criproxy.relay.connections.pausable import BACKPRESSURE, PausableProtocol

if TYPE_CHECKING:
    from criproxy.relay.connections.exchange import Exchange, Headers

WINDOW: Final = 1 << 20
"""Bytes that a peer may send, per connection, before some of them have been forwarded."""

_HEADER_LIST: Final = 1 << 20
"""Bytes of a decoded header list that are accepted."""

_STREAMS: Final = 1000
"""SETTINGS_MAX_CONCURRENT_STREAMS towards a client."""


class Owner(Protocol):
    """What a connection reports to: the Split."""

    def begin(self, stream: int, headers: "Headers") -> None:
        """Called when the client opens a stream."""

    def flush(self) -> None:
        """Called when output may have come about on any connection."""

    def from_client(self, data: bytes) -> None:
        """Called with the client's bytes; :meth:`PeerConnection.take` handles them."""

    def left_out(self, exchange: "Exchange") -> None:
        """Called when an upstream's GOAWAY leaves a call out: it was not processed."""

    def lost(self, peer: "PeerConnection") -> None:
        """Called when a connection is closed."""

    def ping_acknowledged(self, payload: bytes) -> None:
        """Called when the client acknowledges a PING."""

    def woken(self) -> None:
        """Called when an upstream has sent something, before it is handled."""


class PeerConnection(PausableProtocol):
    """An HTTP/2 connection to one peer."""

    def __init__(self, owner: Owner, client_side: bool) -> None:
        self._owner = owner
        self._client_side = client_side
        self.h2 = _make_h2(client_side)
        self.exchanges: dict[int, Exchange] = {}
        self.closed = asyncio.get_running_loop().create_future()
        self._going = False
        self.received = b""
        """What was read from the peer before the connection was made."""

    @property
    def usable(self) -> bool:
        """Whether new streams may be opened."""
        return not (self._going or self.closed.done())

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
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    def write(self, data: bytes) -> None:
        """Send to the peer."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop: send SETTINGS and open the window."""
        self._transport = cast(asyncio.Transport, transport)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(WINDOW - self.h2.inbound_flow_control_window)
        self._owner.flush()
        if self.received:
            self.data_received(self.received)
            self.received = b""

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._client_side:
            self._owner.woken()
            self.take(data)
        else:
            self._owner.from_client(data)

    def take(self, data: bytes) -> None:
        """Handle bytes of the peer."""
        try:
            for event in self.h2.receive_data(data):
                self._handle(event)
        except H2Error:  # h2 has a GOAWAY ready for the peer
            self._owner.flush()
            if self._transport is not None:
                self._transport.close()
            return
        for exchange in list(self.exchanges.values()):
            exchange.pump()
        self._owner.flush()

    def pause_writing(self) -> None:
        """Called when the peer does not read: do not read from it either."""
        self.pause_reading(BACKPRESSURE)

    def resume_writing(self) -> None:
        """Called when the peer reads again."""
        self.resume_reading(BACKPRESSURE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection is closed."""
        if not self.closed.done():  # cancelled together with run()
            self.closed.set_result(None)
        self._owner.lost(self)

    def _handle(self, event: Any) -> None:
        if isinstance(event, RequestReceived):
            self._owner.begin(event.stream_id, event.headers)
            return
        if isinstance(event, PingAckReceived):
            self._owner.ping_acknowledged(event.ping_data)
            return
        if isinstance(event, ConnectionTerminated):
            self._going = True
            for stream, exchange in list(self.exchanges.items()):
                if self._client_side and stream > (event.last_stream_id or 0):
                    self._owner.left_out(exchange)
            return
        found = self.exchanges.get(getattr(event, "stream_id", None) or 0)
        if found is None:
            if isinstance(event, DataReceived):
                self.acknowledge(event.flow_controlled_length, event.stream_id)
            return
        flow = found.flow_from(self)
        if isinstance(event, ResponseReceived | InformationalResponseReceived | TrailersReceived):
            flow.add_headers(event.headers)
        elif isinstance(event, DataReceived):
            flow.add_data(event.data, event.flow_controlled_length)
        elif isinstance(event, StreamEnded):
            flow.add_end()
        elif isinstance(event, StreamReset):
            found.abandon(ErrorCodes(event.error_code))

    def acknowledge(self, length: int, stream: int) -> None:
        """Open the peer's windows by ``length`` bytes, which have been forwarded."""
        if length and not self.closed.done():
            self.h2.acknowledge_received_data(length, stream)


class _Graceful(H2ConnectionStateMachine):
    """Keeps a connection open after GOAWAY, as RFC 9113 section 6.8 says; h2 closes it."""

    def __init__(self) -> None:
        super().__init__()
        self._transitions = self._transitions | {
            (state, goaway): (None, state)
            for state in (
                ConnectionState.IDLE,
                ConnectionState.CLIENT_OPEN,
                ConnectionState.SERVER_OPEN,
            )
            for goaway in (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY)
        }


def _make_h2(client_side: bool) -> H2Connection:
    """Make an h2 connection with our windows that does not validate or normalize headers."""
    h2 = H2Connection(
        H2Configuration(
            client_side=client_side,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    h2.state_machine = _Graceful()
    values = {
        SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
        SettingCodes.MAX_HEADER_LIST_SIZE: _HEADER_LIST,
        SettingCodes.ENABLE_PUSH: 0,
    }
    if not client_side:
        del values[SettingCodes.ENABLE_PUSH]
        values[SettingCodes.MAX_CONCURRENT_STREAMS] = _STREAMS
    h2.local_settings = Settings(client=client_side, initial_values=values)
    h2.decoder.max_header_list_size = _HEADER_LIST
    return h2
