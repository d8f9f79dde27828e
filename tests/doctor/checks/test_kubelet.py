"""The endpoints of the kubelet and of crictl."""

import os

import pytest

from criproxy.doctor.checks.kubelet import check
from criproxy.doctor.findings import Outcome
from criproxy.doctor.node.command_flags import flag
from tests.doctor.nodes import PROXY, RUNTIME, SCOPED, Node, said

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
        (["kubelet", "--x", "/a", "-x", "/b"], "/b"),
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


@pytest.mark.parametrize("text", [None, "containerRuntimeEndpoint: ["])
def test_file_that_cannot_be_read(node: Node, text: str | None) -> None:
    """Where its file is absent or no YAML, its endpoint is not known."""
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
    ("files", "words", "what"),
    [
        # Null and an empty text in a later file are the default again.
        ({"20.conf": "containerRuntimeEndpoint: null"}, [], "its default"),
        ({"20.conf": 'containerRuntimeEndpoint: ""'}, [], "its default"),
        # Lexical order, with directories among the files; other suffixes do not count.
        (
            {"10.d/90.conf": "containerRuntimeEndpoint: /w.sock", "05.conf": "", "z.yaml": "x: ["},
            [],
            "containerRuntimeEndpoint in /etc/kubelet.d/10.d/90.conf",
        ),
        (
            {
                "50.d/10.conf": "containerRuntimeEndpoint: /w.sock",
                "60.conf": "containerRuntimeEndpoint: /x.sock",
                "60.conf.bak": "containerRuntimeEndpoint: /y.sock",
            },
            [],
            "containerRuntimeEndpoint in /etc/kubelet.d/60.conf",
        ),
        ({}, ["--container_runtime_endpoint=/z.sock"], "--container-runtime-endpoint"),
    ],
)
def test_config_dir(node: Node, files: dict[str, str], words: list[str], what: str) -> None:
    """The tree of --config-dir is merged into the file of --config as the kubelet does."""
    node.file(CONFIG, f"containerRuntimeEndpoint: {PROXY}\n")
    (node.root / "etc/kubelet.d").mkdir(parents=True)
    for name, text in files.items():
        node.file(f"/etc/kubelet.d/{name}", text)
    command = ["kubelet", f"--config={CONFIG}", "--config-dir=/etc/kubelet.d", *words]
    node.process(20, "/usr/bin/kubelet", command)
    [finding] = check(node.facts())
    assert finding.outcome is Outcome.FAIL
    assert finding.what.endswith(f" by {what}")


def test_config_dir_that_is_a_link(node: Node) -> None:
    """The doctor cannot know whether a kubelet follows a link."""
    node.file("/srv/d/10.conf", f"containerRuntimeEndpoint: {PROXY}\n")
    (node.root / "d").symlink_to(node.root / "srv/d")
    node.process(20, "/usr/bin/kubelet", ["kubelet", "--config-dir=/d"])
    assert [each.outcome for each in check(node.facts())] == [Outcome.CANNOT_TELL]


@pytest.mark.parametrize(("written", "outcome"), [(1000.0, "OK"), (1100.0, "cannot tell")])
def test_file_that_was_changed(node: Node, written: float, outcome: str) -> None:
    """A file that was changed after the kubelet's start does not show its endpoint."""
    file = node.file(CONFIG, f"containerRuntimeEndpoint: {PROXY}\n")
    os.utime(file, (written, written))
    process = node.process(20, "/usr/bin/kubelet", ["kubelet", f"--config={CONFIG}"])
    node.started(process, 1050)
    assert [each.outcome.value for each in check(node.facts())] == [outcome]


def test_command_line_that_cannot_be_read(node: Node) -> None:
    """A kubelet without a command line is not taken for one without flags."""
    (node.process(20, "/usr/bin/kubelet") / "cmdline").unlink()
    assert [each.outcome for each in check(node.facts())] == [Outcome.CANNOT_TELL]


KUBEADM = "/var/lib/kubelet/kubeadm-flags.env"
INSTANCE = "/var/lib/kubelet/instance-config.yaml"


