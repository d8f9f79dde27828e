"""The endpoints of the kubelets of k3s, RKE2, MicroK8s and k0s in their documented layouts."""

import pytest

from criproxy.doctor.checks import connections
from criproxy.doctor.checks.kubelet import check
from criproxy.doctor.findings import Outcome
from tests.doctor.nodes import PROXY, RUNTIME, Node, said

K3S = "/var/lib/rancher/k3s/data/current/bin/k3s"
CONFIG = "/etc/rancher/k3s/config.yaml"
CONTAINERD = "unix:///run/k3s/containerd/containerd.sock"
ENDPOINT = "container-runtime-endpoint"
KUBELET_ARG = f"kubelet-arg: [v=2, {ENDPOINT}={PROXY}]"
DROP_IN = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf"
UNIT = """
[Service]
Type=notify
EnvironmentFile=-/etc/default/%N
EnvironmentFile=-/etc/systemd/system/k3s.service.env
ExecStart=/usr/local/bin/k3s \\
    server \\
\t'--write-kubeconfig-mode=644' \\
"""


@pytest.mark.parametrize(
    ("words", "files", "outcome", "by"),
    [
        ([], {}, "FAIL", "its default"),
        ([], {CONFIG: "node-name: x"}, "FAIL", "its default"),
        ([], {CONFIG: f"{ENDPOINT}: {PROXY}"}, "OK", f"{ENDPOINT} in {CONFIG}"),
        ([], {CONFIG: KUBELET_ARG}, "OK", f"kubelet-arg in {CONFIG}"),
        ([], {CONFIG: f"kubelet-arg: {ENDPOINT}={PROXY}"}, "OK", f"kubelet-arg in {CONFIG}"),
        ([f"--{ENDPOINT}={PROXY}"], {}, "OK", f"--{ENDPOINT}"),
        ([f"--kubelet-arg={ENDPOINT}={PROXY}"], {}, "OK", f"--kubelet-arg={ENDPOINT}"),
        (["--kubelet-arg", f"{ENDPOINT}={PROXY}"], {}, "OK", f"--kubelet-arg={ENDPOINT}"),
        # A flag replaces the key of the file, and a flag of the kubelet k3s' own option.
        ([f"--{ENDPOINT}={PROXY}"], {CONFIG: f"{ENDPOINT}: {RUNTIME}"}, "OK", f"--{ENDPOINT}"),
        ([f"--{ENDPOINT}={RUNTIME}"], {CONFIG: KUBELET_ARG}, "OK", f"kubelet-arg in {CONFIG}"),
        # config.yaml.d: later files replace, or append with a plus; other suffixes do not count.
        (
            [],
            {CONFIG: f"{ENDPOINT}: {RUNTIME}", f"{CONFIG}.d/10.yaml": f"{ENDPOINT}: {PROXY}"},
            "OK",
            f"{ENDPOINT} in {CONFIG}",
        ),
        ([], {f"{CONFIG}.d/10.yml": KUBELET_ARG}, "OK", f"kubelet-arg in {CONFIG}"),
        ([], {f"{CONFIG}.d/10.json": KUBELET_ARG}, "FAIL", "its default"),
        (
            [],
            {CONFIG: KUBELET_ARG, f"{CONFIG}.d/10.yaml": "kubelet-arg+: [max-pods=5]"},
            "OK",
            f"kubelet-arg in {CONFIG}",
        ),
        (
            [],
            {CONFIG: KUBELET_ARG, f"{CONFIG}.d/10.yaml": "kubelet-arg: [max-pods=5]"},
            "FAIL",
            "its default",
        ),
        # --config FILE, with its own directory.
        (["--config", "/k.yaml"], {"/k.yaml": KUBELET_ARG}, "OK", "kubelet-arg in /k.yaml"),
        (["-c", "/k.yaml"], {"/k.yaml": "", CONFIG: KUBELET_ARG}, "FAIL", "its default"),
        (["--config=/k.yaml"], {"/k.yaml.d/1.yaml": KUBELET_ARG}, "OK", "kubelet-arg in /k.yaml"),
        (["--config=/k.yaml"], {CONFIG: KUBELET_ARG}, "cannot tell", ""),
        (["--config=https://u:p@h/k.yaml?t=1"], {}, "cannot tell", ""),
        # What k3s has written for its kubelet, and what users put beside it.
        ([], {DROP_IN: f"containerRuntimeEndpoint: {CONTAINERD}"}, "FAIL", DROP_IN),
        (
            [],
            {
                DROP_IN: "",
                DROP_IN.replace("00-k3s", "50-mine"): f"containerRuntimeEndpoint: {PROXY}",
            },
            "OK",
            DROP_IN.replace("00-k3s", "50-mine"),
        ),
        (
            ["--data-dir=/d"],
            {"/d/agent/etc/kubelet.conf.d/1.conf": f"containerRuntimeEndpoint: {PROXY}"},
            "OK",
            "/d/agent/etc/kubelet.conf.d/1.conf",
        ),
        (["--docker"], {}, "FAIL", "docker"),
        ([], {CONFIG: "docker: true"}, "FAIL", "docker"),
        # Both have lists for the kubelet: versions of k3s differ in whether they are joined.
        (["--kubelet-arg=v=2"], {CONFIG: KUBELET_ARG}, "cannot tell", ""),
        ([], {CONFIG: "kubelet-arg: ["}, "cannot tell", ""),
    ],
)
def test_k3s(node: Node, words: list[str], files: dict[str, str], outcome: str, by: str) -> None:
    """The kubelet's endpoint within k3s is in k3s's flags, its files, and those that it writes."""
    for path, text in files.items():
        node.file(path, text)
    node.process(20, K3S, ["/usr/local/bin/k3s", "server", *words])
    [(found, what)] = said([*check(node.facts())])
    assert found == outcome
    assert what.endswith(by)
    assert "u:p" not in what


