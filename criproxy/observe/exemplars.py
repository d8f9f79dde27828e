"""Exemplars of histograms: which span a measured value belongs to (OpenMetrics, "Exemplars")."""

from typing import NamedTuple

from prometheus_client.samples import Exemplar


class SpanReference(NamedTuple):
    """A span of a call; the ids are in hexadecimal."""

    trace_id: str
    span_id: str
    ended: float
    """When the call ended, in seconds since the epoch."""

    def exemplar(self, value: float) -> Exemplar:
        """Return the exemplar of a value that was measured of the call."""
        return Exemplar({"trace_id": self.trace_id, "span_id": self.span_id}, value, self.ended)
