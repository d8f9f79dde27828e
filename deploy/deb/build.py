"""Builds a Debian package: ``python deploy/deb/build.py DIRECTORY``; prints its path.

It is for Python 3.X, if 3.X runs this: /opt/criproxy is a virtual environment of
/usr/bin/python3.X, which is the distribution's. pip installs criproxy, compiled if possible, and
the packages of constraints.txt.

SOURCE_DATE_EPOCH, DEBFULLNAME and DEBEMAIL are as for Debian's own tools. Without the last two the
maintainer is the first in pyproject.toml with an address, else git's user. Exit status 2: there is
none of them.
"""

import gzip
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = ROOT / "deploy/deb"
PREFIX: Final = Path("opt/criproxy")
CONFIG: Final = Path("etc/criproxy/config.yaml")
PYTHON: Final = f"python{sys.version_info.major}.{sys.version_info.minor}"
MAINTAINER_SCRIPTS: Final = ("postinst", "prerm", "postrm")

EXTRA: Final = "otlp"
"""The extra that the daemon itself can use; the others are of commands."""

_FILES: Final = {
    "config.example.yaml": CONFIG,
    "deploy/systemd/criproxy.service": Path("lib/systemd/system/criproxy.service"),
    "deploy/systemd/criproxy.socket": Path("lib/systemd/system/criproxy.socket"),
    "deploy/deb/copyright": Path("usr/share/doc/criproxy/copyright"),
    "deploy/rules.example.yaml": Path("usr/share/doc/criproxy/examples/rules.example.yaml"),
    "deploy/prometheus/criproxy.rules.yaml": Path(
        "usr/share/doc/criproxy/examples/criproxy.rules.yaml"
    ),
}
_COMPRESSED: Final = {
    "docs/man/criproxy.1": Path("usr/share/man/man1/criproxy.1.gz"),
    "CHANGELOG.md": Path("usr/share/doc/criproxy/changelog.gz"),
}
_COMPLETIONS: Final = {
    "bash": Path("usr/share/bash-completion/completions/criproxy"),
    "zsh": Path("usr/share/zsh/vendor-completions/_criproxy"),
    "fish": Path("usr/share/fish/vendor_completions.d/criproxy.fish"),
}

_CONTROL: Final = """\
Package: criproxy
Version: {version}
Architecture: {architecture}
Maintainer: {maintainer}
Installed-Size: {size}
Depends: {python}, libc6, libstdc++6
Recommends: ca-certificates
Section: admin
Priority: optional
Description: proxy for the Kubernetes Container Runtime Interface
 criproxy stands between the kubelet and the container runtime, relays every
 byte unchanged, and reports each call in a log and in Prometheus metrics. With
 rules it also rewrites, delays, fails, denies or limits chosen calls.
"""


