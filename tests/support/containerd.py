"""Runs Debian's containerd in a directory of its own, without changing the rest of the machine.

Everything it makes lives under one directory (root, state, sockets, network namespaces, CNI
configuration and leases) or bears one unique name (bridge, CNI network, cgroup), and goes when
it stops::

    with Containerd(directory) as runtime:
        runtime.endpoint        # unix:///…/containerd.sock, CRI v1 and v1alpha2
        runtime.import_image()  # one static busybox, also as the sandbox image
        runtime.restart()       # the same endpoint, the same containers
"""

import json
import os
import secrets
import shutil
import subprocess
from functools import partial
from pathlib import Path

import grpc

from criproxy.concurrency.command_process import Startable
from tests.support.image import BUSYBOX, PAUSE_IMAGE, write_archive
from tests.support.mounts import unmount_below
from tests.support.process import Process
from tests.support.waiting import wait_until

CNI_BIN = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins puts the plugins."""
CNI_CACHE = Path("/var/lib/cni/results")
"""Where libcni notes each attachment; the place is not configurable."""
NAMESPACE = "k8s.io"
"""The containerd namespace that its CRI plugin keeps everything in."""

_CONFIG = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{address}"

[plugins."io.containerd.grpc.v1.cri"]
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  # Without CAP_SYS_RESOURCE no process may lower its oom_score_adj.
  restrict_oom_score_adj = true
  sandbox_image = "{pause}"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{cni_bin}"
  conf_dir = "{directory}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  Root = "{directory}/runc"
"""


def missing() -> list[str]:
    """Return the names of the requirements of :class:`Containerd` that this machine lacks."""
    lacks = [] if os.geteuid() == 0 else ["root"]
    programs = ("containerd", "containerd-shim-runc-v2", "ctr", "ip", "runc")
    lacks += [program for program in programs if shutil.which(program) is None]
    files = (CNI_BIN / "bridge", CNI_BIN / "host-local", CNI_BIN / "loopback", BUSYBOX)
    return lacks + [str(file) for file in files if not file.exists()]


class Containerd(Startable):
    """One private containerd. Entering it starts it; leaving it removes all that it made."""

    def __init__(self, directory: Path) -> None:
        """Keep everything below ``directory``, which must be short enough for socket paths."""
        self.directory = directory
        self.name = f"crp{secrets.token_hex(4)}"
        self.address = directory / "containerd.sock"
        self.endpoint = f"unix://{self.address}"
        self.cgroup_parent = f"/{self.name}"
        self.process = Process(
            ["containerd", "--config", str(directory / "config.toml"), "--log-level", "info"],
            output=directory / "containerd",
        )

    def start(self) -> None:
        """Start the daemon and wait until its CRI plugin and its network are ready."""
        self._configure()
        self.process.start()
        wait_until(self._ready, f"containerd at {self.endpoint}", report=self._log_tail)

    def kill(self) -> None:
        """Kill the daemon with SIGKILL. Its containers run on, as after a crash."""
        self.process.kill()

    def restart(self) -> None:
        """End the daemon, its containers running on, and start it again at the same endpoint."""
        self.process.stop()
        self.start()

    def stop(self) -> None:
        """End the daemon, and remove containers, network namespaces, mounts, bridge, cgroups."""
        if self.process.running:
            self.process.stop()
        sandboxes = self._kill_shims()
        self._delete_containers()
        unmount_below(self.directory)
        self._delete_network(sandboxes)
        self._delete_cgroups()

    def ctr(self, *arguments: str) -> str:
        """Run ``ctr`` against it, in the CRI's namespace, and return what it printed."""
        command = ["ctr", "--address", str(self.address), "--namespace", NAMESPACE, *arguments]
        return subprocess.run(
            command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True
        ).stdout

    def import_image(self) -> None:
        """Import the busybox image, also under the sandbox image's name."""
        archive = write_archive(self.directory / "image.tar")
        self.ctr("images", "import", str(archive))

    def _configure(self) -> None:
        cni = self.directory / "cni"
        cni.mkdir(parents=True, exist_ok=True)
        (cni / "10-bridge.conflist").write_text(json.dumps(self._network()))
        (self.directory / "config.toml").write_text(
            _CONFIG.format(
                directory=self.directory,
                address=self.address,
                pause=PAUSE_IMAGE,
                cni_bin=CNI_BIN,
                snapshotter=_snapshotter(self.directory),
            )
        )

    def _network(self) -> dict[str, object]:
        # The bridge is no gateway and masks nothing: neither the machine's forwarding, nor its
        # routes, nor its packet filter change, and the subnet may be in use elsewhere.
        ipam = {
            "type": "host-local",
            "dataDir": str(self.directory / "leases"),
            "ranges": [[{"subnet": "10.244.7.0/24"}]],
        }
        bridge = {"type": "bridge", "bridge": self.name, "isGateway": False, "ipam": ipam}
        return {"cniVersion": "0.4.0", "name": self.name, "plugins": [bridge]}

    def _ready(self) -> bool:
        if not self.process.running:
            raise RuntimeError(f"containerd ended: {self._log_tail()}")
        options = [("grpc.default_authority", "localhost")]
        with grpc.insecure_channel(self.endpoint, options) as channel:
            # An empty StatusRequest is no bytes; it fails until the CRI plugin is initialised.
            status = channel.unary_unary("/runtime.v1.RuntimeService/Status", bytes, bytes)
            try:
                answer: bytes = status(b"", timeout=5)
            except grpc.RpcError:
                return False
            return b"cni plugin not initialized" not in answer

    def _log_tail(self) -> str:
        return "\n".join(self.process.stderr.splitlines()[-20:])

    def _kill_shims(self) -> list[str]:
        """Kill the shims that serve this containerd; return the ids of their sandboxes."""
        ids: list[str] = []
        # A shim listens in a directory that all containerds share, and notes where.
        tasks = self.directory / "state/io.containerd.runtime.v2.task" / NAMESPACE
        for note in tasks.glob("*/address"):
            Path(note.read_text().removeprefix("unix://")).unlink(missing_ok=True)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                argv = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "containerd-shim" in argv[0] and str(self.address) in argv:
                ids.append(argv[argv.index("-id") + 1])
                os.kill(int(process.name), 9)
        return ids

    def _delete_containers(self) -> None:
        runc = self.directory / "runc" / NAMESPACE
        for container in runc.glob("*"):
            command = ["runc", "--root", str(runc), "delete", "--force", container.name]
            subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)

    def _delete_network(self, sandboxes: list[str]) -> None:
        for sandbox in sandboxes:
            for note in CNI_CACHE.glob(f"*-{sandbox}-*"):
                note.unlink(missing_ok=True)
        command = ["ip", "link", "delete", self.name]
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)

    def _delete_cgroups(self) -> None:
        hierarchies = Path("/sys/fs/cgroup").glob(f"*{self.cgroup_parent}")
        unified = Path(f"/sys/fs/cgroup{self.cgroup_parent}")
        for top in {*hierarchies, unified}:
            for group, _, _ in os.walk(top, topdown=False):
                wait_until(partial(_rmdir, Path(group)), f"removal of {group}")


def _rmdir(group: Path) -> bool:
    group.rmdir()
    return True


def _snapshotter(directory: Path) -> str:
    """Return ``overlayfs`` where overlays can be mounted on this directory, else ``native``."""
    probe = directory / "probe"
    for part in ("lower", "upper", "work", "merged"):
        (probe / part).mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={probe}/lower,upperdir={probe}/upper,workdir={probe}/work"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(probe / "merged")]
    mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    unmount_below(probe)
    shutil.rmtree(probe)
    return "overlayfs" if mounted else "native"
