"""The properties of a call on which rules are evaluated, as plain values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from criproxy.cri.naming import MethodName
from criproxy.peers.peer import Peer
from criproxy.wire.hpack.decoder import Header

if TYPE_CHECKING:  # importing protobuf at run time would cost its memory
    from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod sandbox: ``id`` is the runtime's (empty before RunPodSandbox is answered), the rest is
    Kubernetes's."""

    id: str
    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Container:
    """A container: ``id`` is the runtime's (empty before CreateContainer is answered), ``pod_id``
    its pod sandbox's; ``image`` is the image's name as it was written, or its id if that is not
    known, and ``image_id`` the id if the container was created with it."""

    id: str
    name: str
    image: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    pod_id: str = ""
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image; what is not known is empty.

    ``name`` is the full name with registry and tag or digest: ``docker.io/library/nginx:latest``;
    ``repository`` is the part between registry and tag; ``id`` is the runtime's. ``registry`` is
    None for a name without one as long as it is not known how the runtime reads such names; see
    :mod:`criproxy.rules.image_names`.
    """

    name: str = ""
    registry: str | None = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    id: str = ""


class Metadata(Mapping[str, str]):
    """A request's headers, decoded on first use.

    Pseudo-headers are left out, the values of a repeated header are joined with commas, and
    ``-bin`` values are base64, as on the wire.
    """

    __slots__ = ("_decoded", "_headers")

    def __init__(self, headers: Sequence[Header]) -> None:
        self._headers = headers
        self._decoded: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        return self._values()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values())

    def __len__(self) -> int:
        return len(self._values())

    def _values(self) -> dict[str, str]:
        if self._decoded is None:
            values: dict[str, list[str]] = {}
            for name, value in self._headers:
                if not name.startswith(b":"):
                    key = name.decode(errors="replace")
                    values.setdefault(key, []).append(value.decode(errors="replace"))
            self._decoded = {name: ",".join(parts) for name, parts in values.items()}
        return self._decoded


@dataclass(slots=True, eq=False)
class Facts:
    """The properties of a call; not to be modified (a frozen dataclass would be slower).

    ``request`` is None before its message has been received, and outside the CRI; ``pod``,
    ``container`` and ``image`` are the call's subject, None if unknown. ``short_names`` is how the
    runtime reads names of images without a registry, see :mod:`criproxy.rules.image_names`.
    """

    method_name: MethodName
    listener: str
    caller: Peer
    metadata: Mapping[str, str] = field(default_factory=dict)
    request: "Message | None" = None
    pod: Pod | None = None
    container: Container | None = None
    image: Image | None = None
    short_names: str | None = None
    memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """Values derived from these facts, cached for all rules of the call."""

    def with_request(
        self,
        request: "Message | None",
        pod: Pod | None,
        container: Container | None,
        image: Image | None,
    ) -> "Facts":
        """Return these facts with a request and its subject."""
        return Facts(
            self.method_name,
            self.listener,
            self.caller,
            self.metadata,
            request,
            pod,
            container,
            image,
            self.short_names,
        )
