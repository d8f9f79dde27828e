"""What the configurations of deploy/fleet do to a line of a log, as their documentation has it.

There is no package of the Collector or of Fluent Bit to run: an operator, expression or layout that
is not interpreted here raises.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

FLEET = Path(__file__).parents[3] / "deploy/fleet"
NODE, GATEWAY, FLUENT_BIT = (
    FLEET / name
    for name in ("collector/node.yaml", "collector/gateway.yaml", "fluent-bit/node.yaml")
)
RFC_3339 = "2006-01-02T15:04:05Z07:00"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "k": 1000, "M": 1000**2}
"""Of sizes; those of Fluent Bit are at least so large."""

SEVERITIES = {"debug": 5, "info": 9, "warn": 13, "error": 17}


class Record(NamedTuple):
    """A record as the exporter inserts it."""

    body: str
    resource: Mapping[str, str]
    moment: datetime | None = None
    severity: int = 0
    attributes: Mapping[str, str] = {}
    scope: str = ""

    def row(self) -> dict[str, Any]:
        """The columns of otel_logs."""
        return {
            "Timestamp": (self.moment or datetime(1970, 1, 1)).strftime("%Y-%m-%d %H:%M:%S.%f"),
            "TraceId": "",
            "SpanId": "",
            "TraceFlags": 0,
            "SeverityText": "",
            "SeverityNumber": self.severity,
            "ServiceName": self.resource.get("service.name", ""),
            "Body": self.body,
            "ResourceSchemaUrl": "",
            "ResourceAttributes": dict(self.resource),
            "ScopeSchemaUrl": "",
            "ScopeName": self.scope,
            "ScopeVersion": "",
            "ScopeAttributes": {},
            "LogAttributes": dict(self.attributes),
        }


def config(file: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """A configuration with the variables of its environment."""
    text = re.sub(
        r"\$\{(?:env:)?([A-Z_]+)\}", lambda found: environment[found[1]], file.read_text()
    )
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def size(text: str) -> int:
    """A size in bytes."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def filelog(receiver: Mapping[str, Any], lines: list[str]) -> Iterator[Record]:
    """The records that the Collector's receiver makes of lines."""
    for line in lines:
        if len(line.encode()) > size(receiver["max_log_size"]):
            raise NotImplementedError("a line is split")
        entry: dict[str, Any] = {"body": line, "attributes": {}}
        if all(_apply(operator, entry) for operator in receiver["operators"]):
            yield Record(
                line,
                receiver["resource"],
                entry.get("timestamp"),
                entry.get("severity", 0),
                entry["attributes"],
            )


def tail(pipeline: Mapping[str, Any], lines: list[str]) -> Iterator[Record]:
    """The records that Fluent Bit sends of lines."""
    (source,), (grep,), (output,) = (pipeline[each] for each in ("inputs", "filters", "outputs"))
    assert source["tag"] == grep["match"] == output["match"]
    envelope, *modifiers = source["processors"]["logs"]
    assert envelope == {"name": "opentelemetry_envelope"}
    assert {(each["context"], each["action"]) for each in modifiers} == {
        ("otel_resource_attributes", "upsert")
    }
    resource = {each["key"]: each["value"] for each in modifiers}
    assert source["skip_long_lines"]
    for line in lines:
        if len(line.encode()) > size(source["buffer_max_size"]):
            continue
        record = {source["key"]: line}
        key, pattern = grep["regex"].split(" ", 1)
        if re.search(pattern, record[key]):
            yield Record(record[output["logs_body_key"].removeprefix("$")], resource)


def received(request: ExportLogsServiceRequest) -> Iterator[Record]:
    """The records of an OTLP request, as the exporter inserts them."""
    for resource in request.resource_logs:
        names = {each.key: each.value.string_value for each in resource.resource.attributes}
        for scope in resource.scope_logs:
            for record in scope.log_records:
                yield Record(record.body.string_value, names, scope=scope.scope.name)


def _apply(operator: Mapping[str, Any], entry: dict[str, Any]) -> bool:
    """Apply an operator; return whether the entry goes on."""
    match operator["type"]:
        case "json_parser":
            return _parse(operator, entry)
        case "filter":
            found = re.fullmatch(r"([\w.]+) not in (\[.*\])", operator["expr"])
            assert found, operator["expr"]
            return _get(entry, found[1]) in json.loads(found[2])
        case "remove":
            *path, name = operator["field"].split(".")
            del _get(entry, ".".join(path))[name]
            return True
        case other:
            raise NotImplementedError(other)


def _parse(operator: Mapping[str, Any], entry: dict[str, Any]) -> bool:
    assert operator["on_error"] == "drop_quiet"
    try:
        parsed = json.loads(entry["body"])
    except ValueError:
        return False
    if not isinstance(parsed, dict):
        return False
    *path, name = operator["parse_to"].split(".")
    _get(entry, ".".join(path))[name] = parsed
    timestamp, severity = operator["timestamp"], operator["severity"]
    assert (timestamp["layout_type"], timestamp["layout"]) == ("gotime", RFC_3339)
    try:
        entry["timestamp"] = datetime.fromisoformat(_get(entry, timestamp["parse_from"]))
    except (TypeError, ValueError):
        return False
    aliases = {level: level for level in SEVERITIES} | {
        alias: level for level, alias in severity["mapping"].items()
    }
    entry["severity"] = SEVERITIES[aliases[_get(entry, severity["parse_from"])]]
    return True


def _get(entry: Any, path: str) -> Any:
    for name in path.split("."):
        entry = entry.get(name)
    return entry
