"""The Debian package, around a small environment: its files, modes, scripts, and its bytes.

``make package-check`` installs the whole package in a new system.
"""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from criproxy import __version__
from tests.support.requirements import require

DEB = Path(__file__).parents[2] / "deploy/deb"
PROGRAM = "opt/criproxy/bin/criproxy"


def build(directory: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build a package whose environment has no packages: pip would fetch them."""
    require(() if shutil.which("dpkg-deb") else ("dpkg-deb",))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("DEBFULLNAME", "Jane Doe")
    monkeypatch.setenv("DEBEMAIL", "jane@example.com")
    monkeypatch.setenv("PYTHONPATH", str(DEB.parents[1]))
    module: dict[str, Any] = runpy.run_path(str(DEB / "build.py"))

    def environment(prefix: Path, temporary: Path) -> None:
        program = prefix / "bin/criproxy"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")

    main = module["main"]
    main.__globals__["_environment"] = environment
    before = os.umask(umask)
    try:
        package: Path = main(directory)
    finally:
        os.umask(before)
    return package


def test_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package has the program and all that belongs to it, readable by all, and the
    configuration as a conffile; two builds are the same bytes."""
    package = build(tmp_path / "a", 0o022, monkeypatch)
    again = build(tmp_path / "b", 0o077, monkeypatch)
    assert package.read_bytes() == again.read_bytes()
    tree = tmp_path / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(tree)], check=True)
    for name in (
        *(PROGRAM, "lib/systemd/system/criproxy.service", "lib/systemd/system/criproxy.socket"),
        *("usr/share/man/man1/criproxy.1.gz", "usr/share/doc/criproxy/copyright"),
        *("usr/share/bash-completion/completions/criproxy",),
        *("usr/share/zsh/vendor-completions/_criproxy",),
        *("usr/share/fish/vendor_completions.d/criproxy.fish", "etc/criproxy/config.yaml"),
    ):
        assert (tree / name).stat().st_size > 0
        executable = 0o111 if name == PROGRAM else 0
        assert (tree / name).stat().st_mode & 0o777 == 0o644 | executable
    assert (tree / "DEBIAN/conffiles").read_text() == "/etc/criproxy/config.yaml\n"
    control = (tree / "DEBIAN/control").read_text()
    assert f"\nVersion: {__version__}\n" in control
    assert "\nMaintainer: Jane Doe <jane@example.com>\n" in control
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"\nDepends: python{version}," in control
    assert os.readlink(tree / "usr/bin/criproxy") == f"/{PROGRAM}"


def test_maintainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who maintains the package is in pyproject.toml, or is git's user; a package without a
    maintainer is not built, and the error says how to name one."""
    for name in ("DEBFULLNAME", "DEBEMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(tmp_path / "none"))
    module = runpy.run_path(str(DEB / "build.py"))
    find = module["find_maintainer"]
    find.__globals__["ROOT"] = tmp_path
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nmaintainers = [{name = "No Address"}]\n')
    with pytest.raises(SystemExit) as error:
        find()
    assert error.value.code == 2
    assert "set DEBFULLNAME and DEBEMAIL" in capsys.readouterr().err
    (tmp_path / "gitconfig").write_text("[user]\nname = Git User\nemail = git@example.com\n")
    assert find() == "Git User <git@example.com>"
    project.write_text('[project]\nauthors = [{name = "A. Uthor", email = "a@example.com"}]\n')
    assert find() == "A. Uthor <a@example.com>"


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm", "check.sh"])
def test_scripts(name: str) -> None:
    """The scripts are executable, and a shell reads them."""
    script = DEB / name
    assert os.access(script, os.X_OK)
    subprocess.run(["/bin/sh", "-n", str(script)], check=True)
