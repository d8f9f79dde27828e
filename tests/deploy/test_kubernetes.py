"""The Helm chart and the kustomize base: what they render, and what they do to a node's files."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from criproxy import __version__
from criproxy.cli import cli
from criproxy.config.load import parse
from tests.support.process import Process
from tests.support.requirements import require
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/criproxy"
SCRIPT = CHART / "files/node.sh"
SCHEMAS: dict[str, Any] = json.loads((ROOT / "tests/data/kubernetes/schemas.json").read_text())
MODULES = ("helm_python", "jsonschema")

EVERYTHING: dict[str, Any] = {
    "image": {"repository": "registry.example/criproxy", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "pull"}],
    "config": {"metrics": {"address": "[::]:9441"}, "log": {"level": "debug"}},
    "kubeletUnit": "k3s.service",
    "runtimeEndpoint": "unix:///run/k3s/containerd/containerd.sock",
    "listen": "unix:///run/criproxy/criproxy.sock",
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "node"},
}
CASES = [{}, EVERYTHING, {"mode": "uninstall"}]


@pytest.fixture
def _has_helm() -> None:
    lacking = [name for name in MODULES if importlib.util.find_spec(name) is None]
    require([f"{name} (make charts)" for name in lacking])


helm = pytest.mark.usefixtures("_has_helm")


def manifests(values: dict[str, Any]) -> dict[str, Any]:
    from tests.support.chart import rendered

    found = [yaml.safe_load(text) for text in rendered(values).values()]
    return {each["kind"]: each for each in found}


def containers(daemon_set: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = daemon_set["spec"]["template"]["spec"]
    yield from spec["initContainers"]
    yield from spec["containers"]


@helm
def test_lint() -> None:
    """Helm finds nothing wrong with the chart, but that it has no icon."""
    import helm_python

    messages = helm_python.lint(CHART)["messages"]
    assert [each["error"] for each in messages] == ["icon is recommended"]


def test_version() -> None:
    """The chart's versions are criproxy's."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


@helm
@pytest.mark.parametrize("values", CASES)
def test_manifests_follow_the_api(values: dict[str, Any]) -> None:
    """What is rendered has no field that Kubernetes does not know, and none of a wrong type."""
    import jsonschema

    found = manifests(values)
    assert ("PodMonitor" in found) == bool(values.get("podMonitor"))
    for kind, manifest in found.items():
        if kind != "PodMonitor":  # a resource of the Prometheus operator
            schema = SCHEMAS["kinds"][kind] | {"definitions": SCHEMAS["definitions"]}
            jsonschema.Draft7Validator(schema).validate(manifest)
    broken = manifests(values)["DaemonSet"]
    broken["spec"]["template"]["spec"]["tolerationz"] = []
    schema = SCHEMAS["kinds"]["DaemonSet"] | {"definitions": SCHEMAS["definitions"]}
    assert not jsonschema.Draft7Validator(schema).is_valid(broken)


@helm
def test_daemon_set() -> None:
    """It runs on every node, before other pods, without rights on the API."""
    spec = manifests({})["DaemonSet"]["spec"]["template"]["spec"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["automountServiceAccountToken"] is False
    names = [each["name"] for each in containers(manifests({})["DaemonSet"])]
    assert names == ["copy", "configure", "install", "watch"]
    names = [each["name"] for each in containers(manifests({"mode": "uninstall"})["DaemonSet"])]
    assert names == ["uninstall", "tidy", "done"]


@helm
def test_pod_monitor() -> None:
    """It selects the pods and names a port that they have; the job has the name that the alerts and
    the dashboard expect."""
    found = manifests(EVERYTHING)
    labels = found["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    spec = found["PodMonitor"]["spec"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert labels[spec["jobLabel"]] == "criproxy"
    *_, watch = containers(found["DaemonSet"])
    assert [(port["name"], port["containerPort"]) for port in watch["ports"]] == [("metrics", 9441)]
    assert [each["port"] for each in spec["podMetricsEndpoints"]] == ["metrics"]


@helm
@pytest.mark.parametrize("values", CASES)
def test_configuration(values: dict[str, Any]) -> None:
    """The ConfigMap has a valid configuration, and the script as it is here."""
    data = manifests(values)["ConfigMap"]["data"]
    config = parse(data["config.yaml"], "config.yaml")
    assert config.metrics.address is not None
    assert data["node.sh"].strip() == SCRIPT.read_text().strip()


@helm
@pytest.mark.parametrize("values", CASES)
def test_commands(values: dict[str, Any]) -> None:
    """Each command of criproxy has options that there are; the program is that of the version."""
    for each in containers(manifests(values)["DaemonSet"]):
        program, *arguments = each["command"]
        if program != f"/opt/criproxy/{__version__}/bin/criproxy":
            continue
        command = cli.get_command(None, arguments[0])  # type: ignore[arg-type]
        if command is None:
            pytest.skip(f"this criproxy has no command {arguments[0]}")
        known = {option for parameter in command.params for option in parameter.opts}
        assert {argument.partition("=")[0] for argument in arguments[1:]} <= known


@helm
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mode": "remove"}, "mode"),
        ({"image": {"digest": "sha256:1"}}, "digest"),
        ({"imagee": {}}, "imagee"),
        ({"kubeletUnit": "kubelet"}, "kubeletUnit"),
        ({"runtimeEndpoint": "tcp://a"}, "runtimeEndpoint"),
    ],
)
def test_wrong_values(values: dict[str, Any], says: str) -> None:
    """The schema refuses values that are none, and names them."""
    import helm_python

    with pytest.raises(helm_python.HelmError, match=says):
        manifests(values)


