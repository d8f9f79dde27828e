"""Metrics of several workers, merged into those of one daemon."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from criproxy.observe.metrics_merge import MergedCollector, Snapshot, merge, retire, snapshot


def of_worker(calls: int, connections: int, duration: float) -> Snapshot:
    registry = CollectorRegistry()
    Counter("calls_total", "Calls.", ("method",), registry=registry).labels("Version").inc(calls)
    Gauge("connections", "Clients.", registry=registry).set(connections)
    Histogram("seconds", "Seconds.", registry=registry, buckets=(1, 10)).observe(duration)
    return snapshot(registry)


def samples(snapshots: list[Snapshot]) -> dict[tuple[str, str], float]:
    registry = CollectorRegistry()
    registry.register(MergedCollector(lambda: snapshots))
    text = generate_latest(registry).decode()
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_samples_are_added_up() -> None:
    """Counters, gauges and buckets of all workers are added up by their labels."""
    merged = samples([of_worker(3, 2, 0.5), of_worker(4, 5, 5.0)])
    assert merged["calls_total", ""] == 7
    assert merged["connections", ""] == 7
    assert merged["seconds_bucket", "1.0"] == 1
    assert merged["seconds_bucket", "+Inf"] == 2
    assert merged["seconds_sum", ""] == 5.5


def test_no_counter_goes_down_when_a_worker_is_replaced() -> None:
    """What a worker counted stays in the sum after its end; its gauges do not."""
    gone: Snapshot = []
    gone = retire(gone, of_worker(3, 2, 0.5))
    gone = retire(gone, of_worker(4, 2, 0.5))
    merged = samples([gone, of_worker(1, 1, 5.0)])
    assert merged["calls_total", ""] == 8
    assert merged["connections", ""] == 1
    assert merged["seconds_count", ""] == 3


def test_gauges_that_are_no_amounts() -> None:
    """The start time of the daemon is that of its oldest process."""
    started = "process_start_time_seconds"
    families = merge(
        [
            [[started, "", "gauge", [[started, {}, 20.0]]]],
            [[started, "", "gauge", [[started, {}, 10.0]]]],
        ]
    )
    assert families[0].samples[0].value == 10.0
