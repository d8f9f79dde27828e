"""The reading of criproxy's metrics after a run."""

from collections.abc import Callable
from pathlib import Path

import yaml

from bench.criproxy_config import FILE, rule_counts

METRICS = """\
# TYPE criproxy_calls counter
criproxy_calls_total{method="Version"} 12.0
# TYPE criproxy_rule_matches counter
criproxy_rule_matches_total{rule="request",action="rewrite",mode="enforce"} 11.0
criproxy_rule_matches_total{rule="deny",action="deny",mode="enforce"} 0.0
# TYPE criproxy_rule_errors counter
criproxy_rule_errors_total{rule="request",reason="cel"} 1.0
"""


def test_what_rules_did_is_read_from_the_metrics(
    tmp_path: Path, serve_metrics: Callable[[str], str]
) -> None:
    """Matches and errors of rules are given with their labels, and nothing is said of none."""
    (tmp_path / FILE).write_text(yaml.safe_dump({"metrics": {"address": serve_metrics(METRICS)}}))
    assert rule_counts(tmp_path) == {
        "matches rule=request action=rewrite mode=enforce": 11,
        "errors rule=request reason=cel": 1,
    }
