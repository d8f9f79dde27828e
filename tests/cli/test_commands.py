"""The properties of all commands: help with examples, one line for an error, lazy imports."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import click
import pytest

from criproxy import __version__
from criproxy.cli import cli, rules
from criproxy.common.commit import commit
from tests.support.waiting import LIMIT_SECONDS

COMMANDS = cli.list_commands(click.Context(cli))

_LOADED = """
import json, sys
from criproxy.cli import cli
try:
    cli(sys.argv[1:], prog_name="criproxy")
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def run(
    *arguments: str | os.PathLike[str], env: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Run criproxy as a process: exit status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "criproxy", *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=LIMIT_SECONDS,
        env=os.environ | (env or {}),
    )
    return done.returncode, done.stdout, done.stderr


BUILD = "compiled" if os.environ.get("CRIPROXY_TEST_COMPILED") else "interpreted"
"""See tests/test_compiled.py."""
VERSION = (
    f"criproxy {__version__} ({BUILD}, commit {commit()}, Python {platform.python_version()})\n"
)


def test_version_option() -> None:
    """``--version`` is one line, and ``python -m criproxy`` is criproxy."""
    assert run("--version") == (0, VERSION, "")


def test_console_script() -> None:
    """The installed script is the same."""
    script = Path(sys.executable).parent / "criproxy"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == VERSION


def test_help_lists_every_command() -> None:
    """The help of the whole names each command with a line on what it does, and examples."""
    status, text, _ = run("--help")
    assert status == 0
    assert "Example" in text
    for name in COMMANDS:
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_each_command(name: str, option: str) -> None:
    """Each command's help says what it is for, explains every option and has an example."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    with click.Context(cli, info_name="criproxy", help_option_names=["-h", "--help"]) as parent:
        context = command.make_context(name, [], parent=parent, resilient_parsing=True)
        text = command.get_help(context)
    assert option in text
    assert "Example" in text
    assert f"\n  criproxy {name}" in text or f"  criproxy {name}" in text.split("Example")[1]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts} has no help"
    assert command.get_short_help_str()


@pytest.mark.parametrize("name", ["check", "test", "list"])
def test_help_of_the_commands_for_rules(name: str) -> None:
    """So does the help of each command below ``rules``, with what its exit status means."""
    status, text, _ = run("rules", name, "--help")
    assert status == 0
    assert f"  criproxy rules {name} " in text.partition("Example")[2]
    assert "Exit status: 0" in text
    command = rules.command.commands[name]
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help


def test_misspelt_command() -> None:
    """A command that does not exist is answered with those that do, status 2."""
    status, out, err = run("rum")
    assert (status, out) == (2, "")
    for name in COMMANDS:
        assert name in err


def test_misspelt_option() -> None:
    """An option that does not exist is answered with status 2 and a suggestion."""
    status, _, err = run("run", "--listne", "/x")
    assert status == 2
    assert "--listen" in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "--listen", "tcp://x:1"], 2, "scheme 'tcp' is not supported"),
        (["run", "--runtime-endpoint", "npipe:////./x"], 2, "scheme 'npipe' is not supported"),
        (["run", "--image-endpoint", "relative.sock"], 2, "not an absolute path"),
        (["run", "--listen", "/" + "x" * 107], 2, "has 108 bytes"),
        (["run", "--metrics-address", "nowhere"], 2, "--metrics-address: 'nowhere' is not an"),
        (["run", "-c", "/nonexistent/c.yaml"], 2, "/nonexistent/c.yaml: cannot be read"),
        (["run", "--listen", "/x.sock", "--runtime-endpoint", "/x.sock"], 2, "has itself for a"),
        (["check", "-c", "/nonexistent/c.yaml"], 2, "/nonexistent/c.yaml: cannot be read"),
        (["rules", "check", "/nonexistent/r.yaml"], 2, "/nonexistent/r.yaml: cannot be read"),
        (["rules", "list", "--address", "127.0.0.1:1"], 1, "127.0.0.1:1/rules: Connection refused"),
        (["version", "--runtime-endpoint", "/nonexistent/x.sock"], 1, "/nonexistent/x.sock"),
    ],
)
def test_errors_are_one_line(arguments: list[str], status: int, message: str) -> None:
    """What a user did wrong is one line on stderr: status 2, or 1 for what is not there."""
    got, out, err = run(*arguments)
    assert (got, out) == (status, "")
    assert err.startswith("criproxy: ")
    assert message in err
    assert err.count("\n") == 1


def test_listen_where_it_may_not(tmp_path: Path) -> None:
    """A place that cannot be listened at is not there to be had: status 1."""
    (tmp_path / "file").touch()
    status, _, err = run(
        *("run", "--listen", tmp_path / "file" / "x.sock", "--runtime-endpoint", "/nonexistent/r"),
        *("--metrics-address", "127.0.0.1:0"),
    )
    assert status == 1
    assert err.splitlines()[-1].startswith("criproxy: cannot listen at ")
    assert "Traceback" not in err


def loaded(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [("run", "--help"), ("--version",)])
def test_daemon_imports_no_grpc(arguments: tuple[str, ...]) -> None:
    """The daemon's process carries neither gRPC nor protobuf: 15 MiB that it can do without."""
    modules = loaded(*arguments)
    assert "criproxy.cli" in modules
    assert {"grpc", "google.protobuf", "h2", "criproxy.embedded"} & modules == set()


def test_daemon_itself_imports_no_grpc(tmp_path: Path) -> None:
    """Nor does the module that has the daemon."""
    code = (
        "import json, sys, criproxy.daemon.supervisor.supervisor;"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"grpc", "google.protobuf", "h2"} & set(json.loads(done.stdout)) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    """Each shell has a script that completes criproxy."""
    status, script, err = run("completion", shell)
    assert (status, err) == (0, "")
    assert "_CRIPROXY_COMPLETE" in script
    assert "criproxy" in script


def test_completion_without_a_shell() -> None:
    """Without a shell's name the answer says which there are."""
    status, _, err = run("completion")
    assert status == 2
    for shell in ("bash", "zsh", "fish"):
        assert shell in err


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("criproxy ", set(COMMANDS)),
        ("criproxy ru", {"run", "runtime"}),
        ("criproxy run --log-f", {"--log-format"}),
        ("criproxy run --log-format ", {"json", "console"}),
        ("criproxy completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_what_is_completed(words: str, offered: set[str]) -> None:
    """What the script asks for is answered: commands, options and their values."""
    position = len(words.split()) if words.endswith(" ") else len(words.split()) - 1
    env = {
        "_CRIPROXY_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(position),
    }
    _, out, _ = run(env=env)
    assert {line.partition(",")[2] for line in out.splitlines()} >= offered
