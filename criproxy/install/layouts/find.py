"""Finds which layout a tree has, by the services that run kubelets."""

from collections.abc import Callable, Mapping
from typing import Final

from criproxy.doctor.node.systemd_unit import DIRECTORIES
from criproxy.errors import UsageError
from criproxy.install.layouts import k0s, k3s, kubelet_service, microk8s
from criproxy.install.layouts.setup import Layout
from criproxy.install.tree import Tree

LAYOUTS: Final[Mapping[str, Callable[[Tree, str], Layout]]] = {
    kubelet_service.UNIT: kubelet_service.KubeletService,
    **dict.fromkeys(k3s.UNITS, k3s.K3s),
    **dict.fromkeys(k0s.UNITS, k0s.K0s),
    microk8s.UNIT: microk8s.Microk8s,
}
"""The services that run kubelets, and how each is configured."""


def find_layout(tree: Tree, unit: str | None = None) -> Layout:
    """Return the layout of a tree; ``unit`` names the kubelet's service.

    Raises UsageError if there is no kubelet, or more than one.
    """
    if unit is not None:
        if not _has(tree, unit):
            raise UsageError(f"there is no {unit} below {tree.root}; name the kubelet's service")
        return LAYOUTS.get(unit, kubelet_service.KubeletService)(tree, unit)
    found = [each for each in LAYOUTS if _has(tree, each)]
    # Packages of RKE2 bring the units of servers and agents; one of them is enabled.
    enabled = [each for each in found if _is_enabled(tree, each)]
    candidates = enabled if enabled else found
    if not candidates:
        raise UsageError(
            f"no kubelet is configured below {tree.root}: none of {', '.join(LAYOUTS)} is there; "
            "name its service with --kubelet-unit"
        )
    if len(candidates) > 1:
        raise UsageError(
            f"there is more than one kubelet: {', '.join(candidates)}; choose one with "
            "--kubelet-unit"
        )
    return LAYOUTS[candidates[0]](tree, candidates[0])


def _has(tree: Tree, unit: str) -> bool:
    return any(tree.exists(f"{directory}/{unit}") for directory in DIRECTORIES)


def _is_enabled(tree: Tree, unit: str) -> bool:
    units = tree.host(tree.real("/etc/systemd/system"))
    # The links lead nowhere where the tree is mounted elsewhere.
    return any((wants / unit).is_symlink() for wants in units.glob("*.wants"))
