"""Selects the messages that are captured of every client's calls."""

from typing import Final

from criproxy.cri.text_redaction import PULLS
from criproxy.wire.reading.message_capture import CaptureLimits, SelectCapture

_PULL_BYTES: Final = 64 << 10
"""Bytes of a PullImage request that are captured for the credentials in it."""


def with_pull_requests(select: SelectCapture | None) -> SelectCapture:
    """Return what selects the requests of PullImage, beside what ``select`` does.

    Their credentials are redacted in the status messages that quote them.
    """

    def selected(path: bytes) -> CaptureLimits | None:
        limits = None if select is None else select(path)
        if path not in PULLS:
            return limits
        if limits is None:
            return CaptureLimits(_PULL_BYTES, 0)
        return limits._replace(request=max(limits.request, _PULL_BYTES))

    return selected
