"""Rules and their hooks, made ready to be asked."""

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
def test_calls_of_a_script_that_does_not_answer(
    tmp_path: Path, script: str, more: str, fails: bool
) -> None:
    """They fail where the script is there to refuse calls: it has Deny, or the rule says so."""
    (tmp_path / "hook.py").write_text(script)
    file = tmp_path / "rules.yaml"
    file.write_text(f"- {{name: a, match: {{methods: ['*']}}, hook: {{script: hook.py{more}}}}}\n")
    ruleset, hooks = compiled(load_rules(file))
    assert list(hooks) == ["a"]
    assert ruleset.rules[0].fails_closed is fails
