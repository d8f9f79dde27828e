"""Removes mounts that tests or runtimes have left."""

import subprocess
from pathlib import Path


def unmount_below(directory: Path) -> None:
    """Unmount, lazily and deepest first, whatever is mounted at or below ``directory``."""
    table = Path("/proc/self/mounts").read_text().splitlines()
    targets = [Path(line.split()[1].replace("\\040", " ")) for line in table]
    for target in reversed(targets):
        if target.is_relative_to(directory):
            subprocess.run(["umount", "--lazy", str(target)], check=True, capture_output=True)
