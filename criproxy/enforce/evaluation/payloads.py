"""A message as it came, as it is decoded, and as it goes on."""

from typing import Final, NamedTuple

from google.protobuf.message import DecodeError, Message

from criproxy.concurrency.steps import LARGE, LargeMessageExecutor, Steps
from criproxy.rules.errors import EvaluationError
from criproxy.rules.messages.decompression import decompress

_RATIO: Final = 32
"""How many bytes a compressed one is taken for when it is asked what is large."""


class Payload(NamedTuple):
    """A message without its prefix, and the prefix's flag."""

    data: bytes
    compressed: bool = False


class HeldMessage:
    """A message that rules look at: decoded when the first of them does, and encoded if one changed
    it.
    """

    def __init__(
        self,
        payload: Payload,
        kind: type[Message] | None,
        encoding: bytes | None,
        limit: int,
        workbench: LargeMessageExecutor,
    ) -> None:
        """``kind`` is the message's class, None for an unreadable one; ``encoding`` the stream's
        grpc-encoding, None where that is not known; ``limit`` the bytes that a compressed message
        may inflate to."""
        self.size = len(payload.data) * (_RATIO if payload.compressed else 1)
        """About how many bytes there are to work on."""
        self.dropped = False
        """Whether it is not to go on."""
        self._payload = payload
        self._kind = kind
        self._encoding = encoding
        self._limit = limit
        self._workbench = workbench
        self._message: Message | None = None
        self._error: EvaluationError | None = None
        self._changed = False

    @classmethod
    def unreadable(cls, reason: str, detail: str) -> "HeldMessage":
        """Stand in for a message that cannot be looked at, and is not to go on by this."""
        held = cls(Payload(b""), None, None, 0, LargeMessageExecutor())
        held._error = EvaluationError(reason, detail)
        return held

    @property
    def is_readable(self) -> bool:
        """Whether it is a message, and not what stands in for one."""
        return self._kind is not None

    @property
    def decoded(self) -> Message | None:
        """The message as it is now, if it has been decoded."""
        return self._message

    def message(self) -> Steps[Message]:
        """Return the message as it is now. Raises EvaluationError if it cannot be decoded."""
        if self._error is not None:
            raise self._error
        if self._message is None:
            try:
                if self.size <= LARGE:
                    self._message = self._decode()
                else:
                    self._message = yield from self._workbench.do(self.size, self._decode)
            except EvaluationError as error:
                self._error = error
                raise
        return self._message

    def replace(self, message: Message) -> None:
        """Have another message go on in place of this."""
        self._message = message
        self._changed = True

    def payload(self) -> Steps[Payload]:
        """Return what goes on: the very bytes that came, unless they have been replaced."""
        if self._changed and self._message is not None:
            encode = self._message.SerializeToString
            try:
                data: bytes = yield from self._workbench.do(self.size, encode)
            except EvaluationError:  # there is no time to wait; but what a rule changed is changed
                data = encode()
            self._payload = Payload(data)
            self._changed = False
        return self._payload

    def _decode(self) -> Message:
        assert self._kind is not None  # an unreadable one has its error
        try:
            return self._kind.FromString(inflated(self._payload, self._encoding, self._limit))
        except DecodeError as error:
            raise EvaluationError("decode", f"not a {self._kind.DESCRIPTOR.name}") from error


def inflated(payload: Payload, encoding: bytes | None, limit: int) -> bytes:
    """Return a message's bytes without compression, ``limit`` of them at most.

    Raises EvaluationError: ``compressed`` for what cannot be inflated, ``held_limit`` for too much.
    """
    return decompress(payload.data, encoding, limit) if payload.compressed else payload.data
