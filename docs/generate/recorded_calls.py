"""The page of what every rule and audit policy that is shown would have done to recorded calls."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Final

from criproxy.audit.spec import LEVELS, AuditSpec, SinkSpec, StdoutSpec
from criproxy.cli.rules_test.recording import (
    HEADER,
    KUBELET,
    Recording,
    read_recording,
    summarize,
    summarize_audit,
)
from criproxy.rules.compiled.ruleset import compile_rules
from criproxy.rules.spec import RuleSpec
from docs.generate import pages
from docs.generate.markdown import code, meanings, table

EXECUTABLES: Final = {"kubelet": KUBELET, "crictl": "/usr/local/bin/crictl"}
"""The clients whose recorded connections have calls of the CRI, by the names of their files."""

DENIES_THE_KUBELET: Final = {
    "no-host-network": "Pods on the host's network outside `kube-system`, such as the one that "
    "was recorded.",
    "no-version": "Version, without which no kubelet starts: the rule is for the tutorial's own "
    "sockets.",
    "only-signed": "Containers with an image that is not from `registry.corp`, the node's own such "
    "as kube-proxy included: keep it in dry-run until the log names none that you need.",
}
"""The rules that are there to deny calls of any kubelet, and which these are."""

_INTRODUCTION: Final = """\
# Recorded calls

What every rule and every audit policy that these pages, `deploy/` and `config.example.yaml` show
would have done to the recorded connections in `tests/data/captures`, by
[`criproxy rules test --recording`](../how-to/write-rules.md#test-rules-on-a-kubelets-calls).

Each rule is tried by itself on each connection by itself: of a pod that another connection made,
only the id is known. Rules in dry-run are enforced, percentages are ignored, and hooks are not
called. Connections with the same numbers share a row; a connection without a call of the rule's
methods is left out. The `interop-*` connections have no call of the CRI.

"""

_DENIALS: Final = """
## Rules that deny calls of a kubelet

All others deny none of the recorded calls of the kubelet. These are there to deny:

"""

_POLICIES: Final = """
## Audit policies

How many calls each policy records at which level.

"""


def recorded_calls() -> str:
    """Return the page."""
    clients = [
        (client, names, *counts)
        for client in EXECUTABLES
        for counts, names in _alike(client, lambda recording: (len(recording.calls),))
    ]
    return (
        _INTRODUCTION
        + table(("Client", "Connections", "Calls"), clients)
        + "".join(
            f"\n## Rules of {code(file)}\n\n"
            + table(
                ("Rule", "Action", "Connections", *(each.capitalize() for each in HEADER[2:])),
                (row for spec in specs for row in _rule_rows(spec)),
            )
            for file, specs in pages.rules().items()
        )
        + _DENIALS
        + meanings(("Rule", "What it denies"), DENIES_THE_KUBELET.items())
        + _POLICIES
        + table(("Policy", "Connections", "Calls", *map(code, LEVELS)), _policy_rows())
    )


@cache
def recordings() -> Mapping[str, Recording]:
    """Return the recorded connections with calls of the CRI, by their names."""
    return {
        path.name.removesuffix(".bin.gz"): read_recording(path, executable)
        for client, executable in EXECUTABLES.items()
        for path in sorted((pages.ROOT / "tests/data/captures").glob(f"{client}-*.bin.gz"))
    }


def counts_of(spec: RuleSpec, recording: Recording) -> dict[str, int]:
    """Return what a rule would have done to a recording, by the columns of the command's table."""
    _, row = summarize(compile_rules([spec]), recording)
    return dict(zip(HEADER[2:], map(int, row[2:]), strict=True))


def _rule_rows(spec: RuleSpec) -> Iterator[Sequence[str]]:
    action: str = compile_rules([spec]).rules[0].action
    if spec.mode == "dry-run":
        action += ", dry-run"
    head, found = (code(spec.name), action), False
    for client in EXECUTABLES:
        for counts, names in _alike(client, lambda recording: counts_of(spec, recording).values()):
            if counts[0] != "0":
                yield *head, names, *counts
                found = True
    if not found:
        yield *head, "none", *("0" for _ in HEADER[2:])


def _policy_rows() -> Iterator[Sequence[str]]:
    for file, policy in pages.audit_policies():
        spec = AuditSpec(policy=policy, sinks=[SinkSpec(stdout=StdoutSpec())])
        for client in EXECUTABLES:
            for counts, names in _alike(client, partial(_levels, spec)):
                yield code(file), names, *counts


def _levels(spec: AuditSpec, recording: Recording) -> Sequence[str]:
    """Return the number of calls of a recording, and of those recorded at each level."""
    return summarize_audit(spec, recording)[-1][1:]


def _alike(
    client: str, count: Callable[[Recording], Iterable[object]]
) -> list[tuple[tuple[str, ...], str]]:
    """Return the counts of a client's recordings, each with the names of those that have them."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, recording in recordings().items():
        prefix, _, number = name.rpartition("-")
        if prefix == client:
            found.setdefault(tuple(map(str, count(recording))), []).append(number)
    return [(counts, f"{client}-{', '.join(numbers)}") for counts, numbers in found.items()]
