"""Trees of nodes as the distributions' documentation and installers lay them out.

- kubeadm: "Configuring each kubelet in your cluster using kubeadm" of kubernetes.io, with the
  drop-in 10-kubeadm.conf of the kubeadm package; flags in kubeadm-flags.env up to 1.34, in
  instance-config.yaml since.
- k3s and RKE2: "Configuration File" of docs.k3s.io and docs.rke2.io, with the units that get.k3s.io
  and the tarball of RKE2 install.
- k0s: ``k0s install worker`` of docs.k0sproject.io.
- MicroK8s: "Configuring services" of microk8s.io, with the files of snapd.
- systemd: "Kubernetes the hard way": a kubelet.service with a drop-in that has the flag.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import yaml

PROGRAM: Final = "/opt/criproxy/bin/criproxy"
CONTAINERD: Final = "/run/containerd/containerd.sock"
CRIO: Final = "/run/crio/crio.sock"
K3S: Final = "/run/k3s/containerd/containerd.sock"
K0S: Final = "/run/k0s/containerd.sock"
MICROK8S: Final = "/var/snap/microk8s/common/run/containerd.sock"

KUBEADM_UNIT: Final = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
_KUBECONFIGS: Final = (
    "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf "
    "--kubeconfig=/etc/kubernetes/kubelet.conf"
)
_VARIABLES: Final = (
    "$KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS"
)
KUBEADM_DROP_IN: Final = f"""\
# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment="KUBELET_KUBECONFIG_ARGS={_KUBECONFIGS}"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# This is a file that "kubeadm init" and "kubeadm join" generates at runtime
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet {_VARIABLES}
"""
K3S_UNIT: Final = """\
[Unit]
Description=Lightweight Kubernetes
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-/etc/systemd/system/k3s.service.env
KillMode=process
Delegate=yes
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/local/bin/k3s \\
    server \\

"""
RKE2_UNIT: Final = """\
[Unit]
Description=Rancher Kubernetes Engine v2 (agent)
Wants=network-online.target
After=network-online.target
Conflicts=rke2-server.service

[Install]
WantedBy=multi-user.target

