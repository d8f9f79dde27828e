"""Makes a container image of one static busybox, so that no test needs a registry."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
IMAGE = "criproxy.test/busybox:1"
"""The name of the image that the tests' containers run."""
PAUSE_IMAGE = "registry.k8s.io/pause:3.6"
"""The sandbox image that containerd 1.6 asks for unless configured."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_APPLETS = ("cat", "echo", "false", "ls", "sh", "sleep", "true")
_PAUSE_SCRIPT = b"#!/bin/sh\ntrap 'exit 0' TERM INT\nsleep 2147483647 &\nwait\n"


def write_archive(path: Path, names: tuple[str, ...] = (IMAGE, PAUSE_IMAGE)) -> Path:
    """Write a docker-archive with busybox under each of ``names``, and return its path.

    Its entrypoint is ``/pause``, which sleeps until SIGTERM, so that it serves as a sandbox too.
    The bytes depend on busybox and the names alone: times and owners are zero. Other names make
    another image.
    """
    layer = _layer()
    config = json.dumps(
        {
            "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "Env": ["PATH=/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
            "history": [{"created_by": "busybox", "comment": " ".join(names)}],
        }
    ).encode()
    config_name = _digest(config).removeprefix("sha256:") + ".json"
    manifest = json.dumps(
        [{"Config": config_name, "RepoTags": list(names), "Layers": ["layer.tar"]}]
    ).encode()
    with tarfile.open(path, "w") as archive:
        _add(archive, config_name, config)
        _add(archive, "layer.tar", layer)
        _add(archive, "manifest.json", manifest)
    return path


def _layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for directory in ("bin", "dev", "etc", "proc", "sys", "tmp", "var"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        _add(layer, "bin/busybox", BUSYBOX.read_bytes(), mode=0o755)
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
        _add(layer, "pause", _PAUSE_SCRIPT, mode=0o755)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
