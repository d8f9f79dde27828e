"""Memory that all processes of a daemon take together, idle."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import grpc

from bench.chaos.node import Node
from bench.chaos.report import Report, Verdict
from bench.chaos.sizes import Sizes
from bench.processes import MIB, pss_bytes, settle
from criproxy.client import CriClient

_CALLS: Final = ("Version", "Status", "ListPodSandbox", "ListContainers", "ListImages")
_ROUNDS: Final = 100
_PLAIN: Final = "as it comes"
_AUDITED: Final = "with an audit log and two scoped sockets"
_PROFILES: Final[Mapping[str, Sequence[str]]] = {
    _PLAIN: ("full",),
    _AUDITED: ("full", "read-only", "images-only"),
}
_MOST: Final = {_PLAIN: 50, _AUDITED: 75}
"""MiB of all processes."""


def memory(directory: Path, sizes: Sizes) -> Report:
    """The proportional set size of each process, once it is ready and after a hundred calls of
    five methods on each listener and two scrapes. Programs of other processes that are the same
    file, such as the interpreter of the load, count in part.
    """
    rows: list[list[str]] = []
    verdicts: list[Verdict] = []
    for name, profiles in _PROFILES.items():
        place = directory / str(len(rows))
        place.mkdir()
        with Node(place, kept=False, config=_config(place, profiles, name == _AUDITED)) as node:
            before = _by_kind(node)
            for each in node.content["listeners"]:
                _call(each["endpoint"])
            for _ in range(2):
                node.daemon.get("/metrics")
            after = _by_kind(node)
        for kind in after:
            both = (f"{each.get(kind, 0) / MIB:.1f}" for each in (before, after))
            rows.append([name, kind, *both])
        for when, found in (("ready", before), ("after calls", after)):
            claim = f"memory {name}, {when}: at most {_MOST[name]} MiB"
            total = found["all"] / MIB
            verdicts.append(Verdict(claim, f"{total:.1f} MiB", total <= _MOST[name]))
    header = ["configuration", "process", "ready, MiB", "after calls, MiB"]
    about = (memory.__doc__ or "").replace("\n    ", "\n")
    return Report("memory", "Memory", about, header, rows, verdicts)


def _config(directory: Path, profiles: Sequence[str], audited: bool) -> dict[str, Any]:
    listeners = [
        {
            # The supervisor is found by the socket of this name.
            "endpoint": f"unix://{directory}/{'proxy' if each == 'full' else each}.sock",
            "runtime": f"unix://{directory}/r.sock",
            "profile": each,
        }
        for each in profiles
    ]
    sinks = [{"file": {"path": str(directory / "audit.jsonl")}}]
    return {"listeners": listeners} | ({"audit": {"sinks": sinks}} if audited else {})


def _by_kind(node: Node) -> dict[str, int]:
    """Return the bytes of each process, and under ``all`` those of all together."""
    settle(node.pid)
    found = pss_bytes(node.pid)
    kinds = node.processes()
    return {"all": sum(found.values())} | {kinds[pid]: size for pid, size in found.items()}


def _call(endpoint: str) -> None:
    with CriClient(endpoint) as client:
        for _ in range(_ROUNDS):
            for method in _CALLS:
                with suppress(grpc.RpcError):  # the profile denies it
                    client.call(method)