[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/sysconfig/%N
EnvironmentFile=-/usr/local/lib/systemd/system/%N.env
KillMode=process
Delegate=yes
Restart=always
RestartSec=5s
ExecStart=/usr/local/bin/rke2 agent
ExecStopPost=-/bin/sh -c "systemd-cgls /system.slice/%n | grep -Eo '[0-9]+ (containerd|kubelet)'"
"""
K0S_UNIT: Final = """\
[Unit]
Description=k0s - Zero Friction Kubernetes
Documentation=https://docs.k0sproject.io
ConditionFileIsExecutable=/usr/local/bin/k0s
After=network-online.target
Wants=network-online.target

[Service]
StartLimitInterval=5
StartLimitBurst=10
ExecStart=/usr/local/bin/k0s worker --token-file=/etc/k0s/token --kubelet-extra-args={extra}
RestartSec=10
Delegate=yes
KillMode=process
LimitCORE=infinity
TasksMax=infinity
Restart=always

[Install]
WantedBy=multi-user.target
"""
MICROK8S_UNIT: Final = """\
[Unit]
# Auto-generated, DO NOT EDIT
Description=Service for snap application microk8s.daemon-kubelite
Requires=snap-microk8s-7229.mount
After=snap-microk8s-7229.mount network.target snapd.apparmor.service
X-Snappy=yes

[Service]
EnvironmentFile=-/etc/environment
ExecStart=/usr/bin/snap run microk8s.daemon-kubelite
SyslogIdentifier=microk8s.daemon-kubelite
Restart=always
WorkingDirectory=/var/snap/microk8s/7229
TimeoutStopSec=30
Type=simple

[Install]
WantedBy=multi-user.target
"""
MICROK8S_ARGS: Final = """\
--kubeconfig=${SNAP_DATA}/credentials/kubelet.config
--cert-dir=${SNAP_DATA}/certs
--client-ca-file=${SNAP_DATA}/certs/ca.crt
--anonymous-auth=false
--root-dir=${SNAP_COMMON}/var/lib/kubelet
--container-runtime-endpoint=${SNAP_COMMON}/run/containerd.sock
--containerd=${SNAP_COMMON}/run/containerd.sock
"""


class NodeTree:
    """A tree below ``root``, filled by one of the functions of :data:`TREES`."""

    def __init__(self, root: Path, port: int = 10248) -> None:
        """``port`` is that of the kubelet's healthz."""
        self.root = root.resolve()
        self.port = port

    def file(self, path: str, text: str, mode: int = 0o644) -> Path:
        """Have a file."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        os.utime(file, (1_700_000_000, 1_700_000_000))
        return file

    def text(self, path: str) -> str:
        """Return the text of a file."""
        return (self.root / path.lstrip("/")).read_text()

    def enable(self, unit: str) -> None:
        """Enable a unit, as systemctl does."""
        link = self.root / "etc/systemd/system/multi-user.target.wants" / unit
        link.symlink_to(f"/etc/systemd/system/{unit}")

    def kubelet_config(self, **keys: object) -> None:
        """Have a KubeletConfiguration as kubeadm writes it."""
        content = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "cgroupDriver": "systemd",
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": self.port,
            "kind": "KubeletConfiguration",
            **keys,
        }
        self.file("/var/lib/kubelet/config.yaml", yaml.safe_dump(content))

    def snapshot(self) -> Mapping[str, tuple[object, ...]]:
        """Return kind, mode, owner, content and time of everything in it."""
        found: dict[str, tuple[object, ...]] = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            row: list[object] = [status.st_mode, status.st_uid, status.st_gid]
            if path.is_symlink():
                row.append(os.readlink(path))
            elif path.is_file():
                row += [path.read_bytes(), status.st_mtime_ns]
            found[str(path.relative_to(self.root))] = tuple(row)
        return found

    def installed_snapshot(self) -> Mapping[str, tuple[object, ...]]:
        """Return the same without times, and without the journal of the installation."""
        return {
            path: row[:4]
            for path, row in self.snapshot().items()
            if not path.startswith("var/lib/criproxy")
        }


def kubeadm_flags(tree: NodeTree) -> None:
    """Have kubeadm up to 1.34: the flag, and a file that says nothing or something else."""
    _kubeadm(tree)
    tree.kubelet_config(containerRuntimeEndpoint="")
    flags = f"--container-runtime-endpoint=unix:///var{CONTAINERD} --node-ip=10.0.0.7"
    tree.file("/var/lib/kubelet/kubeadm-flags.env", f'KUBELET_KUBEADM_ARGS="{flags}"\n', 0o600)
    tree.file("/usr/bin/crictl", "", 0o755)


def kubeadm_instance(tree: NodeTree) -> None:
    """Have kubeadm since 1.35: the endpoint of the node's own instance-config.yaml."""
    _kubeadm(tree)
    tree.kubelet_config(containerRuntimeEndpoint=f"unix://{CONTAINERD}")
    instance = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "kind": "KubeletConfiguration",
    }
    tree.file("/var/lib/kubelet/instance-config.yaml", yaml.safe_dump(instance), 0o600)
    tree.file("/var/lib/kubelet/kubeadm-flags.env", 'KUBELET_KUBEADM_ARGS=""\n')
    _crictl(tree, CONTAINERD)


def kubeadm_crio(tree: NodeTree) -> None:
    """Have kubeadm in front of CRI-O."""
    _kubeadm(tree)
    tree.kubelet_config(containerRuntimeEndpoint=f"unix://{CRIO}")
    _crictl(tree, CRIO)


def k3s(tree: NodeTree) -> None:
    """Have k3s as its installer leaves it, with an argument for the kubelet."""
    tree.file("/etc/systemd/system/k3s.service", K3S_UNIT)
    tree.file("/etc/systemd/system/k3s.service.env", "", 0o600)
    tree.enable("k3s.service")
    config = f"write-kubeconfig-mode: '0644'\nkubelet-arg:\n- healthz-port={tree.port}\n"
    tree.file("/etc/rancher/k3s/config.yaml", config, 0o600)


