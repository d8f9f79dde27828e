"""Selects the messages that are captured of every client's calls."""

from typing import Final

from criproxy.cri.text_redaction import PULLS
from criproxy.wire.reading.message_capture import (
    CaptureBudget,
    CaptureLimits,
    SelectCapture,
    widest,
)

PULL_BYTES: Final = 512 << 10
"""Bytes of a PullImage request that are captured: it has the pod's annotations, of up to 256 KiB,
beside the credentials."""

PULL_BUDGET: Final = 8 << 20
"""Bytes of the captured requests of all clients of a listener."""


def with_pull_requests(select: SelectCapture | None, budget: CaptureBudget) -> SelectCapture:
    """Return what selects the requests of PullImage, beside what ``select`` does.

    Their credentials are redacted in the status messages that quote them. ``budget`` bounds those
    that ``select`` does not ask for.
    """

    pulls = CaptureLimits(PULL_BYTES, 0, budget)

    def selected(path: bytes) -> CaptureLimits | None:
        limits = None if select is None else select(path)
        return widest(limits, pulls) if path in PULLS else limits

    return selected
