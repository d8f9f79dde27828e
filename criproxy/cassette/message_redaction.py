"""Removes secrets from the records of calls, as the audit log does, before they are written."""

from typing import Final

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from criproxy.cassette.blocks import LARGEST_RECORD
from criproxy.cassette.records import AnyRecord, CallBegan, CallEnded, MessagePassed
from criproxy.cri.environment import decode_message, encode_message
from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import Method
from criproxy.cri.naming import method_at
from criproxy.cri.redaction import Redactor, secrets_in
from criproxy.cri.text_redaction import PULLS, mark, redact_text
from criproxy.rules.errors import EvaluationError
from criproxy.rules.messages.decompression import decompress

_MAX_TEXT: Final = 64 << 10
"""Characters of a status message that are recorded."""

_MAX_DATA: Final = LARGEST_RECORD - (64 << 10)
"""Bytes of a decompressed message: its record has other fields as well."""


class MessageRedactor:
    """Decompresses and redacts the messages of records; pass it all records, in order."""

    def __init__(self, redactor: Redactor | None) -> None:
        """``redactor`` is None if nothing is to be redacted."""
        self._redactor = redactor
        self._open: dict[int, Method | None] = {}
        self._credentials: dict[int, set[str]] = {}
        self._unknown_credentials: set[int] = set()

    def redact(self, record: AnyRecord) -> AnyRecord:
        """Return a record without secrets, and with messages that are not compressed."""
        if isinstance(record, CallBegan):
            path = record.path.encode("latin-1", "replace")
            self._open[record.call] = method_at(path)
            if path in PULLS:
                self._unknown_credentials.add(record.call)
        elif isinstance(record, MessagePassed):
            return self._message(record)
        elif isinstance(record, CallEnded):
            return self._end(record)
        return record

    def _end(self, record: CallEnded) -> CallEnded:
        self._open.pop(record.call, None)
        credentials = self._credentials.pop(record.call, set())
        is_unknown = record.call in self._unknown_credentials
        self._unknown_credentials.discard(record.call)
        if self._redactor is None or not record.message:
            return record
        if is_unknown:  # the request is lost, and the message may quote its credentials
            return replace(record, message=mark(len(record.message.encode())))
        text = redact_text(record.message, credentials, _MAX_TEXT)
        return replace(record, message=self._redactor.text(text))

    def _message(self, record: MessagePassed) -> MessagePassed:
        if record.missing:
            return record
        data = record.data
        if record.encoding:
            try:
                data = decompress(data, record.encoding.encode(), _MAX_DATA)
            except EvaluationError as error:
                reason = "too_large" if error.reason == "held_limit" else "compressed"
                return _without_data(record, reason)
        if self._redactor is not None:
            method = self._open.get(record.call)
            if method is None:
                return _without_data(record, "method")
            kind = response_class(method) if record.response else request_class(method)
            try:
                message = decode_message(kind, data)
            except DecodeError:
                return _without_data(record, "undecodable")
            if not record.response:
                self._unknown_credentials.discard(record.call)
                if found := set(secrets_in(message)):
                    self._credentials[record.call] = found
            self._redactor.redact(message)
            data = encode_message(message)
        return replace(record, data=data, encoding="")


def _without_data(record: MessagePassed, reason: str) -> MessagePassed:
    return replace(record, data=b"", encoding="", missing=reason)
