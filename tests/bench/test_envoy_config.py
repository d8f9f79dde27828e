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


def test_a_log_is_a_file_of_json() -> None:
    """Envoy logs each call to the file that is named, as JSON, and nothing when none is."""
    for path in (None, Path("/log")):
        [listener] = config(Path("/l"), Path("/u"), (), path)["static_resources"]["listeners"]
        [chain] = listener["filter_chains"]
        manager = chain["filters"][0]["typed_config"]
        if path is None:
            assert "access_log" not in manager
        else:
            [log] = manager["access_log"]
            assert log["typed_config"]["path"] == "/log"
            assert "%REQ(:PATH)%" in log["typed_config"]["log_format"]["json_format"].values()


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
