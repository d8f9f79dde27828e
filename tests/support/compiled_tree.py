"""Makes a copy of the working tree whose modules are compiled, for the tests to run in.

``python -m tests.support.compiled_tree DIRECTORY`` builds the wheel as ``pip wheel`` does, and puts
its extension modules beside the sources, where Python prefers them.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_LEFT_OUT: Final = (".*", "__pycache__", "build", "dist", "site")


def main(directory: Path) -> None:
    """Make the copy in ``directory``, in place of what is there."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    shutil.copytree(ROOT / ".ci", directory / ".ci")
    wheels = directory / "build"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--wheel-dir", str(wheels), str(ROOT)],
        env=os.environ | {"CRIPROXY_COMPILE": "1"},
        check=True,
    )
    (wheel,) = wheels.glob("criproxy-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory, [n for n in archive.namelist() if n.endswith(".so")])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
