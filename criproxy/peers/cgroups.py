"""The systemd unit, container and pod of a process, from its cgroups.

Kubelets and runtimes name the cgroups of a pod and its containers in one of these ways
(``kubepods`` may be below a slice or a service, and further cgroups may be below these)::

    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope
    /kubepods/burstable/pod<uid>/<id>
    /system.slice/containerd.service/kubepods-burstable-pod<uid>.slice:cri-containerd:<id>
    /system.slice/docker-<id>.scope   /docker/<id>   /k8s.io/<id>

A process creates cgroups only below its own, so the outermost match in a path is trusted: the
outermost unit, the outermost container and the pod around it. Users may create cgroups through
their service manager; below ``user.slice`` only the unit is trusted.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

_POD: Final = re.compile(
    r"(?:.*-)?pod([0-9a-f]{8}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{4}[-_]?[0-9a-f]{12})"
    r"(?:\.slice)?"
)
"""A pod's cgroup. In systemd's names a UID has ``_`` for ``-``; a static pod's UID has neither."""

_CONTAINER: Final = re.compile(r"(?:(.*)[-:])?([0-9a-f]{64})(?:\.scope)?")
"""A container's cgroup: the id, after an optional name of the runtime."""

_MONITOR: Final = "conmon"
"""The suffix of CRI-O's and Podman's name for the monitor process, which is outside the
container."""

_UNIT: Final = re.compile(r"_?([\w@.:\\-]+\.(?:service|scope|socket|mount|swap))", re.ASCII)
"""A unit's cgroup. systemd prefixes a name with ``_`` if it could be a controller's file."""

_CACHED_PATHS: Final = 256
"""Paths, of at most 4 KiB, whose location is cached: a process has the same path in most
hierarchies."""


class CgroupLocation(NamedTuple):
    """The unit, container and pod of a process; None for each that its cgroups do not name."""

    unit: str | None = None
    container: str | None = None
    """The runtime's id of the container."""
    pod_uid: str | None = None


def cgroup_location(cgroup: str) -> CgroupLocation:
    """Return the location that the content of /proc/PID/cgroup (cgroups(7)) names.

    Malformed lines are ignored. Of the hierarchies of cgroup v1, the one that names a pod or a
    container is used; the unit is from systemd's own hierarchy.
    """
    locations: dict[str, CgroupLocation] = {}  # by controllers; the unified hierarchy has none
    for line in cgroup.split("\n"):  # not splitlines: a path may contain other line separators
        _, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if separator:
            locations[controllers] = _location(path.removesuffix(" (deleted)"))
    if not locations:
        return CgroupLocation()
    most = max(locations.values(), key=lambda each: (bool(each.pod_uid), bool(each.container)))
    nowhere = CgroupLocation()
    legacy, unified = locations.get("name=systemd", nowhere), locations.get("", nowhere)
    return most._replace(unit=legacy.unit or unified.unit)


@lru_cache(_CACHED_PATHS)
def _location(path: str) -> CgroupLocation:
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
    """Return the first part of a path below its slices, as sd_pid_get_unit(3) does."""
    for part in path.split("/"):
        if part and part != ".." and not part.endswith(".slice"):
            unit = _UNIT.fullmatch(part)
            return unit[1] if unit else None
    return None
