"""Metrics of several workers, merged into those of one daemon."""

import pytest
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


def test_descriptors_of_the_fullest_process() -> None:
    """Open descriptors and their limit are those of one process: the nearest to its limit."""

    def process(open_: float, most: float) -> Snapshot:
        registry = CollectorRegistry()
        Gauge("process_open_fds", "Open.", registry=registry).set(open_)
        Gauge("process_max_fds", "Limit.", registry=registry).set(most)
        return snapshot(registry)

    merged = samples([process(90, 1024), process(60, 80), of_worker(1, 1, 0.5), process(9, 1024)])
    assert merged["process_open_fds", ""] == 60
    assert merged["process_max_fds", ""] == 80


@pytest.mark.parametrize(
    ("name", "merged"),
    [
        ("process_start_time_seconds", 10.0),
        ("criproxy_runtime_up", 10.0),
        ("criproxy_oldest_call_age_seconds", 20.0),
        ("criproxy_held_bytes", 30.0),
    ],
)
def test_gauges_that_are_not_amounts(name: str, merged: float) -> None:
    """Start times and states are merged by minimum, ages by maximum, amounts by addition."""
    families = merge([[[name, "", "gauge", [[name, {}, value]]]] for value in (20.0, 10.0)])
    assert [sample.value for sample in families[0].samples] == [merged]


def test_infos_are_not_added_up() -> None:
    """The value of an info stays 1, and the order of labels does not matter."""
    sample = "build_info"
    families = merge(
        [
            [["build", "", "info", [[sample, {"version": "1", "python": "3"}, 1.0]]]],
            [["build", "", "info", [[sample, {"python": "3", "version": "1"}, 1.0]]]],
        ]
    )
    assert [each.value for each in families[0].samples] == [1.0]


def of_call(duration: float, ended: float, trace: str) -> Snapshot:
    registry = CollectorRegistry()
    seconds = Histogram("seconds", "Seconds.", registry=registry, buckets=(1, 10))
    seconds.observe(duration, {"trace_id": trace})
    found = snapshot(registry)
    for family in found:
        for sample in family[3]:
            if sample[3:]:
                sample[3][2] = ended
    return found


@pytest.mark.parametrize("order", [1, -1])
def test_the_latest_exemplar_is_kept(order: int) -> None:
    """Of the exemplars of a bucket the latest is kept, also of a worker that is gone; a bucket
    without one has none."""
    workers = [of_call(0.5, 10.5, "old"), of_call(0.25, 20.5, "new")][::order]
    for snapshots in (workers, [retire([], workers[0]), workers[1]]):
        (family,) = merge(snapshots)
        exemplars = {each.labels.get("le"): each.exemplar for each in family.samples}
        assert exemplars["1.0"] == ({"trace_id": "new"}, 0.25, 20.5)
        assert exemplars["10.0"] is None