@pytest.mark.parametrize(
    ("unit", "files", "outcome", "by"),
    [
        (UNIT, {}, "FAIL", "its default"),
        (UNIT, {CONFIG: KUBELET_ARG}, "OK", f"kubelet-arg in {CONFIG}"),
        (f"{UNIT}\t--kubelet-arg={ENDPOINT}={PROXY}", {}, "OK", f"--kubelet-arg={ENDPOINT}"),
        (
            UNIT,
            {
                "/etc/systemd/system/k3s.service.d/1.conf": "[Service]\nExecStart=\n"
                f"ExecStart=/k3s server --kubelet-arg={ENDPOINT}={PROXY}\n"
            },
            "OK",
            f"--kubelet-arg={ENDPOINT}",
        ),
        (
            UNIT,
            {"/etc/default/k3s": "K3S_CONFIG_FILE='/k.yaml'", "/k.yaml": KUBELET_ARG},
            "OK",
            "kubelet-arg in /k.yaml",
        ),
        (f"{UNIT}\t$K3S_ARGS", {}, "cannot tell", ""),
        (None, {CONFIG: KUBELET_ARG}, "cannot tell", ""),
    ],
)
def test_k3s_that_hides_its_flags(
    node: Node, unit: str | None, files: dict[str, str], outcome: str, by: str
) -> None:
    """k3s writes a title over its command line: its flags are those of its unit."""
    if unit is not None:
        node.unit("k3s.service", unit)
    for path, text in files.items():
        node.file(path, text)
    node.process(20, K3S, ["/usr/local/bin/k3s server"], cgroup="/system.slice/k3s.service")
    [(found, what)] = said([*check(node.facts())])
    assert found == outcome
    assert what.endswith(by)


def test_k3s_outside_a_service(node: Node) -> None:
    """Without its flags its endpoint is not known."""
    node.file(CONFIG, KUBELET_ARG)
    node.process(20, K3S, ["k3s agent"], cgroup="/user.slice/x.scope")
    assert [each.outcome for each in check(node.facts())] == [Outcome.CANNOT_TELL]


