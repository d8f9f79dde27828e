"""The units that are written: systemd understands them, and they are those of deploy/."""

import shutil
import subprocess
from pathlib import Path

import pytest

from criproxy.cli.node.install import command as install
from criproxy.install.edits.unit_texts import drop_in_text, service_text, socket_text
from tests.install.test_layouts import run
from tests.install.trees import PROGRAM, TREES, tree_of
from tests.support.requirements import require_systemd

DEPLOY = Path(__file__).parents[2] / "deploy/systemd"
CONFIG = "/etc/criproxy/config.yaml"


def test_are_those_of_deploy() -> None:
    """With the program, socket and kubelet of deploy/ the units are the files there."""
    socket = "/run/criproxy/criproxy.sock"
    service = service_text("/opt/criproxy/bin/criproxy", CONFIG, socket, "kubelet.service")
    assert service == (DEPLOY / "criproxy.service").read_text()
    assert socket_text(socket, "kubelet.service") == (DEPLOY / "criproxy.socket").read_text()


def test_drop_in_without_a_socket() -> None:
    """The kubelet's unit depends on the units that exist."""
    assert "Wants=criproxy.service\n" in drop_in_text(False, "")
    assert "ExecStart" not in drop_in_text(True, "")


@pytest.mark.parametrize("layout", TREES)
def test_systemd_understands_the_units(layout: str, tmp_path: Path) -> None:
    """systemd-analyze has nothing to say against criproxy's units, nor against the kubelet's with
    the drop-in, apart from programs and units that are not in the tree."""
    require_systemd()
    tree = tree_of(layout, tmp_path / "tree")
    unit = run(install, tree)["unit"]
    units = tmp_path / "units"
    shutil.copytree(tree.root / "etc/systemd/system", units, symlinks=True)
    for place in ("usr/lib/systemd/system", "usr/local/lib/systemd/system"):
        if (tree.root / place).exists():
            shutil.copytree(tree.root / place, units, dirs_exist_ok=True)
    for file in [*units.glob("*.service"), *units.glob("*.d/*.conf")]:
        _with_programs_of_this_machine(file)
    names = [unit, "criproxy.service", "criproxy.socket"]
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *names],
        capture_output=True,
        text=True,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def _with_programs_of_this_machine(file: Path) -> None:
    text = file.read_text()
    for program in (PROGRAM, "/usr/bin/kubelet", "/usr/local/bin/k3s", "/usr/local/bin/rke2"):
        text = text.replace(f"={program}", "=/bin/true")
    text = text.replace("=/usr/local/bin/k0s", "=/bin/true").replace("/usr/bin/snap", "/bin/true")
    file.write_text(text)
