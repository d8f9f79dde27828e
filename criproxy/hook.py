"""What hook scripts are written with.

::

    from criproxy.hook import Call, Deny

    def request(call: Call) -> None:
        if call.message.config.linux.security_context.privileged:
            raise Deny("PERMISSION_DENIED", "no privileged containers on this node")

A script has a function ``request``, called before the runtime gets a request, or ``response``,
called before the client gets a response (of a server stream: each message), or both. Either takes
the Call, and is plain or async.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from criproxy.wire.grpc import StatusCode

if TYPE_CHECKING:  # for their types alone: a script that takes Deny pays for no more
    from criproxy.peers.peer import Peer
    from criproxy.rules.facts import Container, Facts, Pod

__all__ = ["Call", "Deny", "StatusCode"]


class Deny(Exception):  # noqa: N818 - a verdict, not an error
    """Raised by a script, refuses the call: the client gets this code and message.

    A rule that says ``may_deny: false`` takes it for a failure of the script.
    """

    def __init__(self, code: StatusCode | str | int, message: str = "") -> None:
        """``code`` is gRPC's, by name or number: ``"PERMISSION_DENIED"``, 7. OK refuses nothing.

        Without a message, the client is told which rule it was.
        """
        super().__init__(message)
        self.code = _status_code(code)
        self.message = message


class Call:
    """The call that a script is asked about, as far as it is known.

    ``message`` is the request, or the response: the generated class of the call's API version. It
    may be read, changed in place, or replaced by another of its class; it is the script's own copy.
    """

    def __init__(
        self, message: Any, facts: "Facts", pause: Callable[[float], Awaitable[None]] | None
    ) -> None:
        """``pause`` has the call wait so many seconds; None where that is not possible."""
        self.message = message
        self._facts = facts
        self._pause = pause
        self._request: Any = None

    @property
    def request(self) -> Any:
        """The request as it was sent on; a copy: what is changed of it changes nothing.

        In the function ``request``, it is the request as it came to the rule.
        """
        if self._request is None and self._facts.request is not None:
            self._request = type(self._facts.request)()
            self._request.CopyFrom(self._facts.request)
        return self._request

    @property
    def method(self) -> str:
        """The method's name, as in ``CreateContainer``."""
        return self._facts.named.method

    @property
    def api_version(self) -> str:
        """``v1`` or ``v1alpha2``."""
        return self._facts.named.api_version or ""

    @property
    def pod(self) -> "Pod | None":
        """The pod that the call is about: id, namespace, name, uid, labels, annotations."""
        return self._facts.pod

    @property
    def container(self) -> "Container | None":
        """The container that the call is about: id, name, image, labels, annotations, pod_id."""
        return self._facts.container

    @property
    def caller(self) -> "Peer":
        """The process that calls: pid, uid, gid, executable and unit (None where it is not known),
        kubelet.
        """
        return self._facts.caller

    @property
    def listener(self) -> str:
        """The name of the listener that took the client's connection."""
        return self._facts.listener

    @property
    def metadata(self) -> Mapping[str, str]:
        """The request's headers; ``-bin`` values are base64, as on the wire."""
        return self._facts.metadata

    def delay(self, seconds: float) -> Awaitable[None]:
        """Keep the call waiting, in an async function: ``await call.delay(0.2)``.

        It does not count as time that the hook takes (the rule's ``timeout``). The call's deadline
        and its cancellation end it.
        """
        if self._pause is None:
            raise RuntimeError("call.delay is for async functions; write it as async def")
        return self._pause(seconds)


def _status_code(code: StatusCode | str | int) -> StatusCode:
    try:
        found = StatusCode[code] if isinstance(code, str) else StatusCode(code)
    except (KeyError, ValueError):
        raise ValueError(f"{code!r} is no gRPC status code; PERMISSION_DENIED is one") from None
    if found is StatusCode.OK:
        raise ValueError("OK refuses nothing; take a code like PERMISSION_DENIED")
    return found
