"""A configuration without its secrets."""

import pytest
import yaml

from criproxy.support_bundle.redaction import redacted

SECRET = "hunter2-Zq81"
ASSIGNED = f'"{SECRET}"'


@pytest.mark.parametrize(
    "value",
    [
        {"audit": {"sinks": [{"otlp": {"headers": {"x-scope": SECRET}}}]}},
        {"audit": {"sinks": [{"otlp": {"endpoint": f"http://user:{SECRET}@collector/v1"}}]}},
        {"rules": [{"rewrite": {"metadata": {"add": {"x-key": ASSIGNED}}}}]},
        {"rules": [{"rewrite": {"request": {"auth.password": ASSIGNED}}}]},
        {"rules": [{"rewrite": {"request": {"auth": {"identity_token": ASSIGNED}}}}]},
        {
            "rules": [
                {"rewrite": {"request": {"config.envs": f'[{{"key": "X", "value": {ASSIGNED}}}]'}}}
            ]
        },
        {"rules": [{"hook": {"url": f"https://scanner/review?token={SECRET}"}}]},
        {"no_such_key": {"api_key": SECRET}},
        {"password": [SECRET, {"old": SECRET}]},
        [{"deny": {"message": f"Authorization: Bearer {SECRET}"}}],
    ],
)
def test_secrets(value: object) -> None:
    """A secret is replaced wherever a configuration may have one, also under an unknown key."""
    text = redacted(value)
    assert SECRET not in text
    assert "[redacted: " in text


def test_all_else_is_kept() -> None:
    """What is no secret is as it was, also the key ``auth`` of a rule, and numbers."""
    value = {
        "listeners": [{"endpoint": "unix:///run/a.sock", "mode": "0660"}],
        "limits": {"streams": 10, "connections": None},
        "rules": [{"name": "a", "auth": "keep", "rewrite": {"request": {"image.image": '"b"'}}}],
    }
    assert yaml.safe_load(redacted(value)) == value
