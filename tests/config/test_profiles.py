"""Errors in profiles name the line."""

from pathlib import Path

import pytest

from criproxy.config.load import load
from criproxy.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "listeners:\n- endpoint: /a\n  profile: readonly\n",
            "c.yaml:3: listeners[0].profile: no profile is called 'readonly'; "
            "did you mean 'read-only'?",
        ),
        (
            "profiles:\n  full:\n    methods: ['*']\n",
            "c.yaml:2: profiles.full: there is a profile 'full' already; give this one another",
        ),
        (
            "profiles:\n  mine:\n    methods:\n    - '@read'\n    - StopContaner\n",
            "c.yaml:5: profiles.mine.methods[1]: no method of the CRI is called 'StopContaner'; "
            "did you mean 'StopContainer'?",
        ),
    ],
)
def test_errors(tmp_path: Path, text: str, expected: str) -> None:
    """An invalid profile is one line with its location."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(str(tmp_path / expected))
