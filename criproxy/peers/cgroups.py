"""Where a process runs, told by its cgroups: the unit of systemd, the container, the pod.

Kubelets and runtimes name the cgroups of a pod and its containers after them, in one of these ways
(``kubepods`` may be the child of a slice or a service, and there may be more below)::

    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope
    /kubepods/burstable/pod<uid>/<id>
    /system.slice/containerd.service/kubepods-burstable-pod<uid>.slice:cri-containerd:<id>
    /system.slice/docker-<id>.scope   /docker/<id>   /k8s.io/<id>

A process that may make cgroups makes them below its own, so what stands first in a path counts: the
outermost unit, the outermost container and the pod around it. Every user has a manager that makes
cgroups for him; below ``user.slice`` only the unit is believed.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

_POD: Final = re.compile(
    r"(?:.*-)?pod([0-9a-f]{8}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{12})"
    r"(?:\.slice)?"
)
"""A pod's. In systemd's names a UID has ``_`` for ``-``; that of a static pod has neither."""

_CONTAINER: Final = re.compile(r"(?:(.*)[-:])?([0-9a-f]{64})(?:\.scope)?")
"""A container's: its runtime may stand in front of its id."""

_MONITOR: Final = "conmon"
"""How CRI-O and Podman call what watches a container from outside: it is not the container."""

_UNIT: Final = re.compile(r"_?([\w@.:\\-]+\.(?:service|scope|socket|mount|swap))", re.ASCII)
"""A unit's cgroup; an underscore in front keeps it apart from a controller's files."""

_PATHS: Final = 256
"""Paths whose meaning is remembered: a process has the same one in most hierarchies, and processes
come again. A path has at most 4 KiB."""


class CgroupLocation(NamedTuple):
    """Where a process runs; None for what its cgroups do not tell."""

    unit: str | None = None
    container: str | None = None
    """The runtime's id of it."""
    pod_uid: str | None = None


def cgroup_location(cgroup: str) -> CgroupLocation:
    """Read what /proc/PID/cgroup holds (cgroups(7)); lines that are none are passed over.

    Of cgroup v1's hierarchies the one counts that tells most; the unit is in systemd's own.
    """
    found: dict[str, CgroupLocation] = {}  # by controllers; the unified hierarchy has none
    for line in cgroup.split("\n"):  # a path may hold what else str.splitlines() splits at
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            found[controllers] = _place(path.removesuffix(" (deleted)"))
    if not found:
        return CgroupLocation()
    most = max(found.values(), key=lambda each: (bool(each.pod_uid), bool(each.container)))
    legacy, unified = found.get("name=systemd", CgroupLocation()), found.get("", CgroupLocation())
    return most._replace(unit=legacy.unit or unified.unit)


@lru_cache(_PATHS)
def _place(path: str) -> CgroupLocation:
    unit = _unit(path)
    pod_uid = None
    for part in path.split("/"):
        if part == "user.slice":
            break
        name, _, of_runtime = part.partition(":")
        if pod_uid is None and (pod := _POD.fullmatch(name)):
            pod_uid = pod[1].replace("_", "-")
        container = _CONTAINER.fullmatch(of_runtime or name)
        if container and not (container[1] or "").endswith(_MONITOR):
            return CgroupLocation(unit, container[2], pod_uid)
    return CgroupLocation(unit, None, pod_uid)


def _unit(path: str) -> str | None:
    """Return what a path leads to through slices, as systemd sees it (sd_pid_get_unit(3))."""
    for part in path.split("/"):
        if part and part != ".." and not part.endswith(".slice"):
            unit = _UNIT.fullmatch(part)
            return unit[1] if unit else None
    return None
