"""k0s: it writes its kubelet's configuration at each start, and passes on extra flags.

The drop-in of its unit repeats the command with the flag in ``--kubelet-extra-args``.
"""

import re
from typing import Final

from criproxy.doctor.node.command_flags import flag, split_words
from criproxy.doctor.node.k3s import Setting
from criproxy.doctor.node.systemd_unit import expanded_command, unit_line
from criproxy.install.layouts.setup import (
    IMAGE_FLAG,
    RUNTIME_FLAG,
    Edits,
    Setup,
    TreeFiles,
    health_of,
    quoted,
    separate,
)
from criproxy.install.tree import Tree

UNITS: Final = ("k0sworker.service", "k0scontroller.service")
CONTAINERD: Final = "unix:///run/k0s/containerd.sock"
_EXTRA: Final = "kubelet-extra-args"


class K0s:
    """k0s as ``k0s install`` sets it up."""

    name = "k0s"

    def __init__(self, tree: Tree, unit: str) -> None:
        self.unit = unit
        self._tree = tree
        self._files = TreeFiles(tree)

    def setup(self) -> Setup:
        """Read the unit's command."""
        words = expanded_command(self._files, self.unit)
        extra = split_words(flag(words, _EXTRA) or "")
        effective = Setting(CONTAINERD, "its default")
        # remote:unix:///path, or docker:unix:///path of versions before 1.28
        if socket := flag(words, "cri-socket"):
            effective = Setting(re.sub(r"^(?:remote|docker):", "", socket), "--cri-socket")
        if value := flag(extra, RUNTIME_FLAG):
            effective = Setting(value, f"--{_EXTRA}")
        image = flag(extra, IMAGE_FLAG)
        images = separate(Setting(image, f"--{_EXTRA}") if image else None, effective)
        return Setup(effective, images, health=health_of(extra))

    def edits(self, endpoint: str) -> Edits:
        """Give the command once more, with the flags for the kubelet behind those it has."""
        others = TreeFiles(self._tree, own=False)
        words = expanded_command(others, self.unit)
        extra = flag(words, _EXTRA) or ""
        options = [RUNTIME_FLAG]
        if flag(split_words(extra), IMAGE_FLAG):
            options.append(IMAGE_FLAG)
        given = " ".join([extra, *(f"--{each}={endpoint}" for each in options)]).strip()
        line = unit_line(others, self.unit)
        return Edits({}, f"{line} {quoted(f'--{_EXTRA}={given}')}")
