"""A command line without its passwords: what tools like crictl are given in flags."""

import re
from collections.abc import Iterable
from typing import Final

from criproxy.cri.redaction import mark

_FLAGS: Final = (
    r"--?(?:creds|auth|auths|user|username|env|[\w-]*(?:password|passwd|token|secret|credentials))"
)
"""crictl's for pulling (ctr and nerdctl take the same) and whatever is called like a secret. Go's
flags have one dash or two."""

_WITH_VALUE: Final = re.compile(rf"({_FLAGS}=)(.+)", re.DOTALL)
_FLAG: Final = re.compile(_FLAGS)
_WITHIN: Final = re.compile(rf"""(?<![\w-])({_FLAGS}(?:=|\s+))("[^"]*"|'[^']*'|\S+)""")
"""In an argument that is a command line itself, such as a shell's ``-c`` has."""

_SHORT: Final = {"crictl": "-u", "ctr": "-u"}
"""Flags of one letter, by the program's name: to others they mean something else."""


def redact_command(command: Iterable[str]) -> list[str]:
    """Return a command line with marks in place of what its flags carry that is secret."""
    shown: list[str] = []
    short = None
    hide = False
    for argument in command:
        if not shown:
            short = _SHORT.get(argument.rpartition("/")[2])
            shown.append(argument)
        elif hide:
            shown.append(_mark(argument))
            hide = False
        elif found := _WITH_VALUE.fullmatch(argument):
            shown.append(found[1] + _mark(found[2]))
        else:
            hide = argument == short or _FLAG.fullmatch(argument) is not None
            shown.append(_WITHIN.sub(lambda found: found[1] + _mark(found[2]), argument))
    return shown


def _mark(text: str) -> str:
    return mark(len(text.encode()))
