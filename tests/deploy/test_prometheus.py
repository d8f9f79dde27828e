"""The Prometheus rules: what they name exists, and each alert fires in time and is explained."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from criproxy.client import CriClient
from criproxy.cri.methods import ENDLESS, METHODS, READS
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.wire.grpc import StatusCode
from docs.generate.metrics import exported
from tests.support.criproxy import Criproxy
from tests.support.prometheus import Prometheus
from tests.support.requirements import require
from tests.support.waiting import LIMIT_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/criproxy.rules.yaml"
FLEET_RULES = RULES.with_name("criproxy-fleet.rules.yaml")
ALERTS_PAGE = ROOT / "docs/how-to/alerts.md"


def _rules(file: Path) -> list[dict[str, Any]]:
    """The rules of a file."""
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


ENTRIES = _rules(RULES)
FLEET_ENTRIES = _rules(FLEET_RULES)
ALERTS = sorted({rule["alert"] for rule in ENTRIES if "alert" in rule})
FAILED = "instance_method:criproxy_failed_calls:rate5m"
RECORDED = [rule["record"] for rule in ENTRIES + FLEET_ENTRIES if "record" in rule]

ENDLESS_NAMES = {name.decode() for name in ENDLESS}

_DURATION = "criproxy_call_duration_seconds"
_SIZE = 'criproxy_response_bytes_{}{{instance="n",service="s",method="ListContainers"{}}}'


class Case(NamedTuple):
    """Series that make an alert fire, and similar ones that do not; a value a minute."""

    firing: dict[str, str]
    quiet: dict[str, str]


def _calls(code: str, failing: str) -> dict[str, str]:
    labels = '{instance="n",service="s",method="CreateContainer",code="%s"}'
    return {
        f"criproxy_calls_total{labels % 'OK'}": "0+90x420",
        f"criproxy_calls_total{labels % code}": failing,
    }


def _reads(fast: int, method: str = "ListContainers") -> dict[str, str]:
    labels = f'instance="n",service="s",method="{method}"'
    return {
        f'{_DURATION}_bucket{{{labels},le="1.0"}}': f"0+{fast}x420",
        f"{_DURATION}_count{{{labels}}}": "0+1000x420",
    }


def _responses(small: int) -> dict[str, str]:
    return {
        _SIZE.format("bucket", ',le="4.194304e+06"'): f"0+{small}x420",
        _SIZE.format("count", ""): "0+100x420",
    }


def _overhead(fast: int) -> dict[str, str]:
    return {
        'criproxy_overhead_seconds_bucket{instance="n",le="0.05"}': f"0+{fast}x420",
        'criproxy_overhead_seconds_bucket{instance="n",le="0.25"}': "0+1000x420",
        'criproxy_overhead_seconds_bucket{instance="n",le="+Inf"}': "0+1000x420",
    }


def _one(series: str, firing: str, quiet: str) -> Case:
    return Case({series: firing}, {series: quiet})


_AGE = 'criproxy_oldest_call_age_seconds{instance="n",service="s",method="%s"}'
_RISES_AT_THE_END = "0x410 0+1x10"

CASES: dict[str, Sequence[Case]] = {
    "CriproxyDown": [_one('up{instance="n",job="criproxy"}', "0x420", "1x420")],
    "CriproxyRuntimeDown": [_one('criproxy_runtime_up{instance="n"}', "0x420", "1x419 0")],
    "CriproxyCallHung": [
        Case({_AGE % "CreateContainer": "0+60x420"}, {_AGE % "PullImage": "0+60x25"}),
        Case({_AGE % "StreamContainers": "300x420"}, {_AGE % "GetContainerEvents": "0+60x420"}),
    ],
    "CriproxyLongCallHung": [
        Case({_AGE % "PullImage": "0+60x420"}, {_AGE % "StopContainer": "900x420"})
    ],
    "CriproxyCallsFail": [
        Case(_calls("UNAVAILABLE", "0+10x420"), _calls("NOT_FOUND", "0+10x420")),
        Case(_calls("UNKNOWN", "0+6x420"), _calls("UNKNOWN", "0+4x420")),
    ],
    "CriproxyReadsSlow": [
        Case(_reads(700), _reads(995)),
        Case(_reads(930, "StreamPodSandboxes"), _reads(700, "PullImage")),
    ],
    "CriproxyOverhead": [Case(_overhead(900), _overhead(999))],
    "CriproxyResponseNearLimit": [Case(_responses(99), _responses(100))],
    "CriproxyAuditRecordsDropped": [
        Case(
            {'criproxy_audit_dropped_total{instance="n",sink="file",reason="queue_full"}': each},
            {'criproxy_audit_dropped_total{instance="n",sink="file",reason="closing"}': each},
        )
        for each in ["0+1x420", _RISES_AT_THE_END, "_x415 1x5"]
    ],
    "CriproxyAuditWriteFails": [
        _one('criproxy_audit_errors_total{instance="n",sink="file"}', "0+1x420", "9x420")
    ],
    "CriproxyAuditCallsWait": [
        _one('criproxy_audit_waiting_calls{instance="n"}', "2x420", "0x419 2")
    ],
    "CriproxyReloadFailed": [
        _one('criproxy_config_reload_success{instance="n"}', "0x420", "1x420")
    ],
    "CriproxyWorkerRestarted": [
        _one(
            'criproxy_worker_restarts_total{instance="n",worker="full"}',
            _RISES_AT_THE_END,
            "5x420",
        )
    ],
    "CriproxyWorkerDown": [
        _one('criproxy_worker_up{instance="n",worker="full"}', "0x420", "1x419 0")
    ],
    "CriproxyBypassed": [
        _one('criproxy_listener_bypassed{instance="n",listener="l"}', "1x420", "0x415 1x5")
    ],
    "CriproxyDirectClients": [
        Case(
            {'criproxy_direct_connections{instance="n",runtime="r",process="log-agent"}': "1x420"},
            {'criproxy_direct_connections{instance="n",runtime="r",process="kubelet"}': "1x420"},
        ),
        _one(
            'criproxy_direct_connections{instance="n",runtime="r",process="crictl"}',
            "1x420",
            "_x415 1x5",
        ),
    ],
    "CriproxyConnectionUnread": [
        Case(
            {'criproxy_unread_connections_total{instance="n",reason="protocol_error"}': "0+1x420"},
            {'criproxy_unread_connections_total{instance="n",reason="http1"}': "0+1x420"},
        )
    ],
    "CriproxyRuleErrors": [
        _one(
            'criproxy_rule_errors_total{instance="n",rule="r",reason="cel"}', firing, "0x200 3x220"
        )
        for firing in [_RISES_AT_THE_END, "_x415 1x5"]  # one more, and the first
    ],
    "CriproxyLogLinesDropped": [
        _one('criproxy_log_lines_dropped_total{instance="n"}', _RISES_AT_THE_END, "7x420")
    ],
}


@pytest.fixture(scope="module", autouse=True)
def _prometheus() -> None:
    require([each for each in ("promtool", "prometheus") if shutil.which(each) is None])


def _promtool(*arguments: str | Path) -> str:
    """Run promtool, assert that it is content, and return what it prints."""
    result = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_rules_are_valid() -> None:
    _promtool("check", "rules", "--lint=all", "--lint-fatal", RULES, FLEET_RULES)


def test_each_alert_is_tried() -> None:
    assert sorted(CASES) == ALERTS


def _needed_by(alert: str) -> list[dict[str, Any]]:
    """Return the rules of an alert, behind those of the series that they are made of.

    Seven hours of all rules would take a second.
    """
    rules = [each for each in ENTRIES if each.get("alert") == alert]
    expressions = " ".join(each["expr"] for each in rules)
    recorded = [each for each in ENTRIES if "record" in each and each["record"] in expressions]
    return recorded + rules


@pytest.mark.parametrize(
    ("alert", "case"),
    [(alert, case) for alert, cases in CASES.items() for case in cases],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_alert(alert: str, case: Case, tmp_path: Path) -> None:
    """An alert fires after seven hours of the series that it is for, and not of similar ones."""
    fires = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0 or vector(0)'
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": key, "values": value} for key, value in series.items()],
            "promql_expr_test": [
                {
                    "expr": fires,
                    "eval_time": "7h",
                    "exp_samples": [{"labels": "{}", "value": int(series is case.firing)}],
                }
            ],
        }
        for series in case
    ]
    rules, file = tmp_path / "rules.yaml", tmp_path / "test.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "needed", "rules": _needed_by(alert)}]}))
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "tests": tests}))
    _promtool("test", "rules", file)


_FLEET_SERIES = {
    f'criproxy_{name}{{job="criproxy",instance="{node}",{labels}}}': values
    for node, slow in (("a", 0), ("b", 0), ("c", 60))
    for name, labels, values in (
        ("calls_total", 'service="s",method="Version",code="OK"', "0+60x60"),
        *[
            (f"call_duration_seconds_{series}", f'service="s",method="Version"{bound}', values)
            for series, bound, values in (
                ("bucket", ',le="0.1"', f"0+{60 - slow}x60"),
                ("bucket", ',le="1.0"', "0+60x60"),
                ("bucket", ',le="+Inf"', "0+60x60"),
                ("sum", "", "0+30x60"),
                ("count", "", "0+60x60"),
            )
        ],
        ("calls_in_flight", 'service="s",method="Version"', f"{slow}x60"),
        ("runtime_up", "", "1x60" if slow else "0x60"),
        ("build_info", 'version="1"', "1x60"),
    )
} | {'criproxy_calls_total{instance="a",service="s",method="Version",code="INTERNAL"}': "0+20x60"}
"""Three nodes, of which the first has errors and the last is slow."""

_OF_METHOD = 'service="s",method="Version"'
_FLEET_VALUES = {
    f'instance_method:criproxy_call_duration_seconds:p99_5m{{instance="a",{_OF_METHOD}}}': 0.099,
    f'instance_method:criproxy_call_duration_seconds:p99_5m{{instance="c",{_OF_METHOD}}}': 0.991,
    f'instance_method:criproxy_call_duration_seconds:mean5m{{instance="b",{_OF_METHOD}}}': 0.5,
    f'instance_method:criproxy_failed_calls:ratio_rate5m{{instance="a",{_OF_METHOD}}}': 0.25,
    f'instance_method:criproxy_failed_calls:ratio_rate5m{{instance="b",{_OF_METHOD}}}': 0.0,
    'instance:criproxy_calls:rate5m{instance="a"}': 80 / 60,
    'instance:criproxy_calls_in_flight:sum{instance="c"}': 60,
    f"method:criproxy_calls:rate5m{{{_OF_METHOD}}}": 200 / 60,
    f"method:criproxy_failed_calls:ratio_rate5m{{{_OF_METHOD}}}": 0.1,
    f"method:criproxy_slow_nodes:count{{{_OF_METHOD}}}": 1,
    'job:criproxy_runtime_up:avg{job="criproxy"}': 1 / 3,
    'version:criproxy_build_info:count{version="1"}': 3,
}


def test_fleet_rules(tmp_path: Path) -> None:
    """What is recorded of three nodes is what their series say, for each rule."""
    recorded = {each.partition("{")[0] for each in _FLEET_VALUES}
    assert recorded == {rule["record"] for rule in FLEET_ENTRIES}
    queries = [
        {
            "expr": f"round({name}, 1e-6)",
            "eval_time": "1h",
            "exp_samples": [{"labels": f"{{{labels}}}", "value": round(value, 6)}],
        }
        for series, value in _FLEET_VALUES.items()
        for name, labels in [(series, series.partition("{")[2].rstrip("}"))]
    ]
    series = [{"series": name, "values": values} for name, values in _FLEET_SERIES.items()]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": queries}
    file = tmp_path / "test.yaml"
    rule_files = [str(RULES), str(FLEET_RULES)]
    file.write_text(yaml.safe_dump({"rule_files": rule_files, "tests": [test]}))
    _promtool("test", "rules", file)


def test_names_exist() -> None:
    """Each metric and label that an expression names is one that criproxy exports."""
    families = exported()
    for rule in ENTRIES + FLEET_ENTRIES:
        for name, selected in re.findall(r"\b(criproxy_\w+)(?:\{([^}]*)\})?", rule["expr"]):
            if f":{name}:" in rule["expr"]:
                continue  # the name of a recorded series
            family = families[re.sub("_(bucket|count|sum)$", "", name)]
            labels = {label for sample in family.samples for label in sample.labels}
            assert set(re.findall(r"(\w+)[!=]~?=?\"", selected)) <= labels, (name, selected)
            bounds = {sample.labels.get("le") for sample in family.samples}
            assert set(re.findall(r'\ble="(.*?)"', selected)) <= bounds, (name, selected)
            for codes in re.findall(r'\bcode=~"(.*?)"', selected):
                assert set(codes.split("|")) <= {code.name for code in StatusCode}


def _methods(metric: str, alert: str = "") -> set[str]:
    """Return the methods that the expressions about a metric select, with those outside the CRI."""
    expressions = [rule["expr"] for rule in ENTRIES if rule.get("alert", "") == alert]
    ((sign, pattern),) = set(re.findall(metric + r'\{method([!=])~"(.*?)"', " ".join(expressions)))
    known = {method.name for method in METHODS.values()} | {"other"}
    return {name for name in known if bool(re.fullmatch(pattern, name)) == (sign == "=")}


def test_reads() -> None:
    """The objective is about each read of the CRI that ends, whichever the kubelet uses."""
    for series in ("bucket", "count"):
        assert _methods(f"{_DURATION}_{series}") == READS - ENDLESS_NAMES


def test_hung_calls() -> None:
    """A hung call of each method that ends is in one of two alerts."""
    short, long = (
        _methods("criproxy_oldest_call_age_seconds", alert)
        for alert in ("CriproxyCallHung", "CriproxyLongCallHung")
    )
    assert short | long == {method.name for method in METHODS.values()} - ENDLESS_NAMES
    assert not short & long


def test_each_alert_is_explained() -> None:
    """The page has a section for each alert, and an alert names its own."""
    sections = re.findall("^## (Criproxy.*)$", ALERTS_PAGE.read_text(), re.MULTILINE)
    assert sorted(sections) == ALERTS
    for rule in ENTRIES:
        if "alert" in rule:
            page = ALERTS_PAGE.relative_to(ROOT)
            assert rule["annotations"]["runbook"] == f"{page}#{rule['alert'].lower()}"


def test_shown_configuration(tmp_path: Path) -> None:
    """Prometheus takes the configuration that the page shows, with the rules beside it."""
    shown = re.search("^```yaml\n(.*?)^```$", ALERTS_PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown is not None
    file = tmp_path / "prometheus.yaml"
    file.write_text(shown[1])
    shutil.copy(RULES, tmp_path)
    assert f"{len(ENTRIES)} rules found" in _promtool("check", "config", file)


def test_recorded_series(short_dir: Path) -> None:
    """A real Prometheus that scrapes criproxy gets data for each recorded series."""
    with (
        EmbeddedRuntime(str(short_dir / "runtime.sock")) as runtime,
        Criproxy(short_dir, runtime.endpoint) as proxy,
    ):
        address = proxy.event("metrics")["address"]
        prometheus = Prometheus(short_dir, address, RULES, FLEET_RULES)
        with prometheus.process, CriClient(proxy.endpoint, timeout=LIMIT_SECONDS) as client:
            missing = set(RECORDED) - {FAILED}  # no call fails here

            def has_all() -> bool:
                client.Version()
                for name in tuple(missing):
                    if prometheus.has_data(name):
                        missing.discard(name)
                return not missing

            wait_until(
                has_all,
                "series",
                report=lambda: f"{missing} {prometheus.process.stderr[-2000:]}",
            )
