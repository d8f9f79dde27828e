"""Where the kubelet and crictl are pointed."""

import pytest

from criproxy.doctor.checks.kubelet import check
from criproxy.doctor.findings import Outcome
from criproxy.doctor.node.kubelet_config import flag
from tests.doctor.nodes import PROXY, SCOPED, Node, said

FLAG = "--container-runtime-endpoint"
CONFIG = "/var/lib/kubelet/config.yaml"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([], None),
        (["kubelet", "--x=/a"], "/a"),
        (["kubelet", "--x", "/a"], "/a"),
        (["kubelet", "-x=/a", "--x=/b"], "/b"),
        (["kubelet", "--x"], None),
        (["kubelet", "--xy=/a"], None),
        (["kubelet", "--x="], ""),
    ],
)
def test_flag(command: list[str], expected: str | None) -> None:
    """A flag is given in one word or two, and the last one counts."""
    assert flag(command, "x") == expected


@pytest.mark.parametrize(
    ("words", "outcome", "what"),
    [
        ([f"{FLAG}=unix://{PROXY}"], "OK", f"unix://{PROXY} by {FLAG}"),
        ([FLAG, PROXY], "OK", f"{PROXY} by {FLAG}"),
        (
            [f"{FLAG}=unix:///run/containerd/containerd.sock"],
            "FAIL",
            f"unix:///run/containerd/containerd.sock by {FLAG}",
        ),
        ([], "FAIL", "unix:///run/containerd/containerd.sock by its default"),
        (
            [f"{FLAG}={SCOPED}"],
            "FAIL",
            f"{SCOPED} by {FLAG}, a listener whose profile is read-only: it cannot run pods",
        ),
        ([f"--config={CONFIG}"], "OK", f"unix://{PROXY} by containerRuntimeEndpoint in {CONFIG}"),
        (
            [f"--config={CONFIG}", f"{FLAG}=unix:///run/crio/crio.sock"],
            "FAIL",
            f"unix:///run/crio/crio.sock by {FLAG}",
        ),
        (
            [f"--config={CONFIG}", "--config-dir=/etc/kubelet.d"],
            "FAIL",
            "/x.sock by containerRuntimeEndpoint in /etc/kubelet.d/20.conf",
        ),
    ],
)
def test_pointed(node: Node, words: list[str], outcome: str, what: str) -> None:
    """A flag goes before the last file that has the key, and without either there is a default."""
    node.file(CONFIG, f"kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix://{PROXY}\n")
    node.file("/etc/kubelet.d/10.conf", "containerRuntimeEndpoint: /w.sock\n")
    node.file("/etc/kubelet.d/20.conf", "containerRuntimeEndpoint: /x.sock\n")
    node.file("/etc/kubelet.d/30.conf", "kind: KubeletConfiguration\n")
    node.process(20, "/usr/bin/kubelet", ["/usr/bin/kubelet", *words])
    assert said([*check(node.facts())]) == [(outcome, f"the kubelet (pid 20) is pointed at {what}")]


def test_kubelet_with_a_root_of_its_own(node: Node) -> None:
    """The file is read where the kubelet sees it, and a relative path from where it is."""
    node.file(f"/rootfs{CONFIG}", f"containerRuntimeEndpoint: {PROXY}\n")
    node.file("/srv/relative.yaml", f"containerRuntimeEndpoint: {PROXY}\n")
    apart = node.process(20, "/usr/bin/kubelet", ["kubelet", f"--config={CONFIG}"])
    (apart / "root").symlink_to(node.root / "rootfs")
    here = node.process(21, "/usr/bin/kubelet", ["kubelet", "--config", "relative.yaml"])
    (here / "root").symlink_to("/")
    (here / "cwd").symlink_to("/srv")
    assert [each.outcome for each in check(node.facts())] == [Outcome.OK, Outcome.OK]


def test_images(node: Node) -> None:
    """An endpoint for images is looked at as well."""
    words = ["kubelet", f"{FLAG}={PROXY}", "--image-service-endpoint=/run/other.sock"]
    node.process(20, "/usr/bin/kubelet", words)
    [runtime, images] = check(node.facts())
    assert (runtime.outcome, images.outcome) == (Outcome.OK, Outcome.FAIL)
    assert images.remedy.startswith("give --image-service-endpoint=")


@pytest.mark.parametrize(
    ("words", "file", "outcome", "by"),
    [
        (["server", f"{FLAG}={PROXY}"], None, "OK", FLAG),
        (["server", f"--kubelet-arg={FLAG[2:]}={PROXY}"], None, "OK", FLAG),
        (["server"], f"container-runtime-endpoint: {PROXY}", "OK", "/etc/rancher/k3s/config.yaml"),
        (["server"], "node-name: x", "FAIL", "/run/k3s/containerd/containerd.sock by its default"),
        (["server"], None, "FAIL", "/run/k3s/containerd/containerd.sock by its default"),
    ],
)
def test_k3s(node: Node, words: list[str], file: str | None, outcome: str, by: str) -> None:
    """The kubelet within k3s is told by k3s' own flags and file."""
    if file is not None:
        node.file("/etc/rancher/k3s/config.yaml", file)
    node.process(20, "/usr/local/bin/k3s", ["/usr/local/bin/k3s", *words])
    [(said_outcome, what)] = said([*check(node.facts())])
    assert said_outcome == outcome
    assert what.endswith(by)


@pytest.mark.parametrize("text", [None, "containerRuntimeEndpoint: ["])
def test_file_that_cannot_be_read(node: Node, text: str | None) -> None:
    """Where its file is not there, or no YAML, it cannot be told."""
    if text is not None:
        node.file(CONFIG, text)
    node.process(20, "/usr/bin/kubelet", ["kubelet", f"--config={CONFIG}"])
    [finding] = check(node.facts())
    assert finding.outcome is Outcome.CANNOT_TELL
    assert CONFIG in finding.what


def test_no_kubelet(node: Node) -> None:
    """Who is not root, or has the name alone, is not the kubelet."""
    node.process(20, "/usr/bin/kubelet", uid=1000)
    node.process(21, "/usr/bin/sleep", ["/usr/bin/kubelet"])
    [finding] = check(node.facts())
    assert finding.outcome is Outcome.CANNOT_TELL


@pytest.mark.parametrize(
    ("text", "variable", "installed", "outcome"),
    [
        (None, None, False, None),
        (None, None, True, "WARN"),
        ("timeout: 2\n", None, True, "WARN"),
        ("runtime-endpoint: unix:///run/containerd/containerd.sock\n", None, False, "WARN"),
        (f"runtime-endpoint: unix://{PROXY}\n", None, True, "OK"),
        (f"runtime-endpoint: {SCOPED}\n", None, True, "OK"),
        (f"runtime-endpoint: {PROXY}\n", "unix:///run/containerd/containerd.sock", True, "WARN"),
        ("runtime-endpoint: [\n", None, True, "cannot tell"),
    ],
)
def test_crictl(
    node: Node, text: str | None, variable: str | None, installed: bool, outcome: str | None
) -> None:
    """crictl's environment goes before its file; told nothing it dials the runtime itself."""
    node.process(20, "/usr/bin/kubelet", ["kubelet", f"{FLAG}={PROXY}"])
    if text is not None:
        node.file("/etc/crictl.yaml", text)
    if variable is not None:
        node.system.environ = {"CONTAINER_RUNTIME_ENDPOINT": variable}
    node.system.which = lambda name: "/usr/bin/crictl" if installed else None
    findings = [*check(node.facts())][1:]
    assert [each.outcome.value for each in findings] == ([outcome] if outcome else [])
