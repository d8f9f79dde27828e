"""The figures of a report, which are also its JSON form. Pure.

Times are RFC 3339 in UTC, durations and times in seconds, sizes in bytes. Fields are added and do
not change their meaning; ``version`` is that of the form.
"""

from typing import Any, Final

import msgspec

VERSION: Final = 1


class Source(msgspec.Struct):
    """What was read."""

    files: list[str]
    log: str
    """``call log``, ``audit log`` or ``recording``."""
    calls: int
    skipped: int
    """Lines that are no JSON objects."""
    began: str
    """When the first call began."""
    ended: str
    """When the last call ended."""
    seconds: float
    nodes: list[str]
    """The first nodes that audit records name; the others name none."""


class Method(msgspec.Struct):
    """The calls of a method; ``other`` are all methods outside the CRI.

    Quantiles are those of calls that have ended, by nearest rank: a duration that occurred.
    """

    method: str
    calls: int
    errors: int
    unended: int
    """Calls whose end is not in the log."""
    per_second: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    longest_s: float
    total_s: float
    endless: bool
    """Whether its calls last until a side ends them: their durations are no latencies."""


class HeatCell(msgspec.Struct):
    """The calls of a method that began in a time slice and have ended."""

    method: str
    began: str
    calls: int
    p50_s: float
    p95_s: float
    longest_s: float


class InFlight(msgspec.Struct):
    """The most calls that were in flight at once in a time slice, without endless ones."""

    began: str
    most: int


class SlowCall(msgspec.Struct):
    """A single call."""

    began: str
    method: str
    code: str
    """Empty: its end is not in the log."""
    duration_s: float
    executable: str
    node: str
    namespace: str
    pod: str
    container: str
    image: str
    held_s: float
    """Seconds for which rules had it wait."""
    rules: list[str]


class Failure(msgspec.Struct):
    """Calls of a method that ended with the same code and message, apart from ids in it."""

    method: str
    code: str
    message: str
    calls: int
    first: str
    last: str
    example: str
    """A pod (namespace/name) that a call was about, or empty."""


class MessageSize(msgspec.Struct):
    """The messages of a method in one direction, and how near they come to the limit."""

    method: str
    direction: str
    """``request`` or ``response``."""
    calls: int
    mean_bytes: float
    """Of a call's messages together."""
    largest_bytes: int
    """Of the calls with one message in that direction; of others, the mean of a call's messages."""
    limit_bytes: int
    share: float
    """``largest_bytes`` / ``limit_bytes``."""
    streamed: bool
    """Whether calls had several messages, whose single sizes no log has."""


class Caller(msgspec.Struct):
    """The calls of an executable."""

    executable: str
    calls: int
    errors: int
    mutating: int
    per_second: float
    total_s: float
    methods: list[str]
    """Those that it called the most, at most five."""


class Polling(msgspec.Struct):
    """The calls of a reading method by one executable."""

    method: str
    executable: str
    calls: int
    share: float
    """Of all calls."""
    per_second: float
    busy: float
    """Of these calls, how many were in flight on average: the load on the runtime."""
    response_bytes_per_second: float | None
    """Null: the log does not have sizes."""


class PodStarts(msgspec.Struct):
    """Starts of pods."""

    starts: int
    states: dict[str, int]
    causes: dict[str, int]
    """Starts by the kind of their cause."""
    unnamed: int
    """Calls that do not name their pod, and belong to no start therefore."""
    dropped: int
    """Calls of pods with too many."""
    slowest: list[dict[str, Any]]
    """The slowest, as ``criproxy pods -o json`` has them."""


class Change(msgspec.Struct):
    """How the latency of a method changed: after / before, of calls that ended with OK."""

    method: str
    quantile: str
    """``p50`` or ``p95``."""
    before_calls: int
    after_calls: int
    before_s: float
    after_s: float
    ratio: float
    low: float | None
    """The interval of the ratio; null: too few calls to tell."""
    high: float | None
    verdict: str
    """``slower``, ``faster``, ``same`` (no change that can be told apart) or ``too few calls``."""


class ErrorRate(msgspec.Struct):
    """The share of a method's calls that failed, before and after; null: no calls."""

    method: str
    before: float | None
    after: float | None


class Comparison(msgspec.Struct):
    """The comparison with an earlier log."""

    before: Source
    confidence: float
    least_change: float
    """Changes of a smaller share count as none."""
    changes: list[Change]
    error_rates: list[ErrorRate]
    """Of the methods whose share of failed calls changed."""


class Report(msgspec.Struct, omit_defaults=True):
    """The report of a log."""

    version: int
    criproxy: str
    source: Source
    notes: list[str]
    """What the log does not tell, and how it would."""
    methods: list[Method]
    slice_s: float
    """Seconds of a time slice."""
    heat_map: list[HeatCell]
    in_flight: list[InFlight]
    slowest: list[SlowCall]
    errors: list[Failure]
    sizes: list[MessageSize]
    callers: list[Caller]
    polling: list[Polling]
    pod_starts: PodStarts
    comparison: Comparison | None = None


class ApiVersion(msgspec.Struct):
    """The calls of an executable in a version of the API; empty: outside the CRI."""

    api_version: str
    executable: str
    calls: int
    first: str
    last: str


class Unimplemented(msgspec.Struct):
    """A method that was answered UNIMPLEMENTED."""

    service: str
    method: str
    executable: str
    calls: int
    answered: int
    """Calls of the same method that were not answered UNIMPLEMENTED."""
    first: str
    last: str
    consequence: str
    """What clients do without it; empty: not known."""


class OtherMethod(msgspec.Struct):
    """A method outside the versions of the CRI that this criproxy knows."""

    service: str
    method: str
    executable: str
    calls: int
    errors: int
    last: str


class Feature(msgspec.Struct):
    """An optional streaming method of the CRI, and whether it is in use."""

    method: str
    state: str
    """``in use``, ``given up``, ``not implemented``, ``failing`` or ``not seen``. A stream that
    is open has no line in the call log yet."""
    calls: int
    broken: int
    """Calls that ended with another code than OK, CANCELLED and UNIMPLEMENTED."""
    longest_s: float
    last: str
    instead: dict[str, int]
    """Calls of the methods that clients use instead."""


class Unreadable(msgspec.Struct):
    """Messages that the audit log could not include."""

    method: str
    direction: str
    reason: str
    calls: int


class Deprecated(msgspec.Struct):
    """A field that the CRI deprecates, set in messages of the audit log."""

    method: str
    field: str
    calls: int


class Compatibility(msgspec.Struct):
    """The compatibility report of a log."""

    version: int
    criproxy: str
    source: Source
    notes: list[str]
    api_versions: list[ApiVersion]
    unimplemented: list[Unimplemented]
    other_methods: list[OtherMethod]
    features: list[Feature]
    unreadable: list[Unreadable]
    deprecated: list[Deprecated] | None
    """Null: the log has no requests that may have some."""
    sizes: list[MessageSize]
    unknown_fields: str
    """What can be told about fields that the runtime or a client does not know."""
