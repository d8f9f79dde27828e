"""What the image is built from: everything that can be is pinned by hash.

``make image-check`` builds it, without a registry.
"""

import os
import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deploy/image"
CONTAINERFILE = (ROOT / "deploy/Containerfile").read_text()


def pins(path: Path) -> dict[str, str]:
    """Return the versions that a file pins, by canonical name."""
    found = re.findall(r"(?m)^([\w.-]+)==([\w.]+)", path.read_text())
    return {canonicalize_name(name): version for name, version in found}


def test_packages_are_pinned_by_hash() -> None:
    """Each package has hashes, the version of constraints.txt, and none that criproxy requires is
    missing: after a change of a pin, ``make image-requirements``."""
    constraints = pins(ROOT / "constraints.txt")
    for name in ("requirements.txt", "uv.txt"):
        text = re.sub("(?m)^#.*\n", "", (IMAGE / name).read_text())
        assert pins(IMAGE / name).items() <= constraints.items()
        for requirement in re.split(r"\n(?=\S)", text.strip()):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["otlp"]]
    names = {canonicalize_name(Requirement(each).name) for each in wanted}
    assert names <= pins(IMAGE / "requirements.txt").keys()


def test_containerfile_takes_nothing_else() -> None:
    """It installs what is pinned, by hash, then criproxy without dependencies; its base has a tag
    of one day, for which a digest can be given."""
    installed = re.findall(r"pip install (.*?)(?: \\)?\n", CONTAINERFILE)
    assert installed == [
        "--no-cache-dir --require-hashes -r /pins/uv.txt",
        "--require-hashes -r /pins/requirements.txt",
        "--no-deps .",
    ]
    assert re.search(r"(?m)^ARG BASE=\S+:bookworm-\d{8}-slim$", CONTAINERFILE)
    assert set(re.findall(r"(?m)^FROM (\S+)", CONTAINERFILE)) == {"${BASE}"}


def test_check() -> None:
    """The script that builds it is executable, and a shell reads it."""
    script = IMAGE / "check.sh"
    assert os.access(script, os.X_OK)
    subprocess.run(["/bin/sh", "-n", str(script)], check=True)
