"""Renders the Helm chart with Helm's own SDK, and writes what deploy/kustomize has of it.

``python -m tests.support.chart`` writes the files; ``make kustomize`` calls it.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "deploy/helm/criproxy"
KUSTOMIZE: Final = ROOT / "deploy/kustomize"
NAMESPACE: Final = "kube-system"
_HEADER: Final = "# Generated from deploy/helm/criproxy by `make kustomize`. Do not edit.\n"


def rendered(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the manifests by file name; those that are empty are left out."""
    with helm_python.Chart.load(CHART) as chart:
        found = chart.render(dict(values), name="criproxy", namespace=NAMESPACE)
    return {
        Path(name).name: text.strip() + "\n"
        for name, text in found.items()
        if yaml.safe_load(text) is not None
    }


def kustomize() -> dict[Path, str]:
    """Return the files of deploy/kustomize by their paths in it."""
    base = _without_release(rendered({}))
    monitoring = _without_release(rendered({"podMonitor": {"enabled": True}}))
    uninstall = _without_release(rendered({"mode": "uninstall"}))
    files = {
        Path("base") / "kustomization.yaml": _kustomization(*sorted(base)),
        Path("monitoring") / "kustomization.yaml": _kustomization("../base", "podmonitor.yaml"),
        Path("monitoring") / "podmonitor.yaml": monitoring["podmonitor.yaml"],
        Path("uninstall") / "kustomization.yaml": _kustomization(*sorted(uninstall)),
    }
    files |= {Path("base") / name: text for name, text in base.items()}
    files |= {Path("uninstall") / name: text for name, text in uninstall.items()}
    return {path: _HEADER + text for path, text in files.items()}


def _without_release(files: Mapping[str, str]) -> dict[str, str]:
    """Return manifests without the labels that say that Helm manages them."""
    managed = ("app.kubernetes.io/managed-by:", "helm.sh/chart:")
    return {
        name: "".join(
            line for line in text.splitlines(keepends=True) if not line.strip().startswith(managed)
        )
        for name, text in files.items()
    }


def _kustomization(*resources: str) -> str:
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(resources),
    }
    return yaml.safe_dump(content, sort_keys=False)


def main() -> None:
    """Write the files, in place of what is there."""
    shutil.rmtree(KUSTOMIZE, ignore_errors=True)
    for path, text in kustomize().items():
        file = KUSTOMIZE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
