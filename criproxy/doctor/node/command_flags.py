"""Parses command-line flags as Go's pflag does."""

import shlex
from collections.abc import Sequence


def flags(command: Sequence[str], *names: str) -> list[str]:
    """Return all values of a flag with any of these names, in order.

    Written as ``--name=value``, ``--name value``, ``-n value``; kubelets take ``_`` for ``-``.
    """
    found = []
    for at, word in enumerate(command):
        key, equals, value = word.partition("=")
        if not key.startswith("-") or key.lstrip("-").replace("_", "-") not in names:
            continue
        if equals:
            found.append(value)
        elif at + 1 < len(command):
            found.append(command[at + 1])
    return found


def flag(command: Sequence[str], *names: str) -> str | None:
    """Return the last value of a flag, which is the one that counts; None if it is not given."""
    return next(reversed(flags(command, *names)), None)


def pair(arguments: Sequence[str], name: str) -> str | None:
    """Return the last value of ``name=value`` in a list, as of k3s's ``--kubelet-arg``."""
    return flag([f"--{each.lstrip('-')}" for each in arguments], name)


def split_words(text: str) -> list[str]:
    """Split a command line into words as a shell does; at blanks where its quotes do not close."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
