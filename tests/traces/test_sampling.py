"""Sampler: the head by trace and ratio, the tail by code and duration."""

from random import Random

import pytest

from criproxy.configtypes.values import Duration
from criproxy.traces.context import TraceParent
from criproxy.traces.sampling import Sampler
from criproxy.traces.spec import SamplingSpec
from criproxy.wire.grpc import StatusCode

TRACES = [Random(seed).randbytes(16) for seed in range(2000)]


def parent(trace_id: bytes, sampled: bool) -> TraceParent:
    return TraceParent(trace_id, b"\1" * 8, sampled)


@pytest.mark.parametrize(("ratio", "least", "most"), [(0, 0, 0), (0.25, 400, 600), (1, 2000, 2000)])
def test_the_ratio_is_of_traces(ratio: float, least: int, most: int) -> None:
    """About the configured part of traces is sampled; none at 0, all at 1."""
    sampler = Sampler(SamplingSpec(ratio=ratio))
    assert least <= sum(sampler.samples_trace(each, None) for each in TRACES) <= most


def test_the_bounds_of_the_ratio() -> None:
    """The trace of the largest random part is sampled first, that of the least last."""
    least, largest = bytes(16), b"\xff" * 16
    assert [Sampler(SamplingSpec(ratio=r)).samples_trace(largest, None) for r in (0, 1e-9)] == [
        False,
        True,
    ]
    assert [Sampler(SamplingSpec(ratio=r)).samples_trace(least, None) for r in (0.999, 1)] == [
        False,
        True,
    ]


def test_a_trace_is_sampled_as_a_whole() -> None:
    """The decision depends on the trace alone; a larger ratio samples what a smaller one does."""
    small, large = (Sampler(SamplingSpec(ratio=ratio)) for ratio in (0.1, 0.5))
    chosen = {each for each in TRACES if small.samples_trace(each, None)}
    assert chosen == {each for each in TRACES if small.samples_trace(each, None)}
    assert chosen < {each for each in TRACES if large.samples_trace(each, None)}


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("ratio", [0, 1])
def test_the_parent(sampled: bool, ratio: float) -> None:
    """The caller's decision is followed, or with ``ignore`` replaced by the ratio's."""
    of = parent(TRACES[0], sampled)
    follow, ignore = (
        Sampler(SamplingSpec(ratio=ratio, parent=which)) for which in ("follow", "ignore")
    )
    assert follow.samples_trace(of.trace_id, of) is sampled
    assert ignore.samples_trace(of.trace_id, of) is bool(ratio)


@pytest.mark.parametrize(
    ("spec", "code", "seconds", "streaming", "sampled"),
    [
        (SamplingSpec(), StatusCode.OK, 0.9, False, False),
        (SamplingSpec(), StatusCode.OK, 1.0, False, True),
        (SamplingSpec(), StatusCode.OK, 1.0, True, False),
        (SamplingSpec(), StatusCode.NOT_FOUND, 0.0, False, True),
        (SamplingSpec(), StatusCode.UNAVAILABLE, 0.0, True, True),
        (SamplingSpec(), None, 0.0, False, True),
        (SamplingSpec(errors=False), StatusCode.NOT_FOUND, 0.9, False, False),
        (SamplingSpec(errors=False), StatusCode.NOT_FOUND, 1.0, False, True),
        (SamplingSpec(slower_than=None), StatusCode.OK, 1e6, False, False),
        (SamplingSpec(slower_than=Duration(5)), StatusCode.OK, 4.9, False, False),
    ],
)
def test_the_tail(
    spec: SamplingSpec, code: StatusCode | None, seconds: float, streaming: bool, sampled: bool
) -> None:
    """Errors and slow calls are sampled as configured; a stream is never slow."""
    assert Sampler(spec).samples_end(code, seconds, streaming) is sampled
