"""What is known of a call: plain values, which rules are asked about."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from criproxy.cri.naming import Named
from criproxy.peers import Peer

if TYPE_CHECKING:  # for its type alone: importing it costs the memory of protobuf
    from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod sandbox: ``id`` is the runtime's (empty before it gave one), the rest Kubernetes's."""

    id: str
    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Container:
    """A container: ``id`` is the runtime's (empty before it gave one), ``pod_id`` its sandbox's."""

    id: str
    name: str
    image: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod_id: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """A call, as far as it is known.

    ``request`` is None before its message is there, and outside the CRI; ``pod`` and ``container``
    are those that it is about, None where that is not known. ``metadata`` are the request's headers
    without pseudo-headers; those that come more than once are joined with commas, and ``-bin``
    values are base64, as on the wire.
    """

    named: Named
    listener: str
    caller: Peer
    metadata: Mapping[str, str] = field(default_factory=dict)
    request: "Message | None" = None
    pod: Pod | None = None
    container: Container | None = None
    memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """What rules have made of these facts, so that the next rule does not make it again."""
