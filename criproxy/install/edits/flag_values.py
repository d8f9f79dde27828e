"""Replaces the values of flags in text: environment files, unit files, one flag a line."""

import re


def set_flag(text: str, name: str, value: str) -> str:
    """Return ``text`` with each value of ``--name`` replaced; lines of comments stay."""
    written = name.replace("-", "[-_]")
    flag = re.compile(rf"(?<![\w-])(--{written}(?:=|[ \t]+))[^\s'\"\\]+")
    lines = text.splitlines(keepends=True)
    return "".join(
        line if line.lstrip().startswith(("#", ";")) else flag.sub(rf"\g<1>{value}", line)
        for line in lines
    )


def has_flag(text: str, name: str) -> bool:
    """Return whether ``set_flag`` would find the flag."""
    return set_flag(text, name, "\0") != text
