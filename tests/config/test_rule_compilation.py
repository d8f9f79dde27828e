"""Compilation of rules with their hooks."""

from pathlib import Path

import pytest

from criproxy.config.load import load_rules
from criproxy.config.rule_compilation import compiled

CALM = "def request(call): pass\n"
STRICT = "from criproxy.hook import Deny\ndef request(call): raise Deny(7)\n"


@pytest.mark.parametrize(
    ("script", "more", "fails"),
    [
        (CALM, "", False),
        (STRICT, "", True),
        (STRICT, ", may_deny: false", False),
        (CALM, ", may_deny: true", True),
    ],
)
def test_script_that_may_deny_fails_closed(
    tmp_path: Path, script: str, more: str, fails: bool
) -> None:
    """Calls fail if the script may refuse calls: it imports Deny, or the rule says so."""
    (tmp_path / "hook.py").write_text(script)
    file = tmp_path / "rules.yaml"
    file.write_text(f"- {{name: a, match: {{methods: ['*']}}, hook: {{script: hook.py{more}}}}}\n")
    ruleset, hooks = compiled(load_rules(file))
    assert list(hooks) == ["a"]
    assert ruleset.rules[0].fails_closed is fails
