"""What is known of a call: plain values, which rules are asked about."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from criproxy.cri.naming import MethodName
from criproxy.peers.peer import Peer
from criproxy.wire.hpack.decoder import Header

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


class Metadata(Mapping[str, str]):
    """A request's headers as rules see them, read when one of them asks.

    They are without pseudo-headers; those that come more than once are joined with commas, and
    ``-bin`` values are base64, as on the wire.
    """

    __slots__ = ("_headers", "_read")

    def __init__(self, headers: Sequence[Header]) -> None:
        self._headers = headers
        self._read: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def _values(self) -> dict[str, str]:
        if self._read is None:
            values: dict[str, str] = {}
            self._read = values
            for name, value in self._headers:
                if not name.startswith(b":"):
                    key, text = name.decode(errors="replace"), value.decode(errors="replace")
                    values[key] = f"{values[key]},{text}" if key in values else text
        return self._read


@dataclass(slots=True, eq=False)
class Facts:
    """A call, as far as it is known; not to be changed, which is only not enforced for its speed.

    ``request`` is None before its message is there, and outside the CRI; ``pod`` and ``container``
    are those that it is about, None where that is not known.
    """

    named: MethodName
    listener: str
    caller: Peer
    metadata: Mapping[str, str] = field(default_factory=dict)
    request: "Message | None" = None
    pod: Pod | None = None
    container: Container | None = None
    memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """What rules have made of these facts, so that the next rule does not make it again."""

    def having(
        self, request: "Message | None", pod: Pod | None, container: Container | None
    ) -> "Facts":
        """Return the same of a call of which this is known now."""
        return Facts(self.named, self.listener, self.caller, self.metadata, request, pod, container)