def main(output: Path) -> Path:
    """Build the package in ``output``, and return its path."""
    version: str = runpy.run_path(str(ROOT / "criproxy/__init__.py"))["__version__"]
    architecture = _output("dpkg", "--print-architecture")
    maintainer = find_maintainer()
    output.mkdir(parents=True, exist_ok=True)
    package = output / f"criproxy_{version}_{architecture}.deb"
    with tempfile.TemporaryDirectory(prefix="criproxy-deb-") as directory:
        tree = Path(directory) / "tree"
        _environment(tree / PREFIX, Path(directory))
        _files(tree)
        _metadata(tree, version, architecture, maintainer)
        command = ("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(package))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return package


def find_maintainer() -> str:
    """Return who maintains the package, as ``Name <address>``. Raises SystemExit (status 2)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    candidates = [
        (os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")),
        *((each.get("name"), each.get("email")) for each in project.get("maintainers", [])),
        *((each.get("name"), each.get("email")) for each in project.get("authors", [])),
        (_git_setting("user.name"), _git_setting("user.email")),
    ]
    for name, address in candidates:
        if name and address:
            return f"{name} <{address}>"
    print(
        "the package has no maintainer: set DEBFULLNAME and DEBEMAIL, as in "
        "`make package DEBFULLNAME='Jane Doe' DEBEMAIL=jane@example.com`",
        file=sys.stderr,
    )
    sys.exit(2)


def _git_setting(key: str) -> str:
    if shutil.which("git") is None:
        return ""
    command = ("git", "-C", str(ROOT), "config", key)
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True).stdout.strip()


def _environment(prefix: Path, temporary: Path) -> None:
    """Make the virtual environment as it will be in /opt/criproxy."""
    packages = prefix / "lib" / PYTHON / "site-packages"
    wheels = temporary / "wheels"
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = map(str, wheels.iterdir())
    constraints = str(ROOT / "constraints.txt")
    _pip(
        "install", "--no-compile", "--target", str(packages), "-c", constraints, f"{wheel}[{EXTRA}]"
    )
    shutil.rmtree(packages / "bin")  # scripts that name this interpreter
    for path in packages.glob("*.dist-info/direct_url.json"):  # where the wheel was
        path.unlink()
        record = path.with_name("RECORD")
        kept = [line for line in record.read_text().splitlines() if "direct_url.json" not in line]
        record.write_text("\n".join([*kept, ""]))
    binaries = prefix / "bin"
    binaries.mkdir()
    for name, target in (("python", PYTHON), ("python3", PYTHON), (PYTHON, f"/usr/bin/{PYTHON}")):
        (binaries / name).symlink_to(target)
    version = ".".join(map(str, sys.version_info[:2]))
    (prefix / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {version}\n"
    )
    script = binaries / "criproxy"
    script.write_text(
        f"#!/{PREFIX}/bin/python\nimport sys\n\nfrom criproxy.cli import main\n\nsys.exit(main())\n"
    )
    script.chmod(0o755)


def _files(tree: Path) -> None:
    """Copy the unit, the configuration, the manual and the rest, and write the completions."""
    for source, target in _FILES.items():
        _write(tree / target, (ROOT / source).read_bytes())
    for source, target in _COMPRESSED.items():
        _write(tree / target, gzip.compress((ROOT / source).read_bytes(), mtime=0))
    packages = tree / PREFIX / "lib" / PYTHON / "site-packages"
    for shell, target in _COMPLETIONS.items():
        script = subprocess.run(
            (sys.executable, "-m", "criproxy", "completion", shell),
            env=os.environ | {"PYTHONPATH": str(packages), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=tree,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        _write(tree / target, script)
    (tree / "usr/bin").mkdir()
    (tree / "usr/bin/criproxy").symlink_to(f"/{PREFIX}/bin/criproxy")


def _metadata(tree: Path, version: str, architecture: str, maintainer: str) -> None:
    """Write DEBIAN/: control, the conffile, checksums and the maintainer scripts."""
    _settle_modes(tree)
    size = sum(path.lstat().st_size for path in tree.rglob("*")) // 1024
    debian = tree / "DEBIAN"
    control = _CONTROL.format(
        version=version,
        architecture=architecture,
        maintainer=maintainer,
        size=size,
        python=PYTHON,
    )
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    sums = _output("md5sum", *(str(path.relative_to(tree)) for path in files), cwd=tree)
    _write(debian / "control", control.encode())
    _write(debian / "conffiles", f"/{CONFIG}\n".encode())
    _write(debian / "md5sums", f"{sums}\n".encode())
    for name in MAINTAINER_SCRIPTS:
        _write(debian / name, (HERE / name).read_bytes())
        (debian / name).chmod(0o755)
    debian.chmod(0o755)


def _settle_modes(tree: Path) -> None:
    """Give files the modes that they have for every umask; only programs are executable."""
    for path in (tree, *tree.rglob("*")):
        if path.is_symlink():
            continue
        program = path.is_dir() or (path.parent.name == "bin" and path.name == "criproxy")
        path.chmod(0o755 if program else 0o644)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _pip(*arguments: str) -> None:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    subprocess.run((*pip, *arguments), check=True)


def _output(*command: str, cwd: Path | None = None) -> str:
    result: Sequence[bytes] = subprocess.run(
        command, cwd=cwd, check=True, stdout=subprocess.PIPE
    ).stdout.splitlines()
    return b"\n".join(result).decode()


if __name__ == "__main__":
    if len(sys.argv) != 2 or re.match("-", sys.argv[1]):
        sys.exit(f"usage: {sys.argv[0]} DIRECTORY")
    print(main(Path(sys.argv[1])))
