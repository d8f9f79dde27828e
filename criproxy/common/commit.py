"""The commit that criproxy was built from.

hatch_build.py writes it to ``commit.txt`` beside this module when it builds a wheel or an sdist. A
checkout has no such file, and git is asked.
"""

import subprocess
from pathlib import Path
from typing import Final

UNKNOWN: Final = "unknown"
_DIRECTORY: Final = Path(__file__).parent
_GIT_SECONDS: Final = 10.0
"""Time limit of git."""


def commit() -> str:
    """Return 12 digits of the commit, with ``-dirty`` where files were changed since.

    UNKNOWN for a copy of a checkout without its history.
    """
    try:
        return (_DIRECTORY / "commit.txt").read_text(encoding="ascii").strip()
    except OSError:
        return commit_of_checkout(_DIRECTORY.parents[1]) or UNKNOWN


def commit_of_checkout(root: Path) -> str | None:
    """Return the commit of the git checkout at ``root``; None if there is none, or no git."""
    if not (root / ".git").exists():  # git itself would look in the directories above
        return None
    command = ("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        return subprocess.run(  # noqa: S603  # no shell
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
            timeout=_GIT_SECONDS,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