def test_k3s_remedy(node: Node) -> None:
    """The kubelet's flag is advised: k3s' own would keep its containerd from starting."""
    node.process(20, K3S, ["k3s", "server"])
    [finding] = check(node.facts())
    assert finding.remedy == (
        f'write "kubelet-arg: [{ENDPOINT}=unix://{PROXY}]" into {CONFIG} and restart k3s'
    )


@pytest.mark.parametrize(
    ("supervisor", "kubelet", "advice"),
    [
        ("/usr/local/bin/rke2", "/var/lib/rancher/rke2/data/v1/bin/kubelet", "/etc/rancher/rke2"),
        ("/usr/local/bin/k0s", "/var/lib/k0s/bin/kubelet", "--kubelet-extra-args"),
    ],
)
def test_kubelet_of_a_supervisor(node: Node, supervisor: str, kubelet: str, advice: str) -> None:
    """RKE2 and k0s run the kubelet as a process: that is looked at, and they are not."""
    node.process(20, supervisor, [supervisor, "server"])
    assert [each.outcome for each in check(node.facts())] == [Outcome.CANNOT_TELL]
    node.file("/var/lib/k.yaml", f"containerRuntimeEndpoint: {CONTAINERD}\n")
    node.process(21, kubelet, ["kubelet", "--config=/var/lib/k.yaml"])
    [finding] = check(node.facts())
    assert finding.outcome is Outcome.FAIL
    assert "(pid 21)" in finding.what
    assert advice in finding.remedy


@pytest.mark.parametrize(
    ("text", "environ", "outcome"),
    [
        (f"--{ENDPOINT}={PROXY}\n", "", "OK"),
        ("--v=2\n# --x\n\n--{}=${{SNAP_COMMON}}/run/containerd.sock\n", "", "FAIL"),
        ("--{}=${{SNAP_COMMON}}/../p.sock\n", "SNAP_COMMON=/run/criproxy/x", "FAIL"),
        ("--{}=$MINE/criproxy.sock\n", "MINE=/run/criproxy", "OK"),
        ("--{}=$MINE/criproxy.sock\n", "", "cannot tell"),
        (None, "", "cannot tell"),
    ],
)
def test_microk8s(node: Node, text: str | None, environ: str, outcome: str) -> None:
    """The kubelet within kubelite has its flags in a file, with snapd's variables."""
    args = "/var/snap/microk8s/7229/args/kubelet"
    if text is not None:
        node.file(args, text.format(ENDPOINT))
    process = node.process(
        20, "/snap/microk8s/7229/kubelite", ["kubelite", f"--kubelet-args-file={args}"]
    )
    (process / "environ").write_text(environ)
    [finding] = check(node.facts())
    assert finding.outcome.value == outcome
    assert args in finding.what


def test_connections_of_an_undetermined_kubelet(node: Node) -> None:
    """Connections of a process whose endpoint is not known are no finding."""
    node.socket(RUNTIME.path)
    node.listens(RUNTIME.path, 100)
    node.connected(RUNTIME.path, 200)
    node.process(10, "/usr/bin/containerd", fds=[100])
    node.process(20, K3S, ["k3s server"], fds=[200])
    [finding] = connections.check(node.facts())
    assert finding.outcome is Outcome.CANNOT_TELL


def test_connections_of_a_supervisor(node: Node) -> None:
    """RKE2 and k0s manage the runtime, and so are connected to it themselves."""
    node.socket(RUNTIME.path)
    node.listens(RUNTIME.path, 100)
    node.connected(RUNTIME.path, 200)
    node.process(10, "/usr/bin/containerd", fds=[100])
    node.process(20, "/usr/local/bin/rke2", ["rke2", "server"], fds=[200])
    [finding] = connections.check(node.facts())
    assert finding.outcome is Outcome.OK
