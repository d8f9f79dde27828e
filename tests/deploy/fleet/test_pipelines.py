"""The configurations of the Collector and Fluent Bit: their keys, and what they pass on."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from criproxy.audit.spec import AuditSpec, SinkSpec, StdoutSpec
from docs.generate.pages import blocks
from tests.deploy.fleet.lines import call_log, longest
from tests.deploy.fleet.pipelines import (
    FLUENT_BIT,
    GATEWAY,
    NODE,
    Record,
    config,
    filelog,
    tail,
)

KNOWN = yaml.safe_load(Path(__file__).with_name("known_keys.yaml").read_text())
ENVIRONMENT = {
    "NODE_NAME": "node-1",
    "FLEET_GATEWAY": "gateway.example.com",
    "CLICKHOUSE_ENDPOINT": "tcp://clickhouse.example.com:9000",
    "CLICKHOUSE_PASSWORD": "secret",
}
SECTIONS = ("receivers", "processors", "exporters")


def unknown(shown: Any, known: Any, path: str = "") -> Iterator[str]:
    """The paths of keys that are not known."""
    match known:
        case "any":
            assert isinstance(shown, Mapping), path
        case "list":
            assert isinstance(shown, list), path
        case "operators":
            for each in shown:
                options = {key: value for key, value in each.items() if key != "type"}
                yield from unknown(
                    options, KNOWN["operators"][each["type"]], f"{path}.{each['type']}"
                )
        case True:
            assert not isinstance(shown, Mapping | list), path
        case _:
            for key, value in shown.items():
                if key not in known:
                    yield f"{path}.{key}"
                else:
                    yield from unknown(value, known[key], f"{path}.{key}")


def test_unknown_keys_are_found() -> None:
    """A misspelt key is found wherever it is."""
    shown = {"filelog": {"inclde": [], "operators": [{"type": "remove", "feld": "a"}]}}
    found = list(unknown(shown, KNOWN["collector"]["receivers"]))
    assert found == [".filelog.inclde", ".filelog.operators.remove.feld"]


@pytest.mark.parametrize("file", [NODE, GATEWAY], ids=["node", "gateway"])
def test_collector(file: Path) -> None:
    """Each key is the component's, and a pipeline has what is configured, and no more."""
    shown = config(file, ENVIRONMENT)
    service = shown.pop("service")
    assert list(unknown(shown, KNOWN["collector"])) == []
    assert service["extensions"] == [*shown["extensions"]]
    (pipeline,) = service["pipelines"].values()
    assert list(service["pipelines"]) == ["logs"]
    for section in SECTIONS:
        assert pipeline[section] == [*shown[section]]
    for exporter in shown["exporters"].values():
        queue = exporter["sending_queue"]
        assert queue["storage"] in shown["extensions"]
        assert queue["batch"]["min_size"] <= queue["batch"]["max_size"] <= queue["queue_size"]


def test_fluent_bit() -> None:
    """Each key is the plugin's."""
    shown = config(FLUENT_BIT, ENVIRONMENT)
    known = KNOWN["fluent_bit"]
    assert list(unknown(shown["service"], known["service"])) == []
    pipeline = shown["pipeline"]
    for section in ("inputs", "filters", "outputs"):
        for plugin in pipeline[section]:
            name = plugin.pop("name")
            assert list(unknown(plugin, known[section][name])) == []
            for processor in plugin.get("processors", {}).get("logs", []):
                options = {key: value for key, value in processor.items() if key != "name"}
                assert list(unknown(options, known["processors"][processor["name"]])) == []


def test_they_meet() -> None:
    """What one sends to, the other listens on; criproxy's own sink, too."""
    node, gateway = config(NODE, ENVIRONMENT), config(GATEWAY, ENVIRONMENT)
    (output,) = config(FLUENT_BIT, ENVIRONMENT)["pipeline"]["outputs"]
    protocols = gateway["receivers"]["otlp"]["protocols"]
    assert protocols["http"]["endpoint"].endswith(f":{output['port']}")
    log, audit = (
        yaml.safe_load(each.text) for each in blocks("yaml") if each.page == "docs/how-to/fleet.md"
    )
    (tailed,) = config(FLUENT_BIT, ENVIRONMENT)["pipeline"]["inputs"]
    read = node["receivers"]["filelog"]
    assert tailed["path"] == log["log"]["file"]
    for rotated, wanted in (("", True), (".1", True), (".2.gz", False)):
        name = log["log"]["file"] + rotated
        included = any(fnmatch(name, pattern) for pattern in read["include"])
        assert wanted == (included and not any(fnmatch(name, each) for each in read["exclude"]))
    address = node["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    sink = audit["audit"]["sinks"][0]["otlp"]
    assert sink == {"endpoint": f"http://{address}{output['logs_uri']}"}


LINES = call_log()


def sent() -> dict[str, list[Record]]:
    """What each of the node's agents sends of real lines, and of others."""
    lines = [*LINES, "", "no JSON", "[]", "{}", '{"event":"call"}', LINES[0][:80]]
    collector = config(NODE, ENVIRONMENT)["receivers"]["filelog"]
    fluent_bit = config(FLUENT_BIT, ENVIRONMENT)["pipeline"]
    return {"Collector": [*filelog(collector, lines)], "Fluent Bit": [*tail(fluent_bit, lines)]}


def test_longest_line() -> None:
    """A client that gives its call long names does not hide it: each agent sends its line whole,
    and a request with it, or with many of them, is not too large for the gateway."""
    line = longest()
    collector, gateway = config(NODE, ENVIRONMENT), config(GATEWAY, ENVIRONMENT)
    assert [each.body for each in filelog(collector["receivers"]["filelog"], [line])] == [line]
    fluent_bit = config(FLUENT_BIT, ENVIRONMENT)["pipeline"]
    assert [each.body for each in tail(fluent_bit, [line])] == [line]
    limit = gateway["receivers"]["otlp"]["protocols"]["grpc"]["max_recv_msg_size_mib"] << 20
    queue = collector["exporters"]["otlp"]["sending_queue"]
    assert queue["sizer"] == gateway["exporters"]["clickhouse"]["sending_queue"]["sizer"] == "bytes"
    audit = AuditSpec(sinks=[SinkSpec(stdout=StdoutSpec())])
    with_messages = len(line) + 2 * 6 * audit.message  # both of them escaped, too
    assert with_messages < queue["batch"]["max_size"] < limit


def test_lines() -> None:
    """Lines of calls and about the runtime are sent whole, with their node; others are not."""
    wanted = [line for line in LINES if json.loads(line)["event"] in ("call", "runtime answers")]
    assert len(wanted) == 5
    for agent, records in sent().items():
        bodies = [record.body for record in records]
        assert bodies[: len(wanted)] == wanted, agent
        for record in records:
            assert record.resource == {"service.name": "criproxy", "k8s.node.name": "node-1"}
            assert record.attributes == {}
    for record in sent()["Collector"]:
        line = json.loads(record.body)
        assert record.moment == datetime.fromisoformat(line["timestamp"])
        assert record.severity == {"debug": 5, "info": 9, "warning": 13}[line["level"]]
