"""Redaction of command lines."""

import pytest

from criproxy.audit.records.command_redaction import redact_command


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("crictl pull --creds me:pass img", "crictl pull --creds [7] img"),
        ("crictl pull --creds=me:pass=x img", "crictl pull --creds=[9] img"),
        ("crictl pull -creds me:pass img", "crictl pull -creds [7] img"),
        ("/usr/bin/crictl pull --auth YQ== img", "/usr/bin/crictl pull --auth [4] img"),
        ("crictl pull -u me img", "crictl pull -u [2] img"),
        ("crictl pull --username me img", "crictl pull --username [2] img"),
        ("python -u main.py", "python -u main.py"),
        ("ctr images pull --user me:pass img", "ctr images pull --user [7] img"),
        ("agent --registry-token=abc --v=2", "agent --registry-token=[3] --v=2"),
        ("agent --registry_password abc -v", "agent --registry_password [3] -v"),
        ("agent --token-file /run/token", "agent --token-file /run/token"),
        ("agent --env A=b", "agent --env [3]"),
        ("agent --password", "agent --password"),
        ("agent --password --password", "agent --password [10]"),
        ("creds me", "creds me"),
        ("--creds me", "--creds me"),
    ],
)
def test_flags_of_secrets(command: str, shown: str) -> None:
    """Values of secret flags are redacted, after = and as the next argument; others are not."""
    assert [_short(each) for each in redact_command(command.split())] == shown.split()


def _short(argument: str) -> str:
    return argument.replace("[redacted: ", "[").replace(" bytes]", "]")


def test_a_command_line_in_a_command_line() -> None:
    """Flags within a shell's argument are redacted, with quoted words as one value."""
    shown = redact_command(["sh", "-c", "crictl pull --creds 'me: pass' a && b --token=x --v=2"])
    assert shown == [
        "sh",
        "-c",
        "crictl pull --creds [redacted: 10 bytes] a && b --token=[redacted: 1 bytes] --v=2",
    ]


def test_nothing() -> None:
    """An unknown command line stays empty."""
    assert redact_command(()) == []
