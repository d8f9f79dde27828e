"""The operations of a listener on a relayed connection: drain it, slow its client down."""

from abc import abstractmethod

from mypy_extensions import mypyc_attr

from criproxy.relay.connections.client_rate import ClientRate
from criproxy.relay.connections.drain import Drain
from criproxy.relay.notifier import ObservedConnection
from criproxy.wire.constants import ErrorCode
from criproxy.wire.reading.calls import Call


@mypyc_attr(allow_interpreted_subclasses=True)
class RelayedConnection(ObservedConnection):
    """A client's connection that can be drained, and whose client can be slowed down."""

    drain: Drain | None = None

    def start_draining(self) -> None:
        """Begin to drain; :meth:`advance_drain` has to be called now and then from now on."""
        self.drain = Drain(self)
        self.advance_drain()

    def advance_drain(self) -> None:
        """Take the steps of the drain that are possible now."""
        if self.drain is not None and self.is_relaying:
            self.drain.advance()

    @property
    @abstractmethod
    def is_relaying(self) -> bool:
        """Whether bytes can be written to both sides."""

    @property
    @abstractmethod
    def is_readable(self) -> bool:
        """Whether frames can be inserted and calls be told apart."""

    @property
    @abstractmethod
    def has_calls(self) -> bool:
        """Whether calls are in flight, or bytes of one are held."""

    @abstractmethod
    def send_goaway(self, last_stream: int, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Send GOAWAY to the client, at the next frame boundary."""

    @abstractmethod
    def send_ping(self) -> bool:
        """Send the PING to the client; return False if that has to wait.

        Its ACK sets :attr:`Drain.acknowledged` and is not forwarded.
        """

    @property
    @abstractmethod
    def can_end_calls(self) -> bool:
        """Whether :meth:`end_call` can be called now."""

    @abstractmethod
    def end_call(self, call: Call) -> None:
        """End a call with UNAVAILABLE towards the client and CANCEL towards the upstream."""

    @abstractmethod
    def limit_client(self, rate: ClientRate) -> None:
        """Have ``rate`` check what the client sends from now on."""

    @abstractmethod
    def pause_client(self, seconds: float) -> None:
        """Read nothing from the client for some time."""
