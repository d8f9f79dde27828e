"""Assigns listeners to workers: unrestricted ones share a worker, each other has its own.

A worker is the unit of trust: its loop, its memory, its descriptors and its budget of held bytes
are shared by the clients of its listeners alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from criproxy.config.schema import Config, ListenerConfig, WorkerLimits

FULL = "full"
"""The worker of the listeners without profile and ``allow``: the kubelet's."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """A worker to be: ``name`` in logs and metrics, its listeners, and its resource limits."""

    name: str
    listeners: tuple[ListenerConfig, ...]
    limits: WorkerLimits
    shares_pods: bool
    """Whether it tells the pod caches of other workers what it learns. Only a worker whose clients
    are all unrestricted does: the others' loops would pay for what a restricted client sends."""


def plan_workers(config: Config) -> list[WorkerPlan]:
    """Return the workers that a configuration asks for, in the order of their first listener."""
    if config.workers.isolation == "none":
        return [WorkerPlan("all", tuple(config.listeners), config.workers.full, False)]
    full = tuple(each for each in config.listeners if not each.is_scoped)
    scoped = [each for each in config.listeners if each.is_scoped]
    plans = [WorkerPlan(FULL, full, config.workers.full, bool(scoped))] if full else []
    for name, each in zip(_names(scoped), scoped, strict=True):
        plans.append(WorkerPlan(name, (each,), config.workers.scoped, False))
    return plans


def _names(listeners: list[ListenerConfig]) -> Iterator[str]:
    """Name workers by their sockets' file names; a number follows where two are the same."""
    taken = {FULL}
    for each in listeners:
        stem = name = PurePath(each.endpoint.path).stem or "listener"
        number = 2
        while name in taken:
            name = f"{stem}-{number}"
            number += 1
        taken.add(name)
        yield name
