"""Reads a systemd unit's files (systemd.unit(5)): the command and the environment of a service.

k3s hides its flags from /proc, since they may contain passwords: its unit has them.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from criproxy.doctor.node.command_flags import split_words
from criproxy.doctor.node.process_files import ProcessFiles, UndeterminedError

DIRECTORIES: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
"""Where units are, by falling precedence."""

_CONTINUED: Final = re.compile(r"\\\n\s*")
_WORD_VARIABLE: Final = re.compile(r"\$(\w+)")
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
_PREFIXES: Final = "@-:+!|"
"""Characters before a command that change how systemd runs it."""


def unit_command(files: ProcessFiles, unit: str) -> list[str]:
    """Return the words of a service's ExecStart.

    Raises UndeterminedError if there is none, or if systemd would substitute variables in it.
    """
    commands = _values(files, unit, "ExecStart")
    remedy = f"look at: systemctl cat {unit}"
    if len(commands) != 1:
        raise UndeterminedError(f"{unit} has {len(commands)} commands", remedy)
    if "$" in commands[0]:
        raise UndeterminedError(f"the command of {unit} has variables", remedy)
    return split_words(commands[0].lstrip(_PREFIXES))


def unit_line(files: ProcessFiles, unit: str) -> str | None:
    """Return the line of a service's ExecStart as it is written; None if there is not one."""
    commands = _values(files, unit, "ExecStart")
    return commands[0] if len(commands) == 1 else None


def expanded_command(files: ProcessFiles, unit: str) -> list[str]:
    """Return the words of a service's ExecStart with the variables that its files set.

    A variable that is a word of its own becomes the words of its value; one that no file sets is
    empty (systemd.service(5), "Command lines"). Raises UndeterminedError if there is no command.
    """
    line = unit_line(files, unit)
    if line is None:
        remedy = f"look at: systemctl cat {unit}"
        raise UndeterminedError(f"{unit} has not one command", remedy)
    variables = _environment(files, unit)
    words: list[str] = []
    for word in split_words(line.lstrip(_PREFIXES)):
        if found := _WORD_VARIABLE.fullmatch(word):
            words += split_words(variables.get(found[1], ""))
        else:
            words.append(_VARIABLE.sub(lambda each: variables.get(each[1], ""), word))
    return words


def environment_files(files: ProcessFiles, unit: str) -> list[str]:
    """Return the paths of a service's environment files that exist, in order."""
    names = [
        value.removeprefix("-").replace("%N", unit.rpartition(".")[0])
        for value in _values(files, unit, "EnvironmentFile")
    ]
    return [name for name in names if files.path(name).exists()]


def unit_files(files: ProcessFiles, unit: str) -> list[str]:
    """Return the paths of a unit's file and its drop-ins, by rising precedence."""
    return [files.shown(each) for each in _files(files, unit)]


def unit_variable(files: ProcessFiles, unit: str, name: str) -> str | None:
    """Return a variable that a service's unit and its environment files set; None if they do not.

    Raises UndeterminedError as ``unit_command`` does.
    """
    return _environment(files, unit).get(name)


def _environment(files: ProcessFiles, unit: str) -> dict[str, str]:
    """Return the variables that a service's unit and its environment files set."""
    found: dict[str, str] = {}
    for value in _values(files, unit, "Environment"):
        for word in split_words(value):
            key, equals, content = word.partition("=")
            if equals:
                found[key] = content
    for value in _values(files, unit, "EnvironmentFile"):
        path = value.replace("%N", unit.rpartition(".")[0])
        file = files.path(path.removeprefix("-"))
        if path.startswith("-") and not file.exists():
            continue
        for line in files.text(file).split("\n"):
            key, equals, content = line.strip().partition("=")
            if equals:
                found[key] = "".join(split_words(content))
    return found


def _values(files: ProcessFiles, unit: str, key: str) -> list[str]:
    """Return a key's values in order; an empty one clears those before."""
    values: list[str] = []
    for file in _files(files, unit):
        for line in _CONTINUED.sub(" ", files.text(file)).split("\n"):
            name, equals, value = line.strip().partition("=")
            if equals and name.rstrip() == key:
                values = [*values, value.strip()] if value.strip() else []
    return values


def _files(files: ProcessFiles, unit: str) -> Iterator[Path]:
    """Yield a unit's file and its drop-ins by rising precedence."""
    found = [files.path(f"{directory}/{unit}") for directory in DIRECTORIES]
    yield from [file for file in found if file.exists()][:1]
    drop_ins: dict[str, Path] = {}
    for directory in reversed(DIRECTORIES):
        with suppress(UndeterminedError):
            for file in files.drop_ins(files.path(f"{directory}/{unit}.d"), ".conf"):
                drop_ins[file.name] = file
    yield from (drop_ins[name] for name in sorted(drop_ins))
