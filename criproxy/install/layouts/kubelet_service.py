"""The kubelet as a service of its own: kubeadm's, or any unit with flags and a configuration file.

::

    --container-runtime-endpoint           in the unit, a drop-in, or an environment file of theirs
    containerRuntimeEndpoint               in the files of --config-dir, else in that of --config
    /var/lib/kubelet/instance-config.yaml  what kubeadm writes into that file again (1.32 and later)

A flag has the last word, whatever the files say.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from criproxy.doctor.checks.kubeadm import ANNOTATION, FLAGS, INSTANCE
from criproxy.doctor.node.command_flags import flag, flags
from criproxy.doctor.node.k3s import Setting
from criproxy.doctor.node.kubelet_config import DEFAULT
from criproxy.doctor.node.systemd_unit import (
    environment_files,
    expanded_command,
    unit_files,
    unit_line,
)
from criproxy.install.edits.flag_values import has_flag, set_flag
from criproxy.install.edits.yaml_keys import load_mapping, set_keys
from criproxy.install.layouts.setup import (
    HEALTH_PORT,
    IMAGE_FLAG,
    IMAGE_KEY,
    OPTIONS,
    RUNTIME_FLAG,
    RUNTIME_KEY,
    Edits,
    Setup,
    TreeFiles,
    endpoint_of,
    health_url,
    separate,
)
from criproxy.install.tree import Tree

UNIT: Final = "kubelet.service"

_VENDOR: Final = ("/usr/", "/lib/")
"""Where files of packages are, which an upgrade replaces."""


class KubeletService:
    """A kubelet that is a service."""

    def __init__(self, tree: Tree, unit: str = UNIT, own: bool = True) -> None:
        """``own``: whether criproxy's drop-in is read as well."""
        self.unit = unit
        self.name = "kubeadm" if tree.exists(FLAGS) else "systemd"
        self._tree = tree
        self._files = TreeFiles(tree, own)

    def setup(self) -> Setup:
        """Read the unit, the files that it names, and the kubelet's configuration."""
        words = expanded_command(self._files, self.unit)
        given = self._given(words, RUNTIME_FLAG)
        configured = self._configured(words, RUNTIME_KEY)
        effective = (given or configured or [Setting(DEFAULT, "its default")])[-1]
        image = (self._given(words, IMAGE_FLAG) or self._configured(words, IMAGE_KEY))[-1:]
        address = self._value(words, "healthz-bind-address", "healthzBindAddress") or "127.0.0.1"
        port = self._value(words, "healthz-port", "healthzPort") or HEALTH_PORT
        return Setup(
            effective,
            separate(image[0] if image else None, effective),
            self._disagreement(effective),
            (*_overridden(given, configured), *self._at_upgrades()),
            health_url(address, port),
        )

    def edits(self, endpoint: str) -> Edits:
        """Replace the endpoint wherever it is written; write it where the kubelet reads it."""
        return KubeletService(self._tree, self.unit, own=False)._edits(endpoint)

    def _edits(self, endpoint: str) -> Edits:
        words = expanded_command(self._files, self.unit)
        files: dict[str, str] = {}
        appended = ""
        for option, key in OPTIONS.items():
            wanted = option == RUNTIME_FLAG
            with_flag = [each for each in self._flag_files() if has_flag(self._text(each), option)]
            for path in with_flag:
                if path.startswith(_VENDOR):
                    appended += f" --{option}={endpoint}"
                else:
                    files[path] = set_flag(files.get(path) or self._text(path), option, endpoint)
            with_key = [each for each in self._key_files(words) if key in self._mapping(each)]
            if wanted and not with_flag and not with_key:
                main = flag(words, "config")
                if main:
                    with_key = [main]
                else:
                    appended += f" --{option}={endpoint}"
            if self._tree.exists(INSTANCE) and key in self._mapping(INSTANCE):
                with_key.append(INSTANCE)
            for path in with_key:
                files[path] = set_keys(files.get(path) or self._text(path), {key: endpoint}, path)
        line = unit_line(self._files, self.unit)
        return Edits(files, f"{line}{appended}" if appended else "")

    def _given(self, words: list[str], option: str) -> list[Setting]:
        return [
            Setting(each, f"--{option}{self._where(option, each)}")
            for each in flags(words, option)
            if each
        ]

    def _where(self, option: str, value: str) -> str:
        """Return the file that a flag comes from, for messages."""
        for path in self._flag_files():
            text = self._text(path)
            if has_flag(text, option) and value in text:
                return f" in {path}"
        return ""

    def _configured(self, words: list[str], key: str) -> list[Setting]:
        """Return what the configuration files set, by rising precedence."""
        return [
            Setting(str(value), f"{key} in {path}")
            for path in self._key_files(words)
            if (value := self._mapping(path).get(key))
        ]

    def _kept(self) -> Setting | None:
        """Return what kubeadm keeps for its next upgrade."""
        if not self._tree.exists(INSTANCE):
            return None
        value = self._mapping(INSTANCE).get(RUNTIME_KEY)
        return Setting(str(value), f"{RUNTIME_KEY} in {INSTANCE}") if value else None

    def _at_upgrades(self) -> Iterator[str]:
        """Yield a note if kubeadm takes the endpoint from the Node object, which is not changed."""
        if self.name == "kubeadm" and not self._tree.exists(INSTANCE):
            yield (
                f"an upgrade by kubeadm takes the endpoint from the annotation {ANNOTATION} of the "
                "node: set it too, or install again afterwards"
            )

    def _disagreement(self, effective: Setting) -> str:
        """Return which settings differ that should be the same; empty if none do.

        criproxy's own drop-in is meant to have the last word, as a flag is over a file.
        """
        others = KubeletService(self._tree, self.unit, own=False)
        given = others._given(expanded_command(others._files, self.unit), RUNTIME_FLAG)
        kept = self._kept()
        pairs = [*pairwise(given), *([(effective, kept)] if kept else [])]
        for one, other in pairs:
            if endpoint_of(one) != endpoint_of(other):
                return f"{one.source} is {one.value}, and {other.source} is {other.value}"
        return ""

    def _value(self, words: list[str], option: str, key: str) -> str | None:
        found = flag(words, option)
        if found is None:
            found = next((each.value for each in reversed(self._configured_any(words, key))), None)
        return found

    def _configured_any(self, words: list[str], key: str) -> list[Setting]:
        """Return what the files set, 0 included."""
        return [
            Setting(str(content[key]), path)
            for path in self._key_files(words)
            if (content := self._mapping(path)).get(key) is not None
        ]

    def _flag_files(self) -> Iterator[str]:
        """Yield the files that the unit's command is made from."""
        yield from unit_files(self._files, self.unit)
        yield from environment_files(self._files, self.unit)

    def _key_files(self, words: list[str]) -> Iterator[str]:
        """Yield the kubelet's configuration files by rising precedence."""
        main, directory = flag(words, "config"), flag(words, "config-dir")
        if main:
            yield main
        if directory and self._tree.exists(directory):
            for each in self._files.drop_ins(self._files.path(directory), ".conf"):
                yield self._files.shown(each)

    def _text(self, path: str) -> str:
        return self._tree.text(path) or ""

    def _mapping(self, path: str) -> dict[str, object]:
        return load_mapping(self._text(path), path)


def _overridden(given: list[Setting], configured: list[Setting]) -> Iterator[str]:
    """Yield a note for a file that says something else than the flag."""
    if given and configured and endpoint_of(given[-1]) != endpoint_of(configured[-1]):
        flag_, file = given[-1], configured[-1]
        yield f"{flag_.source} ({flag_.value}) has the last word over {file.source} ({file.value})"
