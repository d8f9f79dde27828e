"""The Grafana dashboard: its layout, and that each query returns data."""

import contextlib
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from docs.generate.metrics import exported
from tests.support import wire
from tests.support.criproxy import Criproxy
from tests.support.direct_client import connected
from tests.support.prometheus import Prometheus
from tests.support.raw_sockets import dial, receive_all
from tests.support.requirements import require
from tests.support.waiting import LIMIT_SECONDS, wait_until

FILE = Path(__file__).parents[2] / "deploy/grafana/criproxy.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in GRAPHS for target in panel["targets"]]
VARIABLES = {each["name"]: each for each in DASHBOARD["templating"]["list"]}

METRIC = re.compile(r"\b(criproxy_\w+|process_\w+)")
OF_THE_PROCESS = {
    *("process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes"),
}
SELECTOR = 'job=~"$job",instance=~"$instance"'


def test_metrics_exist() -> None:
    """Each query names metrics that the daemon exports, and only of the selected nodes; each metric
    of the daemon is shown."""
    names = {name for query in QUERIES for name in METRIC.findall(query)}
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in names} - OF_THE_PROCESS
    assert shown == set(exported())
    for query in QUERIES:
        assert len(METRIC.findall(query)) == query.count(SELECTOR)


def test_layout() -> None:
    """No panels overlap or share an id; each has a title, a description, a unit and legends."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells = [
        (x, y)
        for panel in PANELS
        for place in [panel["gridPos"]]
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in GRAPHS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            by = re.search(r"by \(([\w, ]+)\)", target["expr"])
            labels = set(by[1].split(", ")) - {"le"} if by else set()
            used = set(re.findall(r"{{(\w+)}}", target["legendFormat"])) - {"le"}
            assert used <= labels


def test_variables() -> None:
    """Each variable that is used is defined, and the data source is one."""
    used = set(re.findall(r"\$(\w+)", json.dumps(PANELS))) | {"datasource"}
    assert used - {"__rate_interval"} == set(VARIABLES)
    for panel in GRAPHS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


RULES = [
    {"name": "denied", "match": {"methods": ["ListImages"]}, "deny": {"message": "no"}},
    {
        "name": "failing",
        "match": {"methods": ["ListPodSandbox"]},
        "fault": {"code": "UNAVAILABLE", "message": "injected"},
    },
    {
        "name": "broken",
        "match": {"methods": ["Version"], "where": "1 / size(request.version) == 1"},
        "delay": {"fixed": "1ms"},
    },
]
"""One that denies, one that fails calls, and one whose expression cannot be evaluated."""


@pytest.fixture
def proxy(short_dir: Path) -> Any:
    """A daemon on which everything that the dashboard shows can happen."""
    with EmbeddedRuntime(f"unix://{short_dir}/cri.sock", latency="none") as runtime:
        listeners = [
            {"endpoint": f"unix://{short_dir}/{name}.sock", "runtime": runtime.endpoint} | more
            for name, more in {"proxy": {}, "scoped": {"profile": "read-only"}}.items()
        ]
        sinks = [
            {"file": {"path": str(short_dir / "audit.jsonl")}},
            # Nobody listens there, so records are dropped.
            {"syslog": {"address": "tcp://127.0.0.1:1"}, "queue": {"records": 1}},
        ]
        config = {
            "listeners": listeners,
            "rules": RULES,
            "audit": {"policy": [{"level": "Metadata"}], "sinks": sinks},
            # Nor there, so spans are dropped.
            "traces": {
                "otlp": {"endpoint": "http://127.0.0.1:1/v1/traces"},
                "sampling": {"ratio": 1},
                "queue": {"spans": 1},
            },
            "capture": {"directory": str(short_dir / "captures")},
            "limits": {"frame_rate": 100},
            "probe": {"direct_clients": "1s"},
        }
        with Criproxy(short_dir, config=config) as proxy:
            yield proxy


def _send_oddly(directory: Path) -> None:
    """Have connections refused, not read, and ended because of their frames."""
    request = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n"
    for name, data in {
        "scoped": request,
        "proxy": request,
        "proxy.sock": wire.PREFACE + wire.settings() + wire.ping() * 2000,
    }.items():
        with dial(directory / f"{name.removesuffix('.sock')}.sock") as client:
            client.sendall(data)
            receive_all(client)


def test_each_query_returns_data(proxy: Criproxy, short_dir: Path) -> None:
    """A real Prometheus that scrapes a daemon has data for each query of the dashboard."""
    require(() if shutil.which("prometheus") else ("Debian's package prometheus",))
    _send_oddly(short_dir)
    prometheus = Prometheus(short_dir, proxy.event("metrics")["address"])
    missing = {
        query: query.replace("$job", ".*")
        .replace("$instance", ".*")
        .replace("$__rate_interval", "10s")
        for query in QUERIES
    }
    with (
        prometheus.process,
        connected(short_dir / "cri.sock"),
        CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client,
        CriClient(f"unix://{short_dir}/scoped.sock", timeout=LIMIT_SECONDS) as scoped,
    ):

        def has_all() -> bool:
            for each, method in (
                *((client, name) for name in ("Version", "ListImages", "ListPodSandbox")),
                *((client, "ListContainers"), (scoped, "PullImage")),
            ):
                with contextlib.suppress(grpc.RpcError):
                    each.call(method)
            for query, concrete in tuple(missing.items()):
                if prometheus.has_data(concrete):
                    del missing[query]
            return not missing

        wait_until(
            has_all,
            "data for each query",
            report=lambda: f"{list(missing)} {prometheus.process.stderr[-2000:]}",
        )
