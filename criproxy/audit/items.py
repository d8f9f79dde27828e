"""What the event loop hands over to whoever makes records."""

from dataclasses import dataclass
from typing import Literal

from criproxy.peers.peer import Connection
from criproxy.wire.reading.calls import Call

Stage = Literal["RequestReceived", "ResponseComplete"]
"""As in Kubernetes' audit events."""


@dataclass(frozen=True, slots=True, eq=False)
class CallAtStage:
    """A call at one of its stages. ``call`` is complete at ResponseComplete, and not before.

    ``audit_id`` is the same for all stages of a call. ``at`` is when the stage was reached, in
    seconds of the clock that calls are timed with.
    """

    stage: Stage
    audit_id: str
    connection: Connection
    call: Call
    at: float


@dataclass(frozen=True, slots=True, eq=False)
class RuntimeListing:
    """What a runtime had when it was asked: the responses of ListPodSandbox and ListContainers."""

    pods: bytes
    containers: bytes


@dataclass(frozen=True, slots=True, eq=False)
class UnreadConnection:
    """A connection that is not read any further: its calls are not recorded from now on."""

    connection: Connection
    reason: str
    detail: str
    at: float


Item = CallAtStage | RuntimeListing | UnreadConnection
