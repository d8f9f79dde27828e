"""The API of hook scripts.

::

    from criproxy.hook import Call, Deny

    def request(call: Call) -> None:
        if call.message.config.linux.security_context.privileged:
            raise Deny("PERMISSION_DENIED", "no privileged containers on this node")

A script defines a function ``request``, which is called before the runtime receives a request, or
``response``, which is called before the client receives a response (of a server stream: each
message), or both. Each has one parameter, the Call, and may be async. The script runs in a process
of its own, which is started anew when a call exceeds the time limit of the hook: global variables
are lost then.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from criproxy.wire.grpc import StatusCode

if TYPE_CHECKING:  # not at run time, so that a script's import stays cheap
    from criproxy.peers.peer import Peer
    from criproxy.rules.facts import Container, Facts, Image, Pod

__all__ = ["Call", "Deny", "StatusCode"]


class Deny(Exception):  # noqa: N818 - a decision, not an error
    """Raised by a script to refuse the call: the client receives this code and message.

    In a rule with ``may_deny: false`` it is an error of the script.
    """

    def __init__(self, code: StatusCode | str | int, message: str = "") -> None:
        """``code`` is a gRPC code by name or number, except OK: ``"PERMISSION_DENIED"``, 7.

        Without ``message``, the message names the rule. Raises ValueError for another code.
        """
        super().__init__(message)
        self.code = _status_code(code)
        self.message = message


class Call:
    """The call that a script inspects.

    ``message`` is the script's own copy of the request or of the response, of the generated class
    of the call's API version. It may be changed in place, or replaced by another of its class.
    """

    def __init__(
        self, message: Any, facts: "Facts", pause: Callable[[float], Awaitable[None]] | None
    ) -> None:
        """``pause`` delays the call by a number of seconds; None in a plain function."""
        self.message = message
        self._facts = facts
        self._pause = pause
        self._request: Any = None

    @property
    def request(self) -> Any:
        """A copy of the request as it was sent to the runtime; changes to it have no effect.

        In the function ``request``, a copy of the request as the rule received it.
        """
        if self._request is None and self._facts.request is not None:
            self._request = type(self._facts.request)()
            self._request.CopyFrom(self._facts.request)
        return self._request

    @property
    def method(self) -> str:
        """The method's name: ``CreateContainer``."""
        return self._facts.method_name.method

    @property
    def api_version(self) -> str:
        """``v1`` or ``v1alpha2``."""
        return self._facts.method_name.api_version or ""

    @property
    def pod(self) -> "Pod | None":
        """The pod of the call: id, namespace, name, uid, labels, annotations. None if unknown."""
        return self._facts.pod

    @property
    def container(self) -> "Container | None":
        """The container of the call: id, name, image, labels, annotations, pod_id. None if
        unknown."""
        return self._facts.container

    @property
    def image(self) -> "Image | None":
        """The image of the call or of its container: name (the user's, not an id), registry,
        repository, tag, digest, id. None if the call has none."""
        return self._facts.image

    @property
    def caller(self) -> "Peer":
        """The client's process: pid, uid, gid, executable and unit (None if unknown), kubelet."""
        return self._facts.caller

    @property
    def listener(self) -> str:
        """The name of the listener that accepted the client's connection."""
        return self._facts.listener

    @property
    def metadata(self) -> Mapping[str, str]:
        """The request's headers; ``-bin`` values are base64, as on the wire."""
        return self._facts.metadata

    def delay(self, seconds: float) -> Awaitable[None]:
        """Delay the call, in an async function: ``await call.delay(0.2)``.

        The delay does not count towards the rule's ``timeout``. The call's deadline and its
        cancellation end it. Raises RuntimeError in a plain function.
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
