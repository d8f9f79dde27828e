"""Checks whether the kubelet and crictl are pointed at criproxy."""

from collections.abc import Iterator
from typing import Final

import yaml

from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.kubelet_config import (
    ConfiguredEndpoint,
    image_endpoint_of,
    profile_at,
    runtime_endpoint_of,
)

NAME: Final = "kubelet"

_CRICTL: Final = "/etc/crictl.yaml"


def check(facts: Facts) -> Iterator[Finding]:
    """Check each running kubelet's endpoints, and crictl's."""
    kubelets = [pid for pid in facts.system.pids if _may_be(facts, pid) and facts.is_kubelet(pid)]
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
    try:
        runtime, images = runtime_endpoint_of(facts, pid), image_endpoint_of(facts, pid)
    except (OSError, ValueError) as error:
        what = f"where the kubelet (pid {pid}) is pointed: {error}"
        yield Finding(NAME, Outcome.CANNOT_TELL, what, "run it as root on the node itself")
        return
    yield _evaluate(facts, f"the kubelet (pid {pid})", runtime, "containerRuntimeEndpoint")
    if images is not None:
        who = f"the kubelet (pid {pid}), for images,"
        yield _evaluate(facts, who, images, "imageServiceEndpoint")


def _evaluate(facts: Facts, who: str, configured: ConfiguredEndpoint, key: str) -> Finding:
    what = f"{who} is pointed at {configured.endpoint} by {configured.source}"
    profile = profile_at(facts, configured.endpoint)
    if profile == "full":
        return Finding(NAME, Outcome.OK, what)
    remedy = f'write "{key}: {facts.advised}" into its configuration file and restart it'
    if configured.source.startswith("--"):
        remedy = f"give {configured.source}={facts.advised} instead and restart it"
    elif configured.source.startswith("container-runtime-endpoint in"):
        remedy = f"write {facts.advised} there and restart it"
    if profile is not None:
        what += f", a listener whose profile is {profile}: it cannot run pods"
    return Finding(NAME, Outcome.FAIL, what, remedy)


def _of_crictl(facts: Facts) -> Iterator[Finding]:
    remedy = f'write "runtime-endpoint: {facts.advised}" into {_CRICTL}'
    variable = facts.system.environ.get("CONTAINER_RUNTIME_ENDPOINT")
    if variable:
        configured = ConfiguredEndpoint(variable, "CONTAINER_RUNTIME_ENDPOINT in the environment")
        remedy = "unset CONTAINER_RUNTIME_ENDPOINT, and " + remedy
    else:
        try:
            content = yaml.safe_load(facts.system.path(_CRICTL).read_bytes())
        except FileNotFoundError:
            content = None
        except (OSError, yaml.YAMLError) as error:
            what = f"where crictl is pointed: {_CRICTL} cannot be read ({type(error).__name__})"
            yield Finding(NAME, Outcome.CANNOT_TELL, what, remedy)
            return
        told = content.get("runtime-endpoint") if isinstance(content, dict) else None
        if not told:
            if facts.system.which("crictl"):
                what = "crictl is told no endpoint: it takes the first runtime that it finds"
                yield Finding(NAME, Outcome.WARN, what, remedy)
            return
        configured = ConfiguredEndpoint(str(told), _CRICTL)
    what = f"crictl is pointed at {configured.endpoint} by {configured.source}"
    if profile_at(facts, configured.endpoint) is None:
        yield Finding(NAME, Outcome.WARN, what, remedy)
    else:
        yield Finding(NAME, Outcome.OK, what)
