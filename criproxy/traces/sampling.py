"""Decides which calls have a span: by their trace at the head, by how they ended at the tail."""

from typing import Final

from criproxy.traces.context import TraceParent
from criproxy.traces.spec import SamplingSpec
from criproxy.wire.grpc import StatusCode

_RANDOM_BYTES: Final = 7
"""The bytes at a trace id's end that are random, also by Trace Context Level 2."""


class Sampler:
    """Applies the section ``traces.sampling``."""

    def __init__(self, spec: SamplingSpec) -> None:
        self._spec = spec
        self._threshold = round((1 - spec.ratio) * (1 << (8 * _RANDOM_BYTES)))

    def samples_trace(self, trace_id: bytes, parent: TraceParent | None) -> bool:
        """Return whether the calls of a trace are sampled, whatever becomes of them."""
        if parent is not None and self._spec.parent == "follow":
            return parent.sampled
        return int.from_bytes(trace_id[-_RANDOM_BYTES:], "big") >= self._threshold

    def samples_end(self, code: StatusCode | None, seconds: float, streaming: bool) -> bool:
        """Return whether a call is sampled because of its code or duration.

        ``code``: None if its end was not seen. ``streaming``: it may last for as long as it likes.
        """
        if self._spec.errors and code is not StatusCode.OK:
            return True
        slower_than = self._spec.slower_than
        return slower_than is not None and not streaming and seconds >= slower_than
