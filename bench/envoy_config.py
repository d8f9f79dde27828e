"""Envoy's configuration: one listener, one cluster; a fault filter and a log where wanted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

_EXTENSIONS: Final = "type.googleapis.com/envoy.extensions"
_FILTERS: Final = f"{_EXTENSIONS}.filters"
LOG: Final = "access.log"
_PROTOCOL: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def abort(code: int, percentage: int) -> dict[str, Any]:
    """Return a fault that ends so many calls in a hundred with a gRPC status code."""
    return {"abort": {"grpc_status": code, "percentage": _percent(percentage)}}


def delay(seconds: float, percentage: int) -> dict[str, Any]:
    """Return a fault that makes so many calls in a hundred wait before they go on."""
    return {"delay": {"fixed_delay": f"{seconds:g}s", "percentage": _percent(percentage)}}


def config(
    listen: Path, upstream: Path, faults: Sequence[Mapping[str, object]], log: Path | None = None
) -> dict[str, Any]:
    """Return the whole configuration, as for a file of JSON; ``log`` gets a line for each call."""
    return {
        "static_resources": {
            "listeners": [_listener(listen, faults, log)],
            "clusters": [_cluster(upstream)],
        }
    }


def _percent(percentage: int) -> dict[str, Any]:
    return {"numerator": percentage, "denominator": "HUNDRED"}


def _listener(
    listen: Path, faults: Sequence[Mapping[str, object]], log: Path | None
) -> dict[str, Any]:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "runtime", "timeout": "0s"}}
    manager: dict[str, Any] = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "cri",
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "http_filters": _http_filters(faults),
        "route_config": {"virtual_hosts": [{"name": "cri", "domains": ["*"], "routes": [route]}]},
    }
    if log:
        manager["access_log"] = [_access_log(log)]
    network_filter = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }
    return {
        "name": "cri",
        "address": {"pipe": {"path": str(listen)}},
        "filter_chains": [{"filters": [network_filter]}],
    }


def _access_log(path: Path) -> dict[str, Any]:
    """Return an access log that has no message and no process of a call."""
    line = {
        "start": "%START_TIME(%Y-%m-%dT%H:%M:%S.%9fZ)%",
        "path": "%REQ(:PATH)%",
        "authority": "%REQ(:AUTHORITY)%",
        "user_agent": "%REQ(USER-AGENT)%",
        "http_status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "connection": "%CONNECTION_ID%",
        "upstream": "%UPSTREAM_HOST%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": line},
        },
    }


def _http_filters(faults: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
    grpc_stats = _http_filter(
        "grpc_stats", "FilterConfig", stats_for_all_methods=True, emit_filter_state=False
    )
    injecting = [_http_filter("fault", "HTTPFault", **fault) for fault in faults]
    return [grpc_stats, *injecting, _http_filter("router", "Router", suppress_envoy_headers=True)]


def _http_filter(name: str, message: str, **fields: object) -> dict[str, Any]:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_FILTERS}.http.{name}.v3.{message}", **fields},
    }


def _cluster(upstream: Path) -> dict[str, Any]:
    http2 = {
        "@type": f"type.googleapis.com/{_PROTOCOL}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(upstream)}}}}
    return {
        "name": "runtime",
        "type": "STATIC",
        "typed_extension_protocol_options": {_PROTOCOL: http2},
        "load_assignment": {
            "cluster_name": "runtime",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }
