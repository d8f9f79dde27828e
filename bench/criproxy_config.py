"""Writes criproxy's configuration for the comparison, and reads its metrics and logs."""

import gzip
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from criproxy.audit.files.rotation import rotated_files

FILE = "config.yaml"
LOG = "calls.log"
AUDIT_LOG = "audit.jsonl"
NOBODY = "http://127.0.0.1:9/v1/traces"
"""An endpoint at which nothing listens: spans are made, wait to be sent, and are dropped then."""
CATCH_UP_SECONDS = 10.0
POLL_SECONDS = 0.1
AUDIT_FILE_MIB = 25
"""Size at which the file is rotated and compressed: about 30,000 records of Version, so that it
happens in the rounds, and in the first tenth of the long run."""
AUDIT_SECONDS = 120.0
"""Time limit for records to be written and rotated files to be compressed."""
_CALLS: Final = "criproxy_calls_total"
_WRITTEN: Final = "criproxy_audit_records_total"
_DROPPED: Final = "criproxy_audit_dropped_total"
_COMPLETE: Final = b'"stage":"ResponseComplete"'
_RULE_COUNTS: Final = {
    "criproxy_rule_matches_total": "matches",
    "criproxy_rule_errors_total": "errors",
}


def everything_on(directory: Path, listen: Path, upstream: Path) -> Path:
    """Write a configuration with metrics, and a JSON line for every call; return its path."""
    return ruled((), directory, listen, upstream)


def ruled(
    rules: Sequence[Mapping[str, Any]], directory: Path, listen: Path, upstream: Path
) -> Path:
    """Write the configuration of ``everything_on`` with rules; return its path."""
    more = _logging(directory) | ({"rules": rules} if rules else {})
    return _write(directory, listen, upstream, more)


def audited(
    audit: Mapping[str, Any],
    more: Mapping[str, Any],
    directory: Path,
    listen: Path,
    upstream: Path,
) -> Path:
    """Write the configuration of ``everything_on`` with an audit log in a file; return its path.

    ``audit`` is what its section says beside the file, ``more`` what other sections say.
    """
    rotate = {"size": f"{AUDIT_FILE_MIB}MiB", "keep": None}
    file = {"path": str(directory / AUDIT_LOG), "fsync": "interval", "rotate": rotate}
    section = {**audit, "sinks": [{"file": file}]}
    return _write(directory, listen, upstream, {**_logging(directory), **more, "audit": section})


def traced(
    ratio: float, directory: Path, listen: Path, upstream: Path, ring: str | None = None
) -> Path:
    """Write the configuration of ``everything_on`` with traces, of which ``ratio`` is sampled.

    Nobody receives the spans. ``ring``: the size of a capture besides, which waits for a call that
    fails. Return the configuration's path.
    """
    more: dict[str, Any] = {"traces": {"otlp": {"endpoint": NOBODY}, "sampling": {"ratio": ratio}}}
    if ring is not None:
        triggers = [{"codes": ["INTERNAL"]}]
        more["capture"] = {
            "directory": str(directory / "captures"),
            "ring": ring,
            "triggers": triggers,
        }
    return _write(directory, listen, upstream, {**_logging(directory), **more})


def defaults(directory: Path, listen: Path, upstream: Path) -> Path:
    """Write a configuration with nothing but the sockets; return its path."""
    return _write(directory, listen, upstream, {})


@dataclass(frozen=True, slots=True)
class CallCounts:
    """Number of calls in criproxy's metrics and in its log."""

    counted: int
    logged: int


@dataclass(frozen=True, slots=True)
class AuditCounts:
    """Calls and their records in the audit log.

    ``wanted`` is the number of ended calls that the policy records, ``records`` the number of them
    in the files, and ``dropped`` the number that criproxy reports as dropped, by reason.
    """

    calls: int
    wanted: int
    records: int
    dropped: dict[str, int]

    @property
    def adds_up(self) -> bool:
        """Whether each call to record is recorded or reported as dropped."""
        return self.records + sum(self.dropped.values()) == self.wanted


def seen(directory: Path) -> CallCounts:
    """Return the counts of a running criproxy that was started with ``everything_on``.

    The log has some time to catch up with the metrics.
    """
    counted = int(sum(one.value for one in _samples(directory) if one.name == _CALLS))
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while (logged := _logged(directory / LOG)) < counted and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return CallCounts(counted, logged)


def rule_counts(directory: Path) -> dict[str, int]:
    """Return how often a running criproxy's rules have matched and failed.

    The keys are like ``matches rule=... action=...``.
    """
    counts = Counter[str]()
    for one in _samples(directory):
        if one.name in _RULE_COUNTS and one.value:
            labels = " ".join(f"{name}={value}" for name, value in one.labels.items())
            counts[f"{_RULE_COUNTS[one.name]} {labels}"] += int(one.value)
    return dict(counts)


def recorded(directory: Path, every_call: bool) -> AuditCounts:
    """Read the audit log of a running criproxy that was started with ``audited``.

    Its policy records ``every_call``, or none. The file has some time to catch up.
    """
    deadline = time.monotonic() + AUDIT_SECONDS
    while True:
        samples = _samples(directory)
        calls, written = (
            int(sum(one.value for one in samples if one.name == name))
            for name in (_CALLS, _WRITTEN)
        )
        dropped = {
            one.labels["reason"]: int(one.value)
            for one in samples
            if one.name == _DROPPED and one.value
        }
        wanted = calls if every_call else 0
        aside = rotated_files(directory / AUDIT_LOG)
        settled = written + sum(dropped.values()) >= wanted and all(one.compressed for one in aside)
        if settled or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    files = [*(one.path for one in aside), directory / AUDIT_LOG]
    return AuditCounts(calls, wanted, sum(map(_complete, files)), dropped)


def _complete(path: Path) -> int:
    """Return how many records of ended calls a file has, compressed or not."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        return sum(_COMPLETE in line for line in lines)


def _samples(directory: Path) -> list[Sample]:
    config: dict[str, Any] = yaml.safe_load((directory / FILE).read_text())
    with urllib.request.urlopen(f"http://{config['metrics']['address']}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return [sample for family in families for sample in family.samples]


def _logged(path: Path) -> int:
    with path.open("rb") as log:
        return sum(b'"method"' in line for line in log)


def _logging(directory: Path) -> dict[str, Any]:
    return {"log": {"format": "json", "level": "debug", "file": str(directory / LOG)}}


def _write(directory: Path, listen: Path, upstream: Path, more: dict[str, Any]) -> Path:
    config = {
        "listeners": [{"endpoint": f"unix://{listen}", "runtime": f"unix://{upstream}"}],
        "metrics": {"address": f"127.0.0.1:{_free_port()}"},
        **more,
    }
    path = directory / FILE
    path.write_text(yaml.safe_dump(config))
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
