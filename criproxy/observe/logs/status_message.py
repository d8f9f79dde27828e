"""The status message of a call as it is logged and traced: bounded, and without secrets."""

from collections.abc import Sequence
from typing import Final

from criproxy.cri.text_redaction import PULLS, mark, pull_credentials, redact_text
from criproxy.wire.grpc import parse_message
from criproxy.wire.reading.calls import Call

_LONGEST: Final = 1024
"""Characters of a status message that are kept."""


def status_message(call: Call) -> str:
    """Return the status message of a call that has ended, without secrets; empty if none."""
    if not call.message:
        return ""
    message = parse_message(call.message)
    captured = None if call.capture is None else call.capture.request
    credentials: list[str] = []
    if captured is not None and call.path in PULLS:
        found = None if captured.cut else _credentials_of(captured.messages)
        if found is None:
            return mark(len(message.encode()))
        credentials = found
    return redact_text(message, credentials, _LONGEST)


def _credentials_of(messages: Sequence[tuple[bytes, bool]]) -> list[str] | None:
    """Return the credentials in the request of a pull; None where they are unknown."""
    if not messages:
        return []
    data, compressed = messages[0]
    return None if compressed or len(messages) > 1 else pull_credentials(data)
