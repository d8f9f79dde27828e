"""Checks whether the kubelet and crictl are pointed at criproxy."""

from collections.abc import Iterator
from typing import Any, Final

import yaml

from criproxy.common.opening import open_at_once
from criproxy.doctor.checks import kubeadm
from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.kubelet_config import (
    ConfiguredEndpoint,
    distribution_of,
    image_endpoint_of,
    is_supervisor,
    profile_at,
    runtime_endpoint_of,
)
from criproxy.doctor.node.process_files import UndeterminedError
from criproxy.doctor.node.system import Process

NAME: Final = "kubelet"

_CRICTL: Final = "/etc/crictl.yaml"
_CRICTL_KEYS: Final = {
    "runtime-endpoint": "CONTAINER_RUNTIME_ENDPOINT",
    "image-endpoint": "IMAGE_SERVICE_ENDPOINT",
}
"""The keys of crictl's file, and the variables that take precedence."""

_OPTIONS: Final = {
    "containerRuntimeEndpoint": "container-runtime-endpoint",
    "imageServiceEndpoint": "image-service-endpoint",
}
"""The kubelet's flags, by the key of its configuration."""


def check(facts: Facts) -> Iterator[Finding]:
    """Check each running kubelet's endpoints, and crictl's."""
    kubelets = [pid for pid in facts.system.pids if _may_be(facts, pid) and facts.is_kubelet(pid)]
    supervisors = [pid for pid in kubelets if is_supervisor(facts.system.process(pid))]
    if len(supervisors) < len(kubelets):  # the kubelets that they have started are there
        kubelets = [pid for pid in kubelets if pid not in supervisors]
    if not kubelets:
        yield Finding(
            NAME,
            Outcome.CANNOT_TELL,
            "whether the kubelet is pointed at criproxy: none is seen to run",
            "run it as root, in the node's PID namespace; kubelet.executable and kubelet.unit of "
            "the configuration say how it is known",
        )
    for pid in kubelets:
        yield from _of_kubelet(facts, pid)
    yield from _of_crictl(facts)


def _may_be(facts: Facts, pid: int) -> bool:
    """Return whether a process has an executable or a command line: kernel threads have none."""
    return bool(facts.system.executable(pid)) or bool(facts.system.text(pid, "cmdline"))


def _of_kubelet(facts: Facts, pid: int) -> Iterator[Finding]:
    process = facts.system.process(pid)
    who = f"the kubelet (pid {pid})"
    if (distribution := distribution_of(process)) is not None:
        who = f"the kubelet of {distribution} (pid {pid})"
    try:
        runtime, images = runtime_endpoint_of(facts, pid), image_endpoint_of(facts, pid)
    except UndeterminedError as error:
        yield Finding(NAME, Outcome.CANNOT_TELL, f"where {who} is pointed: {error}", error.remedy)
        return
    yield _evaluate(facts, process, who, runtime, "containerRuntimeEndpoint")
    if images is not None:
        yield _evaluate(facts, process, f"{who}, for images,", images, "imageServiceEndpoint")
    if distribution is None and profile_at(facts, runtime.endpoint) == "full":
        yield from kubeadm.check_upgrade(facts, pid)


def _evaluate(
    facts: Facts, process: Process, who: str, configured: ConfiguredEndpoint, key: str
) -> Finding:
    what = f"{who} is pointed at {configured.endpoint} by {configured.source}"
    profile = profile_at(facts, configured.endpoint)
    if profile == "full":
        return Finding(NAME, Outcome.OK, what)
    if profile is not None:
        what += f", a listener whose profile is {profile}: it cannot run pods"
    return Finding(NAME, Outcome.FAIL, what, _remedy(facts, process, configured, key))


def _remedy(facts: Facts, process: Process, configured: ConfiguredEndpoint, key: str) -> str:
    option = _OPTIONS[key]
    match distribution_of(process):
        case "k3s" | "rke2" as name:
            # k3s' own option would keep it from starting its containerd.
            return (
                f'write "kubelet-arg: [{option}={facts.advised}]" into '
                f"/etc/rancher/{name}/config.yaml and restart {name}"
            )
        case "k0s":
            return (
                f"start k0s with --kubelet-extra-args=--{option}={facts.advised}: it writes its "
                "kubelet's files anew"
            )
        case "microk8s":
            return (
                f"write --{option}={facts.advised} into /var/snap/microk8s/current/args/kubelet, "
                "then: snap restart microk8s"
            )
    if configured.source.startswith("--"):
        if kubeadm.has_flag(facts, option):
            return f"write --{option}={facts.advised} into {kubeadm.FLAGS} and restart it"
        return f"give --{option}={facts.advised} instead and restart it"
    return f'write "{key}: {facts.advised}" into its configuration file and restart it'


def _of_crictl(facts: Facts) -> Iterator[Finding]:
    """Check what crictl reads: the environment, then its file."""
    environ = facts.system.environ
    file = environ.get("CRI_CONFIG_FILE") or _CRICTL
    try:
        content = _mapping(facts, file)
    except (OSError, ValueError) as error:
        what = f"where crictl is pointed: {file} cannot be read ({type(error).__name__})"
        remedy = f'write "runtime-endpoint: {facts.advised}" into {file}'
        yield Finding(NAME, Outcome.CANNOT_TELL, what, remedy)
        return
    for key, variable in _CRICTL_KEYS.items():
        remedy = f'write "{key}: {facts.advised}" into {file}'
        value, source = environ.get(variable) or "", f"{variable} in the environment"
        if value:
            remedy = f"unset {variable}, and {remedy}"
        else:
            value, source = str(content.get(key) or ""), file
        if value:
            who = "crictl" if key == "runtime-endpoint" else "crictl, for images,"
            what = f"{who} is pointed at {value} by {source}"
            passes = profile_at(facts, value) is None
            yield (
                Finding(NAME, Outcome.WARN, what, remedy)
                if passes
                else Finding(NAME, Outcome.OK, what)
            )
        elif key == "runtime-endpoint" and facts.system.which("crictl"):
            what = "crictl is told no endpoint: it takes the first runtime that it finds"
            yield Finding(NAME, Outcome.WARN, what, remedy)


def _mapping(facts: Facts, path: str) -> dict[str, Any]:
    """Read crictl's file; empty if it does not exist. Raises OSError and ValueError."""
    try:
        with open_at_once(facts.system.path(path)) as file:
            content = yaml.safe_load(file.read())
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        raise ValueError("no YAML") from error
    return content if isinstance(content, dict) else {}
