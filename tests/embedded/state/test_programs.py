"""Simulated commands beyond those that the comparison with containerd runs."""

from typing import Any

import pytest

from criproxy.client import CriClient
from tests.embedded.test_methods import run_container


@pytest.mark.parametrize(
    ("command", "stdout", "stderr", "code"),
    [
        (["echo", "-n", "a", "b"], b"a b", b"", 0),
        (["cat", "/etc/hostname"], b"web\n", b"", 0),
        (["cat", "/dev/null", "/none"], b"", b"cat: can't open '/none'", 1),
        (["hostname"], b"web\n", b"", 0),
        (["env"], b"PATH=/usr/bin:/bin\nKEY=\xffvalue\n", b"", 0),
        (["pwd"], b"/\n", b"", 0),
        (["sleep", "0"], b"", b"", 0),
        (["sh", "-c", "false; echo on"], b"on\n", b"", 0),
        (["sh", "-c", "nothing; exit"], b"", b"sh: nothing: not found\n", 127),
        (["sh", "-c", "exit 4; echo never"], b"", b"", 4),
        (["sh", "-c", "false; exit"], b"", b"", 1),
        (["sh", "-c", "echo 'a;b' c;; echo d"], b"a;b c\nd\n", b"", 0),
        (["sh", "-c", "echo 'a"], b"", b"sh: syntax error", 2),
    ],
)
def test_commands(
    client: CriClient, command: list[str], stdout: bytes, stderr: bytes, code: int
) -> None:
    """A simple command gives the output and the exit code of the real one."""
    _, container = run_container(client, envs=[{"key": "KEY", "value": b"\xffvalue"}])
    answer: Any = client.ExecSync(container_id=container, cmd=command)
    assert (answer.stdout, answer.exit_code) == (stdout, code)
    assert answer.stderr.startswith(stderr)
