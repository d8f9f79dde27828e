"""criproxy's configuration in the comparison, and what it claims to have seen."""

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

FILE = "config.yaml"
LOG = "calls.log"
CATCH_UP_SECONDS = 10.0
POLL_SECONDS = 0.1
_CALLS: Final = "criproxy_calls_total"
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
    """Write what ``everything_on`` writes, with rules besides; return its path."""
    log = {"format": "json", "level": "debug", "file": str(directory / LOG)}
    return _write(directory, listen, upstream, {"log": log} | ({"rules": rules} if rules else {}))


def defaults(directory: Path, listen: Path, upstream: Path) -> Path:
    """Write a configuration with nothing but the sockets; return its path."""
    return _write(directory, listen, upstream, {})


@dataclass(frozen=True, slots=True)
class Seen:
    """How many calls criproxy has counted, and how many it has logged."""

    counted: int
    logged: int


def seen(directory: Path) -> Seen:
    """Ask a running criproxy that was started with ``everything_on`` what it has seen.

    Lines may be on their way to the log: it is given a while to catch up with the metrics.
    """
    counted = int(sum(one.value for one in _samples(directory) if one.name == _CALLS))
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while (logged := _logged(directory / LOG)) < counted and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return Seen(counted, logged)


def acted(directory: Path) -> dict[str, int]:
    """Ask a running criproxy how often its rules have matched, and how often they have failed.

    The keys say what was counted: ``matches rule=... action=...``.
    """
    counts = Counter[str]()
    for one in _samples(directory):
        if one.name in _RULE_COUNTS and one.value:
            labels = " ".join(f"{name}={value}" for name, value in one.labels.items())
            counts[f"{_RULE_COUNTS[one.name]} {labels}"] += int(one.value)
    return dict(counts)


def _samples(directory: Path) -> list[Sample]:
    config: dict[str, Any] = yaml.safe_load((directory / FILE).read_text())
    with urllib.request.urlopen(f"http://{config['metrics']['address']}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return [sample for family in families for sample in family.samples]


def _logged(path: Path) -> int:
    with path.open("rb") as log:
        return sum(b'"method"' in line for line in log)


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
