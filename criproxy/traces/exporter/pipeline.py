"""The export by one configuration: from the workers' calls to spans that are sent."""

from collections.abc import Callable
from functools import partial
from platform import node as host_name
from random import Random

from criproxy.errors import UnavailableError
from criproxy.traces.channel import TracedCall
from criproxy.traces.counts import TraceCounts
from criproxy.traces.spec import TracesSpec

try:
    from criproxy.traces.exporter.pod_start_tracker import PodStartTracker
    from criproxy.traces.exporter.span_exporter import SpanExporter
    from criproxy.traces.exporter.spans import call_span
except ImportError as error:
    raise UnavailableError(
        "traces need the package opentelemetry-proto: pip install 'criproxy[otlp]'"
    ) from error


class Pipeline:
    """Makes spans of calls and sends them. Used by one thread, except ``close``."""

    def __init__(self, spec: TracesSpec, log_error: Callable[[str], None]) -> None:
        """``log_error`` is called from any thread. Raises UsageError for a bad endpoint."""
        self.spec = spec
        self.channels = 0
        """The open channels of workers that have this configuration."""
        self.closed = False
        """Whether nothing waits any more, and the counters do not change."""
        self._log_error = log_error
        self._counts = TraceCounts()
        self._failures = TraceCounts()
        self._exporter = SpanExporter(spec, spec.node or host_name(), self._counts, log_error)
        self._pod_starts: PodStartTracker | None = None
        if spec.pod_starts is not None:
            slower_than = spec.sampling.slower_than
            self._pod_starts = PodStartTracker(
                float(spec.pod_starts.settle),
                None if slower_than is None else float(slower_than),
                partial(Random().randbytes, 8),  # noqa: S311 - ids have to differ, not to be secret
            )

    def add(self, call: TracedCall, now: float) -> None:
        """Take a call; ``now`` is in seconds of any clock that does not go back."""
        try:
            if self._pod_starts is None:
                spans = [call_span(call)]
            else:
                spans = self._pod_starts.add(call, now)
        except Exception as error:  # a bug must not end the traces
            self._failed(error)
        else:
            self._exporter.put(spans)

    def sweep(self, now: float) -> None:
        """Send the spans of pods that have started; to be called about every second."""
        if self._pod_starts is not None and (spans := self._pod_starts.sweep(now)):
            self._exporter.put(spans)

    def finish(self) -> None:
        """Send the spans of all pods, as far as they have started: no further call comes."""
        if self._pod_starts is not None:
            self._exporter.put(self._pod_starts.finish())

    def close(self, within: float) -> None:
        """Send what waits for at most ``within`` seconds; count the rest as dropped."""
        self._exporter.close(within)
        self.closed = True

    def add_counts(self, total: TraceCounts) -> None:
        """Add the counters to ``total``."""
        total.add(self._counts)
        total.add(self._failures)

    def _failed(self, error: Exception) -> None:
        if not self._failures.dropped["failed"]:
            self._log_error(
                "a call could not be made into a span, and is counted as dropped; "
                f"this is a fault of criproxy's: {error!r}"
            )
        self._failures.dropped["failed"] += 1
