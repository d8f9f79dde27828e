"""Checks that an upgrade by kubeadm, or the kubelet's next start, keeps its endpoint.

kubeadm writes the kubelet's flags and configuration anew. It takes the endpoint from the node's own
instance-config.yaml (1.32 and later), or from an annotation of the Node object.
"""

from collections.abc import Iterator
from typing import Final

from criproxy.common.opening import open_at_once
from criproxy.doctor.findings import Finding, Outcome
from criproxy.doctor.node.command_flags import flag, split_words
from criproxy.doctor.node.facts import Facts
from criproxy.doctor.node.kubelet_config import profile_at
from criproxy.doctor.node.process_files import ProcessFiles, UndeterminedError

FLAGS: Final = "/var/lib/kubelet/kubeadm-flags.env"
"""Flags that the kubelet's unit gives it, written by kubeadm."""

INSTANCE: Final = "/var/lib/kubelet/instance-config.yaml"
ANNOTATION: Final = "kubeadm.alpha.kubernetes.io/cri-socket"
_OPTION: Final = "container-runtime-endpoint"
_KEY: Final = "containerRuntimeEndpoint"
_NAME: Final = "kubelet"
"""The check that these findings belong to."""


def has_flag(facts: Facts, option: str) -> bool:
    """Return whether kubeadm gives the kubelet a flag."""
    return flag(_flags(facts), option) is not None


def check_upgrade(facts: Facts, pid: int) -> Iterator[Finding]:
    """Check what becomes of the endpoint of a kubelet that is pointed at criproxy."""
    given = _flags(facts)
    value = flag(given, _OPTION)
    if value and profile_at(facts, value) != "full":
        what = f"the kubelet's next start points it at {value}, by {FLAGS}"
        remedy = f"write --{_OPTION}={facts.advised} there"
        yield Finding(_NAME, Outcome.WARN, what, remedy)
    files = ProcessFiles(facts.system, pid, read_at_start=False)
    file = facts.system.path(INSTANCE)
    if not file.exists():
        if given:
            what = (
                "whether an upgrade by kubeadm keeps this: it takes the endpoint from the node's "
                f"annotation {ANNOTATION}"
            )
            remedy = f"kubectl annotate node NODE --overwrite {ANNOTATION}={facts.advised}"
            yield Finding(_NAME, Outcome.CANNOT_TELL, what, remedy)
        return
    try:
        kept = files.mapping(file).get(_KEY)
    except UndeterminedError as error:
        what = f"whether an upgrade by kubeadm keeps this: {error}"
        yield Finding(_NAME, Outcome.CANNOT_TELL, what, error.remedy)
        return
    if kept and profile_at(facts, str(kept)) != "full":
        what = f"an upgrade by kubeadm points the kubelet at {kept}, by {_KEY} in {INSTANCE}"
        remedy = f'write "{_KEY}: {facts.advised}" there'
        yield Finding(_NAME, Outcome.WARN, what, remedy)


def _flags(facts: Facts) -> list[str]:
    """Return the kubelet's flags that kubeadm has written; empty where it has not."""
    try:
        with open_at_once(facts.system.path(FLAGS)) as file:
            text = file.read().decode()
        values = (word.partition("=")[2] for word in split_words(text))
        return [word for value in values for word in split_words(value)]
    except (OSError, ValueError):
        return []
