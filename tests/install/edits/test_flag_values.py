"""Replacing flags in environment files, unit files and lists of flags."""

import pytest

from criproxy.install.edits.flag_values import has_flag, set_flag

NAME = "container-runtime-endpoint"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f'A="--{NAME}=unix:///x --v=2"\n', f'A="--{NAME}=NEW --v=2"\n'),
        (f"A=--{NAME}=unix:///x", f"A=--{NAME}=NEW"),
        (f"--{NAME} unix:///x\n", f"--{NAME} NEW\n"),
        (f"--{NAME}='/x y'\n", None),
        ("--container_runtime_endpoint=/x\n", "--container_runtime_endpoint=NEW\n"),
        (f"--{NAME}=/a --{NAME}=/b\n", f"--{NAME}=NEW --{NAME}=NEW\n"),
        (f"# --{NAME}=/a\n--{NAME}=/b\n", f"# --{NAME}=/a\n--{NAME}=NEW\n"),
        (f"--{NAME}=${{SNAP_COMMON}}/run/x.sock\n", f"--{NAME}=NEW\n"),
        (f"--my-{NAME}=/x --{NAME}-2=/y\n", None),
        (f"ExecStart=/k --{NAME}=/x \\\n  --v=2\n", f"ExecStart=/k --{NAME}=NEW \\\n  --v=2\n"),
        ("", None),
    ],
)
def test_only_the_value_changes(before: str, after: str | None) -> None:
    """Each value of the flag is replaced, outside comments, and nothing else."""
    assert set_flag(before, NAME, "NEW") == (before if after is None else after)
    assert has_flag(before, NAME) is (after is not None)
