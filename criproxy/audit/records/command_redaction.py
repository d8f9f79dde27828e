"""Redacts credentials in command lines, such as those in flags of crictl."""

import re
from collections.abc import Iterable
from typing import Final

from criproxy.cri.text_redaction import mark

_FLAGS: Final = (
    r"--?(?:creds|auth|auths|user|username|env|[\w-]*(?:password|passwd|token|secret|credentials))"
)
"""crictl's flags for pulling (as those of ctr and nerdctl) and flags named like secrets. Go's flags
have one dash or two."""

_WITH_VALUE: Final = re.compile(rf"({_FLAGS}=)(.+)", re.DOTALL)
_FLAG: Final = re.compile(_FLAGS)
_WITHIN: Final = re.compile(rf"""(?<![\w-])({_FLAGS}(?:=|\s+))("[^"]*"|'[^']*'|\S+)""")
"""A flag within an argument that is a command line itself, such as that of a shell's ``-c``."""

_SHORT: Final = {"crictl": "-u", "ctr": "-u"}
"""Flags of one letter by program: in other programs they have other meanings."""


def redact_command(command: Iterable[str]) -> list[str]:
    """Return a command line whose flags have marks in place of secret values."""
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
