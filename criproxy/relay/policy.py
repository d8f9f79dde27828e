"""What a relay asks of the rules, and where it finds those that hold now."""

from typing import Protocol

from criproxy.peers.peer import Connection
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.http2.windows import HeldBytesBudget
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call


class Policy(Protocol):
    """The rules that hold, as a relay sees them."""

    enforcing: bool
    """Whether a connection that cannot be read is to be closed: a rule has to be kept on it."""

    def wanted(self, path: bytes) -> bool:
        """Tell whether calls of a path may have to be held."""

    def begin(
        self, connection: Connection, call: Call | None, stream: HeldStream, headers: list[Header]
    ) -> Hold | None:
        """Say what is to be held of a call that begins; None: it is passed on as it is.

        ``call`` is what observers are told of; None where it is over for them: because the
        connection is not read any more, or because it was reset as soon as it began.
        """


class ActivePolicy:
    """Has the policy for the calls that begin from now on. A reload puts another in its place.

    ``budget`` counts what is held by all connections together.
    """

    def __init__(self, budget: HeldBytesBudget, policy: Policy | None = None) -> None:
        """``policy`` is None as long as there are no rules."""
        self.budget = budget
        self.policy = policy
