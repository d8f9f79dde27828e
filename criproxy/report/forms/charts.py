"""The charts of a report: Vega-Lite specifications by the key of their section. Pure.

They have no text of others but as data, which Vega draws as text and never as markup.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from criproxy.common.printable import printable
from criproxy.report.figures import Comparison, MessageSize, Report
from criproxy.timeline.pod_start import (
    AFTER_START,
    CREATE,
    KUBELET,
    PULL,
    RETRY,
    SANDBOX,
    START,
)

Spec = dict[str, Any]

_SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v6.json"
_ROW: Final = 22
"""Height of a row, in pixels."""

_PHASES: Final = {
    SANDBOX: "#4c78a8",
    PULL: "#e45756",
    CREATE: "#72b7b2",
    START: "#54a24b",
    RETRY: "#b279a2",
    AFTER_START: "#eeca3b",
    KUBELET: "#9d9da3",
}
_VERDICTS: Final = {"slower": "#e45756", "faster": "#54a24b", "same": "#9d9da3"}
_LONGEST_NAME: Final = 60
_MOST_METHODS: Final = 40


def charts_of(report: Report) -> dict[str, Spec]:
    """Return the charts of a report; a section without data has none."""
    charts = {
        "methods": _heat_map(report),
        "in_flight": _in_flight(report),
    }
    if report.pod_starts.slowest:
        charts["pod_starts"] = _waterfall(report.pod_starts.slowest)
    if report.polling:
        charts["polling"] = _polling(report)
    if report.sizes:
        charts["sizes"] = _sizes(report.sizes)
    if report.comparison is not None and any(each.low for each in report.comparison.changes):
        charts["comparison"] = _comparison(report.comparison)
    return charts


def _chart(values: Sequence[Spec], **more: Any) -> Spec:
    return {
        "$schema": _SCHEMA,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"values": values},
    } | more


def _field(name: str, kind: str, title: str | None = None, **more: Any) -> Spec:
    return {"field": name, "type": kind, "title": title} | more


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _times(began: str, seconds: float) -> Spec:
    start = _milliseconds(began)
    return {"from": start, "to": start + round(seconds * 1000)}


_TIME: Final = {
    "x": _field(
        "from",
        "temporal",
        "time (UTC)",
        scale={"type": "utc"},
        axis={
            "grid": False,
            # By the largest unit that a tick is a multiple of.
            "format": {
                "year": "%Y-%m-%d",
                "month": "%Y-%m-%d",
                "date": "%m-%d",
                "hours": "%H:%M",
                "minutes": "%H:%M",
                "seconds": "%H:%M:%S",
                "milliseconds": "%H:%M:%S.%L",
            },
        },
    ),
    "x2": {"field": "to"},
}
_FROM: Final = _field("from", "temporal", "from", format="%Y-%m-%d %H:%M:%S", scale={"type": "utc"})


def _heat_map(report: Report) -> Spec:
    order = [each.method for each in report.methods if not each.endless][:_MOST_METHODS]
    shown = set(order)
    values = [
        _times(each.began, report.slice_s)
        | {"method": each.method, "calls": each.calls}
        | {"p50": each.p50_s, "p95": max(each.p95_s, 1e-6), "longest": each.longest_s}
        for each in report.heat_map
        if each.method in shown
    ]
    return _chart(
        values,
        height={"step": _ROW},
        mark={"type": "rect", "tooltip": True},
        encoding=_TIME
        | {
            "y": _field("method", "nominal", sort=order),
            "color": _field(
                "p95",
                "quantitative",
                "p95 (s)",
                scale={"type": "log", "scheme": "yelloworangered"},
                legend={"format": ".2~s"},
            ),
            "tooltip": [
                _field("method", "nominal", "method"),
                _FROM,
                _field("calls", "quantitative", "calls", format=","),
                *(
                    _field(name, "quantitative", f"{name} (s)", format=".3~s")
                    for name in ("p50", "p95", "longest")
                ),
            ],
        },
    )


def _in_flight(report: Report) -> Spec:
    values = [_times(each.began, report.slice_s) | {"most": each.most} for each in report.in_flight]
    return _chart(
        values,
        height=140,
        mark={"type": "rect", "tooltip": True},
        encoding=_TIME
        | {
            "y": _field("most", "quantitative", "most at once"),
            "y2": {"datum": 0},
            "color": {"value": "#4c78a8"},
            "tooltip": [_FROM, _field("most", "quantitative", "most at once")],
        },
    )


def _waterfall(starts: Sequence[Spec]) -> Spec:
    values, order = [], []
    for number, start in enumerate(starts, 1):
        name = _short(f"{number}. {start['namespace']}/{start['pod']}")
        order.append(name)
        began = datetime.fromisoformat(start["began"])
        for phase in start["phases"]:
            at = (datetime.fromisoformat(phase["began"]) - began).total_seconds()
            values.append(
                {"pod": name, "from": at, "to": at + phase["seconds"], "kind": phase["kind"]}
                | {"subject": printable(phase["subject"]), "seconds": phase["seconds"]}
                | {"code": phase.get("code") or "", "cause": printable(start["cause"]["text"])}
            )
    return _chart(
        values,
        height={"step": _ROW},
        mark={"type": "bar", "tooltip": True},
        encoding={
            "x": _field("from", "quantitative", "seconds from RunPodSandbox"),
            "x2": {"field": "to"},
            "y": _field("pod", "nominal", sort=order),
            "color": _field(
                "kind",
                "nominal",
                "phase",
                scale={"domain": list(_PHASES), "range": list(_PHASES.values())},
            ),
            "tooltip": [
                *(_field(name, "nominal", name) for name in ("pod", "kind", "subject")),
                _field("seconds", "quantitative", "seconds", format=".3f"),
                _field("code", "nominal", "code"),
                _field("cause", "nominal", "cause of the start's length"),
            ],
        },
    )


def _polling(report: Report) -> Spec:
    values = [
        {"method": each.method, "caller": _short(each.executable) or "-"}
        | {"rate": each.per_second, "busy": each.busy, "calls": each.calls}
        for each in report.polling
    ]
    return _chart(
        values,
        height={"step": _ROW},
        mark={"type": "bar", "tooltip": True},
        encoding={
            "x": _field("rate", "quantitative", "calls per second"),
            "y": _field("method", "nominal", sort="-x"),
            "color": _field("caller", "nominal", "caller"),
            "tooltip": [
                _field("method", "nominal", "method"),
                _field("caller", "nominal", "caller"),
                _field("calls", "quantitative", "calls", format=","),
                _field("rate", "quantitative", "calls per second", format=".3~g"),
                _field("busy", "quantitative", "in flight on average", format=".3~g"),
            ],
        },
    )


def _sizes(sizes: Sequence[MessageSize]) -> Spec:
    values = [
        {"method": each.method, "direction": each.direction, "share": each.share}
        | {"largest": each.largest_bytes}
        for each in sizes[:_MOST_METHODS]
    ]
    return _chart(
        values,
        height={"step": _ROW},
        mark={"type": "bar", "tooltip": True},
        encoding={
            "x": _field(
                "share",
                "quantitative",
                "largest message, of 16 MiB",
                axis={"format": "~%"},
            ),
            "y": _field("method", "nominal", sort="-x"),
            "yOffset": {"field": "direction"},
            "color": _field("direction", "nominal", "direction"),
            "tooltip": [
                _field("method", "nominal", "method"),
                _field("direction", "nominal", "direction"),
                _field("largest", "quantitative", "bytes", format=","),
                _field("share", "quantitative", "of the limit", format=".2~%"),
            ],
        },
    )


def _comparison(comparison: Comparison) -> Spec:
    values = [
        {"what": f"{each.method} {each.quantile}", "low": each.low, "high": each.high}
        | {"ratio": each.ratio, "verdict": each.verdict}
        for each in comparison.changes
        if each.low is not None
    ]
    y = _field("what", "nominal", sort=[each["what"] for each in values])
    colour = _field(
        "verdict",
        "nominal",
        "verdict",
        scale={"domain": list(_VERDICTS), "range": list(_VERDICTS.values())},
    )
    scale = {"type": "log", "nice": False, "padding": 20}
    tooltip = [
        _field("what", "nominal", "method"),
        *(_field(name, "quantitative", name, format=".3f") for name in ("ratio", "low", "high")),
    ]
    interval: Spec = {
        "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.5},
        "encoding": {
            "x": _field("low", "quantitative", "after / before", scale=scale),
            "x2": {"field": "high"},
            "y": y,
            "color": colour,
            "tooltip": tooltip,
        },
    }
    point: Spec = {
        "mark": {"type": "point", "filled": True, "size": 60},
        "encoding": {
            "x": _field("ratio", "quantitative", "after / before", scale=scale),
            "y": y,
            "color": colour,
            "tooltip": tooltip,
        },
    }
    unchanged: Spec = {
        "mark": {"type": "rule", "strokeDash": [4, 4]},
        "encoding": {"x": {"datum": 1, "type": "quantitative", "scale": scale}},
    }
    return _chart(values, height={"step": _ROW}, layer=[unchanged, interval, point])


def _short(name: str) -> str:
    text = printable(name)
    return text if len(text) <= _LONGEST_NAME else f"\N{HORIZONTAL ELLIPSIS}{text[-_LONGEST_NAME:]}"