@pytest.mark.parametrize(
    ("flags", "instance", "outcomes", "part"),
    [
        (None, None, ["OK"], ""),
        ("", PROXY, ["OK"], ""),
        (PROXY, PROXY, ["OK"], ""),
        (PROXY, None, ["OK", "cannot tell"], "kubeadm.alpha.kubernetes.io/cri-socket"),
        (RUNTIME, PROXY, ["OK", "WARN"], f"next start points it at {RUNTIME}, by {KUBEADM}"),
        (PROXY, RUNTIME, ["OK", "WARN"], f"upgrade by kubeadm points the kubelet at {RUNTIME}"),
        (PROXY, "[", ["OK", "cannot tell"], f"{INSTANCE} is no YAML"),
    ],
)
def test_kubeadm(
    node: Node, flags: object, instance: object, outcomes: list[str], part: str
) -> None:
    """What kubeadm has on the node for the next start and the next upgrade counts as well."""
    if flags is not None:
        node.file(KUBEADM, f'KUBELET_KUBEADM_ARGS="--v=2 {FLAG}={flags or PROXY}"\n')
    if instance is not None:
        node.file(INSTANCE, f"containerRuntimeEndpoint: {instance}\n")
    node.process(20, "/usr/bin/kubelet", ["kubelet", f"{FLAG}={PROXY}"])
    findings = [*check(node.facts())]
    assert [each.outcome.value for each in findings] == outcomes
    assert part in findings[-1].what


def test_kubeadm_remedy(node: Node) -> None:
    """A flag of kubeadm's is changed in kubeadm's file."""
    node.file(KUBEADM, f"KUBELET_KUBEADM_ARGS='{FLAG}={RUNTIME}'\n")
    node.process(20, "/usr/bin/kubelet", ["kubelet", f"{FLAG}={RUNTIME}"])
    [finding] = check(node.facts())
    assert finding.remedy == f"write {FLAG}=unix://{PROXY} into {KUBEADM} and restart it"


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
    """crictl's environment has precedence over its file; without both it dials the runtime."""
    node.process(20, "/usr/bin/kubelet", ["kubelet", f"{FLAG}={PROXY}"])
    if text is not None:
        node.file("/etc/crictl.yaml", text)
    if variable is not None:
        node.system.environ = {"CONTAINER_RUNTIME_ENDPOINT": variable}
    node.system.which = lambda name: "/usr/bin/crictl" if installed else None
    findings = [*check(node.facts())][1:]
    assert [each.outcome.value for each in findings] == ([outcome] if outcome else [])


def test_fifos(node: Node) -> None:
    """A FIFO in the place of a file of crictl or of kubeadm is not waited for."""
    node.process(20, "/usr/bin/kubelet", ["kubelet", f"{FLAG}={PROXY}"])
    for name in (KUBEADM, "/etc/crictl.yaml"):
        path = node.file(name, "")
        path.unlink()
        os.mkfifo(path)
    findings = [*check(node.facts())]
    assert [each.outcome.value for each in findings] == ["OK", "cannot tell"]
    assert findings[1].what == "where crictl is pointed: /etc/crictl.yaml cannot be read (OSError)"


@pytest.mark.parametrize(
    ("environ", "outcomes"),
    [
        ({}, [("OK", "/etc/crictl.yaml"), ("WARN", "/etc/crictl.yaml")]),
        (
            {"IMAGE_SERVICE_ENDPOINT": PROXY},
            [("OK", "/etc/crictl.yaml"), ("OK", "IMAGE_SERVICE_ENDPOINT in the environment")],
        ),
        (
            {"CONTAINER_RUNTIME_ENDPOINT": f"{RUNTIME}"},
            [
                ("WARN", "CONTAINER_RUNTIME_ENDPOINT in the environment"),
                ("WARN", "/etc/crictl.yaml"),
            ],
        ),
        ({"CRI_CONFIG_FILE": "/root/crictl.yaml"}, [("WARN", "/root/crictl.yaml")]),
        ({"CRI_CONFIG_FILE": "/absent.yaml"}, []),
    ],
)
def test_endpoints_of_crictl(
    node: Node, environ: dict[str, str], outcomes: list[tuple[str, str]]
) -> None:
    """crictl has an endpoint for images as well, and a variable that names its file."""
    node.process(20, "/usr/bin/kubelet", ["kubelet", f"{FLAG}={PROXY}"])
    node.file("/etc/crictl.yaml", f"runtime-endpoint: {PROXY}\nimage-endpoint: {RUNTIME}\n")
    node.file("/root/crictl.yaml", f"runtime-endpoint: {RUNTIME}\n")
    node.system.environ = environ
    found = [(each.outcome.value, each.what) for each in check(node.facts())][1:]
    assert [outcome for outcome, _ in found] == [outcome for outcome, _ in outcomes]
    for (_, what), (_, by) in zip(found, outcomes, strict=True):
        assert what.endswith(f" by {by}")
