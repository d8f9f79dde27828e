"""The interface between a relay and the rules, and the holder of the policy in force."""

from typing import Protocol

from criproxy.peers.peer import Connection
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.held_bytes import HeldBytesBudget
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call


class Policy(Protocol):
    """Decides which calls of a connection are held."""

    enforcing: bool
    """Whether a connection that cannot be read has to be closed."""

    def wanted(self, path: bytes) -> bool:
        """Return whether calls of a ``:path`` may have to be held."""

    def begin(
        self, connection: Connection, call: Call | None, stream: HeldStream, headers: list[Header]
    ) -> Hold | None:
        """Return what to hold of a call that begins; None to forward it unchanged.

        ``call`` is the call that observers know; None if it is over for them already: the
        connection is not read any more, or the call was reset as soon as it began.
        """


class ActivePolicy:
    """Holds the policy for new calls; a reload replaces it.

    ``budget`` counts the bytes held by all connections together.
    """

    def __init__(
        self, budget: HeldBytesBudget, policy: Policy | None = None, http1_refusal: str = ""
    ) -> None:
        """``policy`` is None while there are no rules.

        ``http1_refusal``: why clients that speak HTTP/1 are refused; empty if they are served.
        """
        self.budget = budget
        self.policy = policy
        self.http1_refusal = http1_refusal
