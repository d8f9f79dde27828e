"""k3s and RKE2: the kubelet's flags are ``kubelet-arg`` of the distribution's configuration.

A file of criproxy's own in ``config.yaml.d`` appends the flag to them. k3s's own option
``container-runtime-endpoint`` would keep it from starting its containerd.
"""

from typing import Final

import yaml

from criproxy.doctor.node.command_flags import flag, flags
from criproxy.doctor.node.k3s import (
    CONTAINERD,
    Setting,
    config_path,
    kubelet_arguments,
    setting_of,
)
from criproxy.doctor.node.systemd_unit import expanded_command, unit_variable
from criproxy.errors import UsageError
from criproxy.install.layouts.setup import (
    IMAGE_FLAG,
    IMAGE_KEY,
    RUNTIME_FLAG,
    RUNTIME_KEY,
    Edits,
    Setup,
    TreeFiles,
    health_of,
    separate,
)
from criproxy.install.tree import Tree

UNITS: Final = {
    "k3s.service": "k3s",
    "k3s-agent.service": "k3s",
    "rke2-server.service": "rke2",
    "rke2-agent.service": "rke2",
}
"""The services that run a kubelet, and their distribution."""

_FILE: Final = "zz-criproxy.yaml"
"""The file in config.yaml.d: it is read last, and so are its flags."""


class K3s:
    """k3s or RKE2."""

    def __init__(self, tree: Tree, unit: str) -> None:
        self.unit = unit
        self.name = UNITS[unit]
        self._files = TreeFiles(tree)

    def setup(self) -> Setup:
        """Read the unit's command and the configuration."""
        words = expanded_command(self._files, self.unit)
        runtime = self._setting(words, RUNTIME_FLAG, RUNTIME_KEY)
        image = self._setting(words, IMAGE_FLAG, IMAGE_KEY)
        effective = runtime or Setting(CONTAINERD, "its default")
        configured = kubelet_arguments(self._files, self._config(words))
        arguments = [f"--{each}" for each in (*configured, *flags(words, "kubelet-arg"))]
        return Setup(effective, separate(image, effective), health=health_of(arguments))

    def edits(self, endpoint: str) -> Edits:
        """Append the kubelet's flag in a file that is read last."""
        words = expanded_command(self._files, self.unit)
        config = self._config(words)
        if flags(words, "kubelet-arg"):
            raise UsageError(
                f"{self.unit} gives --kubelet-arg, which replaces kubelet-arg of {config} in some "
                "versions; move these flags into that file, and run it again"
            )
        options = [RUNTIME_FLAG]
        if self._setting(words, IMAGE_FLAG, IMAGE_KEY):
            options.append(IMAGE_FLAG)
        content = {"kubelet-arg+": [f"{each}={endpoint}" for each in options]}
        text = f"# Written by criproxy install.\n{yaml.safe_dump(content)}"
        return Edits({f"{config}.d/{_FILE}": text})

    def _config(self, words: list[str]) -> str:
        return self._given_config(words) or config_path(self.name)

    def _given_config(self, words: list[str]) -> str | None:
        variable = unit_variable(self._files, self.unit, f"{self.name.upper()}_CONFIG_FILE")
        return variable or flag(words, "config", "c")

    def _setting(self, words: list[str], option: str, key: str) -> Setting | None:
        given = self._given_config(words)
        return setting_of(self._files, self.name, words, given, option, key)
