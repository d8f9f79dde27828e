"""The sdist and the wheel: reproducible, and they know their version and commit."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from criproxy import __version__

ROOT = Path(__file__).resolve().parents[1]
BUILT = ("criproxy", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE", "docs/man")
"""What a build reads."""
EPOCH = "1700000000"
GIT = {
    **{f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    **{f"GIT_{who}_DATE": f"{EPOCH} +0000" for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def checkout(directory: Path, umask: int) -> str:
    """Make a checkout of what a build reads, of one commit; return the commit."""
    before = os.umask(umask)
    try:
        for name in BUILT:
            source, target = ROOT / name, directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                left_out = shutil.ignore_patterns("__pycache__", "*.so", "commit.txt")
                shutil.copytree(source, target, ignore=left_out, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(source, target)
    finally:
        os.umask(before)
    run("git", "init", "--quiet", cwd=directory, **GIT)
    run("git", "add", ".", cwd=directory, **GIT)
    run("git", "commit", "--quiet", "--message=x", cwd=directory, **GIT)
    return run("git", "rev-parse", "--short=12", "HEAD", cwd=directory, **GIT)


def build(directory: Path) -> dict[str, bytes]:
    """Build an sdist, and a wheel from it, interpreted; return them by name."""
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist")
    run(*command, cwd=directory, SOURCE_DATE_EPOCH=EPOCH, CRIPROXY_COMPILE="0", **GIT)
    return {path.name: path.read_bytes() for path in (directory / "dist").iterdir()}


def test_two_builds(tmp_path: Path) -> None:
    """Two builds of a commit, in other directories and with another umask, are the same bytes; the
    wheel, built from the sdist, says version and commit."""
    first, second = tmp_path / "first", tmp_path / "second/deeper"
    assert checkout(first, 0o022) == (commit := checkout(second, 0o077))
    built, again = build(first), build(second)
    assert built.keys() == {
        f"criproxy-{__version__}.tar.gz",
        f"criproxy-{__version__}-py3-none-any.whl",
    }
    assert [name for name in built if built[name] != again[name]] == []
    with tarfile.open(first / f"dist/criproxy-{__version__}.tar.gz") as sdist:
        assert {entry.mtime for entry in sdist} == {int(EPOCH)}
    installed = tmp_path / "installed"
    with zipfile.ZipFile(first / f"dist/criproxy-{__version__}-py3-none-any.whl") as wheel:
        wheel.extractall(installed)
    static = Path("criproxy/daemon/supervisor/http/ui/static")
    assert {path.name for path in (ROOT / static).iterdir()} == {
        path.name for path in (installed / static).iterdir()
    }
    said = run(sys.executable, "-m", "criproxy", "--version", cwd=installed, PYTHONSAFEPATH="")
    python = sys.version.split()[0]
    assert said == f"criproxy {__version__} (interpreted, commit {commit}, Python {python})"


def test_checkout_with_changes(tmp_path: Path) -> None:
    """A checkout with changes says so; a copy without its history does not know its commit."""
    commit = checkout(tmp_path, 0o022)
    (tmp_path / "README.md").write_text("changed")
    ask = (sys.executable, "-m", "criproxy", "--version")
    assert f"commit {commit}-dirty," in run(*ask, cwd=tmp_path, PYTHONSAFEPATH="", **GIT)
    shutil.rmtree(tmp_path / ".git")
    assert re.search(r"commit unknown, Python \d", run(*ask, cwd=tmp_path, PYTHONSAFEPATH=""))
