"""The systemd unit, container and pod of a cgroup."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.peers.cgroups import CgroupLocation, cgroup_location

UID = "0f0e7b6c-9d3a-4c8e-8a57-2b1c3d4e5f60"
DASHED = UID.replace("-", "_")
OTHER_UID = "11111111-2222-3333-4444-555555555555"
STATIC = "1d3c5b7a9f0e2d4c6b8a0f1e3d5c7b9a"
ID = "a1" * 32
OTHER = "b2" * 32
SLICES = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{DASHED}.slice"


@pytest.mark.parametrize(
    ("path", "location"),
    [
        # Pods: systemd's names, and plain ones.
        (
            f"/{SLICES}/cri-containerd-{ID}.scope",
            CgroupLocation(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        (f"/{SLICES}/crio-{ID}.scope", CgroupLocation(f"crio-{ID}.scope", ID, UID)),
        (f"/{SLICES}/docker-{ID}.scope", CgroupLocation(f"docker-{ID}.scope", ID, UID)),
        (f"/{SLICES}/crio-{ID}.scope/container", CgroupLocation(f"crio-{ID}.scope", ID, UID)),
        (f"/{SLICES}", CgroupLocation(None, None, UID)),
        (
            f"/kubepods.slice/kubepods-pod{DASHED}.slice/cri-containerd-{ID}.scope",
            CgroupLocation(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        (
            f"/kubepods.slice/kubepods-pod{STATIC}.slice/cri-containerd-{ID}.scope",
            CgroupLocation(f"cri-containerd-{ID}.scope", ID, STATIC),
        ),
        (f"/kubepods/burstable/pod{UID}/{ID}", CgroupLocation(None, ID, UID)),
        (f"/kubepods/besteffort/pod{UID}/{ID}/init", CgroupLocation(None, ID, UID)),
        (f"/kubepods/pod{STATIC}/{ID}", CgroupLocation(None, ID, STATIC)),
        (f"/kubepods/burstable/pod{UID}/crio-{ID}", CgroupLocation(None, ID, UID)),
        (f"/kubepods/burstable/pod{UID}", CgroupLocation(None, None, UID)),
        # A runtime with plain names under a kubelet with systemd's.
        (
            f"/system.slice/containerd.service/kubepods-burstable-pod{DASHED}.slice"
            f":cri-containerd:{ID}",
            CgroupLocation("containerd.service", ID, UID),
        ),
        (
            f"/kubepods-burstable-pod{DASHED}.slice:cri-containerd:{ID}",
            CgroupLocation(None, ID, UID),
        ),
        # Below a kubelet's own slice, as in kind; below k3s's service.
        (
            f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{DASHED}.slice"
            f"/cri-containerd-{ID}.scope",
            CgroupLocation(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        (f"/kubelet/kubepods/burstable/pod{UID}/{ID}", CgroupLocation(None, ID, UID)),
        (
            f"/system.slice/k3s.service/kubepods/pod{UID}/{ID}",
            CgroupLocation("k3s.service", ID, UID),
        ),
        # Containers without a pod.
        (f"/k8s.io/{ID}", CgroupLocation(None, ID, None)),
        (f"/docker/{ID}", CgroupLocation(None, ID, None)),
        (f"/system.slice/docker-{ID}.scope", CgroupLocation(f"docker-{ID}.scope", ID, None)),
        (
            f"/machine.slice/libpod-{ID}.scope/container",
            CgroupLocation(f"libpod-{ID}.scope", ID, None),
        ),
        # What watches a container is not in it.
        (f"/{SLICES}/crio-conmon-{ID}.scope", CgroupLocation(f"crio-conmon-{ID}.scope", None, UID)),
        (f"/kubepods/pod{UID}/crio-conmon-{ID}", CgroupLocation(None, None, UID)),
        # Units.
        ("/system.slice/kubelet.service", CgroupLocation("kubelet.service")),
        ("/system.slice/k3s.service", CgroupLocation("k3s.service")),
        ("/kubelet.slice/kubelet.service", CgroupLocation("kubelet.service")),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            CgroupLocation("getty@tty1.service"),
        ),
        ("/system.slice/dev-disk\\x2d1.swap", CgroupLocation("dev-disk\\x2d1.swap")),
        ("/system.slice/_cpu.service", CgroupLocation("cpu.service")),
        ("/init.scope", CgroupLocation("init.scope")),
        ("/user.slice/user-1000.slice/session-3.scope", CgroupLocation("session-3.scope")),
        # None of these, and seen from within cgroup namespaces.
        ("/", CgroupLocation()),
        ("/system.slice", CgroupLocation()),
        ("/system.slice/kubelet", CgroupLocation()),
        ("/kubepods/burstable", CgroupLocation()),
        (f"/{ID[1:]}", CgroupLocation()),
        (f"/../../kubepods/pod{UID}/{ID}", CgroupLocation(None, ID, UID)),
        (
            f"/../../kubepods-burstable-pod{DASHED}.slice/cri-containerd-{ID}.scope",
            CgroupLocation(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        ("/../system.slice/kubelet.service", CgroupLocation("kubelet.service")),
        ("/system.slice/cron.service (deleted)", CgroupLocation("cron.service")),
    ],
)
def test_location(path: str, location: CgroupLocation) -> None:
    """Each naming scheme of systemd, kubelets and runtimes is recognized."""
    assert cgroup_location(f"0::{path}\n") == location
    assert cgroup_location(f"3:cpu,cpuacct:{path}\n1:name=systemd:{path}\n") == location


@pytest.mark.parametrize(
    ("path", "location"),
    [
        (f"/docker/{ID}/kubepods/pod{UID}/{OTHER}", CgroupLocation(None, ID, None)),
        (
            f"/kubepods/pod{UID}/{ID}/kubepods/pod{OTHER_UID}/{OTHER}",
            CgroupLocation(None, ID, UID),
        ),
        (f"/kubepods/pod{UID}/pod{OTHER_UID}/{ID}", CgroupLocation(None, ID, UID)),
        (
            f"/{SLICES}/cri-containerd-{ID}.scope/system.slice/kubelet.service",
            CgroupLocation(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        (f"/kubepods/pod{UID}/{ID}/kubelet.service", CgroupLocation(None, ID, UID)),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/kubelet.service",
            CgroupLocation("user@1000.service"),
        ),
        (
            f"/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/{ID}",
            CgroupLocation("user@1000.service"),
        ),
        ("/system.slice/cron.service/kubelet.service", CgroupLocation("cron.service")),
        (f"/user.slice/a.scope/\v0::/kubepods/pod{UID}/{ID}", CgroupLocation("a.scope")),
        ("/user.slice/a.scope/\u20281:name=systemd:/kubelet.service", CgroupLocation("a.scope")),
    ],
)
def test_nested_cgroups(path: str, location: CgroupLocation) -> None:
    """Cgroups that a process creates below its own do not change its location."""
    assert cgroup_location(f"0::{path}\n") == location


def test_the_hierarchies_of_v1() -> None:
    """The most specific hierarchy determines the container; systemd's determines the unit."""
    cgroup = (
        f"12:pids:/kubepods/pod{UID}\n"
        f"11:cpu,cpuacct:/\n"
        f"10:memory:/kubepods/pod{UID}/{ID}\n"
        f"9:devices:/docker/{OTHER}\n"
        f"2:freezer:/system.slice/ssh.service\n"
        "1:name=systemd:/system.slice/k3s.service\n"
        "0::/system.slice/cron.service\n"
    )
    assert cgroup_location(cgroup) == CgroupLocation("k3s.service", ID, UID)
    unified = cgroup.replace("1:name=systemd:/system.slice/k3s.service\n", "1:name=systemd:/\n")
    assert cgroup_location(unified) == CgroupLocation("cron.service", ID, UID)
    assert (
        cgroup_location("2:freezer:/system.slice/ssh.service\n1:name=systemd:/\n0::/\n")
        == CgroupLocation()
    )


def test_malformed_lines() -> None:
    """Malformed lines are ignored."""
    assert cgroup_location("") == CgroupLocation()
    assert cgroup_location("\n::\nx\n0:\n0::\n") == CgroupLocation()
    assert cgroup_location("x\n0::/system.slice/a.service") == CgroupLocation("a.service")


PARTS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        (
            "..",
            "user.slice",
            "system.slice",
            "kubelet.service",
            f"pod{UID}",
            f"kubepods-pod{DASHED}.slice",
            ID,
            f"crio-{ID}.scope",
            f"kubepods-pod{DASHED}.slice:cri-containerd:{ID}",
        )
    ),
)


@given(st.lists(PARTS, max_size=5).map("/".join), st.lists(PARTS, max_size=5).map("/".join))
def test_nothing_below_a_container_counts(above: str, below: str) -> None:
    """Any path is accepted; a process in a container cannot change its location."""
    assert isinstance(cgroup_location(f"0::/{above}\n"), CgroupLocation)
    there = f"0::/kubepods/pod{UID}/{ID}"
    assert cgroup_location(f"{there}/{below.partition(chr(10))[0]}") == cgroup_location(there)
