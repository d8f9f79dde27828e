"""Simulates the commands of containers.

A container's main process runs until it is stopped, unless it is a command that ends by itself.
ExecSync knows the commands below; any other is not found, as in an image without it.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeAlias

from criproxy.embedded.state.objects import Container

MISSING_DIRECTORY: Final = "/nonexistent/"
"""Commands below this directory do not exist: StartContainer fails for them."""

LONGEST_SLEEP: Final = 1e8
"""Seconds (three years) that ``sleep infinity`` lasts: timers accept no infinity."""


@dataclass(frozen=True, slots=True)
class Program:
    """A main process: it ends with ``exit_code`` after ``lifetime`` seconds, None for never.

    ``exits_on_sigterm`` is whether SIGTERM ends it, with exit code 0. (``sleep`` as a container's
    first process ignores it, as it has no handler.)
    """

    lifetime: float | None = None
    exit_code: int = 0
    exits_on_sigterm: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an executed command, available after ``seconds``."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    seconds: float = 0.0


class CommandError(Exception):
    """A command that cannot be started; the text is the OCI runtime's."""


def main_program(command: Sequence[str]) -> Program:
    """Return the behaviour of a container's command. Raises CommandError if it cannot start."""
    if not command:
        return Program()
    if command[0].startswith(MISSING_DIRECTORY):
        raise CommandError(_no_such_file(command[0]))
    name = command[0].rpartition("/")[2]
    if name == "sleep":
        return Program(lifetime=_seconds(command[1:]), exits_on_sigterm=False)
    if name in ("true", "echo"):
        return Program(lifetime=0)
    if name == "false":
        return Program(lifetime=0, exit_code=1)
    return Program()


def execute(command: Sequence[str], container: Container) -> Result:
    """Run a command in a container. Raises CommandError when it cannot be started."""
    if not command:
        raise CommandError("args must not be empty")
    path, *arguments = command
    name = path.rpartition("/")[2]
    if name == "sh" and arguments[:1] == ["-c"] and len(arguments) > 1:
        return _shell(arguments[1], container)
    if name not in _COMMANDS:
        raise CommandError(
            _no_such_file(path)
            if "/" in path
            else _not_started(f'exec: "{path}": executable file not found in $PATH')
        )
    return _COMMANDS[name](arguments, container)


def _shell(script: str, container: Container) -> Result:
    """Run known commands separated by ``;``, and ``exit``."""
    stdout, stderr, seconds, code = b"", b"", 0.0, 0
    try:
        commands = _commands(script)
    except ValueError:
        return Result(stderr=b"sh: syntax error: unterminated quoted string\n", exit_code=2)
    for words in commands:
        if words[0] == "exit":
            code = int(words[1]) if words[1:] and words[1].isdecimal() else code
            break
        to_stderr = words[-1] == ">&2"
        try:
            result = execute(words[:-1] if to_stderr else words, container)
        except CommandError:
            result = Result(stderr=f"sh: {words[0]}: not found\n".encode(), exit_code=127)
        stdout += b"" if to_stderr else result.stdout
        stderr += result.stderr + (result.stdout if to_stderr else b"")
        seconds += result.seconds
        code = result.exit_code
    return Result(stdout, stderr, code, seconds)


def _commands(script: str) -> list[list[str]]:
    """Split a script at ``;`` into commands. Raises ValueError for an open quotation mark."""
    lexer = shlex.shlex(script, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    separated = groupby(lexer, lambda word: set(word) == {";"})
    return [list(words) for is_separator, words in separated if not is_separator]


def _echo(arguments: Sequence[str], _: Container) -> Result:
    if arguments[:1] == ["-n"]:
        return Result(" ".join(arguments[1:]).encode())
    return Result((" ".join(arguments) + "\n").encode())


def _cat(arguments: Sequence[str], container: Container) -> Result:
    stdout, stderr = b"", b""
    files = _files(container)
    for path in arguments:
        if path in files:
            stdout += files[path]
        else:
            stderr += f"cat: can't open '{path}': No such file or directory\n".encode()
    return Result(stdout, stderr, 1 if stderr else 0)


def _sleep(arguments: Sequence[str], _: Container) -> Result:
    return Result(seconds=_seconds(arguments))


def _env(_: Sequence[str], container: Container) -> Result:
    variables = [b"%s=%s\n" % (e.key.encode(), e.value) for e in container.config.envs]
    return Result(b"PATH=/usr/bin:/bin\n" + b"".join(variables))


def _hostname(_: Sequence[str], container: Container) -> Result:
    return Result(_files(container)["/etc/hostname"])


def _pwd(_: Sequence[str], container: Container) -> Result:
    return Result((container.config.working_dir or "/").encode() + b"\n")


def _files(container: Container) -> Mapping[str, bytes]:
    sandbox = container.sandbox
    host = sandbox.config.hostname or sandbox.config.metadata.name
    return {
        "/etc/hostname": f"{host}\n".encode(),
        "/etc/hosts": f"127.0.0.1\tlocalhost\n{sandbox.ip}\t{host}\n".encode(),
        "/dev/null": b"",
    }


def _seconds(arguments: Sequence[str]) -> float:
    try:
        return min(max(0.0, float(arguments[0])), LONGEST_SLEEP)
    except (IndexError, ValueError):
        return 0.0


def _no_such_file(path: str) -> str:
    return _not_started(f'exec: "{path}": stat {path}: no such file or directory')


def _not_started(reason: str) -> str:
    return f"unable to start container process: {reason}"


_Command: TypeAlias = Callable[[Sequence[str], Container], Result]
_COMMANDS: Final[Mapping[str, _Command]] = {
    "cat": _cat,
    "echo": _echo,
    "env": _env,
    "false": lambda _arguments, _container: Result(exit_code=1),
    "hostname": _hostname,
    "pwd": _pwd,
    "sleep": _sleep,
    "true": lambda _arguments, _container: Result(),
}
