"""Runs the daemon as a process and reads its log, metrics and pages."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.process import Process
from tests.support.waiting import LIMIT_SECONDS, wait_until

CallKey = tuple[str, str, str]
"""The full service name, method and code of a call."""


class Criproxy:
    """``criproxy run`` with its files in one directory, a context manager.

    Entering it starts it and waits until it is ready; leaving it kills it if it still runs.
    """

    def __init__(
        self,
        directory: Path,
        runtime: str = "",
        *,
        config: Mapping[str, Any] | None = None,
        name: str = "proxy",
        launcher: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
        options: Sequence[str] = (),
    ) -> None:
        """Relay from ``name``.sock in ``directory`` to ``runtime``, an endpoint.

        ``config`` is the file's content. By default there is one listener, which leads to
        ``runtime``, metrics are on a free port, the log is JSON at the level debug, and probes
        have a long time limit. ``launcher`` is put before the command, ``options`` behind it;
        ``env`` and ``descriptors`` are as for Process.
        """
        self.path = directory / f"{name}.sock"
        self.endpoint = f"unix://{self.path}"
        listener = {"endpoint": self.endpoint, "runtime": runtime}
        content: dict[str, Any] = {"listeners": [listener]} | dict(config or {})
        content["metrics"] = {"address": "127.0.0.1:0"} | content.get("metrics", {})
        content["probe"] = {"timeout": f"{LIMIT_SECONDS:g}s"} | content.get("probe", {})
        content["log"] = {"format": "json", "level": "debug"} | content.get("log", {})
        self._log_file = content["log"].get("file")
        self.file = directory / f"{name}.yaml"
        self.file.write_text(yaml.safe_dump(content))
        command = [*launcher, sys.executable, "-m", "criproxy", "run", "-c", str(self.file)]
        command += options
        output = directory / name
        self.process = Process(command, output=output, env=env, descriptors=descriptors)

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.launch()
        wait_until(self._is_ready, "ready criproxy", report=lambda: self.process.stderr)

    def launch(self) -> None:
        """Start it without waiting until it is ready. Deletes the stderr of an earlier run."""
        self.process.stderr_path.unlink(missing_ok=True)
        self.process.start()

    def reload(self, **changes: Any) -> None:
        """Replace its configuration by one that differs in these keys, and send SIGHUP."""
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump(yaml.safe_load(self.file.read_text()) | changes))
        new.replace(self.file)  # in one step, so that no partial file is read
        self.process.signal(signal.SIGHUP)

    def fails(self) -> tuple[int, str]:
        """Start it, wait for its end; return its exit status and what it wrote to stderr."""
        self.launch()
        return self.process.wait(), self.process.stderr

    def stop(self) -> int:
        """End it with SIGTERM and return its exit status; its log is complete then."""
        return self.process.stop()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of its log that have been written so far."""
        text = Path(self._log_file).read_text() if self._log_file else self.process.stderr
        whole = text[: text.rfind("\n") + 1]
        lines = [line for line in whole.splitlines() if line.startswith("{")]
        # A full disk tears a line; it is written again as a whole.
        return [json.loads(line) for line in lines if line.endswith("}")]

    def events(self, name: str, **fields: object) -> list[dict[str, Any]]:
        """Return the log's lines of one event that have ``fields``."""
        return [
            line for line in self.log() if line["event"] == name and fields.items() <= line.items()
        ]

    def event(self, name: str, **fields: object) -> dict[str, Any]:
        """Wait for a line of an event in the log, and return the first."""
        return wait_until(
            lambda: self.events(name, **fields),
            f"{name!r} with {fields} in the log",
            report=lambda: self.process.stderr,
        )[0]

    def calls(self) -> list[dict[str, Any]]:
        """The call log so far."""
        return self.events("call")

    def logged_counts(self) -> Counter[CallKey]:
        """Return the number of calls of each kind in the log."""
        return Counter((c["service"], c["method"], c["code"]) for c in self.calls())

    def metrics(self) -> list[Sample]:
        """Return all samples that it exports."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return [sample for family in families for sample in family.samples]

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for sample in self.metrics()
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def counted(self) -> Counter[CallKey]:
        """Return the number of calls of each kind in ``criproxy_calls_total``."""
        counts: Counter[CallKey] = Counter()
        for sample in self.metrics():
            if sample.name == "criproxy_calls_total":
                labels = sample.labels
                counts[labels["service"], labels["method"], labels["code"]] += int(sample.value)
        return counts

    def get(
        self, page: str, address: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Fetch a page, from its first address by default; return the HTTP status and the body."""
        host, port = (address or self.event("metrics")["address"]).rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=LIMIT_SECONDS)
        try:
            connection.request("GET", page, headers=dict(headers or {}))
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if "COVERAGE_PROCESS_CONFIG" in os.environ:  # a killed process leaves no data
            for _ in range(2):  # the second signal cuts off the calls in flight
                self.process.signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5.0)
        self.kill()

    def _is_ready(self) -> bool:
        if not self.process.running:
            raise RuntimeError(f"criproxy ended: {self.process.stderr}")
        return bool(self.events("ready"))
