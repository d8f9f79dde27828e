"""Runs the daemon as a child process and reads its call log and metrics."""

import http.client
import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from criproxy.concurrency.command_process import CommandProcess
from criproxy.demo.summary import Counts
from criproxy.errors import UnavailableError
from criproxy.relay.endpoints import Endpoint

_START_SECONDS: Final = 30.0
"""Time limit for the daemon to become ready."""
_POLL_SECONDS: Final = 0.02
_HTTP_SECONDS: Final = 5.0
"""Time limit of one request for a page."""


class ProxyProcess(CommandProcess):
    """``criproxy run`` as a child process, from entering to leaving the ``with`` block.

    Its configuration, logs and output are files in ``directory``; ``settings`` are further keys of
    the configuration. Raises UnavailableError on entering, with its stderr, when it does not become
    ready.
    """

    def __init__(
        self,
        directory: Path,
        listen: Endpoint,
        runtime: Endpoint,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.endpoint = listen
        self.metrics_address = ""
        """HOST:PORT of its HTTP endpoint, once it runs."""
        self._log = directory / "log.json"
        self._stderr = directory / "stderr"
        config = directory / "config.yaml"
        # JSON is YAML, too.
        config.write_text(
            json.dumps(
                {
                    "listeners": [{"endpoint": str(listen), "runtime": str(runtime)}],
                    "metrics": {"address": "127.0.0.1:0"},
                    "log": {
                        "format": "json",
                        "level": "debug",
                        "file": str(self._log),
                        "pods": True,
                    },
                    **settings,
                }
            )
        )
        super().__init__("run", "-c", str(config))

    def start(self) -> None:
        """Start the daemon and return once it is ready."""
        with self._stderr.open("wb") as stderr:
            process = self._launch(stderr, stderr)
        self.metrics_address = self._await_ready(process)

    def kill(self) -> None:
        """Kill the daemon, which ends every call. Thread-safe."""
        if (process := self._process) is not None:
            process.kill()

    def calls(self) -> list[dict[str, Any]]:
        """Return the lines of the call log."""
        return [line for line in json_lines(self._log) if line["event"] == "call"]

    def calls_in_flight(self) -> list[dict[str, Any]]:
        """Return the calls in flight, the oldest first, from the page /calls.

        Raises UnavailableError when it cannot be fetched.
        """
        calls: list[dict[str, Any]] = json.loads(self._get("/calls"))["calls"]
        return calls

    def counts(self) -> Counts:
        """Return the number of calls by method and code from the metrics.

        Raises UnavailableError when they cannot be fetched.
        """
        counts: Counts = Counter()
        for family in text_string_to_metric_families(self._get("/metrics")):
            for sample in family.samples:
                if sample.name == "criproxy_calls_total":
                    counts[sample.labels["method"], sample.labels["code"]] += int(sample.value)
        return counts

    def _get(self, page: str) -> str:
        connection = http.client.HTTPConnection(self.metrics_address, timeout=_HTTP_SECONDS)
        try:
            connection.request("GET", page)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"the proxy's page {page} cannot be read: {error}") from error
        finally:
            connection.close()

    def _await_ready(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for the daemon's ``ready`` line; return the address of its metrics."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            lines = {line["event"]: line for line in json_lines(self._log)}
            if "ready" in lines:
                address: str = lines["metrics"]["address"]
                return address
            if ended:
                break
            time.sleep(_POLL_SECONDS)
        output = self._stderr.read_text(errors="replace").strip() or "no output"
        raise UnavailableError(f"the proxy did not start: {output}")


def json_lines(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a log, if there is one."""
    if log.exists():
        for line in log.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)
