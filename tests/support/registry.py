"""Runs Debian's docker-registry on loopback, so that tests pull images without a network."""

import re
import shutil
from pathlib import Path

import yaml

from tests.support.containerd import Containerd
from tests.support.image import write_archive
from tests.support.process import Process
from tests.support.waiting import wait_until

USER = "mirror"
PASSWORD = "mirror-hunter2-secret"
_HASH = "$2b$04$ZjKHYqmFICnTr/yI3PLw5uUPSEaYaUySfLweabi/AKRZe36Mo2PtG"
"""The password's bcrypt hash: the registry knows no other, and Python has no bcrypt."""


def missing() -> list[str]:
    """Return the names of the requirements of :class:`Registry` that this machine lacks."""
    return [] if shutil.which("docker-registry") else ["docker-registry"]


class Registry(Process):
    """A registry with its blobs in one directory, at ``host``, from entering to leaving."""

    def __init__(self, directory: Path, *, credentials: bool = False) -> None:
        """Keep everything below ``directory``. ``credentials``: ask for USER and PASSWORD."""
        directory.mkdir()
        self._archive = directory / "image.tar"
        self.host = ""
        config = directory / "config.yml"
        content: dict[str, object] = {
            "version": 0.1,
            "http": {"addr": "127.0.0.1:0"},
            "storage": {"filesystem": {"rootdirectory": str(directory / "blobs")}},
        }
        self._push_options = ["--plain-http"]
        if credentials:
            users = directory / "htpasswd"
            users.write_text(f"{USER}:{_HASH}\n")
            content["auth"] = {"htpasswd": {"realm": "test", "path": str(users)}}
            self._push_options += ["--user", f"{USER}:{PASSWORD}"]
        config.write_text(yaml.safe_dump(content))
        super().__init__(["docker-registry", "serve", str(config)], output=directory / "log")

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        super().start()
        listening = wait_until(self._listening, "port of the registry", report=lambda: self.stderr)
        self.host = listening[1]

    def push(self, runtime: Containerd, *images: str) -> None:
        """Put the busybox image into it as ``images``, names without the registry's."""
        names = tuple(f"{self.host}/{image}" for image in images)
        # A namespace of its own, which the CRI does not see.
        push = ("--namespace", "push", "images")
        runtime.ctr(*push, "import", str(write_archive(self._archive, names)))
        for name in names:
            runtime.ctr(*push, "push", *self._push_options, name)

    def _listening(self) -> re.Match[str] | None:
        """The line that it writes when it listens, with the port that the system has chosen."""
        return re.search(r"listening on (127\.0\.0\.1:\d+)", self.stderr)
