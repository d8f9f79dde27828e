"""Makes the system and a newer version of the package, boots it, and returns its exit status."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FILES: Final = {
    "tests/booted/scenario.py": "scenario.py",
    "tests/install/kubelet.py": "kubelet.py",
}
NEEDED: Final = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container"}
"""Commands and Debian's packages."""

INCLUDED: Final = ("systemd", "systemd-sysv", "dbus", "python3-venv", "libstdc++6")
"""What a node has besides the essential packages, and what criproxy's package depends on."""

INSIDE: Final = "/check"
SECONDS: Final = 900
"""Limit of a boot with all that is done in it."""

UNIT: Final = f"""\
[Unit]
Description=What is checked
After=multi-user.target
SuccessAction=exit
FailureAction=exit
SuccessActionExitStatus=0
FailureActionExitStatus=1

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 {INSIDE}/scenario.py {INSIDE}
StandardOutput=file:{INSIDE}/output
StandardError=file:{INSIDE}/output
"""


def main(arguments: Sequence[str]) -> int:
    """Boot, and return the status of what ran there."""
    parser = argparse.ArgumentParser(prog="python -m tests.booted", description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("--tree", type=Path)
    given = parser.parse_args(arguments)
    missing = [package for name, package in NEEDED.items() if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        wanted = f"; install {' '.join(missing)}" if missing else ""
        print(f"run it as root, on a Debian with a package mirror{wanted}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="criproxy-booted-") as name:
        directory = Path(name)
        tree: Path = given.tree or directory / "tree"
        if not tree.exists():
            _bootstrap(tree)
        files = directory / "files"
        files.mkdir()
        for source, target in FILES.items():
            shutil.copy(ROOT / source, files / target)
        shutil.copy(given.package, files / "criproxy.deb")
        _newer(given.package, files / "newer.deb", directory / "newer")
        (directory / "check.service").write_text(UNIT)
        return _boot(tree, directory)


def _bootstrap(tree: Path) -> None:
    """Make a Debian 12 from the mirrors of this machine."""
    places = [
        Path("/etc/apt/sources.list"),
        *Path("/etc/apt/sources.list.d").glob("debian.sources"),
    ]
    sources = [place.read_text() for place in places if place.exists()]
    packages = ",".join(INCLUDED)
    command = ("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", "bookworm")
    subprocess.run((*command, str(tree), "-"), input="\n".join(sources), text=True, check=True)


def _newer(package: Path, target: Path, directory: Path) -> None:
    """Make the package of a newer version, which differs in its number alone."""
    subprocess.run(("dpkg-deb", "--raw-extract", str(package), str(directory)), check=True)
    control = directory / "DEBIAN/control"
    control.write_text(re.sub("(?m)^(Version: .*)$", r"\1.1", control.read_text()))
    (module,) = directory.glob("opt/criproxy/lib/python3*/site-packages/criproxy/__init__.py")
    module.write_text(re.sub('(?m)^(__version__ = "[^"]*)', r"\1.1", module.read_text()))
    command = ("dpkg-deb", "--root-owner-group", "-Znone", "--build", str(directory), str(target))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _boot(tree: Path, directory: Path) -> int:
    """Boot the tree without changing it, and run the scenario once it is up."""
    command = (
        *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
        *(f"--directory={tree}", "--volatile=overlay", "--private-network", "--console=read-only"),
        *(f"--machine=criproxy-{os.getpid()}", f"--bind={directory / 'files'}:{INSIDE}"),
        f"--bind-ro={directory / 'check.service'}:/etc/systemd/system/check.service",
        *("systemd.wants=check.service", "systemd.show_status=0", "quiet"),
    )
    console, output = directory / "console", directory / "files/output"
    try:
        with console.open("wb") as log:
            status = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
                timeout=SECONDS,
            ).returncode
    except subprocess.TimeoutExpired:
        print(f"not done within {SECONDS} s", file=sys.stderr)
        status = 1
    shown = output if output.exists() else console
    print(shown.read_text(errors="replace"), end="")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
