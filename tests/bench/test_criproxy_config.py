"""What criproxy says of itself after a run."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from bench.criproxy_config import FILE, acted

METRICS = """\
# TYPE criproxy_calls counter
criproxy_calls_total{method="Version"} 12.0
# TYPE criproxy_rule_matches counter
criproxy_rule_matches_total{rule="request",action="rewrite",mode="enforce"} 11.0
criproxy_rule_matches_total{rule="deny",action="deny",mode="enforce"} 0.0
# TYPE criproxy_rule_errors counter
criproxy_rule_errors_total{rule="request",reason="cel"} 1.0
"""


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(METRICS.encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_rules_did_is_read_from_the_metrics(tmp_path: Path, address: str) -> None:
    """Matches and errors of rules are given with their labels, and nothing is said of none."""
    (tmp_path / FILE).write_text(yaml.safe_dump({"metrics": {"address": address}}))
    assert acted(tmp_path) == {
        "matches rule=request action=rewrite mode=enforce": 11,
        "errors rule=request reason=cel": 1,
    }
