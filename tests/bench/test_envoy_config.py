"""Envoy's configuration with and without faults."""

from pathlib import Path
from typing import Any

from bench.envoy_config import abort, config, delay


def http_filters(*faults: dict[str, Any]) -> list[dict[str, Any]]:
    [listener] = config(Path("/l"), Path("/u"), faults)["static_resources"]["listeners"]
    [network_filter] = listener["filter_chains"][0]["filters"]
    return network_filter["typed_config"]["http_filters"]


def test_faults_stand_before_the_router() -> None:
    """A fault is a filter of its own between the statistics and the router; none is none."""
    assert [one["name"].rpartition(".")[2] for one in http_filters()] == ["grpc_stats", "router"]
    names = [one["name"].rpartition(".")[2] for one in http_filters(abort(14, 0), delay(0.001, 1))]
    assert names == ["grpc_stats", "fault", "fault", "router"]


def test_a_fault_is_as_envoy_writes_it() -> None:
    """A code, a duration and a percentage have the form of envoy.extensions.filters.http.fault."""
    _, first, second, _ = http_filters(abort(14, 0), delay(0.001, 100))
    assert first["typed_config"] == {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "abort": {"grpc_status": 14, "percentage": {"numerator": 0, "denominator": "HUNDRED"}},
    }
    assert second["typed_config"]["delay"] == {
        "fixed_delay": "0.001s",
        "percentage": {"numerator": 100, "denominator": "HUNDRED"},
    }
