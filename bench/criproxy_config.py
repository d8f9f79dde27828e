"""criproxy's configuration in the comparison, and what it claims to have seen."""

import socket
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

FILE = "config.yaml"
LOG = "calls.log"
CATCH_UP_SECONDS = 10.0
POLL_SECONDS = 0.1


def everything_on(directory: Path, listen: Path, upstream: Path) -> Path:
    """Write a configuration with metrics, and a JSON line for every call; return its path."""
    log = {"format": "json", "level": "debug", "file": str(directory / LOG)}
    return _write(directory, listen, upstream, {"log": log})


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
    config: dict[str, Any] = yaml.safe_load((directory / FILE).read_text())
    counted = _counted(f"http://{config['metrics']['address']}/metrics")
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while (logged := _logged(directory / LOG)) < counted and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return Seen(counted, logged)


def _counted(url: str) -> int:
    with urllib.request.urlopen(url) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
    return int(sum(one.value for one in samples if one.name == "criproxy_calls_total"))


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
