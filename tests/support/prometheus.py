"""Runs Debian's Prometheus."""

import json
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.support.process import Process
from tests.support.waiting import LIMIT_SECONDS


class Prometheus:
    """A Prometheus that scrapes one address each second, and evaluates the rules of ``files``.

    ``process`` is to be entered and left.
    """

    def __init__(self, directory: Path, target: str, *files: Path) -> None:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": list(map(str, files)),
            "scrape_configs": [{"job_name": "criproxy", "static_configs": [{"targets": [target]}]}],
        }
        file = directory / "prometheus.yaml"
        file.write_text(yaml.safe_dump(config))
        command = [
            *("prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}"),
            "--web.listen-address=127.0.0.1:0",
        ]
        self.process = Process(command, output=directory / "prometheus")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query; OSError or AssertionError before it serves."""
        return self._ask("query", query=expression)

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """Return the series of a query over time, in seconds since the epoch; errors as above."""
        return self._ask("query_range", query=expression, start=start, end=end, step=step)

    def _ask(self, kind: str, **parameters: str | float) -> list[dict[str, Any]]:
        address = re.search(r'"Listening on" address=(\S+)', self.process.stderr)
        assert address is not None
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(
            f"http://{address[1]}/api/v1/{kind}?{query}", timeout=LIMIT_SECONDS
        ) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result

    def has_data(self, expression: str) -> bool:
        """Return whether an instant query returns a series with a number."""
        return any(each["value"][1] != "NaN" for each in self.query(expression))