def rke2(tree: NodeTree) -> None:
    """Have an agent of RKE2: the units of servers and of agents are there."""
    units = "/usr/local/lib/systemd/system"
    tree.file(f"{units}/rke2-agent.service", RKE2_UNIT)
    tree.file(f"{units}/rke2-server.service", RKE2_UNIT.replace(" agent", " server"))
    tree.enable("rke2-agent.service")
    config = (
        f"server: https://10.0.0.1:9345\ntoken: secret\nkubelet-arg: [healthz-port={tree.port}]\n"
    )
    tree.file("/etc/rancher/rke2/config.yaml", config, 0o600)


def k0s(tree: NodeTree) -> None:
    """Have a worker of k0s."""
    extra = f'"--healthz-port={tree.port}"'
    tree.file("/etc/systemd/system/k0sworker.service", K0S_UNIT.format(extra=extra))
    tree.enable("k0sworker.service")


def microk8s(tree: NodeTree) -> None:
    """Have MicroK8s, whose ``current`` is a link to its revision."""
    tree.file("/etc/systemd/system/snap.microk8s.daemon-kubelite.service", MICROK8S_UNIT)
    tree.enable("snap.microk8s.daemon-kubelite.service")
    args = f"{MICROK8S_ARGS}--healthz-port={tree.port}\n"
    tree.file("/var/snap/microk8s/7229/args/kubelet", args, 0o660)
    (tree.root / "var/snap/microk8s/current").symlink_to("7229")


def drop_in(tree: NodeTree) -> None:
    """Have a kubelet whose flag is in an administrator's drop-in."""
    unit = KUBEADM_UNIT.replace("/usr/bin/kubelet", "/usr/bin/kubelet $RUNTIME $HEALTH")
    tree.file("/usr/lib/systemd/system/kubelet.service", unit)
    tree.enable("kubelet.service")
    text = (
        f'[Service]\nEnvironment="RUNTIME=--container-runtime-endpoint=unix://{CONTAINERD}"\n'
        f'Environment="HEALTH=--healthz-port={tree.port}"\n'
    )
    tree.file("/etc/systemd/system/kubelet.service.d/20-runtime.conf", text)


def vendor_unit(tree: NodeTree) -> None:
    """Have a kubelet whose flag is in the unit of a package, which is not to be edited."""
    flags = f"--container-runtime-endpoint=unix://{CONTAINERD} --healthz-port={tree.port}"
    unit = KUBEADM_UNIT.replace("/usr/bin/kubelet", f"/usr/bin/kubelet {flags}")
    tree.file("/usr/lib/systemd/system/kubelet.service", unit)
    tree.enable("kubelet.service")


def _kubeadm(tree: NodeTree) -> None:
    units = "/usr/lib/systemd/system"
    tree.file(f"{units}/kubelet.service", KUBEADM_UNIT)
    tree.file(f"{units}/kubelet.service.d/10-kubeadm.conf", KUBEADM_DROP_IN)
    tree.enable("kubelet.service")


def _crictl(tree: NodeTree, runtime: str) -> None:
    endpoints = f"runtime-endpoint: unix://{runtime}\nimage-endpoint: unix://{runtime}\n"
    tree.file("/etc/crictl.yaml", f"# mine\n{endpoints}timeout: 10\n")


TREES: Final[Mapping[str, tuple[Callable[[NodeTree], None], str]]] = {
    "kubeadm, flag": (kubeadm_flags, CONTAINERD),
    "kubeadm, instance-config.yaml": (kubeadm_instance, CONTAINERD),
    "kubeadm, CRI-O": (kubeadm_crio, CRIO),
    "k3s": (k3s, K3S),
    "RKE2": (rke2, K3S),
    "k0s": (k0s, K0S),
    "MicroK8s": (microk8s, MICROK8S),
    "systemd drop-in": (drop_in, CONTAINERD),
    "unit of a package": (vendor_unit, CONTAINERD),
}
"""Each layout, and the path of its runtime's socket."""


def tree_of(layout: str, root: Path, port: int = 10248) -> NodeTree:
    """Return a tree of a layout below an empty directory."""
    tree = NodeTree(root, port)
    for each in ("etc/systemd/system/multi-user.target.wants", "usr/bin", "var/lib"):
        (tree.root / each).mkdir(parents=True)
    tree.file(PROGRAM, "#!/bin/sh\n", 0o755)
    TREES[layout][0](tree)
    return tree
