"""MicroK8s: the flags of the kubelet within kubelite are in a file of the snap, one a line."""

from typing import Final

from criproxy.doctor.node.command_flags import flag
from criproxy.doctor.node.k3s import Setting
from criproxy.doctor.node.kubelet_config import DEFAULT
from criproxy.doctor.node.microk8s import microk8s_flags
from criproxy.install.edits.flag_values import has_flag, set_flag
from criproxy.install.layouts.setup import (
    IMAGE_FLAG,
    RUNTIME_FLAG,
    Edits,
    Setup,
    TreeFiles,
    health_of,
    separate,
)
from criproxy.install.tree import Tree

UNIT: Final = "snap.microk8s.daemon-kubelite.service"


class Microk8s:
    """MicroK8s."""

    name = "microk8s"

    def __init__(self, tree: Tree, unit: str = UNIT) -> None:
        self.unit = unit
        self._tree = tree
        self._files = TreeFiles(tree)

    def setup(self) -> Setup:
        """Read the file of flags, with snapd's variables."""
        words, name = microk8s_flags(self._files)
        value = flag(words, RUNTIME_FLAG)
        effective = Setting(value, f"--{RUNTIME_FLAG} in {name}") if value else None
        effective = effective or Setting(DEFAULT, "its default")
        image = flag(words, IMAGE_FLAG)
        images = Setting(image, f"--{IMAGE_FLAG} in {name}") if image else None
        return Setup(effective, separate(images, effective), health=health_of(words))

    def edits(self, endpoint: str) -> Edits:
        """Replace the flag's value, or add a line."""
        _, name = microk8s_flags(self._files)
        text = self._tree.text(name) or ""
        new = text
        for option in (RUNTIME_FLAG, IMAGE_FLAG):
            new = set_flag(new, option, endpoint)
        if not has_flag(text, RUNTIME_FLAG):
            end = "" if not new or new.endswith("\n") else "\n"
            new += f"{end}--{RUNTIME_FLAG}={endpoint}\n"
        return Edits({name: new})
