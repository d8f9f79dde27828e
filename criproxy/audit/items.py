"""The items of which audit records are made: calls, listings of runtimes, unread connections."""

from dataclasses import dataclass
from typing import Final, Literal

from criproxy.peers.peer import Connection
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.message_capture import CaptureLimits

Stage = Literal["RequestReceived", "ResponseComplete"]
"""The stages of Kubernetes' audit events."""

LISTINGS: Final = ""
"""Takes the place of the listener for listings, which belong to none."""

TOO_LARGE: Final = "(too large to compare)"
"""Stands for both messages of a change in ``Call.changes`` that are too large for the recorder."""


@dataclass(frozen=True, slots=True, eq=False)
class CallAtStage:
    """A call at one of its stages; ``call`` is complete at ResponseComplete only.

    ``audit_id`` is the same for all stages of a call. ``at`` is the time of the stage, in seconds
    of the calls' clock. ``limits`` is how much of the call's capture is for the record, which more
    may have been captured for; None: all of it.
    """

    stage: Stage
    audit_id: str
    connection: Connection
    call: Call
    at: float
    limits: CaptureLimits | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RuntimeListing:
    """A runtime's encoded responses to ListPodSandbox, ListContainers and ListImages.

    ``short_names`` is how it reads short names of images; None: not known yet.
    """

    pods: bytes = b""
    containers: bytes = b""
    images: bytes = b""
    short_names: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class UnreadConnection:
    """A connection that is no longer parsed: its further calls have no records."""

    connection: Connection
    reason: str
    detail: str
    at: float


Item = CallAtStage | RuntimeListing | UnreadConnection
