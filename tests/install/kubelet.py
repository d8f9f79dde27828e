"""A stand-in for the kubelet: it finds its endpoint as its distribution does, and calls it.

``python -m tests.install.kubelet ROOT UNIT`` reads the files below ROOT by code of its own, serves
healthz, keeps a connection to the runtime, and asks it for its version. It ends when the runtime
does not answer, as the kubelet does at its start.
"""

import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

from criproxy.relay.unary import find_cri_error

SECONDS = 60.0
FLAG = "--container-runtime-endpoint="
PORT = "--healthz-port="


def flags_of(root: Path, unit: str) -> list[str]:
    """Return the words of the kubelet's command."""
    if unit.startswith(("k3s", "rke2")):
        directory = root / "etc/rancher" / ("k3s" if unit.startswith("k3s") else "rke2")
        arguments: list[str] = []
        extra = directory / "config.yaml.d"
        for file in (directory / "config.yaml", *sorted(extra.glob("*.yaml"))):
            content = yaml.safe_load(file.read_text())
            arguments = content.get("kubelet-arg", arguments) + content.get("kubelet-arg+", [])
        return [f"{FLAG}unix:///run/k3s/containerd/containerd.sock", *(f"--{a}" for a in arguments)]
    if unit.startswith("snap."):
        text = (root / "var/snap/microk8s/current/args/kubelet").read_text()
        return text.replace("${SNAP_COMMON}", "/var/snap/microk8s/common").split()
    words = _command(root, unit)
    if unit.startswith("k0s"):
        extra_args = [w.partition("=")[2] for w in words if w.startswith("--kubelet-extra-args=")]
        return [f"{FLAG}unix:///run/k0s/containerd.sock", *extra_args[-1].split()]
    return words


def _command(root: Path, unit: str) -> list[str]:
    """Return the words of a unit's command, with its variables."""
    places = [root / "usr/lib/systemd/system", root / "etc/systemd/system"]
    files = [place / unit for place in places if (place / unit).exists()]
    drop_ins = {file.name: file for place in places for file in place.glob(f"{unit}.d/*.conf")}
    command, variables = "", {}
    for file in [*files, *(drop_ins[name] for name in sorted(drop_ins))]:
        for line in file.read_text().splitlines():
            key, _, value = line.partition("=")
            if key == "ExecStart" and value:
                command = value
            elif key == "Environment":
                name, _, content = shlex.split(value)[0].partition("=")
                variables[name] = content
            elif key == "EnvironmentFile" and (root / value.lstrip("-/")).exists():
                for each in (root / value.lstrip("-/")).read_text().splitlines():
                    name, _, content = each.partition("=")
                    variables[name] = content.strip('"')
    return shlex.split(re.sub(r"\$(\w+)", lambda found: variables.get(found[1], ""), command))


def settings(root: Path, unit: str) -> tuple[str, int]:
    """Return the path of the runtime's socket and the port of healthz."""
    words = flags_of(root, unit)
    config: dict[str, Any] = {}
    for word in words:
        if word.startswith("--config="):
            config = yaml.safe_load((root / word.removeprefix("--config=/")).read_text())
    endpoints = [word.removeprefix(FLAG) for word in words if word.startswith(FLAG)]
    ports = [word.removeprefix(PORT) for word in words if word.startswith(PORT)]
    endpoint = [config.get("containerRuntimeEndpoint"), *endpoints][-1]
    return endpoint.removeprefix("unix://").replace("/var/run/", "/run/"), int(
        [config.get("healthzPort"), *ports][-1]
    )


class _Healthz(BaseHTTPRequestHandler):
    sick: Callable[[], bool]

    def do_GET(self) -> None:
        self.send_response(500 if self.sick() else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def main(root: Path, unit: str) -> int:
    """Run until a signal ends it. Returns 1 if the runtime does not answer."""
    path, port = settings(root, unit)
    path = f"{root}{path}"
    error = find_cri_error(path, SECONDS)
    if error is not None:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        _Healthz.sick = staticmethod(lambda: "criproxy" in path and (root / "sick").exists())
        server = HTTPServer(("127.0.0.1", port), _Healthz)
        Thread(target=server.serve_forever, daemon=True).start()
        print(f"kubelet {os.getpid()} at {path}", flush=True)
        while find_cri_error(path, SECONDS) is None:
            time.sleep(0.5)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
