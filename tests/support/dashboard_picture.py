"""Draws the panels of the Grafana dashboard: ``python -m tests.support.dashboard_picture FILE``.

A kubelet-like client calls through criproxy for SECONDS while Prometheus scrapes; then each query
of the panels is asked of that Prometheus, and Vega-Lite, with which ``criproxy report`` draws,
draws the answers as an SVG. Grafana itself is not needed.
"""

import contextlib
import json
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import grpc
import vl_convert

from criproxy.client import CriClient
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.embedded.kubelet import Kubelet
from tests.support.criproxy import Criproxy
from tests.support.direct_client import connected
from tests.support.prometheus import Prometheus

ROOT: Final = Path(__file__).resolve().parents[2]
DASHBOARD: Final = ROOT / "deploy/grafana/criproxy.json"
SECONDS: Final = 60
STEP: Final = 2
WINDOW: Final = "15s"
WIDTH: Final = 40
"""Pixels of a column of the dashboard's 24."""
RULES: Final = [
    {"name": "no-attach", "match": {"methods": ["Attach"]}, "deny": {"message": "no"}},
    {
        "name": "some-fail",
        "match": {"methods": ["PortForward"]},
        "fault": {"code": "UNAVAILABLE", "message": "injected", "percentage": 50},
    },
]


def main(target: Path) -> None:
    """Have calls made, and draw."""
    panels = [each for each in json.loads(DASHBOARD.read_text())["panels"] if "targets" in each]
    with tempfile.TemporaryDirectory(prefix="crp-", dir="/tmp") as name:
        directory = Path(name)
        sink = {"file": {"path": str(directory / "audit.jsonl")}}
        config = {
            "rules": RULES,
            "audit": {"policy": [{"level": "Metadata"}], "sinks": [sink]},
            "capture": {
                "directory": str(directory / "captures"),
                "triggers": [{"codes": ["UNAVAILABLE"]}],
            },
            "probe": {"direct_clients": "1s"},
        }
        with EmbeddedRuntime(f"unix://{directory}/cri.sock", latency="real", pods=5) as runtime:
            listeners = [
                {"endpoint": f"unix://{directory}/proxy.sock", "runtime": runtime.endpoint}
            ]
            with Criproxy(directory, config=config | {"listeners": listeners}) as proxy:
                prometheus = Prometheus(directory, proxy.event("metrics")["address"])
                with prometheus.process, connected(directory / "cri.sock"):
                    began = time.time()
                    _call(proxy.endpoint)
                    shown = [_panel(each, prometheus, began, time.time()) for each in panels]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(vl_convert.vegalite_to_svg(_page(panels, shown)))


def _call(endpoint: str) -> None:
    """Be a kubelet, and a client whose calls are denied, or fail."""
    ended = threading.Event()

    def ask() -> None:
        with CriClient(endpoint) as client:
            while not ended.wait(1):
                for method in ("Attach", "PortForward"):
                    with contextlib.suppress(grpc.RpcError):
                        client.call(method)

    denied = threading.Thread(target=ask)
    denied.start()
    try:
        with Kubelet(endpoint, on_call=lambda *_: None) as kubelet:
            kubelet.run(threading.Event(), seconds=SECONDS)
    finally:
        ended.set()
        denied.join()


def _panel(panel: dict[str, Any], prometheus: Prometheus, began: float, ended: float) -> Any:
    """Return what a panel shows: rows of time, series and value."""
    rows = []
    for target in panel["targets"]:
        expression = target["expr"].replace("$__rate_interval", WINDOW)
        expression = expression.replace("$job", ".*").replace("$instance", ".*")
        for series in prometheus.query_range(expression, began, ended, STEP):
            name = target["legendFormat"]
            for label, text in series["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", re.sub("unix://.*/", "", text))
            for moment, value in series["values"]:
                if value not in ("NaN", "+Inf"):
                    rows.append({"t": moment * 1000, "series": name, "value": float(value)})
    return rows


def _page(panels: list[dict[str, Any]], shown: list[Any]) -> dict[str, Any]:
    """Return a specification with the panels in the rows and widths of the dashboard."""
    lines: dict[int, list[Any]] = {}
    for panel, rows in zip(panels, shown, strict=True):
        lines.setdefault(panel["gridPos"]["y"], []).append(_view(panel, rows))
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "white",
        "vconcat": [
            {"hconcat": lines[y], "resolve": {"scale": {"color": "independent"}}}
            for y in sorted(lines)
        ],
        "config": {
            "axis": {"labelFontSize": 9, "titleFontSize": 9},
            "legend": {"labelFontSize": 9},
        },
    }


def _view(panel: dict[str, Any], rows: Any) -> dict[str, Any]:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    place = panel["gridPos"]
    title = {"text": panel["title"], "anchor": "start", "fontSize": 11}
    view: dict[str, Any] = {"title": title, "width": place["w"] * WIDTH - 250, "height": 110}
    if panel["type"] == "stat" or not rows:
        last = f"{rows[-1]['value']:.3g}" if rows else "no data"
        return view | {
            "width": place["w"] * WIDTH - 40,
            "height": 40 if panel["type"] == "stat" else 110,
            "data": {"values": [{"value": last}]},
            "mark": {"type": "text", "fontSize": 26 if rows else 14},
            "encoding": {"text": {"field": "value"}},
        }
    x = {"field": "t", "type": "temporal", "title": None, "axis": {"format": "%H:%M:%S"}}
    y = {"field": "value", "type": "quantitative", "title": unit}
    if panel["type"] == "heatmap":
        bounds = sorted({each["series"] for each in rows}, key=float)
        return view | {
            "data": {"values": rows},
            "mark": "rect",
            "encoding": {
                "x": x | {"type": "ordinal", "timeUnit": "hoursminutesseconds", "axis": None},
                "y": {"field": "series", "sort": bounds[::-1], "title": "le (s)"},
                "color": {"field": "value", "type": "quantitative", "title": "calls/s"},
            },
        }
    color = {"field": "series", "title": None, "legend": {"symbolLimit": 8, "labelLimit": 190}}
    return view | {
        "data": {"values": rows},
        "mark": {"type": "line", "strokeWidth": 1.5},
        "encoding": {"x": x, "y": y, "color": color},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