@helm
def test_kustomize() -> None:
    """The kustomize files are those that the chart renders, and name files that there are."""
    from tests.support.chart import KUSTOMIZE, kustomize

    files = {path.relative_to(KUSTOMIZE) for path in KUSTOMIZE.rglob("*") if path.is_file()}
    assert {each: (KUSTOMIZE / each).read_text() for each in files} == kustomize()
    for path in files:
        if path.name == "kustomization.yaml":
            for each in yaml.safe_load((KUSTOMIZE / path).read_text())["resources"]:
                assert (KUSTOMIZE / path.parent / each).exists()


# The script
# ----------


class Node:
    """A node's files, and an image whose criproxy is the one that is tested."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "host"
        self.config = self.root / "etc/criproxy/config.yaml"
        self.wanted = directory / "config.yaml"
        self.wanted.write_text("log: {level: debug}\n")
        self.reloads = directory / "reloads"
        program = directory / "image" / __version__ / "bin/criproxy"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m criproxy "$@"\n')
        fake = directory / "bin/chroot"
        fake.parent.mkdir()
        fake.write_text(f'#!/bin/sh\necho "$@" >>{self.reloads}\n')
        for each in (program, fake):
            each.chmod(0o755)
        self.root.mkdir()
        self.env = {
            "HOST": str(self.root),
            "IMAGE": str(directory / "image"),
            "CONFIG": str(self.wanted),
            "SECONDS_BETWEEN": "0.1",
            "PATH": f"{fake.parent}:{os.environ['PATH']}",
        }

    def run(self, part: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(SCRIPT), part, __version__],
            env=os.environ | self.env,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_copies_once(node: Node) -> None:
    """A version that is there is not touched; another one is put beside it."""
    assert node.run("copy").returncode == 0
    there = node.root / "opt/criproxy" / __version__
    assert (there / "bin/criproxy").stat().st_mode & 0o777 == 0o755
    (there / "mine").touch()
    (there.parent / "0.0.1").mkdir()
    assert node.run("copy").returncode == 0
    assert (there / "mine").exists()
    assert (there.parent / "0.0.1").exists()


@pytest.mark.parametrize("before", [None, "log: {level: error}\n"])
def test_configures_and_tidies(node: Node, before: str | None) -> None:
    """The configuration that was there comes back, or there is none again."""
    if before is not None:
        node.config.parent.mkdir(parents=True)
        node.config.write_text(before)
        node.config.chmod(0o640)
    assert node.run("copy").returncode == node.run("configure").returncode == 0
    assert node.config.read_text() == node.wanted.read_text()
    assert node.config.stat().st_mode & 0o777 == 0o600
    node.wanted.write_text("log: {level: warning}\n")
    assert node.run("configure").returncode == 0
    assert node.config.read_text() == node.wanted.read_text()
    for _ in range(2):
        assert node.run("tidy").returncode == 0
        assert (node.config.read_text() if node.config.exists() else None) == before
    if before is not None:
        assert node.config.stat().st_mode & 0o777 == 0o640
    left = [path for path in node.root.rglob("*") if path.is_file() and path != node.config]
    assert left == []
    assert not (node.root / "opt/criproxy").exists()


def test_invalid_configuration(node: Node) -> None:
    """A configuration that is not valid is not put there, and the error is said."""
    node.wanted.write_text("logg: {}\n")
    ran = node.run("configure")
    assert ran.returncode != 0
    assert "logg: no such key" in ran.stderr
    assert not node.config.exists()


def test_watches(node: Node, tmp_path: Path) -> None:
    """A valid change is copied and loaded, an invalid one is not; SIGTERM ends it with 0."""
    assert node.run("configure").returncode == 0
    command = ["/bin/sh", str(SCRIPT), "watch", __version__]
    with Process(command, output=tmp_path / "watch", env=node.env) as watch:
        node.wanted.write_text("logg: {}\n")
        wait_until(lambda: "logg: no such key" in watch.stderr, "the error")
        assert node.config.read_text() == "log: {level: debug}\n"
        assert not node.reloads.exists()
        node.wanted.write_text("log: {level: warning}\n")
        wait_until(node.reloads.exists, "the reload")
        assert node.config.read_text() == "log: {level: warning}\n"
        assert node.reloads.read_text() == f"{node.root} systemctl reload criproxy.service\n"
        assert watch.stop() == 0


def test_unknown_part(node: Node) -> None:
    """Anything else is an error, with status 2."""
    ran = node.run("all")
    assert (ran.returncode, ran.stderr) == (
        2,
        "node.sh: all is none of copy, configure, watch, tidy\n",
    )
