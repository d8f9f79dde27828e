"""Held messages: as received, decoded, and as forwarded."""

from typing import Final, NamedTuple

from google.protobuf.message import DecodeError, Message

from criproxy.concurrency.steps import LARGE, LargeMessageExecutor, Steps
from criproxy.cri.environment import decode_message, encode_message
from criproxy.rules.errors import EvaluationError
from criproxy.rules.messages.decompression import decompress

_COMPRESSION_RATIO: Final = 32
"""Bytes that each byte of a compressed message counts for where large messages are told apart."""


class Payload(NamedTuple):
    """The bytes of a message without the gRPC prefix, and the prefix's compressed flag."""

    data: bytes
    compressed: bool = False

    @property
    def size(self) -> int:
        """About how many bytes there are to process."""
        return len(self.data) * (_COMPRESSION_RATIO if self.compressed else 1)


class HeldMessage:
    """A message that rules read: decoded when the first rule asks for it, and encoded again only if
    a rule replaced it. A large one is encoded in a thread as soon as it is replaced."""

    def __init__(
        self,
        payload: Payload,
        message_class: type[Message] | None,
        encoding: bytes | None,
        limit: int,
        executor: LargeMessageExecutor,
    ) -> None:
        """``message_class`` is None for an unreadable message; ``encoding`` the stream's
        grpc-encoding, None where that is not known; ``limit`` the bytes that a compressed message
        may decompress to."""
        self.size = payload.size
        """About how many bytes there are to process."""
        self.dropped = False
        """Whether the message is not to be forwarded."""
        self._payload = payload
        self._message_class = message_class
        self._encoding = encoding
        self._limit = limit
        self._executor = executor
        self._message: Message | None = None
        self._error: tuple[str, str] | None = None
        """The reason and the detail of the failure to read it. An exception that is kept refers to
        the message by its traceback: only a collection would free both."""
        self._changed = False

    @classmethod
    def unreadable(cls, reason: str, detail: str) -> "HeldMessage":
        """Return a placeholder for a message that cannot be read; it is never forwarded."""
        held = cls(Payload(b""), None, None, 0, LargeMessageExecutor())
        held._error = reason, detail
        return held

    @property
    def is_readable(self) -> bool:
        """Whether this is a message, not a placeholder."""
        return self._message_class is not None

    @property
    def decoded(self) -> Message | None:
        """The message with the changes so far, if it has been decoded."""
        return self._message

    def message(self) -> Steps[Message]:
        """Return the message with the changes so far. Raises EvaluationError if it cannot be
        decoded."""
        if self._error is not None:
            raise EvaluationError(*self._error)
        if self._message is None:
            try:
                if self.size <= LARGE:
                    self._message = self._decode()
                else:
                    self._message = yield from self._executor.run(self.size, self._decode)
            except EvaluationError as error:
                self._error = error.reason, error.detail
                raise
        return self._message

    def replace(self, message: Message, from_hook: bool = False) -> Steps[None]:
        """Forward another message in place of this one, which may be larger if it is of a hook.

        Raises EvaluationError if it is not allowed to wait for the encoding of a large one: the
        message is as before then.
        """
        size = max(self.size, LARGE + 1) if from_hook else self.size
        if size > LARGE:  # now: when it is to be forwarded, there may be no time to wait
            data: bytes = yield from self._executor.run(size, encode_message, message)
            self._payload = Payload(data)
        self._changed = size <= LARGE
        self._message = message

    @property
    def payload(self) -> Payload:
        """What is to be forwarded: the bytes that came, unless the message was replaced."""
        if self._changed and self._message is not None:
            self._payload = Payload(encode_message(self._message))
            self._changed = False
        return self._payload

    def _decode(self) -> Message:
        assert self._message_class is not None  # an unreadable one has its error
        try:
            data = uncompressed(self._payload, self._encoding, self._limit)
            return decode_message(self._message_class, data)
        except DecodeError as error:
            name = self._message_class.DESCRIPTOR.name
            raise EvaluationError("decode", f"not a {name}") from error


def uncompressed(payload: Payload, encoding: bytes | None, limit: int) -> bytes:
    """Return a message's bytes, decompressed if necessary, ``limit`` of them at most.

    Raises EvaluationError with the reason ``compressed`` for what cannot be decompressed, and
    ``held_limit`` for more bytes than the limit.
    """
    return decompress(payload.data, encoding, limit) if payload.compressed else payload.data
