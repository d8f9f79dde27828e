"""Where a process runs, by what its cgroups are called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.cgroups import Place, place_of

UID = "0f0e7b6c-9d3a-4c8e-8a57-2b1c3d4e5f60"
DASHED = UID.replace("-", "_")
OTHER_UID = "11111111-2222-3333-4444-555555555555"
STATIC = "1d3c5b7a9f0e2d4c6b8a0f1e3d5c7b9a"
ID = "a1" * 32
OTHER = "b2" * 32
SLICES = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{DASHED}.slice"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        # Pods: systemd's names, and plain ones.
        (
            f"/{SLICES}/cri-containerd-{ID}.scope",
            Place(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        (f"/{SLICES}/crio-{ID}.scope", Place(f"crio-{ID}.scope", ID, UID)),
        (f"/{SLICES}/docker-{ID}.scope", Place(f"docker-{ID}.scope", ID, UID)),
        (f"/{SLICES}/crio-{ID}.scope/container", Place(f"crio-{ID}.scope", ID, UID)),
        (f"/{SLICES}", Place(None, None, UID)),
        (
            f"/kubepods.slice/kubepods-pod{DASHED}.slice/cri-containerd-{ID}.scope",
            Place(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        (
            f"/kubepods.slice/kubepods-pod{STATIC}.slice/cri-containerd-{ID}.scope",
            Place(f"cri-containerd-{ID}.scope", ID, STATIC),
        ),
        (f"/kubepods/burstable/pod{UID}/{ID}", Place(None, ID, UID)),
        (f"/kubepods/besteffort/pod{UID}/{ID}/init", Place(None, ID, UID)),
        (f"/kubepods/pod{STATIC}/{ID}", Place(None, ID, STATIC)),
        (f"/kubepods/burstable/pod{UID}/crio-{ID}", Place(None, ID, UID)),
        (f"/kubepods/burstable/pod{UID}", Place(None, None, UID)),
        # A runtime with plain names under a kubelet with systemd's.
        (
            f"/system.slice/containerd.service/kubepods-burstable-pod{DASHED}.slice"
            f":cri-containerd:{ID}",
            Place("containerd.service", ID, UID),
        ),
        (f"/kubepods-burstable-pod{DASHED}.slice:cri-containerd:{ID}", Place(None, ID, UID)),
        # Below a kubelet's own slice, as in kind; below k3s's service.
        (
            f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{DASHED}.slice"
            f"/cri-containerd-{ID}.scope",
            Place(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        (f"/kubelet/kubepods/burstable/pod{UID}/{ID}", Place(None, ID, UID)),
        (f"/system.slice/k3s.service/kubepods/pod{UID}/{ID}", Place("k3s.service", ID, UID)),
        # Containers without a pod.
        (f"/k8s.io/{ID}", Place(None, ID, None)),
        (f"/docker/{ID}", Place(None, ID, None)),
        (f"/system.slice/docker-{ID}.scope", Place(f"docker-{ID}.scope", ID, None)),
        (
            f"/machine.slice/libpod-{ID}.scope/container",
            Place(f"libpod-{ID}.scope", ID, None),
        ),
        # What watches a container is not in it.
        (f"/{SLICES}/crio-conmon-{ID}.scope", Place(f"crio-conmon-{ID}.scope", None, UID)),
        (f"/kubepods/pod{UID}/crio-conmon-{ID}", Place(None, None, UID)),
        # Units.
        ("/system.slice/kubelet.service", Place("kubelet.service")),
        ("/system.slice/k3s.service", Place("k3s.service")),
        ("/kubelet.slice/kubelet.service", Place("kubelet.service")),
        (
            "/system.slice/system-getty.slice/getty@tty1.service",
            Place("getty@tty1.service"),
        ),
        ("/system.slice/dev-disk\\x2d1.swap", Place("dev-disk\\x2d1.swap")),
        ("/system.slice/_cpu.service", Place("cpu.service")),
        ("/init.scope", Place("init.scope")),
        ("/user.slice/user-1000.slice/session-3.scope", Place("session-3.scope")),
        # None of these, and seen from within cgroup namespaces.
        ("/", Place()),
        ("/system.slice", Place()),
        ("/system.slice/kubelet", Place()),
        ("/kubepods/burstable", Place()),
        (f"/{ID[1:]}", Place()),
        (f"/../../kubepods/pod{UID}/{ID}", Place(None, ID, UID)),
        (
            f"/../../kubepods-burstable-pod{DASHED}.slice/cri-containerd-{ID}.scope",
            Place(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        ("/../system.slice/kubelet.service", Place("kubelet.service")),
        ("/system.slice/cron.service (deleted)", Place("cron.service")),
    ],
)
def test_place(path: str, place: Place) -> None:
    """Each way in which systemd, kubelets and runtimes name cgroups is understood."""
    assert place_of(f"0::{path}\n") == place
    assert place_of(f"3:cpu,cpuacct:{path}\n1:name=systemd:{path}\n") == place


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (f"/docker/{ID}/kubepods/pod{UID}/{OTHER}", Place(None, ID, None)),
        (
            f"/kubepods/pod{UID}/{ID}/kubepods/pod{OTHER_UID}/{OTHER}",
            Place(None, ID, UID),
        ),
        (f"/kubepods/pod{UID}/pod{OTHER_UID}/{ID}", Place(None, ID, UID)),
        (
            f"/{SLICES}/cri-containerd-{ID}.scope/system.slice/kubelet.service",
            Place(f"cri-containerd-{ID}.scope", ID, UID),
        ),
        (f"/kubepods/pod{UID}/{ID}/kubelet.service", Place(None, ID, UID)),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/kubelet.service",
            Place("user@1000.service"),
        ),
        (
            f"/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/{ID}",
            Place("user@1000.service"),
        ),
        ("/system.slice/cron.service/kubelet.service", Place("cron.service")),
        (f"/user.slice/a.scope/\v0::/kubepods/pod{UID}/{ID}", Place("a.scope")),
        ("/user.slice/a.scope/\u20281:name=systemd:/kubelet.service", Place("a.scope")),
    ],
)
def test_made_up(path: str, place: Place) -> None:
    """Cgroups that a process makes for itself, below its own, do not change where it runs."""
    assert place_of(f"0::{path}\n") == place


def test_the_hierarchies_of_v1() -> None:
    """The hierarchy that tells most of the container counts; the unit is in systemd's."""
    cgroup = (
        f"12:pids:/kubepods/pod{UID}\n"
        f"11:cpu,cpuacct:/\n"
        f"10:memory:/kubepods/pod{UID}/{ID}\n"
        f"9:devices:/docker/{OTHER}\n"
        f"2:freezer:/system.slice/ssh.service\n"
        "1:name=systemd:/system.slice/k3s.service\n"
        "0::/system.slice/cron.service\n"
    )
    assert place_of(cgroup) == Place("k3s.service", ID, UID)
    unified = cgroup.replace("1:name=systemd:/system.slice/k3s.service\n", "1:name=systemd:/\n")
    assert place_of(unified) == Place("cron.service", ID, UID)
    assert place_of("2:freezer:/system.slice/ssh.service\n1:name=systemd:/\n0::/\n") == Place()


def test_what_are_no_lines() -> None:
    """What cgroups(7) does not know is passed over."""
    assert place_of("") == Place()
    assert place_of("\n::\nx\n0:\n0::\n") == Place()
    assert place_of("x\n0::/system.slice/a.service") == Place("a.service")


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
    """Any path can be read; within a container a process can make up no other place for itself."""
    assert isinstance(place_of(f"0::/{above}\n"), Place)
    there = f"0::/kubepods/pod{UID}/{ID}"
    assert place_of(f"{there}/{below.partition(chr(10))[0]}") == place_of(there)
